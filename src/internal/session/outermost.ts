/**
 * An outermost session: it has a connection and a transaction of its own.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Lease, Pool } from "../../Pool.js"
import type { Options, Session } from "../../Session.js"
import type { Connection } from "../driver.js"
import type { ActivityTracker, SessionActivity } from "../telemetry/activity.js"
import { databaseErrorOf, errorType } from "../telemetry/errorType.js"
import {
  commitOrRollback,
  commitTransaction,
  noHooks,
  rollback,
  rollbackTransaction,
  runHooks,
  type SessionEnd
} from "./commit.js"
import { runInside } from "./context.js"
import { type Fail, timedOut } from "./errors.js"
import type { HandleSource } from "./handle.js"
import type { Interruptibility } from "./interruptibility.js"
import { defaultName, logLevel, logMessage } from "./log.js"
import { beginOptions } from "./options.js"
import { withRetry } from "./retry.js"
import { recordEnd, withSessionSpan } from "./span.js"
import { applyTimeout, type Timeout } from "./timeout.js"
import { Transaction } from "./transaction.js"

/** The dependencies of one database's sessions. Its identity also serves as that of the database. */
export interface Environment {
  readonly dialect: Dialect
  readonly pool: Pool<Connection>
  /** The pool of `readOnly` sessions, if they have one of their own. */
  readonly readers: Pool<Connection> | undefined
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly tracker: ActivityTracker
}

/** The leases of a database that a session and those that enclose it hold. */
export const heldLeases = (
  environment: Environment,
  innermost: Transaction | undefined
): ReadonlyArray<Lease<Connection>> => {
  const leases: Array<Lease<Connection>> = []
  for (let transaction = innermost; transaction !== undefined; transaction = transaction.enclosing) {
    if (transaction.database === environment && transaction.refusal() === undefined) {
      leases.push(transaction.lease)
    }
  }
  return leases
}

const trackSession = ({ tracker }: Environment, { name = defaultName }: Options): SessionActivity =>
  tracker.sessionOpened(name)

/** Takes a connection and begins a transaction on it. Must be run uninterruptibly, by the fiber that calls this. */
const begin = (
  environment: Environment,
  { restore }: Interruptibility,
  options: Options,
  enclosing: Transaction | undefined,
  activity: SessionActivity
): Effect.Effect<Transaction, DatabaseError> => {
  const { dialect, readers } = environment
  const pool = options.readOnly === true && readers !== undefined ? readers : environment.pool
  const beginOn = (lease: Lease<Connection>) =>
    Effect.matchCauseEffect(restore(Effect.suspend(() => lease.connection.begin(beginOptions(options)))), {
      onFailure: (cause) =>
        Effect.zipRight(
          Effect.zipRight(rollback(lease.connection), lease.release),
          Effect.failCause(cause)
        ),
      onSuccess: () => {
        const transaction = new Transaction(environment, dialect, lease, activity, options, undefined, enclosing)
        activity.identity = transaction
        return Effect.succeed(transaction)
      }
    })
  const lease = pool.takeIdle()
  return lease === undefined
    ? Effect.flatMap(pool.take(restore, heldLeases(environment, enclosing)), beginOn)
    : beginOn(lease)
}

/** Commits or rolls back, gives the connection back, counts and logs the end, and runs the hooks. */
const end = <A, E>(
  environment: Environment,
  transaction: Transaction,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  interruptibility: Interruptibility,
  span?: Tracer.Span
): Effect.Effect<SessionEnd<A, E>> => {
  const { activity, connection, lease } = transaction
  activity.endStarted()
  const close = (sessionEnd: SessionEnd<A, E>): Effect.Effect<SessionEnd<A, E>> => {
    lease.giveBack()
    const hooked = sessionEnd.hooks.length === 0
      ? Effect.succeed(sessionEnd)
      : Effect.as(runHooks(sessionEnd.hooks, interruptibility), sessionEnd)
    const log = recordSession(environment, activity, sessionEnd)
    const logged = log === undefined ? hooked : Effect.zipRight(log, hooked)
    return span === undefined ? logged : Effect.zipRight(
      Effect.ensuring(Effect.sync(() => recordEnd(span, sessionEnd.isCommitted)), logged),
      Effect.succeed(sessionEnd)
    )
  }
  return Effect.matchCauseEffect(
    commitOrRollback(
      transaction,
      exit,
      fail,
      () => commitTransaction(transaction, exit, fail, interruptibility),
      (exit) => rollbackTransaction(transaction, exit)
    ),
    {
      onSuccess: close,
      onFailure: (cause) => {
        // A defect of the driver: the connection's state is unknown, so nothing may use it again.
        connection.destroy()
        return close({ exit: Exit.failCause(cause), isCommitted: false, hooks: transaction.nestedRollbackHooks })
      }
    }
  )
}

