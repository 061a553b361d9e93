/**
 * The database of an application: a Layer, configured by the environment, that provides sessions, statements, health
 * and statistics.
 *
 * @since 0.1.0
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Statement from "@effect/sql/Statement"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as DatabaseConfig from "./DatabaseConfig.js"
import * as DatabaseError from "./DatabaseError.js"
import * as Health from "./Health.js"
import { History, inCausalScope } from "./internal/cluster/causality.js"
import * as Tokens from "./internal/cluster/token.js"
import { dialectOf } from "./internal/config/dialectOf.js"
import { failWithPaths } from "./internal/config/errorPaths.js"
import { makeCleaner } from "./internal/database/commitRecords.js"
import { driverOf } from "./internal/database/driverOf.js"
import { openDatabases } from "./internal/database/opened.js"
import { type Connection, type Driver, Interceptor, type Position, type Readers } from "./internal/driver.js"
import * as Probe from "./internal/health/probe.js"
import { make as makeError } from "./internal/makeError.js"
import { Sessions } from "./internal/session/sessions.js"
import { asStatementStream, inCurrentSession } from "./internal/session/statementStream.js"
import * as Client from "./internal/sqlClient/client.js"
import * as Copy from "./internal/sqlClient/copy.js"
import { ActivityTracker } from "./internal/telemetry/activity.js"
import * as Recorders from "./internal/telemetry/recorders.js"
import * as Pool from "./Pool.js"
import type * as Session from "./Session.js"
import type * as Telemetry from "./Telemetry.js"

/**
 * The format of copied data, as the options of PostgreSQL's COPY. The data is UTF-8. Options that do not fit together
 * fail with InvalidStatement.
 *
 * @since 0.1.0
 * @category models
 */
export interface CopyOptions {
  /**
   * `text`: a line for each row, in which backslashes escape special characters. `csv`: comma-separated values.
   * `binary`: PostgreSQL's binary format, on PostgreSQL only. Default: `text`.
   */
  readonly format?: "text" | "csv" | "binary" | undefined
  /** Whether the first line has the names of the columns; `copyFrom` skips it. Not for `binary`. Default: false. */
  readonly header?: boolean | undefined
  /**
   * The character between two values: one ASCII character that is no line break and has no other meaning in the format.
   * Not for `binary`. Default: a tab, and a comma in `csv`.
   */
  readonly delimiter?: string | undefined
  /**
   * The string that stands for NULL, without line breaks and delimiters. Not for `binary`. Default: `\N`, and in `csv`
   * an empty value without quotes.
   */
  readonly null?: string | undefined
}

/**
 * An element of the stream that `copyFrom` copies. It is a row, as an array of values in the order of the columns or as
 * an object with the columns' names, or a piece of data in the format of the options, as bytes or a string. Data may be
 * split anywhere. Rows are accepted only with the default options.
 *
 * @since 0.1.0
 * @category models
 */
export type CopyElement = object | string

/**
 * An element of `notifications`: a `Message` with its payload, or a `Gap`. A `Gap` says that messages may have been
 * missed, so the program should read again what they are about.
 *
 * @since 0.1.0
 * @category models
 */
export type Notification = { readonly _tag: "Message"; readonly payload: string } | { readonly _tag: "Gap" }

/**
 * The schema of a token: the position of a commit in the server's write-ahead log, as a string that can be sent to
 * another process. It names the cluster and the timeline, and contains no secret. A string that is not a token is
 * refused.
 *
 * @since 0.1.0
 * @category models
 */
export const Token = Schema.String.pipe(
  Schema.pattern(Tokens.pattern, { message: () => "expected a token from Database.token" }),
  Schema.brand("sqlayer/Database/Token")
)

/**
 * The position of a commit, as a string. Sessions inside `after` see that commit.
 *
 * @since 0.1.0
 * @category models
 */
export type Token = typeof Token.Type

const tokenOf = (position: Position): Token => Tokens.format(position) as Token

