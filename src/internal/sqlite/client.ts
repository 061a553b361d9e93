/**
 * Extends a client to @effect/sql-sqlite-node's SqliteClient, without importing that, since it loads better-sqlite3.
 */
import type * as SqliteClientModule from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Backup } from "./backup.js"
import type { SqliteConnection } from "./connection.js"

export type { Backup } from "./backup.js"

/** The same tag as @effect/sql-sqlite-node's: a tag is identified by its key. */
export const SqliteClient = Context.GenericTag<SqliteClientModule.SqliteClient>("@effect/sql-sqlite-node/SqliteClient")

const TypeId = Symbol.for("@effect/sql-sqlite-node/SqliteClient") as SqliteClientModule.TypeId

interface Options {
  readonly client: SqlClient.SqlClient
  readonly acquire: Effect.Effect<SqliteConnection, DatabaseError, Scope.Scope>
  /** A backup on a connection of its own. Undefined if that would disturb the other connections. */
  readonly backup: () => Backup | undefined
  readonly config: SqliteClientModule.SqliteClientConfig
  /** Called with the path of an extension that was loaded, since other connections must load it too. */
  readonly onExtension: (path: string) => void
}

export const extendClient = (
  { acquire, backup, client, config, onExtension }: Options
): Context.Context<SqlClient.SqlClient | SqliteClientModule.SqliteClient> => {
  const withConnection = <A>(
    f: (connection: SqliteConnection) => Effect.Effect<A, SqlError>
  ): Effect.Effect<A, SqlError> => Effect.scoped(Effect.flatMap(Effect.mapError(acquire, toSqlError), f))
  const extended: SqliteClientModule.SqliteClient = Object.assign(client as SqliteClientModule.SqliteClient, {
    [TypeId]: TypeId,
    config,
    export: withConnection((connection) => connection.export),
    backup: ((destination, options) =>
      backup()?.(destination, options) ??
        withConnection((connection) => connection.backup(destination, options))) satisfies Backup,
    loadExtension: (path: string) =>
      Effect.tap(
        withConnection((connection) => connection.loadExtension(path)),
        () => Effect.sync(() => onExtension(path))
      )
  })
  return Context.make(SqliteClient, extended).pipe(Context.add(SqlClient.SqlClient, extended))
}
