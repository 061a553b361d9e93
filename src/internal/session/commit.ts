/**
 * The end of a transaction: COMMIT and how its outcome is found out, and ROLLBACK.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Restore } from "../../Pool.js"
import type { Options } from "../../Session.js"
import type { Connection, TransactionOutcome } from "../driver.js"
import { timeoutOption } from "../raceFirst.js"
import { bounded, boundedAfterInterrupt } from "../watchdog.js"
import { type Fail, hooksTimedOut, lostBeforeCommit, nestedStillOpen, type SessionRef } from "./errors.js"
import type { Interruptibility } from "./interruptibility.js"
import { asHooks } from "./statementStream.js"
import type { Transaction } from "./transaction.js"

type Hooks = ReadonlyArray<Effect.Effect<void>>

/** How a session ended, and the hooks to run once its connection is back in the pool. */
export interface SessionEnd<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly isCommitted: boolean
  readonly hooks: Hooks
}

const noHooks: Hooks = []

const concat = (first: Hooks, second: Hooks): Hooks =>
  first.length + second.length === 0 ? noHooks : [...first, ...second]

/** For how long, and how often, the outcome of a lost commit is looked up: long enough for a server to restart. */
const outcomeTimeout = "5 seconds"
const outcomeInterval = "50 millis"

/** How long a transaction waits for the nested sessions of other fibers before it destroys their connection. */
const nestedTimeout = "500 millis"

/** Rolls back the open transaction, if there is one. If that fails, destroys the connection, and the server does it. */
export const rollback = (connection: Connection): Effect.Effect<void> =>
  Effect.suspend(() => {
    const status = connection.status()
    return status === "active" || status === "aborted"
      ? Effect.map(bounded(connection, Effect.suspend(() => connection.rollback)), (exit) => {
        if (Exit.isFailure(exit)) {
          connection.destroy()
        }
      })
      : Effect.void
  })

/** Rolls back an outermost transaction, and keeps the exit. */
export const rollbackTransaction = <A, E>(
  { connection, nestedRollbackHooks, rollbackHooks }: Transaction,
  exit: Exit.Exit<A, E>
): Effect.Effect<SessionEnd<A, E>> =>
  Effect.map(connection === undefined ? Effect.void : rollback(connection), () => ({
    exit,
    isCommitted: false,
    hooks: concat(nestedRollbackHooks, rollbackHooks)
  }))

/**
 * Commits an outermost transaction; a session without a statement has begun none. If the connection is lost before the
 * reply arrives, the outcome is looked up if the session's option `commit` asks for that. After any other failure this
 * rolls back. Must be run uninterruptibly, by the fiber that calls this.
 */
export const commitTransaction = <A, E>(
  transaction: Transaction,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  interruptibility: Interruptibility
): Effect.Effect<SessionEnd<A, E>> => {
  const { commitHooks, connection, nestedRollbackHooks } = transaction
  const committed: SessionEnd<A, E> = { exit, isCommitted: true, hooks: concat(nestedRollbackHooks, commitHooks) }
  if (connection === undefined) {
    return Effect.succeed(committed)
  }
  return Effect.flatMap(
    boundedAfterInterrupt(connection, commitOf(transaction, connection), interruptibility),
    (result) => {
      if (Exit.isSuccess(result)) {
        return Effect.succeed(committed)
      }
      if (isOutcomeUnknown(result)) {
        transaction.track?.committedAtUnknownPosition()
      }
      const failed: Exit.Exit<A, E> = Exit.failCause(Cause.map(result.cause, fail))
      return isOutcomeUnknown(result)
        ? Effect.flatMap(
          lookUpOutcome(connection, interruptibility.restore),
          (outcome): Effect.Effect<SessionEnd<A, E>> => {
            switch (outcome) {
              case "committed":
                return Effect.succeed(committed)
              case "aborted":
                return rollbackTransaction(transaction, Exit.fail(fail(lostBeforeCommit(transaction))))
              case "unknown":
                return Effect.as(rollback(connection), { exit: failed, isCommitted: false, hooks: nestedRollbackHooks })
            }
          }
        )
        : rollbackTransaction(transaction, failed)
    }
  )
}

/**
 * COMMIT, which also asks for its position if a history has to record it. A read-only session has no position of its
 * own, so it asks only if its route needs one.
 */
const commitOf = (
  { options, route, track }: Transaction,
  connection: Connection
): Effect.Effect<unknown, DatabaseError> => {
  const { commitWithPosition } = connection
  if (
    track === undefined || commitWithPosition === undefined ||
    (options.readOnly === true && route?.asksPosition !== true)
  ) {
    return connection.commit
  }
  return Effect.suspend(() => {
    const record = track.beginRecording()
    return Effect.tap(
      commitWithPosition,
      (position) => Effect.sync(() => position === null || record(position))
    )
  })
}

