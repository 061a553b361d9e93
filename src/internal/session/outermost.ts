/**
 * An outermost session: it has a connection and a transaction of its own.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Lease, Pool, Restore } from "../../Pool.js"
import type { DefaultOptions, Options, Session } from "../../Session.js"
import { registerMasked } from "../asyncInterrupt.js"
import type { History, Track } from "../cluster/causality.js"
import type { Readers } from "../cluster/readers.js"
import type { Place, Route } from "../cluster/route.js"
import type { BeginOptions, Connection } from "../driver.js"
import type { ActivityTracker } from "../telemetry/activity.js"
import { databaseErrorOf, errorType } from "../telemetry/errorType.js"
import {
  commitOrRollback,
  commitTransaction,
  rollback,
  rollbackTransaction,
  runHooks,
  type SessionEnd
} from "./commit.js"
import { runInside } from "./context.js"
import { type Fail, failDefect } from "./errors.js"
import type { HandleSource } from "./handle.js"
import { interruptedBy, type Interruptibility } from "./interruptibility.js"
import { defaultName, logLevel, logMessage, mayRepeat, sessionLabel } from "./log.js"
import { beginOptions } from "./options.js"
import type { Reserved } from "./reserved.js"
import { type LastLog, lastLogOf, withRetry } from "./retry.js"
import { recordEnd, recordId, withSessionSpan } from "./span.js"
import { refuseStream } from "./statementStream.js"
import { applyTimeout, type Timeout } from "./timeout.js"
import { type Enclosing, Transaction, type TransactionOptions } from "./transaction.js"

/** The dependencies of one database's sessions. Its identity also serves as that of the database. */
export interface Environment {
  readonly dialect: Dialect
  readonly pool: Pool<Connection>
  /** The pool of `readOnly` sessions, if they have one of their own. */
  readonly readers: Pool<Connection> | undefined
  /** The servers of `readOnly` sessions, if there are others than that of the pool. */
  readonly replicas: Readers | undefined
  /** The last commit that the sessions of this process have to see. Undefined without replicas. */
  readonly history: History | undefined
  /** Called after each commit with the option `commit: "recorded"`. Undefined if these leave no records to remove. */
  readonly onRecorded: (() => void) | undefined
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  /** Whether sessions can have settings and a role. */
  readonly supportsSettings: boolean
  readonly tracker: ActivityTracker
}

/** The leases of a database that the sessions and reserved connections around some code hold. */
export const heldLeases = (environment: Environment, innermost: Enclosing): ReadonlyArray<Lease<Connection>> => {
  const leases: Array<Lease<Connection>> = []
  for (let enclosing = innermost; enclosing !== undefined; enclosing = enclosing.enclosing) {
    if (enclosing.database === environment && enclosing.endReason() === undefined) {
      const lease = enclosing instanceof Transaction ? enclosing.outermost.lease : enclosing.lease
      if (lease !== undefined) {
        leases.push(lease)
      }
    }
  }
  return leases
}

/** Takes a connection from a pool. The wait for one fails as soon as the transaction has ended. */
const takeFrom = (
  { environment, pool, restore, transaction }: {
    readonly environment: Environment
    readonly pool: Pool<Connection>
    readonly restore: Restore
    readonly transaction: Transaction
  }
): Effect.Effect<Lease<Connection>, DatabaseError> => {
  const { activity, enclosing } = transaction
  const idle = pool.takeIdle()
  if (idle !== undefined) {
    return Effect.succeed(idle)
  }
  activity.isWaiting = true
  const taken = registerMasked<Lease<Connection>, DatabaseError>(restore, (resume) => {
    let lease: Lease<Connection> | undefined = undefined
    const withdraw = pool.request((exit) => {
      lease = Exit.isSuccess(exit) ? exit.value : undefined
      resume(exit)
    }, heldLeases(environment, enclosing))
    transaction.whenEnded(() => {
      withdraw()
      resume(Effect.suspend(() => Effect.fail(transaction.endReason()!)))
    })
    return Effect.sync(() => {
      withdraw()
      // It was granted after the interruption, so that nothing else returns it.
      lease?.giveBack()
    })
  })
  return Effect.ensuring(
    taken,
    Effect.sync(() => {
      activity.isWaiting = false
    })
  )
}

/** Where a `readOnly` session runs, if it may run on replicas. */
const routeOf = (
  environment: Environment,
  options: Options,
  track: Track | undefined,
  reserved: Reserved | undefined
): Route | undefined =>
  environment.replicas === undefined || options.readOnly !== true || reserved !== undefined
    ? undefined
    : environment.replicas.route(options, track)

