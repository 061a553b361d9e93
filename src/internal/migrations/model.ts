/**
 * What the parts of the migrations share: their model and their error.
 */
import type * as Migrator from "@effect/sql/Migrator"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const optionalString = Schema.optionalWith(Schema.String, { exact: true })

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
 */
export class MigrationError extends Schema.TaggedError<MigrationError>("sqlayer/MigrationError")("MigrationError", {
  kind: Schema.Literal("failed", "load", "invalid", "duplicate", "edited", "missing", "locked"),
  message: Schema.String,
  id: Schema.optionalWith(Schema.Number, { exact: true }),
  migration: optionalString,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {}

/** A migration by its number and name. */
export interface Migration {
  readonly id: number
  readonly name: string
}

/** A migration that the database has. */
export interface Applied extends Migration {
  readonly at: Date
}

/** An applied migration that is no longer what it was, or is no longer there. */
export interface Problem extends Migration {
  readonly problem: "edited" | "missing"
  readonly message: string
}

/** Where a database stands. */
export interface Status {
  /** What the database has, by its number. */
  readonly applied: ReadonlyArray<Applied>
  /** What it has not, in the order in which it would be applied. */
  readonly pending: ReadonlyArray<Migration>
  readonly problems: ReadonlyArray<Problem>
  /**
   * Applied migrations with numbers above all that are known here: a newer version of the application was here. That is
   * what a rolling deployment looks like to the old version, so it is no problem.
   */
  readonly ahead: ReadonlyArray<Migration>
}

/** What a loader gives for one migration. */
export type Resolved = Migrator.ResolvedMigration & {
  /** Changes when the migration's content does. Those of different kinds (the text before the colon) do not compare. */
  readonly checksum?: string | undefined
}

/** Finds the migrations. */
export type Loader<R = never> = Effect.Effect<ReadonlyArray<Resolved>, MigrationError | Migrator.MigrationError, R>

/** What happens while migrations run. */
export type Progress =
  | { readonly _tag: "Waiting"; readonly elapsed: Duration.Duration }
  | { readonly _tag: "Ahead"; readonly migrations: ReadonlyArray<Migration> }
  | { readonly _tag: "Started"; readonly migration: Migration; readonly position: number; readonly total: number }
  | { readonly _tag: "Applied"; readonly migration: Migration; readonly duration: Duration.Duration }
  | {
    readonly _tag: "Failed"
    readonly migration: Migration
    readonly duration: Duration.Duration
    readonly error: MigrationError
  }

/** As messages show it, and as @effect/sql's Migrator does. */
export const label = ({ id, name }: Migration): string => `${id}_${name}`
