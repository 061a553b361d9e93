/**
 * Database settings, read from the environment or given in code, and validated.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Record from "effect/Record"
import * as Redacted from "effect/Redacted"
import type { Types } from "./DatabaseTypes.js"
import * as Rule from "./internal/config/rule.js"
import {
  journalModes,
  type PoolOptions,
  type Resolved,
  sslModes,
  type TargetOptions
} from "./internal/config/target.js"
import { problem } from "./internal/config/text.js"
import * as Url from "./internal/config/url.js"
import * as Validation from "./internal/config/validation.js"

/**
 * The environment that an application runs in. It decides some defaults: production has no default `url`, a larger
 * pool, and retries to connect when it starts.
 *
 * @since 0.1.0
 * @category models
 */
export type Environment = "production" | "development" | "test"

/**
 * libpq's [sslmode](https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION), from the weakest to
 * the strongest.
 *
 * @since 0.1.0
 * @category models
 */
export type SslMode = "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full"

/**
 * An application-defined SQL function of SQLite. Its code is an export of a module, which is loaded into the thread
 * where the statements run, once for each connection. The code has no access to the variables of the application.
 *
 * The arguments and the result are null, numbers, strings and Buffers. An integer argument that a number cannot hold is
 * a bigint. A number that is returned becomes REAL, a bigint INTEGER, a boolean 1 or 0, a Date the same text as in a
 * parameter, and undefined NULL. If the function throws, its statement fails with InvalidStatement and the message of
 * the error, in which the values of the arguments and parameters are masked. If it returns anything else, its statement
 * fails with InvalidData.
 *
 * @since 0.1.0
 * @category models
 */
export interface SqliteFunction {
  /**
   * The module: a file: URL, such as `new URL("./functions.js", import.meta.url)`, or a path relative to the working
   * directory.
   */
  readonly module: string | URL
  /** The name of the export of the module. Default: the name of the function. */
  readonly export?: string | undefined
  /** The number of arguments, from 0 to 100, or `any`. Default: the number of parameters that the code declares. */
  readonly arity?: number | "any" | undefined
  /**
   * Whether the same arguments always give the same result, which indexes and generated columns require. Default:
   * false.
   */
  readonly deterministic?: boolean | undefined
  /**
   * Whether it is an aggregate. Its export is then an object: `step(state, ...args)` returns the next state, or
   * undefined to keep the state; `start` is the first state, or a function that returns it (default: null);
   * `result(state)` returns the value (default: the state). With `inverse(state, ...args)`, which undoes a step, it is
   * a window function too. Default: false.
   */
  readonly aggregate?: boolean | undefined
}

