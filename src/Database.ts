/**
 * The database of an application: one Layer, chosen by the environment, that gives sessions, statements and health.
 *
 * @since 0.1.0
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as DatabaseConfig from "./DatabaseConfig.js"
import * as DatabaseError from "./DatabaseError.js"
import * as Health from "./Health.js"
import { traced } from "./internal/config/errorPaths.js"
import { opened } from "./internal/database/opened.js"
import { type Connection, type Driver, Interceptor, type Readers } from "./internal/driver.js"
import { make as makeError } from "./internal/makeError.js"
import * as Postgres from "./internal/postgres/driver.js"
import { Sessions } from "./internal/session/sessions.js"
import * as Client from "./internal/sqlClient/client.js"
import * as Sqlite from "./internal/sqlite/driver.js"
import { Tracker } from "./internal/telemetry/activity.js"
import * as Recorders from "./internal/telemetry/recorders.js"
import * as Pool from "./Pool.js"
import type * as Session from "./Session.js"
import type * as Telemetry from "./Telemetry.js"

/**
 * A database that is open.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  readonly dialect: DatabaseError.Dialect
  /** The SqlClient of @effect/sql; also what the layer provides under its tag. */
  readonly sql: SqlClient.SqlClient
  /** SqlClient, and PgClient or SqliteClient, under their tags: what a layer of one's own can provide. */
  readonly context: Context.Context<SqlClient.SqlClient>
  readonly session: {
    <A, E, R>(
      effect: Effect.Effect<A, E, R>,
      options?: Session.Options
    ): Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
    (options?: Session.Options): <A, E, R>(
      effect: Effect.Effect<A, E, R>
    ) => Effect.Effect<A, Exclude<E, SqlError> | DatabaseError.DatabaseError, Exclude<R, Session.Session>>
  }
  readonly acquireSession: (
    options?: Session.Options
  ) => Effect.Effect<Session.Handle, DatabaseError.DatabaseError, Scope.Scope>
  readonly health: Effect.Effect<boolean>
  readonly report: Effect.Effect<Health.Report>
  readonly poolStats: Effect.Effect<Pool.Stats>
  readonly activity: Effect.Effect<Telemetry.Activity>
}

/**
 * The application's database.
 *
 * @since 0.1.0
 * @category tags
 */
export class Database extends Context.Tag("sqlayer/Database")<Database, Service>() {}

/** The one place where drivers are chosen. */
const driverOf = (settings: DatabaseConfig.Settings): Driver => {
  const { target } = settings
  switch (target._tag) {
    case "postgres":
      return Postgres.make(settings, target)
    case "sqlite":
      return Sqlite.make(settings, target)
  }
}

const intercepted = (driver: Driver): Effect.Effect<Driver, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.flatMap(
    Effect.serviceOption(Interceptor),
    Option.match({ onNone: () => Effect.succeed(driver), onSome: (intercept) => intercept(driver) })
  )

/** The pause between attempts to connect at start-up: doubled from 100 ms up to 5 seconds, jittered. */
const pauses = Schedule.jittered(
  Schedule.union(Schedule.exponential("100 millis"), Schedule.spaced("5 seconds"))
)

const logAttempt = (description: string, retries: boolean) => (error: DatabaseError.DatabaseError) =>
  Effect.logWarning(
    retries && DatabaseError.isRetryable(error)
      ? `${description} cannot be connected to yet: ${error._tag}: ${error.message}`
      : `${description} cannot be connected to: ${error._tag}: ${error.message}`
  )

/** Opens the first connection, so that a database that is not there fails the layer and not the first request. */
const connected = (
  pool: Pool.Pool<Connection>,
  driver: Driver,
  settings: DatabaseConfig.Settings
): Effect.Effect<void, DatabaseError.DatabaseError> => {
  const retries = Duration.greaterThan(settings.connectRetry, Duration.zero)
  return pool.warm.pipe(
    Effect.tapError(logAttempt(driver.description, retries)),
    retries
      ? Effect.retry({
        while: DatabaseError.isRetryable,
        schedule: Schedule.upTo(pauses, settings.connectRetry)
      })
      : (warm) => warm
  )
}