/** Counts a session that is over. Gives the effect that logs it, unless it has committed. */
const recordSession = (
  { tracker }: Environment,
  activity: SessionActivity,
  { exit, isCommitted }: SessionEnd<unknown, unknown>
): Effect.Effect<void> | undefined => {
  const { age, id = "none", name } = activity
  tracker.sessionClosed(activity)
  if (isCommitted) {
    tracker.committed(age)
    return undefined
  }
  const error = databaseErrorOf(exit)
  const type = errorType(exit, error)
  tracker.rolledBack(age, type)
  return Effect.annotateLogs(
    Effect.logWithLevel(logLevel(exit, error), ...logMessage(name, exit, type, error)),
    { session: name, sessionId: id, durationMillis: Math.round(age * 1_000) }
  )
}

/** Counts and logs a session that did not begin, and fails with its cause. */
const beginFailed = <A, E>(
  environment: Environment,
  cause: Cause.Cause<DatabaseError>,
  activity: SessionActivity,
  fail: Fail<E>
): Effect.Effect<A, E> => {
  const exit: Exit.Exit<A, DatabaseError> = Exit.failCause(cause)
  return Effect.zipRight(
    recordSession(environment, activity, { exit, isCommitted: false, hooks: noHooks }) ?? Effect.void,
    Exit.mapError(exit, fail)
  )
}

interface OutermostOptions<A, E, E2> {
  readonly environment: Environment
  readonly options: Options
  /** The session that encloses it in the program: of another database, or of the same one if it is `new`. */
  readonly enclosing: Transaction | undefined
  readonly timeout: Timeout<A, E>
  readonly fail: Fail<E2>
  readonly interruptibility: Interruptibility
}

/** Runs an effect in a transaction of its own. */
export const outermost = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  { enclosing, environment, fail, interruptibility, options, timeout }: OutermostOptions<A, E | E2, E2>
): Effect.Effect<A, E | E2, Exclude<R, Session>> => {
  const attempt: Effect.Effect<A, E | E2, Exclude<R, Session>> = Effect.uninterruptible(
    withSessionSpan(options, environment.spanAttributes, (span) => {
      const activity = trackSession(environment, options)
      return Effect.matchCauseEffect(begin(environment, interruptibility, options, enclosing, activity), {
        onFailure: (cause): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
          beginFailed(
            environment,
            timeout.expired !== undefined && Cause.isInterrupted(cause)
              ? Cause.fail(timedOut(options, environment.dialect))
              : cause,
            activity,
            fail
          ),
        onSuccess: (transaction) => {
          const traced = span === undefined ? effect : Effect.suspend(() => {
            span.attribute("sqlayer.session.id", transaction.id)
            return effect
          })
          return runInside(
            interruptibility.restore,
            traced,
            transaction,
            span,
            (exit) =>
              Effect.flatMap(
                end<A, E | E2>(environment, transaction, applyTimeout(exit, timeout), fail, interruptibility, span),
                ({ exit }) => {
                  timeout.exit = exit
                  return exit
                }
              )
          )
        }
      })
    })
  )
  return withRetry(attempt, options, timeout, environment.tracker)
}

/** An outermost session as the session of a handle. */
export const outermostHandle = (
  environment: Environment,
  options: Options,
  enclosing: Transaction | undefined
): HandleSource => {
  const activity = trackSession(environment, options)
  const fail: Fail<DatabaseError> = (error) => error
  return {
    begin: (interruptibility) =>
      Effect.map(begin(environment, interruptibility, options, enclosing, activity), (transaction) => ({
        transaction,
        target: transaction,
        finish: (exit, interruptibility) =>
          Effect.map(end(environment, transaction, exit, fail, interruptibility), ({ exit }) => exit)
      })),
    onBeginFailure: (cause) => beginFailed(environment, cause, activity, fail)
  }
}