/**
 * Options of a database. All have defaults, except `url` in production.
 *
 * Most options have an environment variable, which `config` reads: `poolSize` is DATABASE_POOL_SIZE, `url` is
 * DATABASE_URL, `environment` is APP_ENV.
 *
 * Durations are Effect's, from 1 millisecond to 24 days (2^31 - 1 milliseconds, the maximum of PostgreSQL's timeouts
 * and of JavaScript's timers). Zero is accepted where its meaning is given below. Text that is only a number (`"30"`)
 * is in seconds; a number given in code is in milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * The environment whose defaults apply. Default: `development`. `config` reads APP_ENV, and NODE_ENV if that is not
   * set; options given in code never read the process's environment.
   */
  readonly environment?: Environment | undefined
  /**
   * The URL of the database: `postgres:`, `postgresql:`, `sqlite:`, `file:`, or `:memory:`. Default: none in
   * production, `sqlite:///dev.db` in development, `sqlite:///:memory:` in test.
   */
  readonly url?: string | Redacted.Redacted<string> | undefined
  /**
   * The `target` of resolved settings, instead of a `url`: the options `{ ...settings }` result in the same settings.
   * Other options take precedence over what the target contains, except that of two sslmodes the stronger one applies.
   * A `poolMin` above `poolSize` is then reduced to `poolSize`. If a `url` is given too, it is used instead of the
   * target. Default: none. In code only.
   */
  readonly target?: Settings["target"] | undefined
  /** The pool's name in metrics and logs. Default: the database's name, or the file's. */
  readonly name?: string | undefined
  /**
   * The number of connections that the pool opens as they are needed, at least 1. Default: 10 in production, otherwise
   * 5. SQLite always has 1.
   */
  readonly poolSize?: number | undefined
  /**
   * The number of connections beyond `poolSize` that the pool opens under load, at least 0. Default: 20 in production,
   * otherwise 10. SQLite always has 0.
   */
  readonly poolMaxOverflow?: number | undefined
  /**
   * The number of connections that stay open however long they are idle, from 0 to `poolSize`. They are opened on
   * demand. Use 0 for a serverless database that is suspended while it has no connections. Default: `poolSize`. SQLite
   * always keeps its connection.
   */
  readonly poolMin?: number | undefined
  /**
   * How long a connection beyond `poolMin` may be idle before the pool closes it. That includes connections beyond
   * `poolSize`, so that a burst does not open and close one for each request. With 0 a connection is closed when it is
   * returned and nobody waits. Default: 30 seconds.
   */
  readonly poolIdleTimeout?: Duration.DurationInput | undefined
  /** Maximum wait for a connection; PoolTimeout after that. Default: 30 seconds. */
  readonly poolTimeout?: Duration.DurationInput | undefined
  /**
   * Maximum lifetime of a connection. Default: 30 minutes; 0, or an infinite duration, is no limit. A SQLite connection
   * has no limit.
   */
  readonly poolRecycle?: Duration.DurationInput | undefined
  /**
   * Maximum duration of one attempt to connect, with all hosts and addresses together. Default: 5 seconds; an infinite
   * duration is no limit. `connect_timeout` in a PostgreSQL URL takes precedence.
   */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /**
   * How long opening the database is retried after a retryable error (`DatabaseError.isRetryable`). Default: 30 seconds
   * in production, otherwise 0, which is a single attempt.
   */
  readonly connectRetry?: Duration.DurationInput | undefined
  /**
   * Maximum duration of a statement. Default: the server's setting; 0 is no limit. A PostgreSQL server that has not
   * ended a statement two seconds later is sent a cancel request; if that is not answered either, the connection is
   * destroyed.
   */
  readonly statementTimeout?: Duration.DurationInput | undefined
  /**
   * Maximum wait of a statement for a lock. Default: the server's setting; 0 is no limit. `timeout` in a SQLite URL
   * takes precedence.
   */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /**
   * Maximum time that a transaction may be idle between two statements. Default: the server's setting; 0 is no limit.
   * PostgreSQL only.
   */
  readonly idleInTransactionTimeout?: Duration.DurationInput | undefined
  /**
   * How long a server may send nothing while a response is awaited. Then it is asked on a separate connection. If it
   * does not answer there within `connectTimeout`, everything that waits for a response fails with ConnectionLost or
   * CommitOutcomeUnknown. A long statement on a server that still answers is not affected. Also the interval at which a
   * connection that listens for notifications is checked. Default: 10 seconds; 0 disables both checks. PostgreSQL only.
   */
  readonly silence?: Duration.DurationInput | undefined
  /**
   * With several hosts, or a host with several addresses: how often a server that is down or silent is checked again,
   * in the background and only while the database is used. Until it answers, the other servers are tried first.
   * Default: 5 seconds. At least 1 millisecond. PostgreSQL only.
   */
  readonly hostRecheck?: Duration.DurationInput | undefined
  /** How long closing the database waits for running sessions. Default: 10 seconds; 0 does not wait. */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
  /** Maximum duration of a health check. Default: 2 seconds. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** Statements that take longer are logged. Default: 1 second; 0, or an infinite duration, logs none. */
  readonly slowStatement?: Duration.DurationInput | undefined
  /**
   * PostgreSQL: whether repeated statements are prepared by name. `auto` prepares them unless there is a pooler between
   * the application and the server, which may pass a statement to a server process that does not know its name. `on` is
   * for poolers that track the names themselves, and `off` prepares nothing. Default: `auto`.
   */
  readonly preparedStatements?: PreparedStatements | undefined
  /**
   * PostgreSQL: when the session state that a borrower has left on a connection (settings, roles, locks, temporary
   * tables, cursors, LISTEN) is removed, before the next borrower uses it. `auto` does so after statements whose text
   * may leave state; the text does not show what triggers and views do. `always` does so after every borrower. Default:
   * `auto`.
   */
  readonly reset?: Reset | undefined
  /** PostgreSQL: `application_name`, as pg_stat_activity shows it. Default: `sqlayer`. One line of text. */
  readonly applicationName?: string | undefined
  /**
   * PostgreSQL: whether and how the connection is encrypted. Default: `prefer`, or `verify-full` if `sslRootCert` is
   * `system`. If the URL has an sslmode too, the stronger of the two applies.
   */
  readonly sslMode?: SslMode | undefined
  /**
   * PostgreSQL: the root certificates, as the name of a file or as PEM text, or `system` for those that Node trusts.
   * Default: those that Node trusts; unlike `system`, this does not change the default of `sslMode`.
   */
  readonly sslRootCert?: string | undefined
  /** PostgreSQL: the client's certificate, as the name of a file or as PEM text. It needs `sslKey`. Default: none. */
  readonly sslCert?: string | undefined
  /** PostgreSQL: the key of `sslCert`, as the name of a file or as PEM text. Default: none. */
  readonly sslKey?: string | Redacted.Redacted<string> | undefined
  /**
   * PostgreSQL: the password, or an Effect that gives it. The Effect is run for each new connection, within
   * `connectTimeout`, and once more if the server rejects what it gave and it now gives something else. If the Effect
   * fails, the connection fails with ConnectionFailed, which is `transient`. The error shows the kind of the failure,
   * such as its `_tag`, but not its message. Default: that of the URL. It takes precedence over the URL and over
   * `passwordFile`.
   */
  readonly password?:
    | string
    | Redacted.Redacted<string>
    | Effect.Effect<string | Redacted.Redacted<string>, unknown>
    | undefined
  /**
   * PostgreSQL: the name of a file that holds the password, without its line breaks at the end. It is read for each new
   * connection. Default: none. It takes precedence over the URL.
   */
  readonly passwordFile?: string | undefined
  /**
   * PostgreSQL: the user's name, or an Effect that gives it, which is run like that of `password`. With an Effect, the
   * URL has to name the database. Default: that of the URL. It takes precedence over the URL.
   */
  readonly user?: string | Effect.Effect<string, unknown> | undefined
  /**
   * SQLite: the thread that statements run in. Default: `worker`. A database in memory always uses `main`, where a long
   * statement blocks the event loop.
   */
  readonly thread?: "worker" | "main" | undefined
  /**
   * SQLite: the journal mode that the file is put into when it is opened. Default: `wal`, in which readers and a writer
   * do not wait for each other. A file that another process has locked keeps the mode that it has.
   */
  readonly journalMode?: "wal" | "delete" | "truncate" | "persist" | undefined
  /**
   * SQLite: PRAGMAs that every connection of the file sets when it is opened, by name: `cache_size`, `mmap_size`,
   * `synchronous`, `journal_size_limit`, `wal_autocheckpoint` and others. As a string:
   * `cache_size=-64000, synchronous=normal`. Unknown names and values are refused, and so are PRAGMAs that sqlayer sets
   * itself. `auto_vacuum`, `encoding` and `page_size` have an effect on a new file only. `busy_timeout` (milliseconds)
   * sets the lock timeout, unless `lockTimeout` is given. Default: none; `synchronous` is then FULL.
   */
  readonly pragmas?: { readonly [name: string]: string | number | boolean } | string | undefined
  /**
   * SQLite: application-defined SQL functions, by name, for every connection. An invalid name or definition is an
   * invalid option. If a module cannot be loaded or lacks the export, opening the file fails with ConnectionFailed.
   * Default: none. PostgreSQL ignores them.
   */
  readonly functions?: { readonly [name: string]: SqliteFunction } | undefined
  /**
   * PostgreSQL: the URL of the readers, on which `readOnly` sessions run: a managed service's endpoint for readers, or
   * the hosts of standbys. With several hosts, each one that is a standby, or what `target_session_attrs` asks for, is
   * a reader. Default: none; `readOnly` sessions run where all others do.
   */
  readonly readerUrl?: string | Redacted.Redacted<string> | undefined
  /**
   * PostgreSQL: `auto` uses the standbys among several hosts of `url` as readers, and cannot be combined with
   * `readerUrl`. Together with a `target`, the `readers` of resolved settings are accepted too, unless a `readerUrl`
   * replaces them. Default: none.
   */
  readonly readers?: "auto" | Readers | undefined
  /**
   * The size of the pool of each reader, at least 1; up to `poolMaxOverflow` more connections are opened under load.
   * Default: `poolSize`.
   */
  readonly readerPoolSize?: number | undefined
  /**
   * How far a reader may be behind the primary. A reader that is farther behind, or whose lag is not known, is not
   * used. Default: 10 seconds.
   */
  readonly readerMaxLag?: Duration.DurationInput | undefined
  /**
   * How long a session waits for a reader to replay the commits that the session has to see. Then it runs on the
   * primary. Default: 100 milliseconds; 0 does not wait.
   */
  readonly readerWait?: Duration.DurationInput | undefined
  /** Transforms identifiers in statements, for example from camelCase to snake_case. Default: they are not changed. */
  readonly transformQueryNames?: ((name: string) => string) | undefined
  /** Transforms the names of columns in results. Default: they are not changed. */
  readonly transformResultNames?: ((name: string) => string) | undefined
  /**
   * PostgreSQL: how the values of types are read and sent, by the name or OID of the type. Default: as the guide's page
   * on types lists. In code only.
   */
  readonly types?: Types | undefined
  /** PostgreSQL: whether the transforms also apply to the keys of JSON values. Default: true, as in @effect/sql-pg. */
  readonly transformJson?: boolean | undefined
  /**
   * PostgreSQL: handles a notice or warning of the server. Runs in the fiber that has run the statement, before the
   * fiber receives the result. Default: it is logged, without the parameters of the statement: NOTICE at level Debug,
   * INFO at Info, WARNING at Warning.
   */
  readonly onNotice?: ((notice: Notice) => Effect.Effect<void>) | undefined
  /** Attributes that are added to every span. Default: none. */
  readonly spanAttributes?: Record<string, unknown> | undefined
  /**
   * How the spans of statements are named. `summary`: by OpenTelemetry's `db.query.summary`, such as `SELECT account`.
   * `effect-sql`: `sql.execute`, with the method of @effect/sql's connection as `db.operation.name`. Default:
   * `summary`. In code only.
   */
  readonly spanNames?: SpanNames | undefined
  /** Whether spans of statements include the parameters, which may be secret. Default: false. */
  readonly spanParameters?: boolean | undefined
}

