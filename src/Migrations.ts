/**
 * Migrations: each is applied once, in a transaction of its own, however many processes start at the same time.
 *
 * This module uses the table and the loaders of @effect/sql's Migrator, so that an application can change from one to
 * the other.
 *
 * @since 0.1.0
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Database from "./Database.js"
import type { DatabaseError } from "./DatabaseError.js"
import { driverOfClient } from "./internal/database/opened.js"
import * as Files from "./internal/migrations/files.js"
import * as Model from "./internal/migrations/model.js"
import * as ProgressText from "./internal/migrations/progress.js"
import * as Record from "./internal/migrations/record.js"
import type * as Runner from "./internal/migrations/runner.js"
import { asOwnStatements } from "./internal/telemetry/ownStatements.js"

/**
 * The error of a run, or of loading the migrations.
 *
 * - `kind` is what went wrong:
 *   - `failed`: a migration failed with `cause`, and was rolled back. If the cause is CommitOutcomeUnknown it may be
 *     committed; the next run finds out. If the migration ended its transaction by itself, the cause is
 *     TransactionAborted, and it is `unfinished` from then on.
 *   - `load`: a migration, or their directory, cannot be read or imported, or a migration is not an Effect.
 *   - `invalid`: a name, a number, an option or an SQL text is not valid.
 *   - `duplicate`: two migrations have the same number.
 *   - `edited`: an applied migration has changed since.
 *   - `missing`: an applied migration no longer exists.
 *   - `unfinished`: in an earlier run, a migration ended its transaction by a statement of its own (COMMIT, ROLLBACK),
 *     or one without a transaction did not complete, so part of it may be applied. `message` says how to repair it, and
 *     `resolve` marks it as applied or rolled back.
 *   - `locked`: another runner held the lock for longer than `lockTimeout`.
 * - `message` describes the error in a sentence.
 * - `id` and `migration` are the number, and the number and name as they are written (`0002_create_account`), of the
 *   migration, if it concerns one.
 * - `cause` is the underlying error, if there is one.
 *
 * @since 0.1.0
 * @category errors
 */
export const MigrationError = Model.MigrationError

/**
 * The error of a run, or of loading the migrations.
 *
 * @since 0.1.0
 * @category errors
 */
export type MigrationError = Model.MigrationError

/**
 * A migration: its number `id`, which is its place in the order, and its `name`.
 *
 * @since 0.1.0
 * @category models
 */
export type Migration = Model.Migration

/**
 * The migrations of a database, compared with those of the loader.
 *
 * - `applied`: the migrations that the database has, by number, and when they were applied.
 * - `pending`: the migrations that the database does not have, in the order in which they would be applied.
 * - `problems`: the applied migrations that were edited since or are missing, and the unfinished ones. While there are
 *   any, `run` fails.
 * - `ahead`: the applied migrations whose numbers are above all that the loader has. A newer version of the application
 *   applied them, as in a rolling deployment; they are not a problem.
 *
 * @since 0.1.0
 * @category models
 */
export type Status = Model.Status

/**
 * Loads the migrations: `fromDirectory`, `fromRecord`, or a loader of @effect/sql's Migrator.
 *
 * @since 0.1.0
 * @category models
 */
export type Loader<R = never> = Model.Loader<R>

/**
 * An event of a run, by its `_tag`.
 *
 * - `Waiting`: another runner holds the lock, for `elapsed` so far. Repeated every 10 seconds.
 * - `Ahead`: the database has `migrations` with numbers above all that the loader has.
 * - `Started`: `migration` begins, at `position` (from 1) of the `total` that this run applies or takes back;
 *   `isTransactional` says whether it is a transaction.
 * - `Applied`: `migration` is committed, after `duration`.
 * - `TakenBack`: `down` has taken `migration` back and committed that, after `duration`.
 * - `Failed`: `migration` failed with `error` after `duration`, and was rolled back, unless it ended its transaction by
 *   itself, or runs without one.
 *
 * @since 0.1.0
 * @category models
 */
export type Progress = Model.Progress

/**
 * The migrations, and how to run them.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R = never> {
  /** Loads the migrations. */
  readonly loader: Loader<R>
  /**
   * The table of the applied migrations, with or without a schema before a dot. Default: `effect_sql_migrations`, as in
   * @effect/sql. The checksums are in a second table, with `_checksum` added to the name. Both are created when needed,
   * and on PostgreSQL the schema too.
   */
  readonly table?: string | undefined
  /** Maximum wait for the lock that another runner holds; then the run fails with kind `locked`. Default: no limit. */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /**
   * Called with every event. Default: `Applied` and `Waiting` are logged at level Info, `Ahead` at Warning and
   * `Started` at Debug. `toTerminal` writes them to a terminal.
   */
  readonly progress?: ((progress: Progress) => Effect.Effect<void>) | undefined
}

/**
 * The migrations of an application's database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** The current status. Only reads. Fails as the function `status` does. */
  readonly status: Effect.Effect<Status, DatabaseError | MigrationError>
}

