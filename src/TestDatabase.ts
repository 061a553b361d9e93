/**
 * Databases for tests: new ones, sandboxes that are rolled back, and injected failures. It works with every test
 * runner.
 *
 * @since 0.1.0
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import type * as SqlClient from "@effect/sql/SqlClient"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Database from "./Database.js"
import * as DatabaseConfig from "./DatabaseConfig.js"
import type * as DatabaseError from "./DatabaseError.js"
import { driverOf } from "./internal/database/driverOf.js"
import { driverOfClient, openDatabases } from "./internal/database/opened.js"
import { Interceptor } from "./internal/driver.js"
import { type LooseFields, make as makeError } from "./internal/makeError.js"
import * as Errors from "./internal/testDatabase/errors.js"
import * as Faults from "./internal/testDatabase/faults.js"
import * as Sandbox from "./internal/testDatabase/sandbox.js"
import * as ServerUrl from "./internal/testDatabase/serverUrl.js"
import * as Migrations from "./Migrations.js"

/**
 * How a database for tests is made: the options of DatabaseConfig without `url`, and its migrations.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R = never> extends Omit<DatabaseConfig.Options, "url"> {
  /**
   * The migrations to apply, as `Migrations.layer` takes them. Default: none. Their progress is not logged unless
   * `progress` is given.
   */
  readonly migrations?: Migrations.Options<R> | undefined
}

/**
 * How a PostgreSQL database for tests is made.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresOptions<R = never> extends Options<R> {
  /**
   * A database of the server, with a user that may create databases. Nothing is written to this database. Default: the
   * environment variable TEST_DATABASE_URL, or DATABASE_URL if that is not set or empty.
   */
  readonly url?: string | Redacted.Redacted<string> | undefined
  /**
   * A name that identifies the result of the migrations. Change it whenever the migrations change. Default: none; the
   * template is then identified by the content of the migrations. The content of an Effect in a record is not known:
   * with such a migration and without a name there is no template, and every database is migrated by itself.
   */
  readonly template?: string | undefined
}

const migrate = <R>(migrations: Migrations.Options<R> | undefined) =>
  migrations === undefined ? Effect.void : Migrations.run({ progress: () => Effect.void, ...migrations })

const migrated = <R, E>(
  options: Options<R>,
  database: Layer.Layer<Database.Database | SqlClient.SqlClient, E>
): Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  E | DatabaseError.DatabaseError | Migrations.MigrationError,
  Exclude<R, Database.Database | SqlClient.SqlClient>
> => Layer.effectDiscard(migrate(options.migrations)).pipe(Layer.provideMerge(database))

/**
 * A migrated SQLite database in memory: a new one each time the layer is built, which is gone when its scope closes.
 *
 * Fails as `Database.layerFrom` and `Migrations.run` do.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <R = never>(
  options: Options<R> = {}
): Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  DatabaseError.DatabaseError | Migrations.MigrationError,
  Exclude<R, Database.Database | SqlClient.SqlClient>
> => migrated(options, Database.layerFrom({ environment: "test", ...options, url: ":memory:" }))

const testDatabasesOf = (server: ServerUrl.ServerUrl, options: DatabaseConfig.Options) =>
  Effect.flatMap(
    Either.mapLeft(DatabaseConfig.resolve({ ...options, url: server.url }), ServerUrl.withName(server)),
    (settings) =>
      Effect.flatMap(driverOf(settings), ({ testDatabases }) =>
        testDatabases === undefined
          ? Effect.fail(ServerUrl.noServer(server, settings))
          : Effect.succeed(testDatabases))
  )

const resolve = <R>(loader: Migrations.Loader<R>) =>
  Effect.flatMap(
    Effect.promise(() => import("./internal/migrations/runner.js")),
    (runner) => runner.resolve(loader)
  )

/** The keys of the template that the migrations result in. */
const templateOf = <R>(migrations: Migrations.Options<R> | undefined, name: string | undefined) =>
  Effect.map(migrations === undefined ? Effect.succeed([]) : resolve(migrations.loader), (found) => {
    const known = found.map(({ 0: id, 1: name, checksum }) => [id, name, checksum])
    const first = known.slice(0, 1).map(([id, name]) => [id, name])
    return {
      family: JSON.stringify([first, migrations?.table, name === undefined]),
      content: name === undefined && known.some(([, , checksum]) => checksum === undefined)
        ? undefined
        : JSON.stringify([known, name])
    }
  })

/** Runs an effect without the Interceptor of the test, whose faults must not affect the preparation of the database. */
const withoutInterceptor = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Interceptor>> =>
  Effect.provideService(effect, Interceptor, Effect.succeed)

/** A connection outside of the pool: it holds locks, so it must not be reset or replaced. */
const administrationConnection = (options: DatabaseConfig.Options) =>
  Database.make({
    ...options,
    // It may have to wait until another process has made the template.
    statementTimeout: undefined,
    lockTimeout: undefined
  }).pipe(
    Effect.map((database) => driverOfClient(database.sql)),
    Effect.scoped,
    withoutInterceptor,
    Effect.flatMap((driver) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.tap(
          driver.connect(() => undefined, restore),
          (connection) => Effect.addFinalizer(() => connection.close)
        )
      )
    )
  )

