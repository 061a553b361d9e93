/**
 * Open databases of either dialect, for tests of what stands above the drivers.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import type * as DatabaseConfig from "../../src/DatabaseConfig.js"
import type { DatabaseError, Dialect } from "../../src/DatabaseError.js"
import * as Dialects from "../support/dialects.js"

type Options = Omit<DatabaseConfig.Options, "url">

/** An empty database, opened. */
export const open = (
  dialect: Dialect,
  options?: Options
): Effect.Effect<Database.Service, DatabaseError, Scope.Scope> =>
  Dialects.make(dialect === "postgres" ? Dialects.postgres : Dialects.sqliteFile, options)

/** Runs an effect with a database under the tags that the layer provides. */
export const using = <A, E, R>(database: Database.Service, effect: Effect.Effect<A, E, R>) =>
  effect.pipe(
    Effect.provideService(Database.Database, database),
    Effect.provide(database.context)
  )

/** Says nothing of sessions that fail because a test wants them to. */
export const quiet = Logger.remove(Logger.defaultLogger)

type Body = (
  database: Database.Service
) => Effect.Effect<void, unknown, Scope.Scope | Database.Database | SqlClient.SqlClient>

/** A test on an empty database of one dialect, on the real clock. */
export const on = (dialect: Dialect) => (name: string, body: Body, options?: Options): void =>
  it.scopedLive(
    `${name}: ${dialect}`,
    () => Effect.provide(Effect.flatMap(open(dialect, options), (database) => using(database, body(database))), quiet)
  )

/** The same test on each dialect. */
export const onEach = (name: string, body: Body, options?: Options): void => {
  on("postgres")(name, body, options)
  on("sqlite")(name, body, options)
}
