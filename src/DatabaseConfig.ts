/**
 * From the environment to validated settings.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Duration from "effect/Duration"
import type * as Either from "effect/Either"
import * as Match from "effect/Match"
import * as Option from "effect/Option"
import * as Record from "effect/Record"
import * as Redacted from "effect/Redacted"
import * as Asking from "./internal/config/validation.js"
import * as Place from "./internal/config/target.js"
import * as Rule from "./internal/config/rule.js"
import * as SqliteUrl from "./internal/config/sqliteUrl.js"
import * as Url from "./internal/config/url.js"

/**
 * Where an application runs. It decides the defaults: production must be told its database and gets a larger pool.
 *
 * @since 0.1.0
 * @category models
 */
export type Environment = "production" | "development" | "test"

/**
 * What libpq's sslmode says.
 *
 * @since 0.1.0
 * @category models
 */
export type SslMode = "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full"

/**
 * What an application may ask for; everything has a default but production's `url`. The names are the environment
 * variables' (DATABASE_POOL_SIZE is `poolSize`). Durations are Effect's, at least a millisecond and at most 24 days;
 * zero is accepted where it has a meaning, and text that is only a number (`"30"`) is seconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Default: development. The process's environment is not asked. */
  readonly environment?: Environment | undefined
  /** `postgres:`, `postgresql:`, `sqlite:`, `file:` or `:memory:`; default: `dev.db`, and in tests memory. */
  readonly url?: string | Redacted.Redacted<string> | undefined
  /** Names the pool in metrics and logs; default: the database's name. */
  readonly name?: string | undefined
  /** Connections kept; default 10 in production, else 5. SQLite has one. */
  readonly poolSize?: number | undefined
  /** Extra connections under load, closed when they come back; default 20 in production, else 10. SQLite has none. */
  readonly poolMaxOverflow?: number | undefined
  /** The longest wait for a connection; default 30 seconds. */
  readonly poolTimeout?: Duration.DurationInput | undefined
  /** A connection's longest life; default 30 minutes, 0 is for ever. */
  readonly poolRecycle?: Duration.DurationInput | undefined
  /** One attempt to connect; default 5 seconds. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long start-up keeps trying; default 30 seconds in production, else 0, which is one attempt. */
  readonly connectRetry?: Duration.DurationInput | undefined
  /** This and the next two: 0 is no limit; default: what the server is set to. */
  readonly statementTimeout?: Duration.DurationInput | undefined
  readonly lockTimeout?: Duration.DurationInput | undefined
  readonly idleInTransactionTimeout?: Duration.DurationInput | undefined
  /** How long shutdown waits for running sessions; default 10 seconds. */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
  /** The health check's limit; default 2 seconds. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** A statement that takes longer is logged; default 1 second, 0 is never. */
  readonly slowStatement?: Duration.DurationInput | undefined
  /**
   * PostgreSQL: whether statements that come again are prepared by name. `auto`, the default, does so where nothing stands
   * between the server and the application: a pooler may pass a statement to a server that does not know its name. `on` is
   * for poolers that keep names themselves.
   */
  readonly preparedStatements?: PreparedStatements | undefined
  readonly applicationName?: string | undefined
  readonly sslMode?: SslMode | undefined
  /** Files, as libpq's sslrootcert, sslcert and sslkey name them. */
  readonly sslRootCert?: string | undefined
  readonly sslCert?: string | undefined
  readonly sslKey?: string | undefined
  /** SQLite: where statements run; default `worker` for a file, always `main` for :memory:. */
  readonly thread?: "worker" | "main" | undefined
  readonly transformQueryNames?: ((name: string) => string) | undefined
  readonly transformResultNames?: ((name: string) => string) | undefined
  readonly transformJson?: boolean | undefined
  readonly spanAttributes?: Record<string, unknown> | undefined
  /** Whether statements' spans hold their parameters, which may be secret; default false. */
  readonly spanParameters?: boolean | undefined
}

/**
 * Whether statements are prepared by name, so that the server neither parses nor plans them again.
 *
 * @since 0.1.0
 * @category models
 */
export type PreparedStatements = "auto" | "on" | "off"

/**
 * Where a PostgreSQL server is, and how to be let in.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresTarget {
  readonly _tag: "postgres"
  /** Tried in order. A host that begins with a slash is the directory of a Unix socket. */
  readonly hosts: readonly [PostgresHost, ...Array<PostgresHost>]
  readonly targetSessionAttrs: "any" | "read-write" | "read-only" | "primary" | "standby" | "prefer-standby"
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted<string> | undefined
  readonly sslMode: SslMode
  /** libpq's `channel_binding`: whether the password is proven for this TLS connection alone, where the server can. */
  readonly channelBinding: "disable" | "prefer" | "require"
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
  readonly applicationName: string
  /** libpq's `options`: command-line options for the server (`-c search_path=app`). */
  readonly serverOptions: string | undefined
}