/**
 * An open database. The functions of this module with the same names use the `Database` of the context. The members of
 * this interface are for a second database, which has a tag of its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** The kind of database, `"postgres"` or `"sqlite"`. */
  readonly dialect: DatabaseError.Dialect
  /**
   * The SqlClient of @effect/sql, which the layers also provide under its own tag. Its statements run in the session of
   * the current fiber or, outside of a session, in autocommit mode on a connection of the pool. They fail with
   * SqlError, whose cause is a DatabaseError.
   */
  readonly sql: SqlClient.SqlClient
  /**
   * SqlClient, and PgClient or SqliteClient, under their tags: the context for a layer that provides a second database.
   */
  readonly context: Context.Context<SqlClient.SqlClient>
  /** Runs an effect as a session. See `Database.session`. */
  readonly session: {
    <A, E, R>(
      effect: Effect.Effect<A, E, R>,
      options?: Session.Options
    ): Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
    (options?: Session.Options): <A, E, R>(
      effect: Effect.Effect<A, E, R>
    ) => Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
  }
  /** Reads a stream in a session that lasts as long as the stream. See `Database.sessionStream`. */
  readonly sessionStream: {
    <A, E, R>(
      stream: Stream.Stream<A, E, R>,
      options?: Session.Options
    ): Stream.Stream<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
    (options?: Session.Options): <A, E, R>(
      stream: Stream.Stream<A, E, R>
    ) => Stream.Stream<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
  }
  /** Begins a session until the scope closes. See `Database.acquireSession`. */
  readonly acquireSession: (
    options?: Session.Options
  ) => Effect.Effect<Session.Handle, DatabaseError.DatabaseError, Scope.Scope>
  /** The token of the last commit that sessions have to see. See `Database.token`. */
  readonly token: Effect.Effect<Option.Option<Token>, DatabaseError.DatabaseError>
  /** Makes the `readOnly` sessions of an effect see the commit of a token. See `Database.after`. */
  readonly after: (
    token: Token | Option.Option<Token>
  ) => <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Copies a stream into a table. See `Database.copyFrom`. */
  readonly copyFrom: (
    table: string,
    columns: ReadonlyArray<string>,
    options?: CopyOptions
  ) => <E, R>(
    stream: Stream.Stream<CopyElement, E, R>
  ) => Effect.Effect<number, Exclude<E, SqlError> | DatabaseError.DatabaseError, R>
  /** Copies the result of a query as data. See `Database.copyTo`. */
  readonly copyTo: (
    query: string | Statement.Statement<unknown>,
    options?: CopyOptions
  ) => Stream.Stream<Uint8Array, DatabaseError.DatabaseError>
  /** Receives the notifications of a channel. See `Database.notifications`. */
  readonly notifications: (channel: string) => Stream.Stream<Notification, DatabaseError.DatabaseError>
  /** Whether the database responds. See `Database.health`. */
  readonly health: Effect.Effect<boolean>
  /** Health in detail. See `Database.report`. */
  readonly report: Effect.Effect<Health.Report>
  /** The statistics of the connection pool. See `Database.poolStats`. */
  readonly poolStats: Effect.Effect<Pool.Stats>
  /** The open sessions and the statistics of statements. See `Database.activity`. */
  readonly activity: Effect.Effect<Telemetry.Activity>
}

/**
 * The application's database, which the layers of this module provide.
 *
 * @since 0.1.0
 * @category tags
 */
export class Database extends Context.Tag("sqlayer/Database")<Database, Service>() {}

/** Passes the driver through the Interceptor of the context, if there is one. */
const intercept = (driver: Driver): Effect.Effect<Driver, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.flatMap(
    Effect.serviceOption(Interceptor),
    Option.match({ onNone: () => Effect.succeed(driver), onSome: (interceptor) => interceptor(driver) })
  )

/** The delay between attempts to connect at start-up: doubled from 100 ms up to 5 seconds, jittered. */
const connectSchedule = Schedule.jittered(
  Schedule.union(Schedule.exponential("100 millis"), Schedule.spaced("5 seconds"))
)