/**
 * A notice that a PostgreSQL server sends while it runs a statement: that of `RAISE NOTICE`, or a notice or warning of
 * the server itself. Its texts may contain values.
 *
 * @since 0.1.0
 * @category models
 */
export interface Notice {
  /** WARNING, NOTICE, INFO, LOG or DEBUG. */
  readonly severity: string
  /** The SQLSTATE. */
  readonly code: string
  /** The primary message. */
  readonly message: string
  /** The DETAIL, if there is one. */
  readonly detail?: string
  /** The HINT, if there is one. */
  readonly hint?: string
  /** The CONTEXT: the functions that were running. */
  readonly where?: string
  /** The text of the statement, with its placeholders. */
  readonly statement?: string
}

/**
 * Whether repeated statements are prepared by name. See `Options.preparedStatements`.
 *
 * @since 0.1.0
 * @category models
 */
export type PreparedStatements = "auto" | "on" | "off"

/**
 * When the session state that a borrower has left on a connection is removed. See `Options.reset`.
 *
 * @since 0.1.0
 * @category models
 */
export type Reset = "auto" | "always"

/**
 * How the spans of statements are named. See `Options.spanNames`.
 *
 * @since 0.1.0
 * @category models
 */
export type SpanNames = "summary" | "effect-sql"

