/**
 * Applies one migration, or takes it back: in a transaction that holds the lock, or without one while another connection
 * holds it.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError, typed } from "../../DatabaseError.js"
import { Session } from "../../Session.js"
import type { MigrationDialect } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { timeoutFail } from "../raceFirst.js"
import { nestedStillOpen, timedOut } from "../session/errors.js"
import type { Reserved } from "../session/reserved.js"
import type { Transaction } from "../session/transaction.js"
import { asApplication } from "../telemetry/ownStatements.js"
import { truncateText } from "../telemetry/truncateText.js"
import type * as History from "./history.js"
import { holdLock, type SessionOptions, withLock } from "./lock.js"
import { label, type Migration, MigrationError, migrationOf, type Resolved, type Services } from "./model.js"
import { describe, type Script } from "./scripts.js"
import { type Comparison, type Plan, repair } from "./status.js"

/** What a run works with. */
export interface Run {
  readonly database: Database.Service
  readonly plan: Plan
  readonly dialect: MigrationDialect
  readonly history: History.History
  readonly services: Context.Context<SqlClient.SqlClient | Database.Database>
  /** Fails if a migration is edited, missing or unfinished. */
  readonly readStatus: Effect.Effect<Comparison, SqlError | MigrationError>
}

/** A migration that is to be applied, or taken back. */
export interface Task {
  readonly resolved: Resolved
  readonly script: Script
  readonly direction: "up" | "down"
  /** Its position among those of the run, from 1 to `total`. */
  readonly position: number
  readonly total: number
}

const failed = (
  migration: Migration,
  cause: unknown,
  consequence?: string,
  message = `migration ${label(migration)} failed: ${describe(cause)}`
): MigrationError =>
  new MigrationError({
    kind: "failed",
    id: migration.id,
    migration: label(migration),
    message: consequence === undefined ? message : `${message}: ${consequence}`,
    cause
  })

/** Why the transaction of a migration that has run can only be rolled back, or has ended. */
interface Aborted {
  readonly error: DatabaseError
  /** Whether a statement of the migration ended the transaction, so that part of it may be committed. */
  readonly isEnded: boolean
}

/**
 * Why the transaction of a migration that has run cannot be committed. Undefined if it can, or has an error of its own.
 */
const abortedBy = (transaction: Transaction): Aborted | undefined => {
  const { abortReason, connection, dialect, failure } = transaction
  const status = connection?.status()
  if (abortReason !== undefined || status === undefined || status === "active" || status === "closed") {
    return undefined
  }
  const aborted = (reason: string) => ({ dialect, code: "25P02", reason })
  return failure === undefined
    ? {
      error: makeError("TransactionAborted", aborted("one of its own statements ended its transaction")),
      isEnded: true
    }
    : {
      error: makeError("TransactionAborted", {
        ...aborted(
          `a statement of it failed, and its error was caught: ${describe(failure)}` +
            (failure.statement === undefined ? "" : ` in ${truncateText(failure.statement)}`)
        ),
        statement: failure.statement,
        hint: "to catch the failure of a statement, run it in a nested session",
        cause: failure
      }),
      isEnded: false
    }
}

const isAborted = (cause: unknown): boolean => isDatabaseError(cause) && cause._tag === "TransactionAborted"

const hasUnknownOutcome = (error: DatabaseError | MigrationError): error is MigrationError =>
  error._tag === "MigrationError" && isDatabaseError(error.cause) && error.cause._tag === "CommitOutcomeUnknown"

/** Whether a migration still has to be applied, or taken back. */
const isDue = ({ direction, resolved: [id] }: Task, { status }: Comparison): boolean =>
  (direction === "up" ? status.pending : status.applied).some((migration) => migration.id === id)