const poolOf = (
  settings: DatabaseConfig.Settings,
  name: string,
  { dialect }: Driver,
  { connect, pool }: Readers
): Effect.Effect<Pool.Pool<Connection>, never, Scope.Scope> =>
  Pool.make({
    name,
    dialect,
    size: pool.size,
    maxOverflow: pool.maxOverflow,
    timeout: settings.poolTimeout,
    recycle: pool.recycle,
    shutdownTimeout: settings.shutdownTimeout,
    connect,
    status: (connection) => connection.status(),
    ping: (connection) => connection.ping,
    reset: (connection) => connection.reset,
    close: (connection) => connection.close,
    destroy: (connection) => connection.destroy()
  })

const open = (
  settings: DatabaseConfig.Settings,
  own = driverOf(settings)
): Effect.Effect<Service, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const driver = yield* intercepted(own)
    const { dialect } = driver
    const pool = yield* poolOf(settings, settings.name, driver, driver)
    yield* connected(pool, driver, settings)
    const reading = driver.readers?.()
    const readers = reading === undefined
      ? undefined
      : yield* poolOf(settings, `${settings.name} (readers)`, driver, reading)
    if (readers !== undefined) {
      // At once, so that from now on neither takes new work while the other comes to its end.
      yield* Effect.addFinalizer(() => Effect.zip(pool.shutdown, readers.shutdown, { concurrent: true }))
    }

    const tracker = new Tracker(Recorders.operations(settings.name, dialect, driver.spanAttributes))
    const { spanAttributes } = driver
    const sessions = new Sessions({ name: settings.name, dialect, pool, readers, spanAttributes, tracker })
    const client = yield* Client.make({
      driver,
      pool,
      sessions,
      tracker,
      spanAttributes,
      spanParameters: settings.spanParameters,
      slowStatement: settings.slowStatement,
      transformResultNames: settings.transformResultNames,
      transformJson: settings.transformJson
    })
    const context = yield* driver.extendClient(client, pool.acquire)
    const health = yield* Health.make({ driver, pool, timeout: settings.healthTimeout })

    const session = <A, E, R>(effect: Effect.Effect<A, E, R>, options: Session.Options = {}) =>
      DatabaseError.typed(sessions.run(effect, options, (error) => error))
    const service: Service = {
      dialect,
      sql: Context.get(context, SqlClient.SqlClient),
      context,
      session: dataFirstOrLast(session) as Service["session"],
      acquireSession: (options = {}) => sessions.acquire(options),
      health: health.check,
      report: health.report,
      poolStats: Effect.sync(pool.stats),
      activity: Effect.sync(() => tracker.now())
    }
    opened.set(service, { driver, acquire: pool.acquire, over: (other) => open(settings, other) })
    return service
  })

/** `f(effect, options?)` and `f(options?)(effect)`: an effect is never an option. */
const dataFirstOrLast = <Options>(
  f: (effect: Effect.Effect<unknown, unknown, unknown>, options?: Options) => unknown
) =>
(first?: Effect.Effect<unknown, unknown, unknown> | Options, options?: Options) =>
  Effect.isEffect(first)
    ? f(first, options)
    : (effect: Effect.Effect<unknown, unknown, unknown>) => f(effect, first)

/** ConfigError renders itself, which its type does not say. */
const refused = (options: DatabaseConfig.Options) => (error: { readonly toString: () => string }) =>
  makeError("ConnectionFailed", {
    dialect: "postgres",
    code: "08001",
    reason: `the options are not valid: ${error.toString()}`,
    transient: false,
    ...(options.name === undefined ? {} : { hint: `they are those of the database ${options.name}` })
  })

