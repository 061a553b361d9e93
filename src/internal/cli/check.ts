/**
 * `sqlayer check`: examines the database that the environment names, and changes nothing.
 */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as Database from "../../Database.js"
import * as DatabaseConfig from "../../DatabaseConfig.js"
import { ConnectionFailed, typed } from "../../DatabaseError.js"
import * as Migrations from "../../Migrations.js"
import { driverOf } from "../database/driverOf.js"
import type { ConnectionLimits, ServerDetails } from "../driver.js"
import { label } from "../migrations/model.js"
import { type Cluster, examineCluster, type Server, serverText } from "./cluster.js"
import { type Failure, failure, inMillis } from "./output.js"

/** The arguments of the command. */
export interface Arguments {
  /** The number of processes that use the database, each with a pool of this size. */
  readonly instances: number
  /** The migrations to compare the database with. */
  readonly migrations: Migrations.Options | undefined
}

/** The report, as `--json` prints it. */
export interface Report {
  readonly ok: boolean
  readonly database: string
  readonly environment: string
  readonly reachable: boolean
  readonly millis: number
  readonly error: Failure | null
  /** Null if it is not reachable. */
  readonly server: ServerDetails | null
  readonly pool: {
    readonly size: number
    readonly maxOverflow: number
    readonly instances: number
    /** The maximum number of connections that all instances open together. */
    readonly needed: number
    /** Whether the server accepts that many; null if that is not known, or it has no limit. */
    readonly fits: boolean | null
  }
  /** Null if no directory of migrations was given, or their status is not known. */
  readonly migrations: {
    readonly applied: number
    readonly pending: ReadonlyArray<Migrations.Migration>
    readonly ahead: ReadonlyArray<Migrations.Migration>
  } | null
  /** The servers that the URLs name. Empty for SQLite. */
  readonly servers: ReadonlyArray<Server>
  /** The reasons why it is not ok, one line each. */
  readonly problems: ReadonlyArray<string>
  /** What can go wrong although it is ok, one line each. */
  readonly warnings: ReadonlyArray<string>
}

/**
 * The environment, with another URL if the target is not the one of the settings, and without retries: the report shows
 * what is found now.
 */
const environment = (settings: DatabaseConfig.Settings, target: DatabaseConfig.Settings["target"]) => {
  const variables = new Map([["DATABASE_CONNECT_RETRY", "0"]])
  if (target !== settings.target) {
    variables.set("DATABASE_URL", Redacted.value(DatabaseConfig.toUrl(target)))
  }
  return ConfigProvider.orElse(ConfigProvider.fromMap(variables), () => ConfigProvider.fromEnv())
}

const examine = (settings: DatabaseConfig.Settings, { migrations }: Arguments) =>
  Effect.gen(function*() {
    const { details, target } = (yield* driverOf(settings)).inspection
    const provider = environment(settings, yield* target)
    const [duration, [context, server]] = yield* Effect.timed(Effect.gen(function*() {
      const context = yield* Layer.build(Layer.provide(Database.layer, Layer.setConfigProvider(provider)))
      return [context, yield* typed(details(Context.get(context, Database.Database).sql))] as const
    }))
    const status = migrations === undefined
      ? undefined
      : yield* Effect.either(Effect.provide(Migrations.status(migrations), context))
    return { duration, server, status }
  }).pipe(
    Effect.scoped,
    // The report has what a database would log while it opens.
    Logger.withMinimumLogLevel(LogLevel.None),
    // The settings were read from the same environment, so it is valid.
    Effect.catchTag("ConfigError", Effect.die),
    Effect.timeoutFail({
      duration: Duration.sum(settings.connectTimeout, Duration.seconds(5)),
      onTimeout: () =>
        new ConnectionFailed({
          dialect: settings.target._tag,
          code: "08001",
          reason: "the server accepted the connection, and did not answer in time",
          transient: true
        })
    })
  )