/**
 * Where a PostgreSQL server is, and how to log in.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresTarget {
  /** The dialect. */
  readonly _tag: "postgres"
  /**
   * The hosts, tried in order. The next attempt begins when the previous one has failed, or concurrently after 250
   * milliseconds. A host that begins with a slash is the directory of a Unix socket.
   */
  readonly hosts: readonly [PostgresHost, ...Array<PostgresHost>]
  /**
   * libpq's `target_session_attrs`: the kind of server to connect to. Default: `any` with one host, and `read-write`
   * with several, where libpq has `any`.
   */
  readonly targetSessionAttrs: "any" | "read-write" | "read-only" | "primary" | "standby" | "prefer-standby"
  /**
   * libpq's `load_balance_hosts`: `random` tries the hosts, and the addresses of each, in a random order for each
   * connection. Default: `disable`, in the order in which they are given.
   */
  readonly loadBalanceHosts?: "random" | undefined
  /** The database's name. Default: the user's name. */
  readonly database: string
  /** The user's name. Default: the operating system's name for the user of this process. */
  readonly username: string
  /** The password, if it is fixed. */
  readonly password: Redacted.Redacted<string> | undefined
  /** How each new connection obtains the user and the password, if they are not fixed. */
  readonly credentials?: Redacted.Redacted<PostgresCredentials> | undefined
  /** Whether and how the connection is encrypted. */
  readonly sslMode: SslMode
  /** libpq's `channel_binding`: whether SCRAM authentication is bound to the TLS connection. Default: `disable`. */
  readonly channelBinding: "disable" | "prefer" | "require"
  /** The root certificates: the name of a file, or redacted PEM text; undefined for those that Node trusts. */
  readonly sslRootCert: string | Redacted.Redacted<string> | undefined
  /** The client's certificate, if it has one: the name of a file, or redacted PEM text. */
  readonly sslCert: string | Redacted.Redacted<string> | undefined
  /** The key of `sslCert`. */
  readonly sslKey: string | Redacted.Redacted<string> | undefined
  /** libpq's `sslnegotiation`: `direct` begins with TLS. Default: TLS is requested first. */
  readonly sslNegotiation?: "direct" | undefined
  /** libpq's `sslsni`: whether the server's name is sent in the TLS handshake. Default: true. */
  readonly sslServerName?: boolean | undefined
  /** libpq's `ssl_min_protocol_version`. Default: Node's, which is TLS 1.2. */
  readonly sslMinVersion?: "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3" | undefined
  /** libpq's `ssl_max_protocol_version`. Default: Node's, which is TLS 1.3. */
  readonly sslMaxVersion?: "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3" | undefined
  /** The `application_name` that pg_stat_activity shows. Default: `sqlayer`. */
  readonly applicationName: string
  /** Prisma's `schema`: the only schema of the search path. Default: the server's search path. */
  readonly schema?: string | undefined
  /** libpq's `options`: command-line options for the server, such as `-c search_path=app`. */
  readonly serverOptions: string | undefined
}

/**
 * How each new connection obtains the user and the password. Where a member is undefined, the value of the target is
 * used.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresCredentials {
  /** Gives the user's name. */
  readonly user: Effect.Effect<unknown, unknown> | undefined
  /** Gives the password. */
  readonly password: Effect.Effect<unknown, unknown> | undefined
  /** The name of a file that holds the password. */
  readonly passwordFile: string | undefined
}

/**
 * A host and port of a PostgreSQL server.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresHost {
  /** A name, an IPv4 or IPv6 address without brackets, or the directory of a Unix socket. Default: `localhost`. */
  readonly host: string
  /** From 1 to 65535. Default: 5432. */
  readonly port: number
}

/**
 * A SQLite file, or a database in memory.
 *
 * @since 0.1.0
 * @category models
 */
