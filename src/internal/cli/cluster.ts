/**
 * Examines each server of a database for the command `sqlayer check`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as DatabaseConfig from "../../DatabaseConfig.js"
import { render } from "../../DatabaseConfig.js"
import { ConnectionFailed, type DatabaseError } from "../../DatabaseError.js"
import { driverOf } from "../database/driverOf.js"
import type { ClusterInspection, ConnectionLimits, ReplicationDetails } from "../driver.js"
import { type Failure, failure } from "./output.js"

/** One server, as `--json` prints it. What is not known is null. */
export interface Server {
  readonly host: string
  readonly port: number
  readonly reachable: boolean
  readonly error: Failure | null
  readonly version: string | null
  readonly role: "writer" | "standby" | "unknown"
  readonly timeline: number | null
  /** The lag of a standby, in milliseconds. */
  readonly lagMillis: number | null
  /** How far its clock is ahead of this machine's, in milliseconds. */
  readonly clockMillis: number | null
  /** How many standbys are connected to it. */
  readonly standbys: number | null
  /** Whether commits wait for a standby. */
  readonly synchronous: boolean | null
  readonly connections: ConnectionLimits | null
  /** Whether a connection to it leads over a network without encryption. */
  readonly exposed: boolean | null
  /** The maximum number of connections that all instances open to it. */
  readonly needed: number
  readonly fits: boolean | null
}

export interface Cluster {
  readonly servers: ReadonlyArray<Server>
  /** Reasons why it does not work. */
  readonly problems: ReadonlyArray<string>
  /** What can go wrong in a failover. */
  readonly warnings: ReadonlyArray<string>
}

/** By how much a clock may differ without a warning, in milliseconds. */
const maxClockDifference = 1_000

interface Examined {
  readonly details: ReplicationDetails
  readonly role: Server["role"]
  readonly timeline: number | undefined
  readonly lag: number | undefined
  readonly isExposed: boolean
  /** How far the server's clock is ahead, and how exact that is, in milliseconds. */
  readonly clock: { readonly ahead: number; readonly uncertainty: number }
}

const examineServer = (
  settings: DatabaseConfig.Settings,
  { examine }: ClusterInspection,
  makeDriver: typeof driverOf
): Effect.Effect<Examined, DatabaseError> =>
  Effect.gen(function*() {
    const driver = yield* makeDriver(settings)
    return yield* Effect.acquireUseRelease(
      Effect.interruptible(Effect.uninterruptibleMask((restore) => driver.connect(() => undefined, restore))),
      (connection) =>
        Effect.gen(function*() {
          // This records the role, the timeline and the lag. A standby is not a failure here.
          yield* Effect.ignore(driver.checkHealth?.(connection) ?? Effect.void)
          const before = Date.now()
          const details = yield* examine(connection)
          const after = Date.now()
          const server = driver.servers?.list().at(0)
          return {
            details,
            role: server?.role ?? "unknown",
            timeline: server?.timeline,
            lag: server?.lag,
            isExposed: connection.isExposed === true,
            clock: { ahead: details.clock - (before + after) / 2, uncertainty: (after - before) / 2 }
          }
        }),
      (connection) => connection.close
    )
  }).pipe(Effect.timeoutFail({
    duration: Duration.sum(settings.connectTimeout, Duration.seconds(5)),
    onTimeout: () =>
      new ConnectionFailed({
        dialect: settings.target._tag,
        code: "08001",
        reason: "the server did not answer in time",
        transient: true
      })
  }))

/** How many connections one instance may open to a server. */
const connectionsTo = (
  { poolMaxOverflow, poolSize, readers }: DatabaseConfig.Settings,
  isWritten: boolean,
  isRead: boolean
): number =>
  (isWritten ? poolSize + poolMaxOverflow : 0) +
  (isRead && readers !== undefined ? readers.poolSize + poolMaxOverflow : 0)