const plural = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`

const labels = (migrations: ReadonlyArray<Migrations.Migration>): string => migrations.map(label).join(", ")

/** Examines the database that the settings name, without changing it. */
export const check = (settings: DatabaseConfig.Settings, args: Arguments): Effect.Effect<Report> =>
  Effect.zipWith(
    Effect.timed(Effect.either(examine(settings, args))),
    Effect.orElseSucceed(examineCluster(settings, args.instances), () => noCluster),
    ([waited, result], cluster) => reportOf(settings, args, waited, result, cluster),
    { concurrent: true }
  )

const noCluster: Cluster = { servers: [], problems: [], warnings: [] }

const reportOf = (
  settings: DatabaseConfig.Settings,
  { instances }: Arguments,
  waited: Duration.Duration,
  result: Either.Either<
    Effect.Effect.Success<ReturnType<typeof examine>>,
    Effect.Effect.Error<ReturnType<typeof examine>>
  >,
  { problems: clusterProblems, servers, warnings }: Cluster
): Report => {
  const problems: Array<string> = []
  const { poolMaxOverflow: maxOverflow, poolSize: size } = settings
  const needed = (size + maxOverflow) * instances
  if (Either.isLeft(result)) {
    const error = failure(result.left)
    problems.push(error.message)
    return {
      ok: false,
      database: DatabaseConfig.render(settings.target),
      environment: settings.environment,
      reachable: false,
      millis: inMillis(waited),
      error,
      server: null,
      pool: { size, maxOverflow, instances, needed, fits: null },
      migrations: null,
      servers,
      problems: [...problems, ...clusterProblems],
      warnings
    }
  }
  const { duration, server, status } = result.right
  const available = server.connections?.available
  const fits = available === undefined ? null : needed <= available
  if (fits === false) {
    problems.push(
      `${
        plural(instances, "instance")
      } may open ${needed} connections, and the server has ${available} for this user: ` +
        "make DATABASE_POOL_SIZE or DATABASE_POOL_MAX_OVERFLOW smaller, or max_connections larger"
    )
  }
  problems.push(...clusterProblems)
  const migrations = status === undefined || Either.isLeft(status) ? undefined : status.right
  if (status !== undefined && Either.isLeft(status)) {
    problems.push(failure(status.left).message)
  }
  if (migrations !== undefined) {
    problems.push(...migrations.problems.map(({ message }) => message))
    if (migrations.pending.length > 0) {
      problems.push(`${plural(migrations.pending.length, "migration")} pending: ${labels(migrations.pending)}`)
    }
  }
  return {
    ok: problems.length === 0,
    database: DatabaseConfig.render(settings.target),
    environment: settings.environment,
    reachable: true,
    millis: inMillis(duration),
    error: null,
    server,
    pool: { size, maxOverflow, instances, needed, fits },
    migrations: migrations === undefined
      ? null
      : { applied: migrations.applied.length, pending: migrations.pending, ahead: migrations.ahead },
    servers,
    problems,
    warnings
  }
}

const poolText = ({ fits, instances, maxOverflow, needed, size }: Report["pool"]): string =>
  fits === null
    ? plural(size + maxOverflow, "connection")
    : `${size} + ${maxOverflow} overflow, in ${plural(instances, "instance")}: ${plural(needed, "connection")} at most`

const connectionsText = ({ available, limit, maximum, reserved, used }: ConnectionLimits, fits: boolean): string =>
  `${fits ? "fits" : "does not fit"} into ${available} (max_connections ${maximum}, ${reserved} reserved` +
  `${limit === null ? "" : `, this user's or database's limit ${limit}`}), ${used} in use now`

/** The report as lines of a name and a text, without what is not known. */
export const toLines = (report: Report): ReadonlyArray<readonly [string, string]> => {
  const { migrations, pool, server } = report
  const lines: Array<readonly [string, string]> = [
    ["database", report.database],
    ["environment", report.environment],
    ["reachable", report.reachable ? `yes, in ${report.millis} ms` : `no, after ${report.millis} ms`]
  ]
  if (server !== null) {
    lines.push(["server", `${server.version}, ${server.role}`])
    if (server.user !== null) {
      lines.push(["user", server.user])
      lines.push(["TLS", server.tls === null ? "none" : `${server.tls.version}, ${server.tls.cipher}`])
    }
  }
  if (report.servers.length > 1) {
    report.servers.forEach((server, i) => lines.push([i === 0 ? "servers" : "", serverText(server)]))
  }
  lines.push(["pool", poolText(pool)])
  if (server !== null && server.connections !== null) {
    lines.push(["connections", connectionsText(server.connections, pool.fits !== false)])
  }
  if (migrations !== null) {
    const { ahead, applied, pending } = migrations
    lines.push([
      "migrations",
      `${applied} applied, ${pending.length} pending${ahead.length === 0 ? "" : `, not known here: ${labels(ahead)}`}`
    ])
  }
  return lines
}