/**
 * Opens a database until the scope closes: for a second one in the same application, under a tag of its own. Fails with
 * ConnectionFailed, AuthenticationFailed or DatabaseCorrupt where it cannot be connected to within `connectRetry`, and
 * with a ConnectionFailed that names all of them where options are not valid.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: DatabaseConfig.Options
): Effect.Effect<Service, DatabaseError.DatabaseError, Scope.Scope> =>
  Effect.flatMap(Either.mapLeft(DatabaseConfig.resolve(options), refused(options)), (settings) => open(settings))

const layerOf = <E>(
  service: Effect.Effect<Service, E, Scope.Scope>
): Layer.Layer<Database | SqlClient.SqlClient, E> =>
  Layer.scopedContext(Effect.map(service, (database) => Context.add(database.context, Database, database))).pipe(
    // An application has this layer once, so its `Reactivity.mutation` wakes the queries of `sql.reactive`.
    Layer.provide(Reactivity.layer)
  )

/**
 * The database that the environment names (APP_ENV, DATABASE_URL and the other DATABASE_… variables). Provides Database,
 * SqlClient, and PgClient or SqliteClient, whichever it is.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<
  Database | SqlClient.SqlClient,
  ConfigError.ConfigError | DatabaseError.DatabaseError
> = layerOf(Effect.flatMap(DatabaseConfig.config, (settings) => open(settings)))

/**
 * The database that a configuration describes. An option that is not valid is named by what its Config reads, where that
 * is one variable.
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
      (options) => Effect.catchAll(DatabaseConfig.resolve(options), (error) => traced(config, error))
    ),
    (settings) => open(settings)
  ))

/**
 * The database that the options name. Fails as `make` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFrom = (
  options: DatabaseConfig.Options
): Layer.Layer<Database | SqlClient.SqlClient, DatabaseError.DatabaseError> => layerOf(make(options))

/**
 * Runs an effect as one unit of work: committed when it succeeds and the commit is known to have happened, rolled back
 * when it fails, dies or is interrupted. SqlError becomes DatabaseError.
 *
 * In a pipe it is called, with options or without: `effect.pipe(Database.session())`. Passed on uncalled, TypeScript could
 * not tell the effect's types.
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
} = dataFirstOrLast((effect, options?: Session.Options) =>
  Effect.flatMap(Database, (database) => database.session(effect, options))
) as typeof session

/**
 * A session as a scoped resource, whose commit is explicit: a scope that closes without one rolls back. Within another
 * session it is a savepoint of that, a part of it (`join`) or on a connection of its own (`new`), as `propagation` says.
 * It cannot be run again, so `retry` is refused.
 *
 * @since 0.1.0
 * @category sessions
 */
export const acquireSession = (
  options?: Session.Options
): Effect.Effect<Session.Handle, DatabaseError.DatabaseError, Database | Scope.Scope> =>
  Effect.flatMap(Database, (database) => database.acquireSession(options))

/**
 * Whether the database answers. Never fails, and answers within the health timeout (2 seconds by default).
 *
 * @since 0.1.0
 * @category health
 */
export const health: Effect.Effect<boolean, never, Database> = Effect.flatMap(Database, (database) => database.health)

/**
 * The health with latency, server version, role, pool figures and the last error.
 *
 * @since 0.1.0
 * @category health
 */
export const report: Effect.Effect<Health.Report, never, Database> = Effect.flatMap(
  Database,
  (database) => database.report
)

/**
 * The pool's figures now.
 *
 * @since 0.1.0
 * @category health
 */
export const poolStats: Effect.Effect<Pool.Stats, never, Database> = Effect.flatMap(
  Database,
  (database) => database.poolStats
)

/**
 * The sessions that are open, the statements that took longest, and what was committed, rolled back and run again.
 *
 * @since 0.1.0
 * @category health
 */
export const activity: Effect.Effect<Telemetry.Activity, never, Database> = Effect.flatMap(
  Database,
  (database) => database.activity
)