export interface SqliteTarget {
  /** The dialect. */
  readonly _tag: "sqlite"
  /** A path, or `:memory:`. */
  readonly filename: string
  /** Whether the file is opened for reading only (`mode=ro`, or `immutable=1`). Default: false. */
  readonly readOnly: boolean
  /** Whether opening fails if the file does not exist (`mode=rw`). Default: false, the file is created. */
  readonly mustExist?: boolean | undefined
  /**
   * Whether the file is read without locks and without its WAL, because nothing changes it (`immutable=1`).
   * better-sqlite3 reads it into memory. Default: false.
   */
  readonly immutable?: boolean | undefined
  /** The thread that statements run in. Default: `worker`; always `main` for `:memory:`. */
  readonly thread: "worker" | "main"
  /** The journal mode that the file is put into. Default: `wal`. */
  readonly journalMode?: "wal" | "delete" | "truncate" | "persist" | undefined
  /** PRAGMAs of every connection, by name. Default: none. */
  readonly pragmas?: { readonly [name: string]: string } | undefined
  /** SQL functions of every connection, with the URLs of their modules. Default: none. */
  readonly functions?:
    | ReadonlyArray<{
      readonly name: string
      readonly module: string
      readonly export: string
      readonly arity: number | "any" | undefined
      readonly deterministic: boolean
      readonly aggregate: boolean
    }>
    | undefined
}

/**
 * The servers that `readOnly` sessions run on.
 *
 * @since 0.1.0
 * @category models
 */
export interface Readers {
  /** Where the readers are. Each host is a reader. */
  readonly target: Url.Target
  /** The size of the pool of each reader. */
  readonly poolSize: number
  /** How far a reader may be behind the primary. */
  readonly maxLag: Duration.Duration
  /** How long a session waits for a reader to replay the commits that the session has to see. */
  readonly wait: Duration.Duration
}

/**
 * Validated settings, with every default filled in.
 *
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  /** The environment whose defaults were applied. */
  readonly environment: Environment
  /** Where the database is. */
  readonly target: Url.Target
  /** The pool's name in metrics and logs. */
  readonly name: string
  /** The number of connections that the pool opens as they are needed. */
  readonly poolSize: number
  /** The number of connections beyond `poolSize` that the pool opens under load. */
  readonly poolMaxOverflow: number
  /** The number of connections that stay open however long they are idle. */
  readonly poolMin: number
  /** How long a connection beyond `poolMin` may be idle; zero closes it when it is returned. */
  readonly poolIdleTimeout: Duration.Duration
  /** Maximum wait for a connection. */
  readonly poolTimeout: Duration.Duration
  /** Maximum lifetime of a connection; infinite is no limit. */
  readonly poolRecycle: Duration.Duration
  /** Maximum duration of one attempt to connect; infinite is no limit. */
  readonly connectTimeout: Duration.Duration
  /** How long opening the database retries to connect; zero is a single attempt. */
  readonly connectRetry: Duration.Duration
  /** Maximum duration of a statement; zero is no limit, undefined is the server's setting. */
  readonly statementTimeout: Duration.Duration | undefined
  /** Maximum wait of a statement for a lock; zero is no limit, undefined is the server's setting. */
  readonly lockTimeout: Duration.Duration | undefined
  /** Maximum idle time in a transaction; zero is no limit, undefined is the server's setting. */
  readonly idleInTransactionTimeout: Duration.Duration | undefined
  /** How long a server may send nothing while a response is awaited; zero is no limit. */
  readonly silence: Duration.Duration
  /** How often a server that is down or silent is checked again. */
  readonly hostRecheck: Duration.Duration
  /** How long closing the database waits for running sessions. */
  readonly shutdownTimeout: Duration.Duration
  /** Maximum duration of a health check. */
  readonly healthTimeout: Duration.Duration
  /** Statements that take longer are logged; infinite logs none. */
  readonly slowStatement: Duration.Duration
  /** PostgreSQL: whether repeated statements are prepared by name. */
  readonly preparedStatements: PreparedStatements
  /** PostgreSQL: when the session state that a borrower has left on a connection is removed. */
  readonly reset: Reset
  /** PostgreSQL: where `readOnly` sessions run; undefined if that is where all others do. */
  readonly readers: Readers | undefined
  /** Transforms identifiers in statements. Undefined: they are not changed. */
  readonly transformQueryNames: ((name: string) => string) | undefined
  /** Transforms the names of columns in results. */
  readonly transformResultNames: ((name: string) => string) | undefined
  /** Whether the transforms also apply to the keys of JSON values. */
  readonly transformJson: boolean
  /** PostgreSQL: how the values of types are read and sent. */
  readonly types: Types
  /** PostgreSQL: handles notices. Undefined: they are logged. */
  readonly onNotice: ((notice: Notice) => Effect.Effect<void>) | undefined
  /** Attributes that are added to every span. */
  readonly spanAttributes: Record<string, unknown>
  /** How the spans of statements are named. See `Options.spanNames`. */
  readonly spanNames: SpanNames
  /** Whether spans of statements include the parameters. */
  readonly spanParameters: boolean
}

const environments: ReadonlyArray<Environment> = ["production", "development", "test"]

/** The defaults that differ between environments. */
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

const preparedStatementsValues: ReadonlyArray<PreparedStatements> = ["auto", "on", "off"]

const resetValues: ReadonlyArray<Reset> = ["auto", "always"]

