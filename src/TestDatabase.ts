/**
 * Databases for tests: fresh ones, one transaction that is rolled back, and failures on demand.
 *
 * It depends on no test runner.
 *
 * @since 0.1.0
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Database from "./Database.js"
import * as DatabaseConfig from "./DatabaseConfig.js"
import type * as DatabaseError from "./DatabaseError.js"
import { opened } from "./internal/database/opened.js"
import { Interceptor } from "./internal/driver.js"
import { type LooseFields, make as makeError } from "./internal/makeError.js"
import * as Runner from "./internal/migrations/runner.js"
import { byTag } from "./internal/testDatabase/errors.js"
import * as Faults from "./internal/testDatabase/faults.js"
import * as Sandbox from "./internal/testDatabase/sandbox.js"
import * as Template from "./internal/testDatabase/template.js"
import * as Migrations from "./Migrations.js"

/**
 * How a test's database is made. What DatabaseConfig takes can be given as well, but for where it is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R = never> extends Omit<DatabaseConfig.Options, "url"> {
  /** What the database is brought to: the same that `Migrations.layer` takes. Progress is not shown unless asked for. */
  readonly migrations?: Migrations.Options<R> | undefined
}

/**
 * How a test's PostgreSQL database is made.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresOptions<R = never> extends Options<R> {
  /**
   * A database of the server, whose user may create databases; nothing is written to it. Default: TEST_DATABASE_URL, or
   * else DATABASE_URL.
   */
  readonly url?: string | Redacted.Redacted<string> | undefined
  /**
   * Names what the migrations make, and must change when they do. Needed where a migration is an Effect in a record: of
   * those no content is known, so without it there is no template, and each database is migrated by itself.
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
 * SQLite in memory, migrated. Whenever the layer is built it is a new database, which is gone when its scope closes.
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

/** The server's URL: what is asked for, or what the environment says. */
const serverUrl = (url: PostgresOptions["url"]) =>
  url !== undefined
    ? Effect.succeed(Redacted.isRedacted(url) ? url : Redacted.make(url))
    : Config.redacted("TEST_DATABASE_URL").pipe(Config.orElse(() => Config.redacted("DATABASE_URL")))

/** Takes a URL to that of another database of the same server. */
const urlOf = (options: DatabaseConfig.Options) =>
  Effect.flatMap(DatabaseConfig.resolve(options), ({ target }) =>
    target._tag === "postgres"
      ? Effect.succeed({
        server: target.database,
        withDatabase: (database: string) => DatabaseConfig.toUrl({ ...target, database })
      })
      : Effect.fail(makeError("ConnectionFailed", {
        dialect: "postgres",
        code: "08001",
        reason: `${DatabaseConfig.render(target)} is no PostgreSQL server`,
        transient: false
      })))

/** What the migrations make, as far as that can be told. */
const templateOf = <R>(migrations: Migrations.Options<R> | undefined, name: string | undefined) =>
  Effect.map(migrations === undefined ? Effect.succeed([]) : Runner.resolve(migrations.loader), (found) => {
    const known = found.map(({ 0: id, 1: name, checksum }) => [id, name, checksum])
    const first = known.slice(0, 1).map(([id, name]) => [id, name])
    return {
      family: JSON.stringify([first, migrations?.table, name === undefined]),
      content: name === undefined && known.some(([, , checksum]) => checksum === undefined)
        ? undefined
        : JSON.stringify([known, name])
    }
  })

/** Without the faults that are meant for the test. */
const untouched = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Interceptor>> =>
  Effect.provideService(effect, Interceptor, Effect.succeed)

