/**
 * The model of migrations, and their error.
 */
import type * as Migrator from "@effect/sql/Migrator"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const optionalString = Schema.optionalWith(Schema.String, { exact: true })

/** See Migrations.MigrationError. */
export class MigrationError extends Schema.TaggedError<MigrationError>("sqlayer/MigrationError")("MigrationError", {
  kind: Schema.Literal("failed", "load", "invalid", "duplicate", "edited", "missing", "unfinished", "locked"),
  message: Schema.String,
  id: Schema.optionalWith(Schema.Number, { exact: true }),
  migration: optionalString,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {}

/** A migration. */
export interface Migration {
  /** Its number, from 1 to 2^53 - 1, which is its place in the order. */
  readonly id: number
  /** Its name, without the number. */
  readonly name: string
}

/** An applied migration. */
export interface Applied extends Migration {
  /** When it was applied, by the clock of the server. */
  readonly at: Date
}

/** A migration that was edited after it was applied, that is missing, or that is unfinished. */
export interface Problem extends Migration {
  /**
   * `edited`: its name or its content is no longer the same. `missing`: the loader no longer has it. `unfinished`: it
   * ended its transaction by a statement of its own, so part of it may be applied.
   */
  readonly problem: "edited" | "missing" | "unfinished"
  /** A sentence that says so, and how to repair an unfinished one. */
  readonly message: string
}

/** The migrations of a database, compared with those of the loader. */
export interface Status {
  /** The migrations that the database has, by number. */
  readonly applied: ReadonlyArray<Applied>
  /** The migrations that the database does not have, in the order in which they would be applied; no unfinished ones. */
  readonly pending: ReadonlyArray<Migration>
  /** The migrations that were edited, are missing or unfinished. While there is one, `run` fails. */
  readonly problems: ReadonlyArray<Problem>
  /**
   * The applied migrations whose numbers are above all that the loader has. A newer version of the application applied
   * them, as in a rolling deployment. They are not a problem.
   */
  readonly ahead: ReadonlyArray<Migration>
}

/** A migration as a loader returns it. */
export type Resolved = Migrator.ResolvedMigration & {
  /** A hash of the content, after its kind and a colon. Checksums of different kinds are not compared. */
  readonly checksum?: string | undefined
}

/** Loads the migrations. */
export type Loader<R = never> = Effect.Effect<ReadonlyArray<Resolved>, MigrationError | Migrator.MigrationError, R>

/** An event of a run. */
export type Progress =
  | {
    /** Another runner holds the lock. Repeated every 10 seconds. */
    readonly _tag: "Waiting"
    /** The time waited so far. */
    readonly elapsed: Duration.Duration
  }
  | {
    /** The database has migrations with numbers above all that the loader has. */
    readonly _tag: "Ahead"
    readonly migrations: ReadonlyArray<Migration>
  }
  | {
    /** A migration begins. */
    readonly _tag: "Started"
    readonly migration: Migration
    /** Its position among those that this run applies, from 1 to `total`. */
    readonly position: number
    readonly total: number
  }
  | {
    /** A migration is committed. */
    readonly _tag: "Applied"
    readonly migration: Migration
    /** The duration of its session, without the wait for the lock. */
    readonly duration: Duration.Duration
  }
  | {
    /** A migration failed, and was rolled back. */
    readonly _tag: "Failed"
    readonly migration: Migration
    readonly duration: Duration.Duration
    readonly error: MigrationError
  }

/** A migration as messages show it, in the format of @effect/sql's Migrator. */
export const label = ({ id, name }: Migration): string => `${id}_${name}`
