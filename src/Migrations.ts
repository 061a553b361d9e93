/**
 * Migrations for either dialect: each applied once and whole, whoever starts how many runners.
 *
 * It uses the table of @effect/sql's Migrator and takes its loaders, so that either can go on where the other stopped.
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
import * as Runner from "./internal/migrations/runner.js"
import type { Session } from "./Session.js"

/**
 * Why migrations were not run, or not to the end. `kind` tells what went wrong, the message what exactly:
 *
 * - `failed`: the migration itself. `cause` is what it failed with. It left nothing behind, unless that is
 *   CommitOutcomeUnknown, when the next run finds out.
 * - `load`: the migrations, or one of them, could not be read or imported, or is no Effect.
 * - `invalid`: a name, number, option or SQL text that is not acceptable.
 * - `duplicate`: two migrations have one number.
 * - `edited`, `missing`: an applied migration is no longer what it was, or is no longer there.
 * - `locked`: another runner was not done within `lockTimeout`.
 *
 * `migration` is the number and the name (`2_create_account`) of the migration that it is about, if it is about one.
 *
 * @since 0.1.0
 * @category errors
 */
export const MigrationError = Model.MigrationError

/**
 * Why migrations were not run, or not to the end.
 *
 * @since 0.1.0
 * @category errors
 */
export type MigrationError = Model.MigrationError

/**
 * A migration by its number and name.
 *
 * @since 0.1.0
 * @category models
 */
export type Migration = Model.Migration

/**
 * Where a database stands: `applied` is what it has; `pending` is what it has not, in the order in which it would be
 * applied; `problems` are applied migrations that are no longer what they were, or no longer there; `ahead` are applied
 * migrations with numbers above all that are known here. The last is how a rolling deployment looks to the old version
 * of an application, and no problem.
 *
 * @since 0.1.0
 * @category models
 */
export type Status = Model.Status

/**
 * What finds the migrations: `fromDirectory`, `fromRecord`, or a loader of @effect/sql's Migrator.
 *
 * @since 0.1.0
 * @category models
 */
export type Loader<R = never> = Model.Loader<R>

/**
 * What happens while migrations run.
 *
 * @since 0.1.0
 * @category models
 */
export type Progress = Model.Progress

/**
 * What is to be run, and how.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R = never> {
  readonly loader: Loader<R>
  /**
   * The table that remembers what is applied, of a schema of its own if there is a dot in it; default:
   * `effect_sql_migrations`, as in @effect/sql. The checksums are in one beside it whose name ends with `_checksum`.
   */
  readonly table?: string | undefined
  /** The longest wait for another runner to finish its turn; default: as long as it takes. */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /** Told of everything that happens; default: what was applied is logged. `toTerminal` shows it on a terminal. */
  readonly progress?: ((progress: Progress) => Effect.Effect<void>) | undefined
}

/**
 * The migrations of an application's database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Where the database stands now. Only reads, and needs no more than the right to read. */
  readonly status: Effect.Effect<Status, DatabaseError | MigrationError>
}

/**
 * The migrations of the application's database. Where it is provided, readiness depends on it.
 *
 * @since 0.1.0
 * @category tags
 */
export class Migrations extends Context.Tag("sqlayer/Migrations")<Migrations, Service>() {}

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
    return { migrations: yield* Runner.resolve(loader), table, lockTimeout: Duration.decode(lockTimeout), progress }
  })

/**
 * The migrations in the files of a directory: `0001_create_account.sql`, and `.js` or `.ts` (and `.mjs`, …) whose default
 * export is an Effect. A path is relative to where the process was started; a URL (`new URL("migrations",
 * import.meta.url)`) is not. Of other files, those whose names begin with a dot or an underscore, and those with other
 * extensions, are left alone; what looks like a migration and is none is an error.
 *
 * @since 0.1.0
 * @category loaders
 */
export const fromDirectory: (directory: string | URL) => Loader = Files.fromDirectory

/**
 * The migrations in a record, by their numbers and names (`0001_create_account`): each an Effect, or SQL text.
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
 * Applies what is pending, each migration in a session of its own and in the order of their numbers, and gives what it
 * applied. Of several runners, in whatever processes, one works at a time, and each migration is applied once. The first
 * that fails ends the run: it left nothing behind, and what came before it stays.
 *
 * Fails before it applies anything where a migration cannot be loaded, or where one that is applied was edited or is
 * missing.
 *
 * @since 0.1.0
 * @category running
 */
export const run = <R = never>(
  options: Options<R>
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError, Database.Database | R> =>
  Effect.flatMap(Database.Database, (database) => Effect.flatMap(plan(options), (plan) => Runner.run(database, plan)))

/**
 * Where the database stands. Only reads, and needs no more than the right to read.
 *
 * @since 0.1.0
 * @category running
 */
export const status = <R = never>(
  options: Options<R>
): Effect.Effect<Status, DatabaseError | MigrationError, Database.Database | R> =>
  Effect.flatMap(
    Database.Database,
    (database) => Effect.flatMap(plan(options), (plan) => Runner.status(database, plan))
  )

/**
 * Applies what is pending when the layer is built, and then tells the status.
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
      const known = yield* plan(options)
      yield* Runner.run(database, known)
      return { status: Runner.status(database, known) }
    })
  )

/**
 * Only tells the status: for an application whose migrations something else runs (`npx sqlayer migrate`). It is not
 * ready while any is pending. The migrations are found when the layer is built.
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
      return { status: Runner.status(database, yield* plan(options)) }
    })
  )

/**
 * Shows progress on a terminal (standard error unless told), one line for each migration with the time it took: for
 * `progress` in the options. Without colours where the stream is no terminal, or NO_COLOR is set.
 *
 * @since 0.1.0
 * @category progress
 */
export const toTerminal = (
  stream: { readonly write: (text: string) => unknown; readonly isTTY?: boolean | undefined } = process.stderr
): (progress: Progress) => Effect.Effect<void> => ProgressText.show(stream, process.env)