/** A connection outside of every pool: it keeps locks, so nothing must reset or replace it. */
const administrationOf = (options: DatabaseConfig.Options) =>
  Database.make({
    ...options,
    // It may wait for others to make the template.
    statementTimeout: undefined,
    lockTimeout: undefined
  }).pipe(
    Effect.map((database) => opened.get(database)!.driver),
    Effect.scoped,
    untouched,
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
 * A PostgreSQL database of its own, cloned from a template that was migrated once: well under a second. It is dropped
 * when the layer's scope closes; what a crashed run left behind is dropped by the next one.
 *
 * The template stays on the server. It is made anew when the migrations change, and whoever else asks for it meanwhile,
 * in whatever process, waits for it.
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
    const url = yield* serverUrl(options.url)
    const { server, withDatabase } = yield* urlOf({ ...settings, url })
    const administration = yield* administrationOf({ ...settings, url })
    const template = yield* templateOf(migrations, templateName)
    const database = yield* Template.database(administration, server, {
      ...template,
      migrate: (database) =>
        migrate(migrations).pipe(
          Effect.provide(Database.layerFrom({ ...settings, url: withDatabase(database) })),
          untouched
        )
    })
    return Database.layerFrom({ ...settings, url: withDatabase(database) })
  }))
}

/**
 * Runs everything that a test does in one transaction of the database that it is built on, and rolls that back when its
 * scope closes: sessions, their commits and what runs outside of them. Other connections, and other sandboxes of the
 * same database, see nothing of it.
 *
 * A session is a savepoint of the transaction. At its end deferred constraints are checked as by a commit, and what was
 * to run after the commit runs. Sessions of different fibers take turns.
 *
 * @since 0.1.0
 * @category layers
 */
export const sandbox: Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  DatabaseError.DatabaseError,
  Database.Database
> = Layer.scopedContext(Effect.gen(function*() {
  const around = opened.get(yield* Database.Database)
  if (around === undefined) {
    return yield* Effect.dieMessage("A sandbox needs a database that was opened by sqlayer")
  }
  const database = yield* around.over(yield* Sandbox.make(around.driver, around.acquire))
  return Context.add(database.context, Database.Database, database)
})).pipe(Layer.provide(Reactivity.layer))

/**
 * What fails instead of succeeding, and when. Of each kind the n-th is counted from the opening of the database on, over
 * all of its connections.
 *
 * @since 0.1.0
 * @category models
 */
export type Fault =
  | {
    readonly on: "statement"
    /** Counts only the statements whose text it matches. */
    readonly matching?: RegExp | undefined
    /** Default: the first. */
    readonly nth?: number | undefined
    readonly error: FaultError
  }
  | {
    /** The beginning of an outermost session. */
    readonly on: "begin"
    readonly nth?: number | undefined
    readonly error: FaultError
  }
  | {
    /** The end of an outermost session. */
    readonly on: "commit"
    readonly nth?: number | undefined
    readonly error: FaultError
    /** With CommitOutcomeUnknown: whether it was committed all the same; default: it was not. */
    readonly committed?: boolean | undefined
  }

/**
 * An error, or what makes one for a dialect.
 *
 * @since 0.1.0
 * @category models
 */
export type FaultError = DatabaseError.DatabaseError | ((dialect: DatabaseError.Dialect) => DatabaseError.DatabaseError)

/**
 * The error of a tag, as the dialect of the database has it: with its code, and with a reason that says what the tag
 * means. Both, and what else a DatabaseError holds (`constraint`, `table`, …), can be given.
 *
 * @since 0.1.0
 * @category faults
 */
export const error =
  (tag: DatabaseError.DatabaseError["_tag"], fields?: Partial<Omit<DatabaseError.Fields, "dialect">>) =>
  (dialect: DatabaseError.Dialect): DatabaseError.DatabaseError => {
    const { codes, reason } = byTag[tag]
    const all: LooseFields = { dialect, code: codes[dialect], reason, transient: true, ...fields }
    return makeError(tag, all)
  }

/**
 * Makes a database fail when it should succeed: to be provided to its layer, or to a sandbox. What fails has the
 * consequences that it has in reality. A statement is not run, and leaves a PostgreSQL transaction aborted; a beginning
 * begins nothing; a commit rolls back; ConnectionLost, ConnectionFailed and CommitOutcomeUnknown end the connection.
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