/**
 * One of the places where a PostgreSQL server may answer.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresHost {
  readonly host: string
  readonly port: number
}

/**
 * A SQLite file, or memory.
 *
 * @since 0.1.0
 * @category models
 */
export interface SqliteTarget {
  readonly _tag: "sqlite"
  /** A path, or `:memory:`. */
  readonly filename: string
  readonly readOnly: boolean
  readonly thread: "worker" | "main"
}

/**
 * Validated, with every default filled in.
 *
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  readonly environment: Environment
  readonly target: PostgresTarget | SqliteTarget
  readonly name: string
  readonly poolSize: number
  readonly poolMaxOverflow: number
  readonly poolTimeout: Duration.Duration
  /** Infinite where a connection lives for ever. */
  readonly poolRecycle: Duration.Duration
  /** Infinite where the URL asks for no limit. */
  readonly connectTimeout: Duration.Duration
  /** How long start-up keeps trying; zero is one attempt. */
  readonly connectRetry: Duration.Duration
  /** This and the next two: zero is no limit, undefined is what the server is set to. */
  readonly statementTimeout: Duration.Duration | undefined
  readonly lockTimeout: Duration.Duration | undefined
  readonly idleInTransactionTimeout: Duration.Duration | undefined
  readonly shutdownTimeout: Duration.Duration
  readonly healthTimeout: Duration.Duration
  /** Infinite where no statement is too slow. */
  readonly slowStatement: Duration.Duration
  readonly preparedStatements: PreparedStatements
  readonly transformQueryNames: ((name: string) => string) | undefined
  readonly transformResultNames: ((name: string) => string) | undefined
  readonly transformJson: boolean
  readonly spanAttributes: Record<string, unknown>
  readonly spanParameters: boolean
}

const environments: ReadonlyArray<Environment> = ["production", "development", "test"]

/** What differs between the environments. */
const defaults: { readonly [E in Environment]: EnvironmentDefaults } = {
  production: { url: undefined, poolSize: 10, poolMaxOverflow: 20, connectRetry: Duration.seconds(30) },
  development: { url: "sqlite:///dev.db", poolSize: 5, poolMaxOverflow: 10, connectRetry: Duration.zero },
  test: { url: "sqlite:///:memory:", poolSize: 5, poolMaxOverflow: 10, connectRetry: Duration.zero }
}

interface EnvironmentDefaults {
  readonly url: string | undefined
  readonly poolSize: number
  readonly poolMaxOverflow: number
  readonly connectRetry: Duration.Duration
}

const preparing: ReadonlyArray<PreparedStatements> = ["auto", "on", "off"]

const threads: ReadonlyArray<SqliteTarget["thread"]> = ["worker", "main"]

/** The options that plain variables set. */
const textVariables = {
  poolSize: "DATABASE_POOL_SIZE",
  poolMaxOverflow: "DATABASE_POOL_MAX_OVERFLOW",
  poolTimeout: "DATABASE_POOL_TIMEOUT",
  poolRecycle: "DATABASE_POOL_RECYCLE",
  connectTimeout: "DATABASE_CONNECT_TIMEOUT",
  connectRetry: "DATABASE_CONNECT_RETRY",
  statementTimeout: "DATABASE_STATEMENT_TIMEOUT",
  lockTimeout: "DATABASE_LOCK_TIMEOUT",
  idleInTransactionTimeout: "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT",
  shutdownTimeout: "DATABASE_SHUTDOWN_TIMEOUT",
  healthTimeout: "DATABASE_HEALTH_TIMEOUT",
  slowStatement: "DATABASE_SLOW_STATEMENT",
  preparedStatements: "DATABASE_PREPARED_STATEMENTS",
  applicationName: "DATABASE_APPLICATION_NAME",
  sslMode: "DATABASE_SSLMODE",
  sslRootCert: "DATABASE_SSLROOTCERT",
  sslCert: "DATABASE_SSLCERT",
  sslKey: "DATABASE_SSLKEY"
} as const

/** Every option that has a variable, with its name. */
const variables = { ...textVariables, environment: "APP_ENV", url: "DATABASE_URL" } as const

type Field = keyof typeof variables | "name" | "thread"

type Values = { readonly [F in Field]?: unknown }

/** What is passed on as it is. */
type Extras = Pick<
  Options,
  "transformQueryNames" | "transformResultNames" | "transformJson" | "spanAttributes" | "spanParameters"
>