const spanNamesValues: ReadonlyArray<SpanNames> = ["summary", "effect-sql"]

const readersValues: ReadonlyArray<"auto"> = ["auto"]

const threads: ReadonlyArray<SqliteTarget["thread"]> = ["worker", "main"]

/** The environment variables of options that are plain text. */
const textVariables = {
  poolSize: "DATABASE_POOL_SIZE",
  poolMaxOverflow: "DATABASE_POOL_MAX_OVERFLOW",
  poolMin: "DATABASE_POOL_MIN",
  poolIdleTimeout: "DATABASE_POOL_IDLE_TIMEOUT",
  poolTimeout: "DATABASE_POOL_TIMEOUT",
  poolRecycle: "DATABASE_POOL_RECYCLE",
  connectTimeout: "DATABASE_CONNECT_TIMEOUT",
  connectRetry: "DATABASE_CONNECT_RETRY",
  statementTimeout: "DATABASE_STATEMENT_TIMEOUT",
  lockTimeout: "DATABASE_LOCK_TIMEOUT",
  idleInTransactionTimeout: "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT",
  silence: "DATABASE_SILENCE",
  hostRecheck: "DATABASE_HOST_RECHECK",
  shutdownTimeout: "DATABASE_SHUTDOWN_TIMEOUT",
  healthTimeout: "DATABASE_HEALTH_TIMEOUT",
  slowStatement: "DATABASE_SLOW_STATEMENT",
  preparedStatements: "DATABASE_PREPARED_STATEMENTS",
  reset: "DATABASE_RESET",
  applicationName: "DATABASE_APPLICATION_NAME",
  sslMode: "DATABASE_SSLMODE",
  sslRootCert: "DATABASE_SSLROOTCERT",
  sslCert: "DATABASE_SSLCERT",
  sslKey: "DATABASE_SSLKEY",
  passwordFile: "DATABASE_PASSWORD_FILE",
  journalMode: "DATABASE_JOURNAL_MODE",
  pragmas: "DATABASE_PRAGMAS",
  readers: "DATABASE_READERS",
  readerPoolSize: "DATABASE_READER_POOL_SIZE",
  readerMaxLag: "DATABASE_READER_MAX_LAG",
  readerWait: "DATABASE_READER_WAIT"
} as const

/** The environment variables of all options that have one. */
const variables = {
  ...textVariables,
  environment: "APP_ENV",
  url: "DATABASE_URL",
  readerUrl: "DATABASE_READER_URL"
} as const

type Field = keyof typeof variables | "name" | "thread" | "functions" | "user" | "password" | "target" | "spanNames"

type Values = { readonly [F in Field]?: unknown }

/** Options that need no validation. */
type Extras = Pick<
  Options,
  | "transformQueryNames"
  | "transformResultNames"
  | "transformJson"
  | "spanAttributes"
  | "spanParameters"
  | "types"
  | "onNotice"
>

