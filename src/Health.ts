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
 * What is known about one server, which is one address of a host in the URL or in the readers' URL. The sources are
 * attempts to connect, what servers report, errors, and a check of each server from which nothing was received for
 * `hostRecheck`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Server {
  /** The host as the URL has it: a name, an address, or the directory of a Unix socket. */
  readonly host: string
  /** The port. */
  readonly port: number
  /** The IP address of the host's name. The same as `host` if no name was looked up. */
  readonly address: string
  /**
   * - `unknown`: nothing was received from it yet
   * - `up`: it answered when it was last asked, even if with an error
   * - `down`: the connection was refused, or it is starting up or shutting down
   * - `silent`: it did not answer in time
   */
  readonly state: ServerState
  /** Why it is down or silent. Undefined otherwise. */
  readonly reason: string | undefined
  /**
   * `writer` is the primary. `unknown` is also the role of a former primary that a promoted server has replaced; it is
   * not used.
   */
  readonly role: ServerRole
  /**
   * The timeline, which increases by one with each promotion. Undefined if it is not known: on other engines, and
   * before it was read.
   */
  readonly timeline: number | undefined
  /** How far a standby is behind the primary. Undefined for a primary, and if it is not known. */
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
   * Whether a server that can be written to has answered within the timeout. If the URL asks for another kind of server
   * (`target_session_attrs` is standby, prefer-standby or read-only), whether one of that kind has.
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
   * The role of the server: `primary` or `standby` for PostgreSQL, `embedded` for SQLite. Undefined if the database did
   * not answer.
   */
  readonly role: ServerInfo["role"] | undefined
  /**
   * The size of the WAL of a SQLite file, in bytes. Undefined if there is none: for PostgreSQL, in memory, in another
   * journal mode, and while no connection has the file open.
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
   * Whether a server that can be written to answers within the timeout; see `Report.healthy`. Never fails. Concurrent
   * calls share one check.
   */
  readonly check: Effect.Effect<boolean>
  /**
   * Asks for the server's version and role, within the timeout. Never fails. Concurrent calls share one check, but not
   * with `check`.
   */
  readonly report: Effect.Effect<Report>
}

/**
 * What the health check uses.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Opens a separate connection if the check cannot use one of the pool. */
  readonly driver: Driver
  /** The pool whose idle connections the check uses. */
  readonly pool: Pool<Connection>
  /** The pools of the readers. Default: none. */
  readonly readers?: ReadonlyArray<Pool<Connection>> | undefined
  /** The maximum duration of a check. At most half of it is spent on an idle connection before a new one is opened. */
  readonly timeout: Duration.Duration
}

/**
 * Makes the health check of a database.
 *
 * The check uses an idle connection of the pool. If none is idle, or that one does not answer within half of the
 * timeout, it opens a separate connection. So a pool that slow sessions have exhausted, or a connection that broke
 * unnoticed, does not make a database look down. Once the scope is closed the check returns false, with DatabaseClosed
 * as the `lastError`, without asking the database.
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
      /** The answer of the last server, even if it is not of the kind that the URL asks for. */
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
