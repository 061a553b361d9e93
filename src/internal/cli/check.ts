/**
 * `sqlayer check`: what an operator asks first.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Match from "effect/Match"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Fs from "node:fs"
import * as Database from "../../Database.js"
import * as DatabaseConfig from "../../DatabaseConfig.js"
import { ConnectionFailed, type DatabaseError, typed } from "../../DatabaseError.js"
import * as Migrations from "../../Migrations.js"
import { type Failure, failure, inMillis } from "./output.js"

/** What is asked beyond the environment. */
export interface Question {
  /** How many processes have such a pool. */
  readonly instances: number
  readonly migrations: Migrations.Options | undefined
}

interface Server {
  readonly version: string
  readonly role: string
  readonly user: string | null
  /** Null where the connection is not encrypted, or none is needed. */
  readonly tls: { readonly version: string; readonly cipher: string } | null
  /** Null where nothing limits them. */
  readonly connections: Connections | null
}

interface Connections {
  readonly maximum: number
  /** What is kept for superusers and the like. */
  readonly reserved: number
  /** Of the role or the database, if they have one of their own. */
  readonly limit: number | null
  readonly used: number
  /** What this user may have at most. */
  readonly available: number
}

/** The answer, as `--json` prints it. */
export interface Report {
  readonly ok: boolean
  readonly database: string
  readonly environment: string
  readonly reachable: boolean
  readonly millis: number
  readonly error: Failure | null
  readonly server: Server | null
  readonly pool: {
    readonly size: number
    readonly maxOverflow: number
    readonly instances: number
    /** What all the instances open at most. */
    readonly needed: number
    /** Null where that is not known, or nothing limits it. */
    readonly fits: boolean | null
  }
  readonly migrations: {
    readonly applied: number
    readonly pending: ReadonlyArray<Migrations.Migration>
    readonly ahead: ReadonlyArray<Migrations.Migration>
  } | null
  /** Why it is not ok, each in one line. */
  readonly problems: ReadonlyArray<string>
}

interface ServerRow {
  readonly version: string
  readonly standby: boolean
  readonly user: string
  readonly tls_version: string | null
  readonly cipher: string | null
  readonly maximum: number
  readonly reserved: number
  readonly role_limit: number
  readonly database_limit: number
  readonly used: number
}

const connections = ({ database_limit, maximum, reserved, role_limit, used }: ServerRow): Connections => {
  const limits = [role_limit, database_limit].filter((limit) => limit >= 0)
  return {
    maximum,
    reserved,
    limit: limits.length === 0 ? null : Math.min(...limits),
    used,
    available: Math.min(maximum - reserved, ...limits)
  }
}

const server = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  typed(sql.onDialectOrElse({
    pg: () =>
      // What others do is hidden from most users, but not that they are connected.
      Effect.map(
        sql<ServerRow>`SELECT pg_catalog.current_setting('server_version') AS version,
  pg_catalog.pg_is_in_recovery() AS standby, session_user AS user, s.version AS tls_version, s.cipher,
  pg_catalog.current_setting('max_connections')::int AS maximum,
  pg_catalog.current_setting('superuser_reserved_connections')::int +
    coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int AS reserved,
  r.rolconnlimit AS role_limit, d.datconnlimit AS database_limit,
  (SELECT count(*)::int FROM pg_catalog.pg_stat_activity a
    WHERE a.datid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend') AS used
FROM pg_catalog.pg_database d
  JOIN pg_catalog.pg_roles r ON r.rolname = session_user
  LEFT JOIN pg_catalog.pg_stat_ssl s ON s.pid = pg_catalog.pg_backend_pid() AND s.ssl
WHERE d.datname = pg_catalog.current_database()`,
        ([row]): Server => ({
          version: `PostgreSQL ${row.version}`,
          role: row.standby ? "standby" : "primary",
          user: row.user,
          tls: row.tls_version === null ? null : { version: row.tls_version, cipher: row.cipher ?? "" },
          connections: connections(row)
        })
      ),
    orElse: () =>
      Effect.map(sql<{ version: string }>`SELECT sqlite_version() AS version`, ([{ version }]): Server => ({
        version: `SQLite ${version}`,
        role: "embedded",
        user: null,
        tls: null,
        connections: null
      }))
  })))

/** Whether a file is in WAL mode: the version of the format that it asks of whoever writes it says so. */
const isWal = (filename: string): boolean => {
  const header = Buffer.alloc(1)
  const file = Fs.openSync(filename, "r")
  try {
    Fs.readSync(file, header, 0, 1, 18)
  } finally {
    Fs.closeSync(file)
  }
  return header[0] === 2
}

const cannotOpen = (reason: string): DatabaseError =>
  new ConnectionFailed({ dialect: "sqlite", code: "SQLITE_CANTOPEN", reason, transient: false })

/** Variables that differ from the environment's. */
type Instead = ReadonlyArray<readonly [variable: string, value: string]>

/**
 * Who opens a file makes it if it is not there, and brings it into WAL mode if it is not yet, and a check changes nothing.
 * A file in that mode is opened as usual, since who may only read leaves its WAL behind.
 */