/** Gives no server if the dialect has none. */
export const examineCluster = (
  settings: DatabaseConfig.Settings,
  instances: number,
  makeDriver: typeof driverOf = driverOf
): Effect.Effect<Cluster, DatabaseError> =>
  Effect.gen(function*() {
    const { cluster } = (yield* makeDriver(settings)).inspection
    if (cluster === undefined) {
      return { servers: [], problems: [], warnings: [] }
    }
    const keyOf = ({ host, port }: { readonly host: string; readonly port: number }) => `${host}:${port}`
    const written = new Map(cluster.servers(settings.target).map((server) => [keyOf(server), server]))
    const read = new Map(
      (settings.readers === undefined ? [] : cluster.servers(settings.readers.target)).map((
        server
      ) => [keyOf(server), server])
    )
    const problems: Array<string> = []
    const warnings: Array<string> = []
    const isProduction = settings.environment === "production"
    const examine = (target: DatabaseConfig.Settings["target"]) =>
      examineServer({ ...settings, target, readers: undefined }, cluster, makeDriver)
    /** Whether the readers' connections to a server are exposed, if the writers connect to it with another URL. */
    const isReadExposed = (key: string): Effect.Effect<boolean> => {
      const [reading, writing] = [read.get(key)?.target, written.get(key)?.target]
      return reading === undefined || writing === undefined || render(reading) === render(writing)
        ? Effect.succeed(false)
        : Effect.match(examine(reading), { onFailure: () => false, onSuccess: ({ isExposed }) => isExposed })
    }
    const servers = yield* Effect.forEach(new Map([...read, ...written]), ([key, { host, port, target }]) =>
      Effect.zipWith(
        Effect.either(examine(target)),
        isReadExposed(key),
        (result, isReadExposed): Server => {
          const needed = instances * connectionsTo(settings, written.has(key), read.has(key))
          if (Either.isLeft(result)) {
            const error = failure(result.left)
            return { ...unreachable, host, port, error, needed }
          }
          const { clock, details, lag, role, timeline } = result.right
          const isExposed = result.right.isExposed || isReadExposed
          const { connections, isSynchronous, plainFrom, standbys, version } = details
          if (plainFrom !== undefined && !isExposed && isProduction) {
            warnings.push(
              `${host}:${port} receives what is sent to it from ${plainFrom}, without encryption: a pooler or proxy in ` +
                "between does not encrypt"
            )
          }
          const fits = needed <= connections.available
          return {
            host,
            port,
            reachable: true,
            error: null,
            version,
            role,
            timeline: timeline ?? null,
            lagMillis: lag === undefined ? null : Math.round(lag),
            clockMillis: Math.abs(clock.ahead) <= clock.uncertainty ? 0 : Math.round(clock.ahead),
            standbys,
            synchronous: isSynchronous,
            connections,
            exposed: isExposed,
            needed,
            fits
          }
        }
      ), { concurrency: "unbounded" })
    for (
      const { clockMillis, connections, exposed, fits, host, needed, port, reachable, role, standbys, synchronous }
        of servers
    ) {
      const name = `${host}:${port}`
      if (!reachable && servers.length > 1) {
        problems.push(`${name} does not answer`)
      }
      if (fits === false && servers.length > 1) {
        problems.push(
          `${name} has ${connections?.available} connections for this user, and may need ${needed}, as every ` +
            "server can become the primary: make the pools smaller, or its max_connections larger"
        )
      }
      if (exposed === true && isProduction) {
        problems.push(
          `the connections to ${name} are not encrypted and cross a network, where values and results can be read: ` +
            "set DATABASE_SSLMODE to verify-full, or at least to require"
        )
      }
      if (clockMillis !== null && Math.abs(clockMillis) > maxClockDifference) {
        warnings.push(
          `the clock of ${name} is ${Math.abs(clockMillis)} ms ${clockMillis > 0 ? "ahead of" : "behind"} this ` +
            "machine's: the lag of readers is measured with it"
        )
      }
      if (role === "writer" && synchronous === false && standbys !== null && standbys > 0) {
        warnings.push(
          `${name} commits without waiting for a standby (synchronous_standby_names and synchronous_commit): what was ` +
            "committed and verified there can be lost in a failover"
        )
      }
    }
    if (
      servers.length > 1 && servers.some(({ reachable }) =>
        reachable
      ) && !servers.some(isWriter)
    ) {
      problems.push("none of the servers can be written to")
    }
    return { servers, problems, warnings }
  })

const isWriter = ({ role }: Server): boolean => role === "writer"

const unreachable: Omit<Server, "host" | "port" | "error" | "needed"> = {
  reachable: false,
  version: null,
  role: "unknown",
  timeline: null,
  lagMillis: null,
  clockMillis: null,
  standbys: null,
  synchronous: null,
  connections: null,
  exposed: null,
  fits: null
}

/** A server as the text of one line. */
export const serverText = (server: Server): string =>
  server.reachable
    ? [
      `${server.host}:${server.port}`,
      server.role,
      ...(server.timeline === null ? [] : [`timeline ${server.timeline}`]),
      ...(server.lagMillis === null ? [] : [`${server.lagMillis} ms behind`]),
      ...(server.synchronous === true && server.role === "writer" ? ["synchronous"] : []),
      `${server.needed} of ${server.connections?.available} connections`,
      String(server.version)
    ].join(", ")
    : `${server.host}:${server.port}, not reachable: ${server.error?.message}`