/**
 * The migrations of the application's database. If it is provided, `DatabaseHttp.readiness` includes their status.
 *
 * @since 0.1.0
 * @category tags
 */
export class Migrations extends Context.Tag("sqlayer/Migrations")<Migrations, Service>() {}

/** The runner is loaded with the first plan. */
const runner = Effect.promise(() => import("./internal/migrations/runner.js"))

const plan = <R>(database: Database.Service, options: Options<R>): Effect.Effect<Runner.Plan, MigrationError, R> =>
  Effect.gen(function*() {
    const { loader, lockTimeout = Duration.infinity, progress = ProgressText.log, table = "effect_sql_migrations" } =
      options
    if (!/^[^.\s]+(?:\.[^.\s]+)?$/.test(table)) {
      return yield* new MigrationError({
        kind: "invalid",
        message: `the table ${JSON.stringify(table)} is not valid: a name, or a schema and a name, are accepted`
      })
    }
    const { forDatabase, resolve } = yield* runner
    const migrations = yield* forDatabase(database, yield* resolve(loader))
    return { migrations, table, lockTimeout: Duration.decode(lockTimeout), progress }
  })

/** Validates the options, and passes the runner, the database and the plan to `use`. */
const withPlan = <R, A, E>(
  options: Options<R>,
  use: (runner: typeof Runner, database: Database.Service, plan: Runner.Plan) => Effect.Effect<A, E>
): Effect.Effect<A, E | MigrationError, Database.Database | R> =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    return yield* asOwnStatements(use(yield* runner, database, yield* plan(database, options)))
  })

/**
 * The migrations in the files of a directory, named `<number>_<name>`: SQL in `0001_create_account.sql`, or an Effect
 * or a definition as the default export of a `.js`, `.mjs`, `.cjs`, `.ts`, `.mts` or `.cts` file.
 * `0001_create_account.sqlite.sql` is for one dialect only, and `0001_create_account.down.sql` takes the migration
 * back. SQL is UTF-8; its headers (`-- sqlayer: transaction: none`) are the options of a definition.
 *
 * A path is relative to the working directory of the process; use a URL (`new URL("migrations", import.meta.url)`) for
 * one that is relative to a module. Files whose names begin with a dot or an underscore, and files with other
 * extensions, are ignored.
 *
 * Fails with a MigrationError of kind `invalid` if any other file's name is not that of a migration, if SQL is not
 * UTF-8, or if a header is not valid, and of kind `load` if the directory or a file cannot be read.
 *
 * @since 0.1.0
 * @category loaders
 */
export const fromDirectory: (directory: string | URL) => Loader = Files.fromDirectory

/**
 * What a migration does: SQL text, or an Effect.
 *
 * @since 0.1.0
 * @category models
 */
export type Script = Model.Script

/**
 * A migration with options, or with a script that takes it back. It is a value of a record, or the default export of a
 * module.
 *
 * @since 0.1.0
 * @category models
 */
export type Definition = Model.Definition

/**
 * The migrations in a record: each an Effect, SQL text, or a definition, under its number and name
 * (`0001_create_account`).
 *
 * Fails with a MigrationError of kind `invalid` if a key is not a number and a name, or an option or a header is not
 * valid.
 *
 * @since 0.1.0
 * @category loaders
 */
export const fromRecord: (
  migrations: { readonly [name: string]: Script | Definition }
) => Loader = Record.fromRecord

/**
 * A migration that creates the table `sqlayer.commits`, which sessions with `commit: "recorded"` write to, and its
 * schema. It is one of the application's migrations, with a number of its own:
 *
 * ```ts
 * import { Migrations } from "sqlayer"
 *
 * export const loader = Migrations.fromRecord({
 *   "0001_create_account": "CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)",
 *   "0002_commit_records": Migrations.commitRecords
 * })
 * ```
 *
 * In a directory it is the default export of a file: `export { commitRecords as default } from "sqlayer/Migrations"`. A
 * schema or table that exists already is not changed. If the application logs in as another user than the one that
 * migrates, grant that user USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on the table. On SQLite the
 * migration does nothing.
 *
 * @since 0.1.0
 * @category migrations
 */
export const commitRecords: Effect.Effect<void, SqlError, SqlClient.SqlClient> = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => driverOfClient(sql).migrations.createCommitTable(sql)
)

/**
 * Applies the pending migrations in the order of their numbers, each in a session of its own, and returns those that it
 * applied. One runner works at a time, across all processes; the others wait, and then apply only what is still
 * pending.
 *
 * Fails with a MigrationError, or with a DatabaseError of the statements that read and write the tables of the
 * migrations. If a migration cannot be loaded, an applied one was edited or is missing, or one is unfinished, nothing
 * is applied. If a migration fails, it is rolled back and the run ends; the migrations applied before it stay.
 *
 * @since 0.1.0
 * @category running
 */
