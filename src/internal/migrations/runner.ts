/**
 * Runs migrations.
 *
 * This uses the loaders and the table of @effect/sql's Migrator, but not its Migrator.make: that applies all migrations in
 * one transaction, never applies a migration whose number is below the latest, does not notice edited migrations, and
 * turns the failure of a migration into a defect.
 *
 * Each migration is one session, whose transaction holds the lock. So no second connection has to stay open, a runner
 * that is killed leaves nothing behind, and a pooler between the application and the server does no harm. After a runner
 * has taken the lock it reads again which migrations are pending.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Array from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Order from "effect/Order"
import * as Predicate from "effect/Predicate"
import * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError, typed } from "../../DatabaseError.js"
import { Session } from "../../Session.js"
import { driverOfClient } from "../database/opened.js"
import { make as makeError } from "../makeError.js"
import { nestedStillOpen } from "../session/errors.js"
import type { Transaction } from "../session/transaction.js"
import { truncateText } from "../telemetry/activity.js"
import * as History from "./history.js"
import { withLock } from "./lock.js"
import {
  type Applied,
  label,
  type Loader,
  type Migration,
  MigrationError,
  type Problem,
  type Progress,
  type Resolved,
  type Status
} from "./model.js"

/** Validated options, with the migrations found and in order. */
export interface Plan {
  readonly migrations: ReadonlyArray<Resolved>
  readonly table: string
  readonly lockTimeout: Duration.Duration
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

/** The services that a migration may use. */
type Services = Database.Database | SqlClient.SqlClient | Session

const migrationOf = ([id, name]: Resolved): Migration => ({ id, name })

const invalid = (message: string) => new MigrationError({ kind: "invalid", message })

/** Loads the migrations, validates them, and orders them by number. */
export const resolve = <R>(
  loader: Loader<R>
): Effect.Effect<ReadonlyArray<Resolved>, MigrationError, R> =>
  Effect.gen(function*() {
    const found = yield* Effect.mapError(loader, (error) =>
      error instanceof MigrationError
        ? error
        : new MigrationError({ kind: "load", message: error.message, cause: error }))
    const sorted = Array.sortWith(found, ([id]) => id, Order.number)
    for (const [i, resolved] of sorted.entries()) {
      const [id] = resolved
      const migration = label(migrationOf(resolved))
      if (!Number.isSafeInteger(id) || id < 1) {
        return yield* invalid(
          `migration ${migration}: its number must be a whole one from 1 to ${Number.MAX_SAFE_INTEGER}`
        )
      }
      if (i > 0 && sorted[i - 1][0] === id) {
        return yield* new MigrationError({
          kind: "duplicate",
          id,
          message: `two migrations have the number ${id}: ${label(migrationOf(sorted[i - 1]))} and ${migration}`
        })
      }
    }
    return sorted
  })

const kindOf = (checksum: string): string => checksum.slice(0, checksum.indexOf(":"))

/** Whether both checksums are known, are of the same kind, and differ. */
const differ = (one: string | undefined, other: string | undefined): boolean =>
  one !== undefined && other !== undefined && kindOf(one) === kindOf(other) && one !== other

/** The status, and the applied migrations whose checksums are not saved yet. */
interface Comparison {
  readonly status: Status
  readonly withoutChecksum: ReadonlyArray<Resolved>
}

/** What an unfinished migration leaves to be done, by hand. */
const repair = ({ id, name }: Migration, table: string): string =>
  "part of it may be applied. Look at what it did. To have it applied again, undo that and delete the row with " +
  `migration_id ${id} from ${table}_checksum; if it is complete, insert (migration_id, name) = (${id}, '${name}') ` +
  `into ${table}`

const unfinishedMessage = (migration: Migration, table: string): string =>
  `migration ${label(migration)} is unfinished: it ended its transaction by a statement of its own (COMMIT or ` +
  `ROLLBACK), so ${repair(migration, table)}`

const compare = (
  { migrations, table }: Plan,
  { rows, unfinished }: History.Content
): Comparison => {
  const known = new Map(migrations.map((migration) => [migration[0], migration]))
  const latest = migrations.at(-1)?.[0] ?? 0
  const problems: Array<Problem> = []
  const ahead: Array<Migration> = []
  const withoutChecksum: Array<Resolved> = []
  for (const { checksum, id, name } of rows) {
    const migration = known.get(id)
    const problem = (problem: Problem["problem"], message: string) =>
      problems.push({ id, name, problem, message: `migration ${label({ id, name })} ${message}` })
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
  // One that a newer version of the application has left is that version's problem.
  const ownUnfinished = unfinished.filter(({ id }) => known.has(id) || id <= latest)
  for (const { id, name } of ownUnfinished) {
    problems.push({ id, name, problem: "unfinished", message: unfinishedMessage({ id, name }, table) })
  }
  const notPending = new Set([...rows, ...ownUnfinished].map(({ id }) => id))
  return {
    status: {
      applied: rows.map(({ at, id, name }): Applied => ({ id, name, at })),
      pending: migrations.filter(([id]) => !notPending.has(id)).map(migrationOf),
      problems,
      ahead
    },
    withoutChecksum
  }
}

const historyOf = (database: Database.Service, { table }: Plan) =>
  History.make(database, driverOfClient(database.sql).migrations, table)

/** The status of the database. Only reads. */
export const status = (database: Database.Service, plan: Plan): Effect.Effect<Status, DatabaseError> =>
  Effect.map(
    typed(historyOf(database, plan).read),
    (content) => compare(plan, content).status
  )

/** Fails if a migration is edited, missing or unfinished. */
const withoutProblems = (comparison: Comparison): Effect.Effect<Comparison, MigrationError> => {
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

const describe = (cause: unknown): string =>
  isDatabaseError(cause)
    ? `${cause._tag}: ${cause.message}`
    : cause instanceof Error
    ? cause.message
    : Predicate.hasProperty(cause, "_tag")
    ? String(cause._tag)
    : String(cause)

const failed = (migration: Migration, cause: unknown, consequence?: string): MigrationError =>
  new MigrationError({
    kind: "failed",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} failed: ${describe(cause)}` +
      (consequence === undefined ? "" : `: ${consequence}`),
    cause
  })

/** Why the transaction of a migration that has run can only be rolled back, or has ended. */
interface Aborted {
  readonly error: DatabaseError
  /** Whether a statement of the migration ended the transaction, so that part of it may be committed. */
  readonly isEnded: boolean
}

/** Looks at the transaction of a migration that has run. Undefined if it can be committed, or has an error of its own. */
const abortedBy = (transaction: Transaction): Aborted | undefined => {
  const { abortReason, connection, dialect, failure } = transaction
  const status = connection?.status()
  if (abortReason !== undefined || status === undefined || status === "active" || status === "closed") {
    return undefined
  }
  const aborted = (reason: string) => ({ dialect, code: "25P02", reason })
  return failure === undefined
    ? {
      error: makeError("TransactionAborted", aborted("it ended its transaction by a statement of its own")),
      isEnded: true
    }
    : {
      error: makeError("TransactionAborted", {
        ...aborted(
          `a statement of it failed, and its error was caught: ${describe(failure)}` +
            (failure.statement === undefined ? "" : ` in ${truncateText(failure.statement)}`)
        ),
        statement: failure.statement,
        hint: "a failure that is to be caught belongs in a nested session",
        cause: failure
      }),
      isEnded: false
    }
}

const isAborted = (cause: unknown): boolean => isDatabaseError(cause) && cause._tag === "TransactionAborted"

const hasUnknownOutcome = (error: DatabaseError | MigrationError): error is MigrationError =>
  error._tag === "MigrationError" && isDatabaseError(error.cause) && error.cause._tag === "CommitOutcomeUnknown"

const loadError = (migration: Migration, reason: string, cause?: unknown): MigrationError =>
  new MigrationError({
    kind: "load",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} ${reason}`,
    ...(cause === undefined ? {} : { cause })
  })

/** The default export of a module. A module that was compiled to CommonJS has it one level deeper. */
const effectIn = (loaded: unknown): unknown => {
  const inner = Predicate.hasProperty(loaded, "default") ? loaded.default : undefined
  return Effect.isEffect(loaded)
    ? loaded
    : Predicate.hasProperty(inner, "default") && !Effect.isEffect(inner)
    ? inner.default
    : inner
}

/** Loads the effect of a migration, without running it. */
const loaded = (
  resolved: Resolved
): Effect.Effect<Effect.Effect<unknown, unknown, Services>, MigrationError, SqlClient.SqlClient> => {
  const migration = migrationOf(resolved)
  return Effect.catchAllCause(resolved[2] as Effect.Effect<unknown, unknown, SqlClient.SqlClient>, (cause) => {
    const error = Cause.squash(cause)
    return Cause.isInterruptedOnly(cause)
      ? Effect.failCause(cause as Cause.Cause<never>)
      : Effect.fail(
        error instanceof MigrationError
          ? error
          : loadError(migration, `cannot be loaded: ${describe(error)}`, error)
      )
  }).pipe(
    Effect.map(effectIn),
    Effect.filterOrFail(
      (effect): effect is Effect.Effect<unknown, unknown, Services> => Effect.isEffect(effect),
      () => loadError(migration, "has no Effect as its default export")
    )
  )
}

/** Applies the pending migrations, and returns those it applied. */
export const run = (
  database: Database.Service,
  plan: Plan
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const { migrations, progress } = plan
    const history = historyOf(database, plan)
    const services = Context.add(database.context, Database.Database, database)
    const locked = withLock(database, driverOfClient(database.sql).migrations, plan)
    const readStatus = Effect.flatMap(history.read, (content) => withoutProblems(compare(plan, content)))

    const initial = yield* typed(readStatus)
    const { ahead } = initial.status
    if (ahead.length > 0) {
      yield* progress({ _tag: "Ahead", migrations: ahead })
    }
    // All are loaded before any is applied, so that one that cannot be loaded leaves the database unchanged.
    const pending = new Set(initial.status.pending.map(({ id }) => id))
    const effects = yield* Effect.forEach(
      migrations.filter(([id]) => pending.has(id)),
      (migration) => Effect.map(loaded(migration), (effect) => [migration, effect] as const)
    ).pipe(Effect.provide(services))

    if (effects.length > 0 || initial.withoutChecksum.length > 0) {
      const prepare = Effect.gen(function*() {
        yield* history.prepare
        const { withoutChecksum } = yield* readStatus
        yield* Effect.forEach(withoutChecksum, history.saveChecksum, { discard: true })
      })
      yield* locked("prepare migrations", prepare, (error) => error)
    }

    const clock = yield* Effect.clock
    const applied: Array<Migration> = []
    for (const [i, [resolved, effect]] of effects.entries()) {
      const migration = migrationOf(resolved)
      let started = 0
      let isOutcomeUnknown = false
      let aborted: Aborted | undefined
      const duration = () => Duration.millis(clock.unsafeCurrentTimeMillis() - started)
      const apply = Effect.gen(function*() {
        const { status } = yield* readStatus
        if (!status.pending.some(({ id }) => id === migration.id)) {
          return isOutcomeUnknown
        }
        started = clock.unsafeCurrentTimeMillis()
        yield* progress({ _tag: "Started", migration, position: i + 1, total: effects.length })
        yield* history.mark(resolved)
        const transaction = (yield* Session) as Transaction
        yield* Effect.onExit(effect, () =>
          Effect.sync(() => {
            aborted = abortedBy(transaction)
            // It may have created the very triggers and views whose effects on a connection cannot be seen in a text.
            transaction.connection?.markDirty()
          }))
        if (aborted !== undefined) {
          return yield* Effect.fail(aborted.error)
        }
        // The record would wait for a nested session that is still open, possibly for ever.
        if (transaction.hasOpenChildren) {
          return yield* Effect.fail(nestedStillOpen(transaction))
        }
        yield* history.record(resolved)
        return true
      })
      const onFailure = (cause: unknown): MigrationError =>
        failed(
          migration,
          aborted !== undefined && isAborted(cause) ? aborted.error : cause,
          aborted?.isEnded === true ? repair(migration, plan.table) : undefined
        )
      const markAgain = Effect.gen(function*() {
        const { rows } = yield* history.read
        if (!rows.some(({ id }) => id === migration.id)) {
          yield* history.mark(resolved)
        }
      })
      // A ROLLBACK has removed the marker, and what the same text did after it may be committed.
      const restoreMarker = Effect.suspend(() =>
        aborted?.isEnded === true
          ? Effect.ignore(locked(`mark ${label(migration)} as unfinished`, markAgain, (error) => error))
          : Effect.void
      )
      const attempt = Effect.tapError(
        locked(`migrate ${label(migration)}`, Effect.provide(apply, services), onFailure),
        () => restoreMarker
      )
      const isApplied = yield* attempt.pipe(
        // The lock is free once that transaction has ended, and the history then shows whether it was committed.
        Effect.catchIf(hasUnknownOutcome, (error) => {
          isOutcomeUnknown = true
          return Effect.catchIf(attempt, isDatabaseError, () => Effect.fail(error))
        }),
        Effect.tapErrorTag(
          "MigrationError",
          (error) =>
            error.kind === "failed" ? progress({ _tag: "Failed", migration, duration: duration(), error }) : Effect.void
        )
      )
      if (isApplied) {
        applied.push(migration)
        yield* progress({ _tag: "Applied", migration, duration: duration() })
      }
    }
    return applied
  })