const isOutcomeUnknown = ({ cause }: Exit.Failure<void, DatabaseError>): boolean =>
  Option.exists(Cause.failureOption(cause), ({ _tag }) => _tag === "CommitOutcomeUnknown")

/**
 * Asks for the outcome until it is known. Gives "unknown" after five seconds, when it is interrupted, and at once after
 * an error that is not retryable.
 */
const lookUpOutcome = (
  { transactionOutcome }: Connection,
  restore: Restore
): Effect.Effect<Exclude<TransactionOutcome, "pending">> =>
  transactionOutcome === undefined ? Effect.succeed("unknown") : transactionOutcome.pipe(
    Effect.catchIf((error) => !isRetryable(error), () => Effect.succeed("unknown" as const)),
    Effect.filterOrFail((outcome) => outcome !== "pending"),
    Effect.retry(Schedule.spaced(outcomeInterval)),
    (lookUp) => timeoutOption(lookUp, outcomeTimeout),
    restore,
    Effect.exit,
    Effect.map(
      Exit.match({
        onFailure: () => "unknown",
        onSuccess: Option.getOrElse((): Exclude<TransactionOutcome, "pending"> => "unknown")
      })
    )
  )

/**
 * Ends a transaction of either level: commits it if its effect succeeded and it is not rollback-only, or rolls it back.
 * It is also rolled back, and fails with TransactionAborted, if a statement was interrupted after it was sent, or if
 * another fiber still runs a session nested in it: what it would commit is not known.
 */
export const commitOrRollback = <A, E, B>(
  transaction: Transaction,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  commit: () => Effect.Effect<B>,
  rollback: (exit: Exit.Exit<A, E>) => Effect.Effect<B>
): Effect.Effect<B> =>
  Effect.suspend(() => {
    transaction.end()
    const { abortReason } = transaction
    const commits = Exit.isSuccess(exit) && !transaction.isRollbackOnly
    if (transaction.hasOpenChildren) {
      return Effect.flatMap(
        awaitNested(transaction),
        () => rollback(commits ? Exit.fail(fail(abortReason ?? nestedStillOpen(transaction))) : exit)
      )
    }
    if (!commits) {
      return rollback(exit)
    }
    return abortReason === undefined ? commit() : rollback(Exit.fail(fail(abortReason)))
  })

/**
 * Waits until the nested sessions have ended, since none may use the connection once another borrower has it. Rolls back
 * one from `acquireSession`, which may never be ended otherwise, and destroys the connection if the others take longer
 * than half a second.
 */
const awaitNested = ({ connection, connectionLock }: Transaction): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* connectionLock.holder?.end ?? Effect.void
    if (connectionLock.isFree) {
      return
    }
    const done = yield* Deferred.make<void>()
    const complete = Deferred.succeed(done, undefined)
    const waiting = yield* Effect.forkDaemon(
      Effect.uninterruptible(Effect.zipRight(
        connectionLock.acquire(Effect.interruptible),
        Effect.zipRight(Effect.sync(() => connectionLock.release()), complete)
      ))
    )
    const timer = yield* Effect.forkDaemon(Effect.interruptible(Effect.delay(
      Effect.zipRight(Effect.sync(() => connection?.destroy()), complete),
      nestedTimeout
    )))
    yield* Deferred.await(done)
    yield* Fiber.interruptFork(waiting)
    yield* Fiber.interruptFork(timer)
  })

/**
 * Runs the hooks in a fiber of their own and waits for it: an interruption ends the wait and not the hooks. The
 * session's timeout, if it has one, also limits the time of the hooks: if they take longer they are interrupted, which
 * is logged, and not waited for.
 */
export const runHooks = (
  hooks: Hooks,
  session: SessionRef & { readonly options: Options },
  { restore }: Interruptibility
): Effect.Effect<unknown> => {
  const { timeout } = session.options
  const all = Effect.forEach(hooks, (hook) => hook, { discard: true })
  const limited = timeout === undefined ? all : Effect.flatMap(
    timeoutOption(Effect.disconnect(all), timeout),
    Option.match({ onNone: () => Effect.logWarning(hooksTimedOut(session, timeout)), onSome: () => Effect.void })
  )
  return Effect.flatMap(
    Effect.forkDaemon(Effect.interruptible(asHooks(limited))),
    (fiber) => Effect.exit(restore(Fiber.await(fiber)))
  )
}
