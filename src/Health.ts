/**
 * The health check of a database: a boolean, and a report for operators.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "./DatabaseError.js"
import type { ServerRole, ServerState } from "./internal/cluster/servers.js"
import type { Connection, Driver, ServerInfo } from "./internal/driver.js"
import * as Probe from "./internal/health/probe.js"
import type { Pool, Stats } from "./Pool.js"

/**
 * What is known of one server: an address of a host of the URL, or of the reader's URL. It is learnt from connecting, from what
 * servers report, from errors, and from a look at those that were not heard of for `hostRecheck`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Server {
  /** The host as the URL has it: a name, an address, or the directory of a Unix socket. */
  readonly host: string
  /** The port. */
  readonly port: number
  /** The address that the host's name has, or the same as `host`. */
  readonly address: string
  /**
   * - `unknown`: nothing was heard of it yet
   * - `up`: it answered when it was last asked, be it with an error
   * - `down`: the connection was refused, or it is starting up or shutting down
   * - `silent`: it did not answer in time
   */
  readonly state: ServerState
  /** Why it is down or silent. Undefined otherwise. */
  readonly reason: string | undefined
  /** `writer`: the primary. `unknown` also of a primary that was replaced by a promoted server, and is not used. */
  readonly role: ServerRole
  /** Increases by one with each promotion. Undefined where it is not known: of other engines, and before it was asked. */
  readonly timeline: number | undefined
  /** How far a standby is behind the primary. Undefined of a primary, and where it is not known. */
  readonly lag: Duration.Duration | undefined
  /** The database's connections to it that are not in use. */
  readonly idle: number
  /** The database's connections to it that are in use. */
  readonly used: number
}

/**
 * The result of a health check. It holds no secrets, but shows the load of the pool and the server's version.
 *
 * @since 0.1.0
 * @category models
 */
export interface Report {
  /**
   * Whether a server that can be written to has answered within the timeout. Where the URL asks for another one
   * (`target_session_attrs` is standby, prefer-standby or read-only), whether such a server has.
   */
  readonly healthy: boolean
  /** The servers, in the order in which they became known; those of the readers too. Empty for SQLite. */
  readonly servers: ReadonlyArray<Server>
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
  /**
   * The size of the WAL of a SQLite file, in bytes. Undefined where there is none: for PostgreSQL, in memory, in another journal
   * mode, and while nothing has the file open.
   */
  readonly walSize: number | undefined
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
  /**
   * Whether a server that can be written to answers within the timeout; see `Report.healthy`. Never fails. Concurrent calls
   * share one check.
   */
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
  /** The pools of its readers. Default: none. */
  readonly readers?: ReadonlyArray<Pool<Connection>> | undefined
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
    const { driver, pool, readers = [] } = options
    const pools = [pool, ...readers]
    let lastError: DatabaseError | undefined = undefined
    const ask = <A>(query: (connection: Connection) => Effect.Effect<A, DatabaseError>) =>
      Effect.tapError(probe(query), (error) =>
        Effect.sync(() => {
          lastError = error
        }))
    const check = (connection: Connection) => driver.checkHealth?.(connection) ?? connection.ping
    const report = Effect.suspend(() => {
      /** Of the server that has answered last, although it may not be the right one. */
      let info: ServerInfo | undefined = undefined
      const query = (connection: Connection) =>
        Effect.flatMap(driver.serverInfo(connection), (answer) => {
          info = answer
          return check(connection)
        })
      return Effect.map(Effect.timed(Effect.option(ask(query))), ([latency, answer]): Report => ({
        healthy: Option.isSome(answer),
        dialect: driver.dialect,
        latency,
        version: info?.version,
        role: info?.role,
        walSize: driver.walSize?.(),
        pool: pool.stats(),
        servers: serversOf(driver, pools),
        lastError
      }))
    })
    return {
      check: Probe.shareConcurrent(Effect.match(ask(check), { onFailure: () => false, onSuccess: () => true })),
      report: Probe.shareConcurrent(report)
    }
  })

/** The servers that the driver knows, with the connections that the pools have to each. */
const serversOf = (driver: Driver, pools: ReadonlyArray<Pool<Connection>>): ReadonlyArray<Server> => {
  const connections = pools.flatMap((pool) => pool.connections())
  return (driver.servers?.list() ?? []).map((server) => {
    const open = connections.filter(({ connection }) => connection.server === server)
    const used = open.filter(({ isUsed }) => isUsed).length
    return {
      host: server.host,
      port: server.port,
      address: server.address,
      state: server.state,
      reason: server.reason,
      role: server.role,
      timeline: server.timeline,
      lag: server.lag === undefined ? undefined : Duration.millis(server.lag),
      idle: open.length - used,
      used
    }
  })
}