/**
 * A PostgreSQL database of its own, copied from a template that is migrated once. The copy is dropped when the layer's
 * scope closes; copies that a crashed process has left are dropped by the next process.
 *
 * The template stays on the server, and is made again when the migrations change. Meanwhile other processes that need
 * it wait.
 *
 * Fails as `Database.layerFrom` and `Migrations.run` do, with ConfigError if there is no URL or an option is not valid,
 * with ConnectionFailed if the URL is not that of a PostgreSQL database, and with InsufficientPrivilege if the user may
 * not create databases. The ConfigError and the ConnectionFailed name the variable and what it has to be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerPostgres = <R = never>(
  options: PostgresOptions<R> = {}
): Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  ConfigError.ConfigError | DatabaseError.DatabaseError | Migrations.MigrationError,
  Exclude<R, Scope.Scope>
> => {
  const { migrations, template: templateName, url: _, ...given } = options
  const settings: DatabaseConfig.Options = { environment: "test", ...given }
  return Layer.unwrapScoped(Effect.gen(function*() {
    const server = yield* ServerUrl.serverUrl(options.url)
    const testDatabases = yield* testDatabasesOf(server, settings)
    const connection = yield* Effect.mapError(
      administrationConnection({ ...settings, url: server.url }),
      ServerUrl.withExpectation(server)
    )
    const layerOf = (target: DatabaseConfig.Settings["target"]) =>
      Database.layerFrom({ ...settings, url: DatabaseConfig.toUrl(target) })
    const target = yield* testDatabases.create(connection, {
      ...yield* templateOf(migrations, templateName),
      migrate: (target) => migrate(migrations).pipe(Effect.provide(layerOf(target)), withoutInterceptor)
    })
    return layerOf(target)
  }))
}

/**
 * Runs everything that a test does in one transaction of the database that it is built on, and rolls it back when its
 * scope closes: sessions with their commits, and statements outside of sessions. Other connections, and other sandboxes
 * of the same database, do not see its changes.
 *
 * A session is a savepoint of the transaction. When it ends, deferred constraints are checked as a commit would check
 * them, and its `afterCommit` effects run. Sessions of different fibers run one after the other.
 *
 * A statement that would end the transaction fails with InvalidStatement. A failure that ends the whole transaction
 * makes every later use fail with TransactionAborted. A database that sqlayer did not open is a defect.
 *
 * @since 0.1.0
 * @category layers
 */
export const sandbox: Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  DatabaseError.DatabaseError,
  Database.Database
> = Layer.scopedContext(Effect.gen(function*() {
  const { sql } = yield* Database.Database
  const surrounding = openDatabases.get(sql)
  if (surrounding === undefined) {
    return yield* Effect.dieMessage("A sandbox needs a database that was opened by sqlayer")
  }
  const database = yield* surrounding.openWith(yield* Sandbox.make(surrounding.driver, surrounding.acquire))
  return Context.add(database.context, Database.Database, database)
})).pipe(Layer.provide(Reactivity.layer))

/**
 * An operation that is to fail. Each fault counts the operations of its kind from the opening of the database, over all
 * of its connections.
 *
 * @since 0.1.0
 * @category models
 */
export type Fault =
  | {
    /** A statement, which is not run. In a session it aborts the transaction. */
    readonly on: "statement"
    /** Only statements whose text matches are counted. Default: all. */
    readonly matching?: RegExp | undefined
    /** Which of the counted statements fails, from 1. Default: 1. */
    readonly nth?: number | undefined
    /** The error that it fails with. */
    readonly error: FaultError
  }
  | {
    /** The BEGIN of an outermost session, which then begins no transaction. */
    readonly on: "begin"
    /** Which BEGIN fails, from 1. Default: 1. */
    readonly nth?: number | undefined
    /** The error that it fails with. */
    readonly error: FaultError
  }
  | {
    /** The commit of an outermost session, which is rolled back instead. */
    readonly on: "commit"
    /** Which commit fails, from 1. Default: 1. */
    readonly nth?: number | undefined
    /** The error that it fails with. */
    readonly error: FaultError
    /** Whether it is committed all the same, for CommitOutcomeUnknown. Default: false. */
    readonly committed?: boolean | undefined
  }

/**
 * An error, or a function that makes one for a dialect.
 *
 * @since 0.1.0
 * @category models
 */
export type FaultError = DatabaseError.DatabaseError | ((dialect: DatabaseError.Dialect) => DatabaseError.DatabaseError)

/**
 * Makes the error of a tag for the dialect of the database. By default it has a code under which that database reports
 * the error, a reason that says what the tag means, and is transient. `fields` replaces these and adds others, such as
 * `constraint` and `table`.
 *
 * @since 0.1.0
 * @category faults
 */
export const error =
  (tag: DatabaseError.DatabaseError["_tag"], fields?: Partial<Omit<DatabaseError.Fields, "dialect">>) =>
  (dialect: DatabaseError.Dialect): DatabaseError.DatabaseError => {
    const all: LooseFields = { dialect, ...Errors.describe(tag, dialect), transient: true, ...fields }
    return makeError(tag, all)
  }

/**
 * Injects failures into a database. Provide it to the database's layer, or to a sandbox.
 *
 * Each failure has the consequences of a real one. A statement is not run, and aborts the transaction it is in. A BEGIN
 * begins no transaction. A commit is rolled back, unless the fault is `committed`. ConnectionLost, ConnectionFailed and
 * CommitOutcomeUnknown also close the connection.
 *
 * @since 0.1.0
 * @category faults
 */
export const faults = (planned: ReadonlyArray<Fault>): Layer.Layer<never> =>
  Layer.succeed(
    Interceptor,
    Faults.make(({ dialect }) =>
      planned.map((fault) => ({
        on: fault.on,
        nth: fault.nth ?? 1,
        matching: fault.on === "statement" ? fault.matching : undefined,
        committed: fault.on === "commit" && fault.committed === true,
        error: typeof fault.error === "function" ? fault.error(dialect) : fault.error
      }))
    )
  )