const limit = ({ database: { dialect } }: Run, name: string, { options: { timeout }, effect }: Script) => {
  const script = asApplication(effect)
  if (timeout === undefined) {
    return script
  }
  const error = () => timedOut({ name, timeout }, dialect)
  // The timeout cannot interrupt a statement that blocks this thread, so the script may end later.
  return Effect.flatMap(
    Effect.timed(timeoutFail(script, timeout, error)),
    ([duration, result]) => Duration.greaterThan(duration, timeout) ? Effect.fail(error()) : Effect.succeed(result)
  )
}

/** Runs an effect on a connection that does not enforce foreign keys, and enforces them again afterwards. */
const withoutForeignKeys = <A, E, R>(
  { database, dialect: { foreignKeys } }: Run,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | DatabaseError, R> => {
  if (foreignKeys === undefined) {
    return effect
  }
  const { enforce } = foreignKeys
  const reserved = Effect.flatMap(typed(database.sql.reserve), (borrowed) => {
    const { connection } = borrowed as Reserved
    // A connection whose keys cannot be enforced again must not be used again.
    const restore = Effect.catchAll(enforce(connection, true), () => Effect.sync(() => connection.destroy()))
    return Effect.as(Effect.acquireRelease(enforce(connection, false), () => restore), borrowed)
  })
  return Effect.scoped(
    Effect.flatMap(
      reserved,
      (reserved) => Effect.provideService(effect, SqlClient.TransactionConnection, [reserved, -1])
    )
  )
}

/** Taking a migration back is always one transaction. */
const isTransactional = ({ direction, script: { options } }: Task): boolean =>
  direction === "down" || options.transaction === undefined

const reportStart = ({ plan }: Run, task: Task, migration: Migration): Effect.Effect<void> =>
  plan.progress({
    _tag: "Started",
    migration,
    position: task.position,
    total: task.total,
    isTransactional: isTransactional(task)
  })

/** Applies a migration, or takes it back, in a transaction. False if that was not necessary any more. */
const inTransaction = (
  run: Run,
  task: Task,
  migration: Migration,
  onStart: () => void
): Effect.Effect<boolean, DatabaseError | MigrationError> => {
  const { database, dialect, history, plan, services } = run
  const { direction, resolved, script: { options } } = task
  const { sql } = database
  const name = `${direction === "up" ? "migrate" : "take back"} ${label(migration)}`
  let isOutcomeUnknown = false
  let aborted: Aborted | undefined
  const locked = withLock(database, dialect, plan)
  const sessionOptions: SessionOptions = { name, statementTimeout: options.timeout }
  const begin = direction === "up" ? history.mark(migration, true) : history.markDown(migration)

  const apply = Effect.gen(function*() {
    if (!isDue(task, yield* run.readStatus)) {
      return isOutcomeUnknown
    }
    yield* reportStart(run, task, migration)
    onStart()
    yield* begin
    const restoreSettings = yield* dialect.saveSettings(sql)
    const transaction = (yield* Session) as Transaction
    yield* Effect.onExit(limit(run, name, task.script), () =>
      Effect.sync(() => {
        aborted = abortedBy(transaction)
        // It may have created triggers and views, whose effects on a connection the text of a statement does not show.
        transaction.connection?.markDirty()
      }))
    if (aborted !== undefined) {
      return yield* Effect.fail(aborted.error)
    }
    // The record would wait for a nested session that is still open, possibly without end.
    if (transaction.hasOpenChildren) {
      return yield* Effect.fail(nestedStillOpen(transaction))
    }
    if (options.rebuild === true && dialect.foreignKeys !== undefined) {
      yield* dialect.foreignKeys.check(sql)
    }
    yield* restoreSettings
    yield* direction === "up" ? history.record(resolved) : history.unmark(migration.id)
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
    if (rows.some(({ id }) => id === migration.id) === (direction === "down")) {
      yield* begin
    }
  })
  // A ROLLBACK has removed the marker, and what the same text did after it may be committed.
  const restoreMarker = Effect.suspend(() =>
    aborted?.isEnded === true
      ? Effect.ignore(locked({ name: `mark ${label(migration)} as unfinished` }, markAgain, (error) => error))
      : Effect.void
  )
  const session = locked(sessionOptions, Effect.provide(apply, services), onFailure)
  const attempt = Effect.tapError(
    options.rebuild === true
      ? Effect.catchIf(withoutForeignKeys(run, session), isDatabaseError, (error) => Effect.fail(onFailure(error)))
      : session,
    () => restoreMarker
  )
  // The lock is free once that transaction has ended, and the history then shows whether it was committed.
  return Effect.catchIf(attempt, hasUnknownOutcome, (error) => {
    isOutcomeUnknown = true
    return Effect.catchIf(attempt, isDatabaseError, () => Effect.fail(error))
  })
}

const leftTransactionOpen = (migration: Migration, { dialect }: Database.Service): DatabaseError =>
  makeError("TransactionAborted", {
    dialect,
    code: "25P02",
    reason: `migration ${label(migration)} has begun a transaction and not ended it, so it was rolled back`
  })

/** Applies a migration without a transaction. False if that was not necessary any more. */
const withoutTransaction = (
  run: Run,
  task: Task,
  migration: Migration,
  onStart: () => void
): Effect.Effect<boolean, DatabaseError | MigrationError> => {
  const { database, dialect, history, plan, services } = run
  const { resolved, script } = task
  const { sql } = database
  const name = `migrate ${label(migration)}`
  const record = <E>(effect: Effect.Effect<void, E>) => database.session(effect, { name, propagation: "new" })
  const { timeout } = script.options
  const onReserved = Effect.gen(function*() {
    const reserved = (yield* sql.reserve) as Reserved
    yield* Effect.addFinalizer(() => Effect.sync(() => reserved.connection.markDirty()))
    yield* Effect.zipRight(
      timeout === undefined ? Effect.void : dialect.setStatementTimeout(sql, reserved.connection, timeout),
      // There is no session around it.
      limit(run, name, script) as Effect.Effect<unknown, unknown, Exclude<Services, Session>>
    ).pipe(Effect.provideService(SqlClient.TransactionConnection, [reserved, -1]))
    if (reserved.hasTransaction) {
      yield* leftTransactionOpen(migration, database)
    }
  })
  const execute = Effect.catchAllCause(Effect.scoped(onReserved), (cause) => {
    const error = Cause.squash(cause)
    const consequence = `it runs without a transaction, so ${repair(migration, plan.table)}`
    return Cause.isInterruptedOnly(cause)
      ? Effect.failCause(cause as Cause.Cause<never>)
      : error instanceof MigrationError
      ? failed(migration, error.cause, consequence, error.message)
      : failed(migration, error, consequence)
  })
  return Effect.scoped(Effect.gen(function*() {
    yield* holdLock(database, dialect, plan, name)
    if (!isDue(task, yield* typed(run.readStatus))) {
      return false
    }
    yield* reportStart(run, task, migration)
    onStart()
    yield* record(history.mark(migration, false))
    yield* Effect.provide(execute, services)
    yield* record(history.record(resolved))
    return true
  }))
}

/** Applies a migration, or takes it back. False if that was not necessary any more. */
export const perform = (run: Run, task: Task): Effect.Effect<boolean, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const { progress } = run.plan
    const clock = yield* Effect.clock
    const migration = migrationOf(task.resolved)
    let started = clock.unsafeCurrentTimeMillis()
    const onStart = () => {
      started = clock.unsafeCurrentTimeMillis()
    }
    const duration = () => Duration.millis(clock.unsafeCurrentTimeMillis() - started)
    const performOne = isTransactional(task) ? inTransaction : withoutTransaction
    const isPerformed = yield* performOne(run, task, migration, onStart).pipe(
      Effect.tapErrorTag(
        "MigrationError",
        (error) =>
          error.kind === "failed" ? progress({ _tag: "Failed", migration, duration: duration(), error }) : Effect.void
      )
    )
    if (isPerformed) {
      yield* progress({ _tag: task.direction === "up" ? "Applied" : "TakenBack", migration, duration: duration() })
    }
    return isPerformed
  })
