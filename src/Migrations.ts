/**
 * Migrations: each is applied once, in a transaction of its own, however many processes start at the same time.
 *
 * The table and the loaders of @effect/sql's Migrator are used, so that each can continue where the other stopped.
 *
 * @since 0.1.0
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Database from "./Database.js"
import type { DatabaseError } from "./DatabaseError.js"
import * as Files from "./internal/migrations/files.js"
import * as Model from "./internal/migrations/model.js"
import * as ProgressText from "./internal/migrations/progress.js"
import * as Record from "./internal/migrations/record.js"
import type * as Runner from "./internal/migrations/runner.js"
import type { Session } from "./Session.js"

/**
 * The error of a run, or of loading the migrations.
 *
 * - `kind` is what went wrong:
 *   - `failed`: a migration failed with `cause`, and was rolled back. If the cause is CommitOutcomeUnknown it may be
 *     committed; the next run finds out. If the migration ended its transaction by itself, the cause is TransactionAborted,
 *     and it is `unfinished` from then on.
 *   - `load`: a migration, or their directory, cannot be read or imported, or a migration is not an Effect.
 *   - `invalid`: a name, a number, an option or an SQL text is not valid.
 *   - `duplicate`: two migrations have the same number.
 *   - `edited`: an applied migration has changed since.
 *   - `missing`: an applied migration no longer exists.
 *   - `unfinished`: in an earlier run, a migration ended its transaction by a statement of its own (COMMIT, ROLLBACK), so
 *     part of it may be applied. `message` says how to repair that.
 *   - `locked`: another runner held the lock for longer than `lockTimeout`.
 * - `message` says it in a sentence.
 * - `id` and `migration` are the number and the label (`2_create_account`) of the migration, if it concerns one.
 * - `cause` is the error that led to it, if there is one.
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
 * - `problems`: the applied migrations that were edited since, or are missing, and those that are unfinished. While there is
 *   one, `run` fails.
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
 * - `Started`: `migration` begins, at `position` (from 1) of the `total` that this run applies.
 * - `Applied`: `migration` is committed, after `duration`.
 * - `Failed`: `migration` failed with `error` after `duration`, and was rolled back, unless it ended its transaction by
 *   itself.
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
   * @effect/sql. The checksums are in a second table, with `_checksum` added to the name. Both are created when needed.
   */
  readonly table?: string | undefined
  /** Maximum wait for the lock that another runner holds. Default: no limit. */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /**
   * Called with every event. Default: `Applied` and `Waiting` are logged at level Info, `Ahead` at Warning and `Started`
   * at Debug. `toTerminal` writes them to a terminal.
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
  /** The status now. Only reads. Fails as the function `status` does. */
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

const plan = <R>(options: Options<R>): Effect.Effect<Runner.Plan, MigrationError, R> =>
  Effect.gen(function*() {
    const { loader, lockTimeout = Duration.infinity, progress = ProgressText.log, table = "effect_sql_migrations" } =
      options
    if (!/^[^.\s]+(?:\.[^.\s]+)?$/.test(table)) {
      return yield* new MigrationError({
        kind: "invalid",
        message: `the table ${JSON.stringify(table)} is not valid: a name, or a schema and a name, are accepted`
      })
    }
    const { resolve } = yield* runner
    return { migrations: yield* resolve(loader), table, lockTimeout: Duration.decode(lockTimeout), progress }
  })

/**
 * The migrations in the files of a directory, named `<number>_<name>`: SQL in `0001_create_account.sql`, or an Effect as
 * the default export of a `.js`, `.mjs`, `.cjs`, `.ts`, `.mts` or `.cts` file.
 *
 * A path is relative to the working directory of the process; use a URL (`new URL("migrations", import.meta.url)`) for
 * one that is relative to a module. Files whose names begin with a dot or an underscore, and files with other extensions,
 * are ignored.
 *
 * Fails with a MigrationError of kind `invalid` if another file's name is not that of a migration, and of kind `load` if
 * the directory or a file cannot be read.
 *
 * @since 0.1.0
 * @category loaders
 */
export const fromDirectory: (directory: string | URL) => Loader = Files.fromDirectory

/**
 * The migrations in a record: each an Effect or SQL text, under its number and name (`0001_create_account`).
 *
 * Fails with a MigrationError of kind `invalid` if a key is not such a name.
 *
 * @since 0.1.0
 * @category loaders
 */
export const fromRecord: (
  migrations: {
    readonly [name: string]:
      | string
      | Effect.Effect<unknown, unknown, SqlClient.SqlClient | Database.Database | Session>
  }
) => Loader = Record.fromRecord

/**
 * Applies the pending migrations in the order of their numbers, each in a session of its own, and returns those that it
 * applied. One runner works at a time, in whatever process; the others wait, and then apply only what is still pending.
 *
 * Fails with a MigrationError, or with a DatabaseError of the statements that read and write the tables of the migrations.
 * If a migration cannot be loaded, an applied one was edited or is missing, or one is unfinished, nothing is applied. If a
 * migration fails, it is rolled back and the run ends; the migrations applied before it stay.
 *
 * @since 0.1.0
 * @category running
 */
export const run = <R = never>(
  options: Options<R>
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError, Database.Database | R> =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    const { run } = yield* runner
    return yield* run(database, yield* plan(options))
  })

/**
 * The status of the database. Only reads, so the right to read is enough; tables that do not exist count as empty.
 *
 * Fails with a MigrationError if the migrations cannot be loaded, and with a DatabaseError if the tables cannot be read.
 *
 * @since 0.1.0
 * @category running
 */
export const status = <R = never>(
  options: Options<R>
): Effect.Effect<Status, DatabaseError | MigrationError, Database.Database | R> =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    const { status } = yield* runner
    return yield* status(database, yield* plan(options))
  })

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
      const known = yield* plan(options)
      yield* run(database, known)
      return { status: status(database, known) }
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
      return { status: status(database, yield* plan(options)) }
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