const validate = (
  values: Values,
  extras: Extras,
  nameOf: (field: Field) => string,
  inCode: ReadonlySet<string>
): Either.Either<Settings, ConfigError.ConfigError> => {
  const validation = Validation.make(values, nameOf, "url", inCode)
  const { value } = validation
  const environment = value("environment", Rule.oneOf(environments)) ?? "development"
  const environmentDefaults = defaults[environment]
  const name = value("name", Rule.text)
  const text = value("url", Rule.secretText)
  const target = text === undefined ? value("target", Url.target) : undefined
  const recycle = value("poolRecycle", Rule.duration("never", "infinite")) ?? Duration.minutes(30)
  const poolSize = value("poolSize", Rule.wholeNumber(1)) ?? environmentDefaults.poolSize
  const pool = {
    poolSize,
    // With resolved settings it may be above a `poolSize` that is given together with them.
    poolMin: Math.min(
      value("poolMin", Rule.wholeNumber(0, target === undefined ? poolSize : Infinity)) ?? poolSize,
      poolSize
    ),
    poolMaxOverflow: value("poolMaxOverflow", Rule.wholeNumber(0)) ?? environmentDefaults.poolMaxOverflow,
    poolRecycle: Duration.isZero(recycle) ? Duration.infinity : recycle,
    poolTimeout: value("poolTimeout", Rule.duration()) ?? Duration.seconds(30),
    connectTimeout: value("connectTimeout", Rule.duration(undefined, "infinite")) ?? Duration.seconds(5),
    lockTimeout: value("lockTimeout", Rule.duration("no limit"))
  }
  const slow = value("slowStatement", Rule.duration("never", "infinite")) ?? Duration.seconds(1)
  const timeouts = {
    poolIdleTimeout: value("poolIdleTimeout", Rule.duration("none is kept idle")) ?? Duration.seconds(30),
    connectRetry: value("connectRetry", Rule.duration("one attempt")) ?? environmentDefaults.connectRetry,
    statementTimeout: value("statementTimeout", Rule.duration("no limit")),
    idleInTransactionTimeout: value("idleInTransactionTimeout", Rule.duration("no limit")),
    silence: value("silence", Rule.duration("for ever")) ?? Duration.seconds(10),
    hostRecheck: value("hostRecheck", Rule.duration()) ?? Duration.seconds(5),
    shutdownTimeout: value("shutdownTimeout", Rule.duration("no waiting")) ?? Duration.seconds(10),
    healthTimeout: value("healthTimeout", Rule.duration()) ?? Duration.seconds(2),
    slowStatement: Duration.isZero(slow) ? Duration.infinity : slow
  }
  const targetOptions = {
    applicationName: value("applicationName", Rule.text),
    sslMode: value("sslMode", Rule.oneOf(sslModes)),
    sslRootCert: value("sslRootCert", Rule.fileOrPem("CERTIFICATE")),
    sslCert: value("sslCert", Rule.fileOrPem("CERTIFICATE")),
    sslKey: value("sslKey", Rule.fileOrPem("PRIVATE KEY")),
    user: value("user", Rule.user),
    password: value("password", Rule.password),
    passwordFile: value("passwordFile", Rule.filename),
    journalMode: value("journalMode", Rule.oneOf(journalModes, "ignore case")),
    pragmas: values.pragmas,
    functions: values.functions,
    thread: value("thread", Rule.oneOf(threads))
  }
  const preparedStatements = value("preparedStatements", Rule.oneOf(preparedStatementsValues))
  const reset = value("reset", Rule.oneOf(resetValues)) ?? "auto"
  const url = text ?? environmentDefaults.url
  if (url === undefined && target === undefined) {
    validation.missing("url", `${Url.forms}, in ${environment}`)
  }
  const { problems, value: resolveTarget } = target === undefined
    ? Url.parse(url ?? Url.placeholder)
    : Url.readTarget(target)
  problems.forEach((message) => validation.refuse(target === undefined ? "url" : "target", message))
  const resolved = resolveTarget(targetOptions, pool, validation)
  const given = isReaders(values.readers) ? values.readers : undefined
  const readers = resolveReaders(validation, resolved, pool, targetOptions, given, target !== undefined)
  return validation.conclude({
    environment,
    target: resolved.target,
    name: name ?? resolved.name,
    ...resolved.pool,
    ...timeouts,
    readers,
    preparedStatements: preparedStatements ?? resolved.preparedStatements ?? "auto",
    reset,
    transformQueryNames: extras.transformQueryNames,
    transformResultNames: extras.transformResultNames,
    transformJson: extras.transformJson ?? true,
    types: extras.types ?? {},
    onNotice: extras.onNotice,
    spanAttributes: extras.spanAttributes ?? {},
    spanNames: value("spanNames", Rule.oneOf(spanNamesValues)) ?? "summary",
    spanParameters: extras.spanParameters ?? false
  })
}

/** Where `readOnly` sessions run. Refuses the options of readers if the dialect has none. */
const resolveReaders = (
  validation: Validation.Validation<Field>,
  { pool: { poolSize }, readers }: Resolved<Url.Target>,
  pool: PoolOptions,
  targetOptions: TargetOptions,
  given: Readers | undefined,
  hasTarget: boolean
): Readers | undefined => {
  const text = validation.value("readerUrl", Rule.secretText)
  const auto = given === undefined ? validation.value("readers", Rule.oneOf(readersValues)) : undefined
  const readerPoolSize = validation.value("readerPoolSize", Rule.wholeNumber(1))
  const maxLag = validation.value("readerMaxLag", Rule.duration())
  const wait = validation.value("readerWait", Rule.duration("no waiting"))
  if (readers === undefined) {
    const all = { readerUrl: text, readers: auto ?? given, readerPoolSize, readerMaxLag: maxLag, readerWait: wait }
    for (const [field, value] of Record.toEntries(all)) {
      if (value !== undefined) {
        validation.refuse(field, "expected nothing, as the database is a single file and has no readers")
      }
    }
    return undefined
  }
  const readersAt = (target: Url.Target): Readers => ({
    target,
    poolSize: readerPoolSize ?? given?.poolSize ?? poolSize,
    maxLag: maxLag ?? given?.maxLag ?? Duration.seconds(10),
    wait: wait ?? given?.wait ?? Duration.millis(100)
  })
  if (text === undefined && given !== undefined) {
    if (!hasTarget) {
      validation.refuse(
        "readers",
        problem("auto, as a URL takes the place of the settings' target", "the readers of resolved settings")
      )
    }
    const { value: resolveTarget } = Url.readTarget(given.target)
    return readersAt(resolveTarget(targetOptions, pool, validation.forUrl("readerUrl")).target)
  }
  if (text === undefined && auto === undefined) {
    return undefined
  }
  if (text !== undefined && auto !== undefined) {
    validation.refuse("readers", problem("either readers or the readers' URL", "both"))
  }
  const { problems, value: resolveTarget } = Url.parse(text ?? Url.placeholder)
  problems.forEach((message) => validation.refuse("readerUrl", message))
  const own = text === undefined ? undefined : resolveTarget(targetOptions, pool, validation.forUrl("readerUrl"))
  if (own !== undefined && problems.length === 0 && own.readers === undefined) {
    validation.refuse("readerUrl", problem("a URL of the same kind of database as the writer's", "another"))
  }
  if (text === undefined && readers.standbys === undefined) {
    validation.refuse(
      "readers",
      problem("a database URL with several hosts, whose standbys are the readers", "one host")
    )
  }
  const found = own?.readers?.own ?? readers.standbys
  return found === undefined ? undefined : readersAt(found)
}