/** Opens the first connection, so that an unavailable database fails the layer and not the first request. */
const connect = (
  pool: Pool.Pool<Connection>,
  driver: Driver,
  settings: DatabaseConfig.Settings
): Effect.Effect<void, DatabaseError.DatabaseError> => {
  if (!Duration.greaterThan(settings.connectRetry, Duration.zero)) {
    return pool.warm
  }
  let logged: string | undefined = undefined
  /** Logs each reason once. An error that ends the attempts at once is not logged: the layer fails with it. */
  const logRetry = (error: DatabaseError.DatabaseError): Effect.Effect<void> => {
    const message = `${driver.description} cannot be connected to yet: ${error._tag}: ${error.message}`
    if (!DatabaseError.isRetryable(error) || message === logged) {
      return Effect.void
    }
    logged = message
    return Effect.logWarning(message)
  }
  return pool.warm.pipe(
    Effect.tapError(logRetry),
    Effect.retry({
      while: DatabaseError.isRetryable,
      schedule: Schedule.upTo(connectSchedule, settings.connectRetry)
    })
  )
}

const makePool = (
  settings: DatabaseConfig.Settings,
  name: string,
  { dialect }: Driver,
  { connect, pool }: Readers,
  attributes?: Driver["spanAttributes"]
): Effect.Effect<Pool.Pool<Connection>, never, Scope.Scope> =>
  Pool.make({
    name,
    dialect,
    attributes,
    size: pool.size,
    maxOverflow: pool.maxOverflow,
    min: pool.min,
    idleTimeout: settings.poolIdleTimeout,
    timeout: settings.poolTimeout,
    recycle: pool.recycle,
    shutdownTimeout: settings.shutdownTimeout,
    connect,
    status: (connection) => connection.status(),
    ping: (connection) => connection.ping,
    reset: (connection) => connection.reset,
    resetLater: (connection) => connection.resetLater(),
    close: (connection) => connection.close,
    destroy: (connection) => connection.destroy()
  })

const loadReaders = Effect.promise(() => import("./internal/cluster/readers.js"))

