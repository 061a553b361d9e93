/**
 * The health check of a database: a boolean, and a report for operators.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "./DatabaseError.js"
import type { Connection, Driver, ServerInfo } from "./internal/driver.js"
import * as Probe from "./internal/health/probe.js"
import type { Pool, Stats } from "./Pool.js"

/**
 * The result of a health check. It holds no secrets, but shows the load of the pool and the server's version.
 *
 * @since 0.1.0
 * @category models
 */
export interface Report {
  /** Whether the database answered within the timeout. */
  readonly healthy: boolean
  /** The dialect of the database. */
  readonly dialect: Dialect
  /** How long the check took, until the answer or the failure. */
  readonly latency: Duration.Duration
  /** The version of the PostgreSQL server or of the SQLite library. Undefined if the database did not answer. */
  readonly version: string | undefined
  /**
   * The role of the server: `primary` or `standby` for PostgreSQL, `embedded` for SQLite. Undefined if the database did not
   * answer.
   */
  readonly role: ServerInfo["role"] | undefined
  /** The statistics of the pool after the check. */
  readonly pool: Stats
  /**
   * The error of the last check that failed, also if later ones succeeded. Undefined if none has failed. `check` and
   * `report` share it.
   */
  readonly lastError: DatabaseError | undefined
}

/**
 * The health check of one database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Health {
  /** Whether the database answers a ping within the timeout. Never fails. Concurrent calls share one check. */
  readonly check: Effect.Effect<boolean>
  /**
   * Asks for the server's version and role, within the timeout. Never fails. Concurrent calls share one check, but not
   * with `check`.
   */
  readonly report: Effect.Effect<Report>
}

/**
 * What the health check asks.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Opens a connection of the check's own when it cannot use one of the pool. */
  readonly driver: Driver
  /** The pool whose idle connections the check uses. */
  readonly pool: Pool<Connection>
  /** The maximum duration of a check. Half of it is spent on an idle connection before a new one is opened. */
  readonly timeout: Duration.Duration
}

/**
 * Makes the health check of a database.
 *
 * It asks on an idle connection of the pool. If none is idle, or that one does not answer within half of the timeout, it
 * asks on a connection of its own. So a pool that slow sessions have exhausted, or a connection that broke unnoticed, does
 * not make a database look down. Once the scope is closed the check gives false, with DatabaseClosed as the `lastError`,
 * without asking the database.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Health, never, Scope.Scope> =>
  Effect.map(Probe.make(options), (probe): Health => {
    const { driver, pool } = options
    let lastError: DatabaseError | undefined = undefined
    const ask = <A>(query: (connection: Connection) => Effect.Effect<A, DatabaseError>) =>
      Effect.tapError(probe(query), (error) =>
        Effect.sync(() => {
          lastError = error
        }))
    return {
      check: Probe.shareConcurrent(
        Effect.match(ask((connection) => connection.ping), { onFailure: () => false, onSuccess: () => true })
      ),
      report: Probe.shareConcurrent(Effect.map(
        Effect.timed(Effect.option(ask((connection) => driver.serverInfo(connection)))),
        ([latency, info]) => ({
          healthy: Option.isSome(info),
          dialect: driver.dialect,
          latency,
          version: Option.getOrUndefined(info)?.version,
          role: Option.getOrUndefined(info)?.role,
          pool: pool.stats(),
          lastError
        })
      ))
    }
  })