/** Whether they are the readers of resolved settings. */
const isReaders = (given: unknown): given is Readers =>
  Predicate.hasProperty(given, "target") && Url.isTarget(given.target)

/**
 * Validates options given in code, and fills in every default.
 *
 * The ConfigError names each invalid option, the value that was given (unless it may be secret) and the values that are
 * accepted.
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
  validate(valuesOf(options), options, (field) => field, namesIn(options))

const valuesOf = (options: Options): Values => ({ ...options, password: hidden(options.password) })

/** The names of the options that are given. */
const namesIn = (options: Options): ReadonlySet<string> =>
  new Set(
    Object.entries(options).flatMap(([name, value]) =>
      Rule.isAbsent(value, { acceptsSpaces: name === "password" }) ? [] : [name]
    )
  )

/** Redacts a value, so that no error shows it. An Effect stays as it is. */
const hidden = (given: unknown): unknown =>
  given === undefined || Effect.isEffect(given) || Redacted.isRedacted(given) ? given : Redacted.make(given)

const readText = (variable: string): Config.Config<Option.Option<string>> => Config.option(Config.string(variable))

const readVariables = Config.all({
  texts: Config.all(Record.map(textVariables, readText)),
  url: Config.option(Config.redacted(variables.url)),
  readerUrl: Config.option(Config.redacted(variables.readerUrl)),
  environment: readText(variables.environment),
  nodeEnvironment: readText("NODE_ENV")
})

/** The options whose values a target contains. */
const targetFields: ReadonlyArray<Field> = [
  "url",
  "readers",
  "applicationName",
  "sslMode",
  "sslRootCert",
  "sslCert",
  "sslKey",
  "passwordFile",
  "journalMode",
  "pragmas"
]

/** For each option in code, the options whose variables are then ignored, since they are for another database. */
const overriddenBy: { readonly [field: string]: ReadonlyArray<Field> } = {
  url: ["readerUrl"],
  target: ["readerUrl", ...targetFields],
  readers: ["readerUrl"],
  readerUrl: ["readers"]
}

const pick = (values: Values, isPicked: (field: string) => boolean): Values =>
  Object.fromEntries(Object.entries(values).filter(([field]) => isPicked(field)))

/**
 * Reads the settings from the environment variables, or from another ConfigProvider, and combines them with options in
 * code. Each option takes precedence over its variable, and over the same parameter in DATABASE_URL; of two sslmodes
 * the stronger one applies. With a `url` or a `target` in code DATABASE_READER_URL is ignored, since it is for another
 * database.
 *
 * The ConfigError names every invalid variable and every invalid option.
 *
 * @example
 * ```ts
 * import { DatabaseConfig } from "sqlayer"
 *
 * const settings = DatabaseConfig.configWith({ name: "ledger", spanAttributes: { team: "payments" } })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const configWith = (options: Options): Config.Config<Settings> =>
  Config.mapOrFail(readVariables, ({ environment, nodeEnvironment, readerUrl, texts, url }) => {
    const isAppEnvSet = Option.exists(environment, (text) => text.trim() !== "")
    const inCode = namesIn(options)
    const ignored = new Set<string>(
      Object.entries(overriddenBy).flatMap(([field, others]) => inCode.has(field) ? others : [])
    )
    const read: Values = {
      ...Record.map(texts, Option.getOrUndefined),
      url: Option.getOrUndefined(url),
      readerUrl: Option.getOrUndefined(readerUrl),
      environment: Option.getOrUndefined(isAppEnvSet ? environment : nodeEnvironment)
    }
    const values = {
      ...pick(read, (field) => !ignored.has(field)),
      ...pick(valuesOf(options), (field) => inCode.has(field))
    }
    const names: { readonly [F in Field]?: string } = {
      ...variables,
      environment: isAppEnvSet ? variables.environment : "NODE_ENV"
    }
    return validate(values, options, (field) => inCode.has(field) ? field : names[field] ?? field, inCode)
  })

/**
 * Reads the settings from the environment variables, or from another ConfigProvider. An empty variable counts as
 * absent.
 *
 * The ConfigError names each invalid variable, the value that was given (unless it may be secret) and the values that
 * are accepted.
 *
 * @since 0.1.0
 * @category constructors
 */
export const config: Config.Config<Settings> = configWith({})

/**
 * The URL of a target, without its password, for logs and messages.
 *
 * @since 0.1.0
 * @category conversions
 */
export const render = (target: Settings["target"]): string => Url.format(target, false)

/**
 * The URL of a target, with its password. It lacks what only options can give: an Effect or a file that gives the
 * password, an Effect that gives the user, and on SQLite the thread, the journal mode, PRAGMAs and functions. To keep
 * these, use the option `target`.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toUrl = (target: Settings["target"]): Redacted.Redacted<string> => Redacted.make(Url.format(target, true))
