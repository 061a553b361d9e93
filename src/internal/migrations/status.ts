/**
 * Compares the migrations of a loader with those that a database has.
 */
import * as Array from "effect/Array"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Order from "effect/Order"
import type * as Database from "../../Database.js"
import { driverOfClient } from "../database/opened.js"
import * as History from "./history.js"
import {
  type Applied,
  label,
  type Loader,
  type Migration,
  MigrationError,
  migrationOf,
  type Problem,
  type Progress,
  type Resolved,
  type Status
} from "./model.js"

/** Validated options, with the migrations found, in order. */
export interface Plan {
  readonly migrations: ReadonlyArray<Resolved>
  readonly table: string
  readonly lockTimeout: Duration.Duration
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

export const invalid = (message: string): MigrationError => new MigrationError({ kind: "invalid", message })

/** Loads the migrations of all dialects, and orders them by number. */
export const resolve = <R>(loader: Loader<R>): Effect.Effect<ReadonlyArray<Resolved>, MigrationError, R> =>
  Effect.gen(function*() {
    const found = yield* Effect.mapError(loader, (error) =>
      error instanceof MigrationError
        ? error
        : new MigrationError({ kind: "load", message: error.message, cause: error }))
    for (const resolved of found) {
      const [id] = resolved
      if (!Number.isSafeInteger(id) || id < 1) {
        return yield* invalid(
          `migration ${
            label(migrationOf(resolved))
          }: its number must be a whole one from 1 to ${Number.MAX_SAFE_INTEGER}`
        )
      }
    }
    return Array.sortWith(found, ([id]) => id, Order.number)
  })

/** The migrations that are for the dialect of a database. */
export const forDatabase = (
  { sql }: Database.Service,
  found: ReadonlyArray<Resolved>
): Effect.Effect<ReadonlyArray<Resolved>, MigrationError> =>
  Effect.suspend(() => {
    const { accepts } = driverOfClient(sql).migrations
    const migrations = found.filter(({ options }) => accepts(options?.dialect))
    for (const [i, resolved] of migrations.entries()) {
      const [id] = resolved
      if (i > 0 && migrations[i - 1][0] === id) {
        const [first, second] = [migrations[i - 1], resolved].map((migration) => label(migrationOf(migration)))
        return Effect.fail(
          new MigrationError({
            kind: "duplicate",
            id,
            message: `two migrations have the number ${id}: ${first} and ${second}`
          })
        )
      }
    }
    return Effect.succeed(migrations)
  })

const kindOf = (checksum: string): string => checksum.slice(0, checksum.indexOf(":"))

/** Whether both checksums are known, are of the same kind, and differ. */
const differ = (one: string | undefined, other: string | undefined): boolean =>
  one !== undefined && other !== undefined && kindOf(one) === kindOf(other) && one !== other

/** The status, and what else the comparison has found. */
export interface Comparison {
  readonly status: Status
  /** The applied migrations whose checksums are not saved yet. */
  readonly withoutChecksum: ReadonlyArray<Resolved>
  /** Whether a migration without a transaction was begun and has not completed: it may still be running. */
  readonly mayRun: boolean
}

/** How to repair an unfinished migration by hand. */
export const repair = ({ id, name }: Migration, table: string): string =>
  "part of it may be applied. Look at what it did. To have it applied again, undo that and delete the row with " +
  `migration_id ${id} from ${table}_checksum, as npx sqlayer migrate resolve --as rolled-back ${id} does; if it is complete, ` +
  `insert (migration_id, name) = (${id}, '${name}') into ${table}, as npx sqlayer migrate resolve --as applied ${id} does`

const unfinishedMessage = (migration: Migration, isTransactional: boolean, table: string): string =>
  `migration ${label(migration)} is unfinished: ` +
  (isTransactional
    ? "one of its own statements ended its transaction (COMMIT or ROLLBACK), so "
    : "it runs without a transaction, and was begun, but has not completed: it failed, was cut off, or still runs, so ") +
  repair(migration, table)

export const compare = ({ migrations, table }: Plan, { rows, unfinished }: History.Content): Comparison => {
  const known = new Map(migrations.map((migration) => [migration[0], migration]))
  const latest = migrations.at(-1)?.[0] ?? 0
  const problems: Array<Problem> = []
  const ahead: Array<Migration> = []
  const applied: Array<Applied> = []
  const withoutChecksum: Array<Resolved> = []
  /** The migration of a row, with its label if the loader has it under this name. */
  const written = (id: number, name: string): Migration => {
    const migration = known.get(id)
    return migrationOf(
      Object.assign([id, name, Effect.void] as const, { label: migration?.[1] === name ? migration.label : undefined })
    )
  }
  for (const { at, checksum, id, name } of rows) {
    const migration = known.get(id)
    const row = written(id, name)
    applied.push(Object.assign(row, { at }))
    const problem = (problem: Problem["problem"], message: string) =>
      problems.push(Object.assign(written(id, name), { problem, message: `migration ${label(row)} ${message}` }))
    if (migration === undefined) {
      if (id > latest) {
        ahead.push({ id, name })
      } else {
        problem("missing", "is applied, and no longer there")
      }
    } else if (migration[1] !== name) {
      problem("edited", `is applied, and now called ${label(migrationOf(migration))}`)
    } else if (differ(checksum, migration.checksum)) {
      problem("edited", "was edited after it was applied")
    } else if (checksum === undefined && migration.checksum !== undefined) {
      withoutChecksum.push(migration)
    }
  }
  // An unfinished migration of a newer version of the application is not a problem of this version.
  const ownUnfinished = unfinished.filter(({ id }) => known.has(id) || id <= latest)
  for (const { id, isTransactional, name } of ownUnfinished) {
    const migration = written(id, name)
    const message = unfinishedMessage(migration, isTransactional, table)
    problems.push(Object.assign(migration, { problem: "unfinished" as const, message }))
  }
  const notPending = new Set([...rows, ...ownUnfinished].map(({ id }) => id))
  return {
    status: { applied, pending: migrations.filter(([id]) => !notPending.has(id)).map(migrationOf), problems, ahead },
    withoutChecksum,
    mayRun: ownUnfinished.some(({ isTransactional }) => !isTransactional)
  }
}

export const historyOf = (database: Database.Service, { table }: Plan): History.History =>
  History.make(database, driverOfClient(database.sql).migrations, table)

/** Fails if a migration is edited, missing or unfinished. */
export const withoutProblems = (comparison: Comparison): Effect.Effect<Comparison, MigrationError> => {
  const { problems } = comparison.status
  return problems.length === 0 ? Effect.succeed(comparison) : Effect.fail(
    new MigrationError({
      kind: problems[0].problem,
      id: problems[0].id,
      migration: label(problems[0]),
      message: problems.map(({ message }) => message).join("; ")
    })
  )
}