const open = (
  settings: DatabaseConfig.Settings,
  ownDriver?: Driver
): Effect.Effect<Service, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const driver = yield* intercept(ownDriver ?? (yield* driverOf(settings)))
    const { dialect } = driver
    const tracker = new ActivityTracker(Recorders.operations(settings.name, dialect, driver.spanAttributes))
    const { servers } = driver
    if (servers !== undefined) {
      const observer = Recorders.servers(settings.name, dialect)
      servers.observer = observer
      yield* Effect.addFinalizer(() => Effect.sync(() => servers.observer === observer ? servers.close() : undefined))
    }
    // Runs after the pool has shut down, when the last session has ended.
    yield* Effect.addFinalizer(() => tracker.repeatedLogs.flush)
    const pool = yield* makePool(settings, settings.name, driver, driver)
    yield* connect(pool, driver, settings)
    const readersDriver = driver.readers?.()
    const readers = readersDriver === undefined
      ? undefined
      : yield* makePool(settings, `${settings.name} (readers)`, driver, readersDriver)

    const replicas = driver.replicas === undefined ? undefined : yield* (yield* loadReaders).make(
      driver.replicas,
      dialect,
      settings.hostRecheck,
      Recorders.routes(settings.name, dialect),
      ({ attributes, connect }, pool) =>
        makePool(settings, `${settings.name} (readers)`, driver, { connect, pool }, attributes)
    )
    const replicaPools = replicas?.all.map((reader) => reader.pool) ?? []
    const readerPools = readers === undefined ? replicaPools : [readers, ...replicaPools]
    if (readerPools.length > 0) {
      // Concurrently, so that no pool accepts new work while another one shuts down.
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(
          Effect.forEach([pool, ...readerPools], ({ shutdown }) => Effect.forkDaemon(shutdown)),
          Fiber.joinAll
        )
      )
    }

    const { spanAttributes } = driver
    const sessions = new Sessions({
      dialect,
      pool,
      readers,
      replicas,
      history: replicas === undefined ? undefined : new History(),
      onRecorded: driver.commitRecords === undefined ? undefined : yield* makeCleaner(pool, driver.commitRecords),
      spanAttributes,
      supportsSettings: driver.supportsSettings,
      tracker
    })
    const client = yield* Client.make({
      driver,
      pool,
      sessions,
      tracker,
      spanAttributes,
      spanNames: settings.spanNames,
      spanParameters: settings.spanParameters,
      slowStatement: settings.slowStatement,
      transformResultNames: settings.transformResultNames,
      transformJson: settings.transformJson
    })
    const listen = driver.listen === undefined ? undefined : yield* driver.listen
    const context = yield* driver.extendClient(client, pool.acquire, listen)
    const probing = { driver, pool, timeout: settings.healthTimeout }
    const health = yield* Health.make({ ...probing, readers: replicaPools })
    const probe = yield* Probe.make(probing)

    const token: Service["token"] = Effect.contextWithEffect((context: Context.Context<never>) => {
      const track = sessions.track(context)
      const requirement = track?.requirement
      if (track === undefined || requirement === undefined) {
        return Effect.succeedNone
      }
      if (typeof requirement !== "string") {
        return Effect.succeedSome(tokenOf(requirement))
      }
      // The last commit has no known position. The primary's current position is later.
      return Effect.scoped(Effect.flatMap(pool.acquire, (connection) => {
        const recordPosition = track.beginRecording()
        return Effect.map(connection.position ?? Effect.succeed(undefined), (position) => {
          recordPosition(position)
          return Option.map(Option.fromNullable(position), tokenOf)
        })
      }))
    })
    const after = (token: Token | Option.Option<Token>) => <A, E, R>(effect: Effect.Effect<A, E, R>) => {
      const position = Tokens.parse(Option.isOption(token) ? Option.getOrElse(token, () => "") : token)
      return position === undefined ? effect : inCausalScope(effect, true, (scope) => {
        scope.historyOf(sessions.database).advance(position, 0)
      })
    }

    const session = <A, E, R>(effect: Effect.Effect<A, E, R>, options: Session.Options = {}) =>
      DatabaseError.typed(sessions.run(effect, options, (error) => error))
    const sql = Context.get(context, SqlClient.SqlClient)
    const service: Service = {
      dialect,
      sql,
      context,
      ...Copy.make({ driver, pool, sessions, tracker, spanAttributes, spanNames: settings.spanNames, sql }),
      notifications: (channel) =>
        listen === undefined
          ? Stream.fail(noNotifications(dialect))
          : Stream.mapError(listen(channel), DatabaseError.fromSqlError),
      session: dataFirstOrLast(Effect.isEffect, session) as Service["session"],
      sessionStream: dataFirstOrLast(
        isStream,
        (stream, options: Session.Options = {}) => sessions.stream(stream, options)
      ) as Service["sessionStream"],
      token,
      after,
      acquireSession: (options = {}) => sessions.acquire(options),
      health: health.check,
      report: health.report,
      poolStats: Effect.sync(pool.stats),
      activity: Effect.sync(() => tracker.snapshot())
    }
    openDatabases.set(service.sql, {
      driver,
      isProduction: settings.environment === "production",
      settings,
      tracker,
      poolStats: pool.stats,
      acquire: pool.acquire,
      probe: (effect) => probe((connection) => sessions.runOn(connection, effect), true),
      runOn: (connection, effect) => sessions.runOn(connection, effect),
      openWith: (other) => open(settings, other)
    })
    return service
  })

const noNotifications = (dialect: DatabaseError.Dialect): DatabaseError.DatabaseError =>
  makeError("InvalidStatement", {
    dialect,
    code: dialectOf(dialect).errorCodes.InvalidStatement,
    reason: "this database has no notifications: they are PostgreSQL's"
  })

const isStream = (value: unknown): value is Stream.Stream<unknown, unknown, unknown> =>
  Predicate.hasProperty(value, Stream.StreamTypeId)

