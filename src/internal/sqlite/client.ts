/**
 * Makes @effect/sql-sqlite-node's SqliteClient of a client.
 */
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { SqliteConnection } from "./connection.js"

interface Options {
  readonly client: SqlClient.SqlClient
  readonly acquire: Effect.Effect<SqliteConnection, DatabaseError, Scope.Scope>
  readonly config: SqliteClient.SqliteClientConfig
  /** Called with an extension that was loaded: later connections need it too. */
  readonly onExtension: (path: string) => void
}

export const extend = (
  { acquire, client, config, onExtension }: Options
): Context.Context<SqlClient.SqlClient | SqliteClient.SqliteClient> => {
  const use = <A>(f: (connection: SqliteConnection) => Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.scoped(Effect.flatMap(Effect.mapError(acquire, toSqlError), f))
  const extended: SqliteClient.SqliteClient = Object.assign(client as SqliteClient.SqliteClient, {
    [SqliteClient.TypeId]: SqliteClient.TypeId,
    config,
    export: use((connection) => connection.export),
    backup: (destination: string) => use((connection) => connection.backup(destination)),
    loadExtension: (path: string) =>
      Effect.tap(use((connection) => connection.loadExtension(path)), () => Effect.sync(() => onExtension(path)))
  })
  return Context.make(SqliteClient.SqliteClient, extended).pipe(Context.add(SqlClient.SqlClient, extended))
}