const untouched = ({ target }: DatabaseConfig.Settings): Effect.Effect<Instead, DatabaseError> =>
  Match.valueTags(target, {
    postgres: () => Effect.succeed<Instead>([]),
    sqlite: (target) =>
      target.filename === ":memory:" || target.readOnly ? Effect.succeed<Instead>([]) : Effect.try({
        try: (): Instead => {
          Fs.accessSync(target.filename, Fs.constants.R_OK | Fs.constants.W_OK)
          return isWal(target.filename)
            ? []
            : [["DATABASE_URL", Redacted.value(DatabaseConfig.toUrl({ ...target, readOnly: true }))]]
        },
        catch: (error) =>
          cannotOpen(
            Predicate.hasProperty(error, "code") && error.code === "ENOENT"
              ? `there is no ${target.filename} yet: the application, or sqlayer migrate, makes it`
              : `could not open ${target.filename}: ${error instanceof Error ? error.message : String(error)}`
          )
      })
  })

/** Says what it finds now: it does not go on trying as an application does when it starts. */
const once = (instead: Instead) =>
  ConfigProvider.orElse(
    ConfigProvider.fromMap(new Map([["DATABASE_CONNECT_RETRY", "0"], ...instead])),
    () => ConfigProvider.fromEnv()
  )

const asked = (settings: DatabaseConfig.Settings, { migrations }: Question) =>
  Effect.gen(function*() {
    const provider = once(yield* untouched(settings))
    const [duration, context] = yield* Effect.timed(Effect.gen(function*() {
      const context = yield* Layer.build(Layer.provide(Database.layer, Layer.setConfigProvider(provider)))
      return [context, yield* Effect.provide(server, context)] as const
    }))
    const status = migrations === undefined
      ? undefined
      : yield* Effect.either(Effect.provide(Migrations.status(migrations), context[0]))
    return { duration, server: context[1], status }
  }).pipe(
    Effect.scoped,
    // What a database logs while it opens is what the report says.
    Logger.withMinimumLogLevel(LogLevel.None),
    // The settings were read before from the same environment.
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

const names = (migrations: ReadonlyArray<Migrations.Migration>): string =>
  migrations.map(({ id, name }) => `${id}_${name}`).join(", ")

/** Looks at the database that the settings name. It changes nothing. */
export const check = (settings: DatabaseConfig.Settings, question: Question): Effect.Effect<Report> =>
  Effect.map(Effect.timed(Effect.either(asked(settings, question))), ([waited, answer]): Report => {
    const problems: Array<string> = []
    const { instances } = question
    const { poolMaxOverflow: maxOverflow, poolSize: size } = settings
    const needed = (size + maxOverflow) * instances
    if (Either.isLeft(answer)) {
      const error = failure(answer.left)
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
        problems
      }
    }
    const { duration, server, status } = answer.right
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
    const migrations = status === undefined || Either.isLeft(status) ? undefined : status.right
    if (status !== undefined && Either.isLeft(status)) {
      problems.push(failure(status.left).message)
    }
    if (migrations !== undefined) {
      problems.push(...migrations.problems.map(({ message }) => message))
      if (migrations.pending.length > 0) {
        problems.push(`${plural(migrations.pending.length, "migration")} pending: ${names(migrations.pending)}`)
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
      problems
    }
  })

const poolText = ({ fits, instances, maxOverflow, needed, size }: Report["pool"]): string =>
  fits === null
    ? plural(size + maxOverflow, "connection")
    : `${size} + ${maxOverflow} overflow, in ${plural(instances, "instance")}: ${plural(needed, "connection")} at most`

const connectionsText = ({ available, limit, maximum, reserved, used }: Connections, fits: boolean): string =>
  `${fits ? "fits" : "does not fit"} into ${available} (max_connections ${maximum}, ${reserved} reserved` +
  `${limit === null ? "" : `, this user's or database's limit ${limit}`}), ${used} in use now`

/** The report for people: what is known, line by line, as pairs. */
export const lines = (report: Report): ReadonlyArray<readonly [string, string]> => {
  const { migrations, pool, server } = report
  const found: Array<readonly [string, string]> = [
    ["database", report.database],
    ["environment", report.environment],
    ["reachable", report.reachable ? `yes, in ${report.millis} ms` : `no, after ${report.millis} ms`]
  ]
  if (server !== null) {
    found.push(["server", `${server.version}, ${server.role}`])
    if (server.user !== null) {
      found.push(["user", server.user])
      found.push(["TLS", server.tls === null ? "none" : `${server.tls.version}, ${server.tls.cipher}`])
    }
  }
  found.push(["pool", poolText(pool)])
  if (server !== null && server.connections !== null) {
    found.push(["connections", connectionsText(server.connections, pool.fits !== false)])
  }
  if (migrations !== null) {
    const { ahead, applied, pending } = migrations
    found.push([
      "migrations",
      `${applied} applied, ${pending.length} pending${ahead.length === 0 ? "" : `, not known here: ${names(ahead)}`}`
    ])
  }
  return found
}