/** Whether an effect is a successful Exit, which holds its value. */
const isSucceeded = <A, E>(effect: Effect.Effect<A, E>): effect is Exit.Success<A, E> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

const onPrimary = (lease: Lease<Connection>): Place => ({ lease, required: undefined, isReader: false })

/** Begins a transaction. On a reader nothing is written, so no outcome of a commit is ever looked up. */
const beginOn = (
  { isReader, lease: { connection }, required }: Place,
  options: BeginOptions
): Effect.Effect<void, DatabaseError> =>
  !isReader
    ? connection.begin(options)
    : required === undefined || connection.beginOnReplica === undefined
    ? connection.begin({ ...options, outcome: undefined })
    : connection.beginOnReplica({ ...options, outcome: undefined }, required)

const beginOptionsOf = ({ enclosing, options }: Transaction): BeginOptions =>
  enclosing === undefined ? beginOptions(options) : { ...beginOptions(options), isEnclosed: true }

/** Takes a connection and begins the transaction on it. Called with the first statement. */
const beginWith = (environment: Environment, reserved: Reserved | undefined): TransactionOptions["begin"] => {
  const { pool: writers, readers } = environment
  return (transaction, restore) => {
    const { options, route } = transaction
    const beginAt = (place: Place): Effect.Effect<Connection, DatabaseError> => {
      const { lease } = place
      const { connection } = lease
      const giveBack = (cause: Cause.Cause<DatabaseError>) =>
        Effect.zipRight(Effect.ensuring(rollback(connection), lease.release), Effect.failCause(cause))
      return Effect.matchCauseEffect(
        restore(Effect.suspend(() => beginOn(place, beginOptionsOf(transaction)))),
        {
          onFailure: giveBack,
          onSuccess: () => {
            // The session may have ended while this statement, of another fiber, was waiting.
            const ended = transaction.endReason()
            if (ended !== undefined) {
              return giveBack(Cause.fail(ended))
            }
            transaction.lease = lease
            transaction.connection = connection
            return Effect.succeed(connection)
          }
        }
      )
    }
    if (route !== undefined) {
      return Effect.flatMap(
        route.take(restore, (pool = writers) => takeFrom({ environment, pool, restore, transaction })),
        beginAt
      )
    }
    const taken = reserved !== undefined ? reserved.lend(transaction) : takeFrom({
      environment,
      pool: options.readOnly === true && readers !== undefined ? readers : writers,
      restore,
      transaction
    })
    // An idle connection is taken without a step of the fiber.
    return isSucceeded(taken) ?
      beginAt(onPrimary(taken.value)) :
      Effect.flatMap(taken, (lease) => beginAt(onPrimary(lease)))
  }
}

const makeTransaction = (
  environment: Environment,
  options: Options,
  enclosing: Enclosing,
  reserved: Reserved | undefined,
  defaults: DefaultOptions | undefined,
  track: Track | undefined
): Transaction => {
  const activity = environment.tracker.sessionOpened(options.name ?? defaultName)
  const transaction = new Transaction({
    database: environment,
    dialect: environment.dialect,
    activity,
    options,
    defaults,
    parent: undefined,
    enclosing,
    route: routeOf(environment, options, track, reserved),
    track,
    begin: beginWith(environment, reserved)
  })
  activity.identity = transaction
  return transaction
}

/**
 * Commits or rolls back, gives the connection back, counts and logs the end, runs the hooks, and then `finish` with the
 * exit. With `lastLog` the log entry is stored there instead of written.
 */
const end = <A, E, B, E2>(
  environment: Environment,
  transaction: Transaction,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  interruptibility: Interruptibility,
  finish: (exit: Exit.Exit<A, E>) => Effect.Effect<B, E2>,
  span?: Tracer.Span,
  lastLog?: LastLog
): Effect.Effect<B, E2> => {
  const { activity } = transaction
  activity.endStarted()
  const close = (sessionEnd: SessionEnd<A, E>): Effect.Effect<B, E2> => {
    const { exit, hooks, isCommitted } = sessionEnd
    transaction.lease?.giveBack()
    if (isCommitted && transaction.options.commit === "recorded") {
      environment.onRecorded?.()
    }
    const hooked = hooks.length === 0 ? undefined : runHooks(hooks, transaction, interruptibility)
    const log = recordSession(environment, transaction, sessionEnd)
    if (lastLog !== undefined) {
      lastLog.log = log
    }
    const logged = log === undefined || lastLog !== undefined
      ? hooked
      : hooked === undefined
      ? log
      : Effect.zipRight(log, hooked)
    try {
      recordEnd(span, isCommitted, transaction.connection?.server)
    } catch (defect) {
      // A defect of the tracer does not keep the hooks from running.
      return Effect.zipRight(logged ?? Effect.void, Effect.die(defect))
    }
    return logged === undefined ? finish(exit) : Effect.flatMap(logged, () => finish(exit))
  }
  return Effect.matchCauseEffect(
    commitOrRollback(
      transaction,
      exit,
      fail,
      () => {
        activity.isCommitting = true
        return commitTransaction(transaction, exit, fail, interruptibility)
      },
      (exit) => rollbackTransaction(transaction, exit)
    ),
    {
      onSuccess: close,
      onFailure: (cause) => {
        // A defect of the driver: the connection's state is unknown, so nothing may use it again.
        transaction.connection?.destroy()
        return close({ exit: Exit.failCause(cause), isCommitted: false, hooks: transaction.nestedRollbackHooks })
      }
    }
  )
}