/** Makes a function that can be called as `f(self, options?)` and as `f(options?)(self)`. */
const dataFirstOrLast =
  <Self, Options>(isSelf: (value: unknown) => value is Self, f: (self: Self, options?: Options) => unknown) =>
  (first?: Self | Options, options?: Options) => isSelf(first) ? f(first, options) : (self: Self) => f(self, first)

/** The error of invalid options. A ConfigError's `toString` renders all of its messages, though its type lacks it. */
const invalidOptions = (options: DatabaseConfig.Options) => (error: { readonly toString: () => string }) =>
  makeError("ConnectionFailed", {
    dialect: "postgres",
    code: "08001",
    reason: `the options are not valid: ${error.toString()}`,
    transient: false,
    ...(options.name === undefined ? {} : { hint: `these are the options of the database ${options.name}` })
  })

/**
 * Opens a database, for example a second one in the same application. It is closed with the scope. `make` opens one
 * connection. While that fails with a retryable error (`DatabaseError.isRetryable`), it tries again until
 * `connectRetry` has passed, and then fails with the last error: ConnectionFailed, AuthenticationFailed or
 * DatabaseCorrupt. Invalid options fail at once, with one ConnectionFailed that names all of them.
 *
 * Resolved settings are valid options, so the environment can also configure a second database:
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Database, DatabaseConfig } from "sqlayer"
 *
 * export const make = Effect.flatMap(DatabaseConfig.configWith({ name: "jobs" }), Database.make)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: DatabaseConfig.Options
): Effect.Effect<Service, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.flatMap(Either.mapLeft(DatabaseConfig.resolve(options), invalidOptions(options)), (settings) => open(settings))

const layerOf = <E>(
  service: Effect.Effect<Service, E, Scope.Scope>
): Layer.Layer<Database | SqlClient.SqlClient, E> =>
  Layer.scopedContext(Effect.map(service, (database) => Context.add(database.context, Database, database))).pipe(
    // The application's `Reactivity.mutation` and the queries of `sql.reactive` share this layer, which is memoized.
    Layer.provide(Reactivity.layer)
  )

/**
 * The database that the environment configures, by APP_ENV, DATABASE_URL and the other DATABASE_… variables. Provides
 * Database, SqlClient, and PgClient or SqliteClient. Fails with ConfigError if a variable is missing or invalid, and
 * otherwise as `make` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<
  Database | SqlClient.SqlClient,
  ConfigError.ConfigError | DatabaseError.DatabaseError
> = layerOf(Effect.flatMap(DatabaseConfig.config, (settings) => open(settings)))

/**
 * The database that the environment and the options in code configure together. Options give what has no variable, such
 * as `name`, `types`, `functions` or a `password` that is an Effect. Where an option and a variable both give a value,
 * the option takes precedence. `DatabaseConfig.configWith` has the details. Fails as `layer` does, and the ConfigError
 * also names the options that are invalid.
 *
 * ```ts
 * import { Database } from "sqlayer"
 *
 * export const DatabaseLive = Database.layerWith({ name: "ledger", spanAttributes: { team: "payments" } })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  options: DatabaseConfig.Options
): Layer.Layer<Database | SqlClient.SqlClient, ConfigError.ConfigError | DatabaseError.DatabaseError> =>
  layerOf(Effect.flatMap(DatabaseConfig.configWith(options), (settings) => open(settings)))

/**
 * The database that a Config describes. Fails with ConfigError if the Config cannot be read or an option is invalid,
 * and otherwise as `make` does. The error names the variable that an invalid option was read from, if that is a single
 * one.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<DatabaseConfig.Options>
): Layer.Layer<Database | SqlClient.SqlClient, ConfigError.ConfigError | DatabaseError.DatabaseError> =>
  layerOf(Effect.flatMap(
    Effect.flatMap(
      Config.unwrap(config),
      (options) => Effect.catchAll(DatabaseConfig.resolve(options), (error) => failWithPaths(config, error))
    ),
    (settings) => open(settings)
  ))

/**
 * The database that the options describe, which may also be resolved settings. Fails as `make` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFrom = (
  options: DatabaseConfig.Options
): Layer.Layer<Database | SqlClient.SqlClient, DatabaseError.DatabaseError> => layerOf(make(options))

/**
 * Runs an effect as a session: a transaction that commits when the effect succeeds, and rolls back when it fails, dies
 * or is interrupted. All statements inside use one connection, which the session takes with its first statement; a
 * session without statements takes none. Inside another session of the same database it is a savepoint, unless
 * `propagation` says otherwise.
 *
 * It succeeds only if the commit is known to have happened. It fails with
 *
 * - the failure of the effect, with SqlError replaced by DatabaseError. A SqlError or DatabaseError that `orDie` has
 *   made a defect counts as a failure;
 * - PoolTimeout, ConnectionFailed or DatabaseClosed if its first statement gets no connection;
 * - the error of the commit: the violation of a deferred constraint; SerializationFailure; TransactionAborted if the
 *   error of a statement was caught inside, or a statement was interrupted after it was sent; or CommitOutcomeUnknown
 *   if the connection was lost while COMMIT was in flight;
 * - SessionTimeout if it takes longer than its `timeout`;
 * - InvalidData or InvalidStatement if its options are invalid, or ask for more than the surrounding session has.
 *
 * A session that fails has changed nothing, unless the error is CommitOutcomeUnknown. The connection is always returned
 * to the pool in a clean state, or closed.
 *
 * In a pipe, call it, with or without options: `effect.pipe(Database.session())`. If the function itself is passed,
 * TypeScript cannot infer the types of the effect.
 *
 * @since 0.1.0
 * @category sessions
 */