const settle = (
  values: Values,
  extras: Extras,
  nameOf: (field: Field) => string
): Either.Either<Settings, ConfigError.ConfigError> => {
  const asking = Asking.make(values, nameOf, "url")
  const { ask } = asking
  const environment = ask("environment", Rule.oneOf(environments)) ?? "development"
  const own = defaults[environment]
  const name = ask("name", Rule.text)
  const recycle = ask("poolRecycle", Rule.duration("never")) ?? Duration.minutes(30)
  const pool = {
    poolSize: ask("poolSize", Rule.wholeNumber(1)) ?? own.poolSize,
    poolMaxOverflow: ask("poolMaxOverflow", Rule.wholeNumber(0)) ?? own.poolMaxOverflow,
    poolRecycle: Duration.isZero(recycle) ? Duration.infinity : recycle,
    connectTimeout: ask("connectTimeout", Rule.duration()) ?? Duration.seconds(5),
    lockTimeout: ask("lockTimeout", Rule.duration("no limit"))
  }
  const slow = ask("slowStatement", Rule.duration("never")) ?? Duration.seconds(1)
  const times = {
    poolTimeout: ask("poolTimeout", Rule.duration()) ?? Duration.seconds(30),
    connectRetry: ask("connectRetry", Rule.duration("one attempt")) ?? own.connectRetry,
    statementTimeout: ask("statementTimeout", Rule.duration("no limit")),
    idleInTransactionTimeout: ask("idleInTransactionTimeout", Rule.duration("no limit")),
    shutdownTimeout: ask("shutdownTimeout", Rule.duration("no waiting")) ?? Duration.seconds(10),
    healthTimeout: ask("healthTimeout", Rule.duration()) ?? Duration.seconds(2),
    slowStatement: Duration.isZero(slow) ? Duration.infinity : slow
  }
  const server = {
    applicationName: ask("applicationName", Rule.text),
    sslMode: ask("sslMode", Rule.oneOf(Place.sslModes)),
    sslRootCert: ask("sslRootCert", Rule.filename),
    sslCert: ask("sslCert", Rule.filename),
    sslKey: ask("sslKey", Rule.filename)
  }
  const preparedStatements = ask("preparedStatements", Rule.oneOf(preparing)) ?? "auto"
  const thread = ask("thread", Rule.oneOf(threads)) ?? "worker"
  const text = ask("url", Rule.secretText) ?? own.url
  if (text === undefined) {
    asking.miss("url", `${Url.forms}, in ${environment}`)
  }
  const { problems, url } = Url.parse(text ?? SqliteUrl.memory)
  problems.forEach((message) => asking.refuse("url", message))
  const place = Match.valueTags(url, {
    postgres: (url) => Place.postgres(url, server, pool, asking),
    sqlite: (url) => Place.sqlite(url, thread, pool, asking)
  })
  return asking.conclude({
    environment,
    target: place.target,
    name: name ?? place.name,
    ...place.pool,
    ...times,
    preparedStatements,
    transformQueryNames: extras.transformQueryNames,
    transformResultNames: extras.transformResultNames,
    transformJson: extras.transformJson ?? false,
    spanAttributes: extras.spanAttributes ?? {},
    spanParameters: extras.spanParameters ?? false
  })
}

/**
 * Validates options that are given in code and fills in every default. An error names every option that is wrong, with
 * what was given (but no secret) and what is accepted.
 *
 * @example
 * ```ts
 * import { DatabaseConfig } from "sqlayer"
 *
 * const settings = DatabaseConfig.resolve({ url: "sqlite:///ledger.db", statementTimeout: "5 seconds" })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const resolve = (options: Options): Either.Either<Settings, ConfigError.ConfigError> =>
  settle(options, options, (field) => field)

const readText = (variable: string): Config.Config<Option.Option<string>> => Config.option(Config.string(variable))

/**
 * Reads the settings from the environment, or from whatever else the ConfigProvider reads. An error names every
 * variable that is wrong, with what was given (but no secret) and what is accepted. A variable that is empty counts as
 * not given.
 *
 * @since 0.1.0
 * @category constructors
 */
export const config: Config.Config<Settings> = Config.all({
  texts: Config.all(Record.map(textVariables, readText)),
  url: Config.option(Config.redacted(variables.url)),
  environment: readText(variables.environment),
  nodeEnvironment: readText("NODE_ENV")
}).pipe(Config.mapOrFail(({ environment, nodeEnvironment, texts, url }) => {
  const isOwn = Option.exists(environment, (text) => text.trim() !== "")
  const values = {
    ...Record.map(texts, Option.getOrUndefined),
    url: Option.getOrUndefined(url),
    environment: Option.getOrUndefined(isOwn ? environment : nodeEnvironment)
  }
  const names: { readonly [F in Field]?: string } = {
    ...variables,
    environment: isOwn ? variables.environment : "NODE_ENV"
  }
  return settle(values, {}, (field) => names[field] ?? field)
}))

const format = (target: PostgresTarget | SqliteTarget, withPassword: boolean): string =>
  Match.valueTags(target, {
    postgres: (target) => Place.formatPostgres(withPassword ? target : { ...target, password: undefined }),
    sqlite: (target) => SqliteUrl.format(target)
  })

/**
 * Shows where a target is, as a URL without its password.
 *
 * @since 0.1.0
 * @category conversions
 */
export const render = (target: PostgresTarget | SqliteTarget): string => format(target, false)

/**
 * The URL that means this target, password and all: what `resolve` makes of it is the same target again. Where a SQLite
 * file's statements run (`thread`) is no part of a URL.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toUrl = (target: PostgresTarget | SqliteTarget): Redacted.Redacted<string> =>
  Redacted.make(format(target, true))
