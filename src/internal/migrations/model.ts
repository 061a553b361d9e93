/**
 * The model of migrations, and their error.
 */
import type * as Migrator from "@effect/sql/Migrator"
import type * as SqlClient from "@effect/sql/SqlClient"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Database from "../../Database.js"
import type { Dialect } from "../../DatabaseError.js"
import type { Session } from "../../Session.js"

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
   * `edited`: its name or its content is no longer the same. `missing`: the loader no longer has it. `unfinished`: part of
   * it may be applied, since it ended its transaction by a statement of its own, or runs without one and did not complete.
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

/** How a migration is run. */
export interface Options {
  /** `none`: without a transaction around its statements. */
  readonly transaction?: "none" | undefined
  /** Whether it rebuilds tables, so that foreign keys are checked only at its end. */
  readonly rebuild?: boolean | undefined
  /** The only dialect that it is for. */
  readonly dialect?: Dialect | undefined
  /** The maximum time that it takes. */
  readonly timeout?: Duration.Duration | undefined
}

/** The services that a migration may use. */
export type Services = Database.Database | SqlClient.SqlClient | Session

/** What a migration does: SQL text, or an Effect. */
export type Script = string | Effect.Effect<unknown, unknown, Services>

/** A migration with options, or with what takes it back. */
export interface Definition {
  /** What applies it. */
  readonly up: Script
  /** What takes it back. Default: it cannot be taken back. */
  readonly down?: Script | undefined
  /**
   * `"none"`: its statements run without a transaction around them, each on its own, as CREATE INDEX CONCURRENTLY and VACUUM
   * have to. If it does not complete it is `unfinished`. Default: all of it is one transaction.
   */
  readonly transaction?: "none" | undefined
  /**
   * Whether it rebuilds tables: on SQLite foreign keys are then not enforced while it runs, and are checked before it
   * is committed. On PostgreSQL this has no effect. Default: false.
   */
  readonly rebuild?: boolean | undefined
  /** The only dialect that it is for; on others it does not exist. Default: all. */
  readonly dialect?: Dialect | undefined
  /**
   * The maximum time that it may take, and its statements' `statementTimeout` in place of the database's. A migration that
   * takes longer fails with SessionTimeout. Default: no limit but the database's `statementTimeout`.
   */
  readonly timeout?: Duration.DurationInput | undefined
}

/** What takes a migration back, as a loader returns it. */
export interface ResolvedDown {
  readonly load: Effect.Effect<unknown, unknown, SqlClient.SqlClient>
  readonly options: Options
}

/** A migration as a loader returns it. */
export type Resolved = Migrator.ResolvedMigration & {
  /** A hash of the content, after its kind and a colon. Checksums of different kinds are not compared. */
  readonly checksum?: string | undefined
  /** Its number and name as they are written. */
  readonly label?: string | undefined
  readonly options?: Options | undefined
  /** Its SQL text, if it is one. */
  readonly text?: string | undefined
  readonly down?: ResolvedDown | undefined
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
    /** Whether it is a transaction, so that nothing of it stays if it does not complete. */
    readonly isTransactional: boolean
  }
  | {
    /** A migration is committed. */
    readonly _tag: "Applied"
    readonly migration: Migration
    /** The duration of its session, without the wait for the lock. */
    readonly duration: Duration.Duration
  }
  | {
    /** A migration was taken back. */
    readonly _tag: "TakenBack"
    readonly migration: Migration
    readonly duration: Duration.Duration
  }
  | {
    /** A migration failed, and was rolled back unless it runs without a transaction. */
    readonly _tag: "Failed"
    readonly migration: Migration
    readonly duration: Duration.Duration
    readonly error: MigrationError
  }

/** The numbers and names of migrations as they are written, if that is known. */
const labels = new WeakMap<Migration, string>()

/** The migration that a loader has returned. */
export const migrationOf = ({ 0: id, 1: name, label }: Resolved): Migration => {
  const migration = { id, name }
  if (label !== undefined) {
    labels.set(migration, label)
  }
  return migration
}

/** A migration as messages show it: as it is written, or in the format of @effect/sql's Migrator. */
export const label = (migration: Migration): string => labels.get(migration) ?? `${migration.id}_${migration.name}`