export const session: {
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: Session.Options
  ): Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session> | Database>
  (options?: Session.Options): <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session> | Database>
} = dataFirstOrLast(
  Effect.isEffect,
  (effect, options?: Session.Options) => Effect.flatMap(Database, (database) => database.session(effect, options))
) as typeof session

/**
 * Reads a stream in a session that lasts as long as the stream: it begins with the first statement, and commits at the
 * stream's end. What the stream runs (its statements, effects, nested sessions and finalizers) is inside the session;
 * what its consumer does with the elements is not. Options and surrounding sessions mean the same as for `session`.
 *
 * The commit follows the last element, and if it fails the stream fails. So the elements that a consumer has received
 * are not committed until the stream has ended. The session is rolled back
 *
 * - if the stream fails, dies or is interrupted. The failure is kept; SqlError is replaced by DatabaseError;
 * - if the consumer fails, is interrupted, or stops before the end, as `Stream.take(n)` and `Stream.runHead` do even if
 *   there is no further element. To commit after `n` elements, put `Stream.take(n)` before `sessionStream`;
 * - if `timeout` has passed since the stream was opened, including the time that the consumer takes. The current pull,
 *   or the next one, fails with SessionTimeout.
 *
 * The stream holds its connection until the consumer has read it, so set a `timeout` if the consumer may be slow. It
 * fails with the errors of `session`, and with InvalidStatement for the option `retry`, since elements cannot be taken
 * back from the consumer.
 *
 * ```ts
 * import { HttpServerResponse } from "@effect/platform"
 * import { Effect } from "effect"
 * import { Database } from "sqlayer"
 *
 * const download = (tenant: string) =>
 *   Effect.map(Database.Database, (database) =>
 *     HttpServerResponse.stream(
 *       database.copyTo("SELECT * FROM invoice", { format: "csv" }).pipe(
 *         database.sessionStream({ readOnly: true, settings: { "app.tenant": tenant }, timeout: "5 minutes" })
 *       )
 *     ))
 * ```
 *
 * @since 0.1.0
 * @category sessions
 */
