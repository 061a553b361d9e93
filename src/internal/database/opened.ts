/**
 * The parts of every open database, for modules that need its driver or open another database over it.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Service } from "../../Database.js"
import type { Settings } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Stats } from "../../Pool.js"
import type { Connection, Driver } from "../driver.js"
import type { ActivityTracker } from "../telemetry/activity.js"

export interface OpenDatabase {
  readonly driver: Driver
  readonly isProduction: boolean
  readonly settings: Settings
  readonly tracker: ActivityTracker
  readonly poolStats: () => Stats
  /** A connection from its pool. */
  readonly acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>
  /**
   * Runs an effect outside of every session. Its statements use a connection that is available whatever the load of the
   * pool. Fails with ConnectionFailed when the timeout of health checks has passed.
   */
  readonly probe: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | DatabaseError, R>
  /** Runs an effect whose statements use a connection, outside of every session. */
  readonly runOn: <A, E, R>(connection: Connection, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Opens a database with the same settings over another driver. */
  readonly openWith: (driver: Driver) => Effect.Effect<Service, DatabaseError, Scope.Scope>
}

/** The open databases by their clients, which a service and a migration's context have in common. */
export const openDatabases = new WeakMap<SqlClient.SqlClient, OpenDatabase>()

/** The driver of the database that a client belongs to. A client that sqlayer did not make is a defect. */
export const driverOfClient = (sql: SqlClient.SqlClient): Driver => {
  const open = openDatabases.get(sql)
  if (open === undefined) {
    throw new Error("This needs the SqlClient of a database that was opened by sqlayer")
  }
  return open.driver
}