export const run = <R = never>(
  options: Options<R>
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(options, ({ run }, database, plan) => run(database, plan))

/**
 * The status of the database. Only reads, so SELECT on the tables is enough; tables that do not exist count as empty.
 *
 * Fails with a MigrationError if the migrations cannot be loaded, and with a DatabaseError if the tables cannot be
 * read.
 *
 * @since 0.1.0
 * @category running
 */
export const status = <R = never>(
  options: Options<R>
): Effect.Effect<Status, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(options, ({ status }, database, plan) => status(database, plan))

/**
 * A migration that `run` would apply, and its statements with what they lock.
 *
 * @since 0.1.0
 * @category models
 */
export type Planned = Runner.Planned

/**
 * The migrations that `run` would apply, in their order, with their SQL and what that locks. Loads them, which imports
 * modules, and otherwise only reads. Fails as `run` does, but not with errors of the migrations' statements.
 *
 * @since 0.1.0
 * @category running
 */
export const dryRun = <R = never>(
  options: Options<R>
): Effect.Effect<ReadonlyArray<Planned>, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(options, ({ dryRun }, database, plan) => dryRun(database, plan))

/**
 * Records the migrations up to `number` as applied, without running them, for a database that already contains what
 * they create. Returns those that it recorded; those that were applied before stay as they are.
 *
 * Fails with a MigrationError of kind `invalid` if no migration has that number, and otherwise as `run` does.
 *
 * @since 0.1.0
 * @category running
 */
export const baseline = <R = never>(
  options: Options<R>,
  number: number
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(options, ({ baseline }, database, plan) => baseline(database, plan, number))

/**
 * What `down` takes back, and the confirmation that production requires.
 *
 * @since 0.1.0
 * @category models
 */
export interface DownOptions<R = never> extends Options<R> {
  /**
   * The number of the migration that becomes the last applied one; 0 takes all back. Default: only the last applied one
   * is taken back.
   */
  readonly to?: number | undefined
  /** Allows `down` in production (APP_ENV), together with `confirm`. Default: false. */
  readonly production?: boolean | undefined
  /** The migration that is taken back first, as it is written (`0002_create_account`). Required in production only. */
  readonly confirm?: string | undefined
}

/**
 * Takes back the last applied migration, or those above a number, in descending order, and returns them. The file
 * `0001_create_account.down.sql` or the `down` of its definition takes a migration back, in one transaction that also
 * removes it from the history. Other migrations are not affected.
 *
 * Fails with a MigrationError of kind `invalid`, before it takes anything back, if one of them has nothing that takes
 * it back, if `to` is not the number of an applied one, or if this is production and `production` and `confirm` do not
 * both allow it. Otherwise it fails as `run` does.
 *
 * @since 0.1.0
 * @category running
 */
export const down = <R = never>(
  options: DownOptions<R>
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(options, ({ down }, database, plan) => down(database, plan, options))

/**
 * Marks the `unfinished` migration with a number, once somebody has checked or repaired what it did: as `"applied"`, or
 * as `"rolled back"`, so that the next run applies it again. Runs no statement of the migration. Waits for a runner
 * that is still applying it.
 *
 * Fails with a MigrationError of kind `invalid` if it is not unfinished.
 *
 * @since 0.1.0
 * @category running
 */
export const resolve = <R = never>(
  options: Options<R>,
  number: number,
  state: "applied" | "rolled back"
): Effect.Effect<Migration, DatabaseError | MigrationError, Database.Database | R> =>
  withPlan(
    options,
    ({ resolveUnfinished }, database, plan) => resolveUnfinished(database, plan, number, state)
  )

/**
 * Applies the pending migrations when the layer is built, and provides their status. Fails as `run` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <R = never>(
  options: Options<R>
): Layer.Layer<Migrations, DatabaseError | MigrationError, Database.Database | R> =>
  Layer.effect(
    Migrations,
    Effect.gen(function*() {
      const database = yield* Database.Database
      const { run, status } = yield* runner
      const loadedPlan = yield* plan(database, options)
      yield* asOwnStatements(run(database, loadedPlan))
      return { status: asOwnStatements(status(database, loadedPlan)) }
    })
  )

/**
 * Provides the status only, for an application whose migrations are applied by something else, such as
 * `npx sqlayer migrate`. The application is not ready while a migration is pending. The migrations are loaded when the
 * layer is built, which fails with a MigrationError if they cannot be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerStatus = <R = never>(
  options: Options<R>
): Layer.Layer<Migrations, MigrationError, Database.Database | R> =>
  Layer.effect(
    Migrations,
    Effect.gen(function*() {
      const database = yield* Database.Database
      const { status } = yield* runner
      return { status: asOwnStatements(status(database, yield* plan(database, options))) }
    })
  )

/**
 * Writes progress to a terminal, for `progress` of the options: one line for each migration, with its duration. Default
 * stream: standard error. Colors are left out if the stream is not a terminal or NO_COLOR is set.
 *
 * @since 0.1.0
 * @category progress
 */
export const toTerminal = (
  stream: { readonly write: (text: string) => unknown; readonly isTTY?: boolean | undefined } = process.stderr
): (progress: Progress) => Effect.Effect<void> => ProgressText.show(stream, process.env)