/** Counts a session that has ended. Returns the effect that logs it, unless it has committed. */
const recordSession = (
  { tracker }: Environment,
  { activity, options }: Transaction,
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
  const isInterruptedRead = options.readOnly === true && Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
  if (isInterruptedRead) {
    tracker.readInterrupted(age)
  } else {
    tracker.rolledBack(age, type)
  }
  if (error !== undefined) {
    tracker.failed(error, activity, error.statement)
  }
  const level = logLevel(exit, error)
  const message = isInterruptedRead
    ? [`${sessionLabel(name)} was interrupted after it had only read`]
    : logMessage(name, exit, type, error)
  const line = Effect.annotateLogs(
    Effect.logWithLevel(level, ...message),
    { session: name, sessionId: id, durationMillis: Math.round(age * 1_000) }
  )
  return error !== undefined && mayRepeat(level)
    ? tracker.repeatedLogs.limit(`${name} ${type} ${error.code} ${error.statement}`, level, String(message[0]), line)
    : line
}

interface OutermostOptions<A, E, E2> {
  readonly environment: Environment
  readonly options: Options
  /** The defaults that were merged into the options. */
  readonly defaults: DefaultOptions | undefined
  /** What encloses it in the program: a session of another database, or any if it is `new`, or a reserved connection. */
  readonly enclosing: Enclosing
  /** The connection to use instead of one from the pool. */
  readonly reserved: Reserved | undefined
  /** The commits that it has to see, and the histories that record its own. */
  readonly track: Track | undefined
  readonly timeout: Timeout<A, E>
  readonly fail: Fail<E2>
  readonly interruptibility: Interruptibility
}

/** Runs an effect in a transaction of its own. */
export const outermost = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  { defaults, enclosing, environment, fail, interruptibility, options, reserved, timeout, track }: OutermostOptions<
    A,
    E | E2,
    E2
  >
): Effect.Effect<A, E | E2, Exclude<R, Session>> => {
  const lastLog = lastLogOf(options)
  const attempt: Effect.Effect<A, E | E2, Exclude<R, Session>> = Effect.uninterruptible(
    withSessionSpan(options, environment.spanAttributes, (span) => {
      const transaction = makeTransaction(environment, options, enclosing, reserved, defaults, track)
      transaction.fiber = interruptedBy(interruptibility, options)
      return runInside(
        interruptibility.restore,
        // Inside of the session, which ends also if the tracer throws.
        span === undefined ? effect : Effect.zipRight(Effect.sync(() => recordId(span, transaction.id)), effect),
        transaction,
        span,
        (exit) => {
          const result = applyTimeout<A, E | E2>(refuseStream(failDefect(exit, fail), transaction, fail), timeout)
          const finish = (exit: Exit.Exit<A, E | E2>) => {
            timeout.exit = exit
            return exit
          }
          return end(environment, transaction, result, fail, interruptibility, finish, span, lastLog)
        }
      )
    })
  )
  return lastLog === undefined ? attempt : withRetry(attempt, options, timeout, environment.tracker, lastLog)
}

/** An outermost session as the session of a handle. */
export const outermostHandle = (
  environment: Environment,
  options: Options,
  enclosing: Enclosing,
  reserved: Reserved | undefined,
  defaults: DefaultOptions | undefined,
  track: Track | undefined
): HandleSource => ({
  begin: (_, span) =>
    Effect.sync(() => {
      const transaction = makeTransaction(environment, options, enclosing, reserved, defaults, track)
      return {
        transaction,
        target: transaction,
        finish: (exit, interruptibility) =>
          end(environment, transaction, exit, (error) => error, interruptibility, Effect.succeed, span)
      }
    })
})