export const sessionStream: {
  <A, E, R>(
    stream: Stream.Stream<A, E, R>,
    options?: Session.Options
  ): Stream.Stream<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session> | Database>
  (options?: Session.Options): <A, E, R>(
    stream: Stream.Stream<A, E, R>
  ) => Stream.Stream<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session> | Database>
} = dataFirstOrLast(
  isStream,
  (stream, options?: Session.Options) =>
    Stream.unwrap(Effect.map(Database, (database) => database.sessionStream(stream, options)))
) as typeof sessionStream

/**
 * Starts a session that is committed explicitly. If it is not committed when the scope closes, it is rolled back. It
 * takes its connection with its first statement. Inside another session of the same database it is a savepoint, unless
 * `propagation` says otherwise. Fails as `session` does before its effect runs, and with InvalidStatement for the
 * option `retry`, since there is no effect to run again.
 *
 * @since 0.1.0
 * @category sessions
 */
export const acquireSession = (
  options?: Session.Options
): Effect.Effect<Session.Handle, DatabaseError.DatabaseError, Database | Scope.Scope> =>
  Effect.flatMap(Database, (database) => database.acquireSession(options))

/**
 * The token of the last commit that sessions have to see here: the last commit of this process or, inside `causal`, of
 * that effect. A session in another process that runs inside `after` with this token sees that commit, whichever server
 * it reads from. None if nothing was committed yet, on SQLite, and without readers outside of `causal` and `after`,
 * where positions are not recorded.
 *
 * It costs no round trip, except after a COPY outside of a session, and after a commit whose answer was lost. Then it
 * asks the primary for its position, and fails as a statement does.
 *
 * @since 0.1.0
 * @category causality
 */
export const token: Effect.Effect<Option.Option<Token>, DatabaseError.DatabaseError, Database> = Effect.flatMap(
  Database,
  (database) => database.token
)

/**
 * Runs an effect whose `readOnly` sessions also see the commit of a token. They run on a reader that has replayed it;
 * if none has within `readerWait`, on the primary. With a token of another cluster, or of another timeline after a
 * failover, they run on the primary. A session that is already open is not affected. `Option.none()`, and a string that
 * is not a token, have no effect.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Database } from "sqlayer"
 *
 * const answer = (token: Database.Token, read: Effect.Effect<number>) =>
 *   read.pipe(Database.session({ readOnly: true }), Database.after(token))
 * ```
 *
 * @since 0.1.0
 * @category causality
 */
export const after: {
  (
    token: Token | Option.Option<Token>
  ): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | Database>
  <A, E, R>(effect: Effect.Effect<A, E, R>, token: Token | Option.Option<Token>): Effect.Effect<A, E, R | Database>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, token: Token | Option.Option<Token>): Effect.Effect<A, E, R | Database> =>
    Effect.flatMap(Database, (database) => database.after(token)(effect))
)

/**
 * Runs an effect whose `readOnly` sessions have to see only the commits inside it. Without `causal` they have to see
 * every commit of the process, and so wait for the writes of all its users. The effect begins without a token; `after`
 * inside gives it one. Commits inside also count for the code around it. Inside, positions are recorded even without
 * readers, so that `token` has a value.
 *
 * @since 0.1.0
 * @category causality
 */
export const causal = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => inCausalScope(effect, false)

/**
 * Copies a stream into the columns of a table, and returns the number of rows. On PostgreSQL it is COPY FROM STDIN,
 * several times as fast as INSERT; on SQLite a prepared statement that is executed for each row. It is one statement:
 * either all rows are copied, or none.
 *
 *     Database.copyFrom("measurement", ["sensor", "value"])(rows)
 *     Database.copyFrom("measurement", ["sensor", "value"], { format: "csv", header: true })(file)
 *
 * The values of rows are encoded like the parameters of statements; a row without a value for a column fails with
 * InvalidData. The copy runs in the session of the current fiber or, outside of a session, in autocommit mode on a
 * connection of the pool. The stream is pulled only as fast as the server accepts its rows. On PostgreSQL the stream
 * cannot use the session of its own copy, and fails with InvalidStatement if it does; outside of a session it may read
 * from the same database.
 *
 * It fails with the failure of the stream, and with the errors of an INSERT, whose `line` is the line of the data or
 * the number of the row, where the database reports it. If the connection is lost outside of a session, it fails with
 * ConnectionLost before the end of the data was sent, and with CommitOutcomeUnknown after that.
 *
 * @since 0.1.0
 * @category copying
 */
export const copyFrom = (table: string, columns: ReadonlyArray<string>, options?: CopyOptions) =>
<E, R>(
  stream: Stream.Stream<CopyElement, E, R>
): Effect.Effect<number, Exclude<E, SqlError> | DatabaseError.DatabaseError, R | Database> =>
  Effect.flatMap(Database, (database) => database.copyFrom(table, columns, options)(stream))

/**
 * Copies the result of a query as data: text, CSV or PostgreSQL's binary format, in chunks of whole rows. On PostgreSQL
 * it is COPY TO STDOUT; on SQLite it is a prepared statement, and `binary` fails with InvalidStatement. The query is a
 * string of SQL, or a statement, whose parameters are sent as literals.
 *
 *     HttpServerResponse.stream(Database.copyTo("SELECT * FROM measurement", { format: "csv", header: true }))
 *
 * It runs in the session in which the stream is opened, or on a connection of the pool. The server is read only as fast
 * as the stream is consumed. Another statement of the same session waits until the query has ended; the rest of its
 * data is then read into memory. If the consumer stops early the query ends, and nothing else in the session is
 * affected. Fails with the errors of the query.
 *
 * @since 0.1.0
 * @category copying
 */
export const copyTo = (
  query: string | Statement.Statement<unknown>,
  options?: CopyOptions
): Stream.Stream<Uint8Array, DatabaseError.DatabaseError, Database> =>
  asStatementStream(
    Stream.unwrap(inCurrentSession()(Effect.map(Database, (database) => database.copyTo(query, options)))),
    undefined
  )

/**
 * The notifications of a PostgreSQL channel (NOTIFY, `pg_notify`), from when the stream listens to it (LISTEN). The
 * name of a channel has 1 to 63 bytes. All streams of a database share one connection outside of the pool. When that is
 * lost it is replaced, however long it takes. Notifications that are sent meanwhile are missed, and a `Gap` arrives
 * when the channel is listened to again. With several hosts the connection is to the primary, also after a failover.
 *
 * Notifications that are not consumed yet are kept in memory, without a limit. The stream fails with InvalidStatement
 * on SQLite, and behind a pooler that assigns another server connection after each transaction; with InvalidData for a
 * name of another length; and with errors of connecting that are not retryable.
 *
 * @since 0.1.0
 * @category notifications
 */
export const notifications = (channel: string): Stream.Stream<Notification, DatabaseError.DatabaseError, Database> =>
  Stream.unwrap(Effect.map(Database, (database) => database.notifications(channel)))

/**
 * Whether a server that can be written to answers within `healthTimeout` (default: 2 seconds). `Health.Report.healthy`
 * has the details. Never fails.
 *
 * @since 0.1.0
 * @category health
 */
export const health: Effect.Effect<boolean, never, Database> = Effect.flatMap(Database, (database) => database.health)

/**
 * The health in detail: latency, server version and role, the servers, the statistics of the pool, and the last error.
 * Never fails, and takes at most `healthTimeout`.
 *
 * @since 0.1.0
 * @category health
 */
export const report: Effect.Effect<Health.Report, never, Database> = Effect.flatMap(
  Database,
  (database) => database.report
)

/**
 * The current statistics of the connection pool.
 *
 * @since 0.1.0
 * @category health
 */
export const poolStats: Effect.Effect<Pool.Stats, never, Database> = Effect.flatMap(
  Database,
  (database) => database.poolStats
)

/**
 * The sessions that are open, the slowest statements, and how many sessions were committed, rolled back and retried
 * since the database was opened.
 *
 * @since 0.1.0
 * @category health
 */
export const activity: Effect.Effect<Telemetry.Activity, never, Database> = Effect.flatMap(
  Database,
  (database) => database.activity
)
