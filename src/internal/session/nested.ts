/**
 * A session nested in another one of the same database: a savepoint.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Session } from "../../Session.js"
import type { Connection } from "../driver.js"
import { currentFiber, isInterrupted } from "../fiber.js"
import { databaseErrorOf } from "../telemetry/errorType.js"
import { bounded, boundedAfterInterrupt } from "../watchdog.js"
import { commitOrRollback } from "./commit.js"
import { runInside } from "./context.js"
import { type Fail, failDefect } from "./errors.js"
import { type HandleSource, type OpenHandle, rollback as rollbackHandle } from "./handle.js"
import { interruptedBy, type Interruptibility } from "./interruptibility.js"
import { recordId, withSessionSpan } from "./span.js"
import { applyTimeout, type Timeout } from "./timeout.js"
import type { Enclosing, Transaction, TransactionOptions } from "./transaction.js"

export interface Nesting {
  readonly options: Options
  readonly parent: Transaction
  /** The session or reserved connection, of any database, that encloses it in the program. */
  readonly enclosing: Enclosing
}

interface Savepoint {
  readonly transaction: Transaction
  readonly parent: Transaction
  /** Undefined until the first statement has set it. */
  name: string | undefined
  /** The connection on which it is being set right now. */
  settingOn: Connection | undefined
}

/** Makes the nested transaction, which sets its savepoint with its first statement. Needs the parent's connection lock. */
const makeSavepoint = ({ enclosing, options, parent }: Nesting): Savepoint => {
  const parentConnection = Effect.uninterruptibleMask((restore) => parent.beginConnection(restore))
  const begin: TransactionOptions["begin"] = (transaction, restore) =>
    Effect.flatMap(
      restore(
        parent.connection === undefined ? transaction.untilEnd(parentConnection) : parentConnection
      ),
      (connection) => {
        // The session may have ended while this statement, of another fiber, was waiting.
        const ended = transaction.endReason()
        if (ended !== undefined) {
          return Effect.fail(ended)
        }
        const name = parent.nextSavepoint()
        savepoint.settingOn = connection
        return Effect.ensuring(
          Effect.map(restore(Effect.suspend(() => connection.savepoint(name))), () => {
            savepoint.name = name
            transaction.connection = connection
            return connection
          }),
          Effect.sync(() => {
            savepoint.settingOn = undefined
          })
        )
      }
    )
  const savepoint: Savepoint = {
    transaction: parent.child(options, enclosing, begin),
    parent,
    name: undefined,
    settingOn: undefined
  }
  return savepoint
}

/** Whether a rollback failed because no transaction was open any more, so that there was nothing to roll back. */
const isTransactionOver = ({ cause }: Exit.Failure<void, DatabaseError>): boolean =>
  Option.exists(Cause.failureOption(cause), ({ _tag }) => _tag === "TransactionAborted")

/** Whether the end must take effect promptly: the session was interrupted, or its timeout has expired. */
const isUrgent = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isInterrupted(exit) || databaseErrorOf(exit)?._tag === "SessionTimeout"

/**
 * Releases a savepoint or rolls back to it. Sends nothing if it was never set, or if the parent has ended, since
 * another borrower may have the connection then. Must be run uninterruptibly.
 */
const end = <A, E>(
  savepoint: Savepoint,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  interruptibility: Interruptibility
): Effect.Effect<Exit.Exit<A, E>> => {
  const { parent, transaction } = savepoint
  /** Waits for a fiber that outlives the session and is setting the savepoint right now. */
  const settled = Effect.suspend(() =>
    savepoint.settingOn === undefined ? Effect.void : bounded(savepoint.settingOn, transaction.beginSettled)
  )
  /** Gives `orElse` if there is no savepoint. */
  const onSavepoint = <B>(
    f: (connection: Connection, name: string) => Effect.Effect<B>,
    orElse: B
  ): Effect.Effect<B> =>
    Effect.suspend(() => {
      const { connection } = transaction
      return connection === undefined || savepoint.name === undefined
        ? Effect.succeed(orElse)
        : f(connection, savepoint.name)
    })
  const rollbackToSavepoint = onSavepoint(
    (connection, name) => {
      const rollback = Effect.suspend(() => connection.rollbackToSavepoint(name))
      // A session that continues after a failure does not lose its connection because the network is slow.
      const result = isUrgent(exit)
        ? bounded(connection, rollback)
        : boundedAfterInterrupt(connection, rollback, interruptibility, transaction)
      return Effect.map(result, (result) => {
        if (Exit.isFailure(result) && !isTransactionOver(result)) {
          connection.destroy()
        }
      })
    },
    undefined
  )
  const rollback = (exit: Exit.Exit<A, E>): Effect.Effect<Exit.Exit<A, E>> => {
    const refusal = parent.refusal()
    return Effect.map(refusal === undefined ? rollbackToSavepoint : Effect.void, () => {
      parent.outermost.nestedRollbackHooks.push(...transaction.rollbackHooks)
      return refusal === undefined || Exit.isFailure(exit) ? exit : Exit.fail(fail(refusal))
    })
  }
  const release = onSavepoint(
    (connection, name) =>
      boundedAfterInterrupt(
        connection,
        Effect.suspend(() => connection.releaseSavepoint(name)),
        interruptibility
      ),
    Exit.void
  )
  const commit = (): Effect.Effect<Exit.Exit<A, E>> =>
    savepoint.name === undefined && transaction.beginError?._tag === "TransactionAborted"
      // The surrounding transaction was aborted, so that a statement has failed here, even if that was caught.
      ? rollback(Exit.fail(fail(transaction.beginError)))
      : parent.refusal() === undefined
      ? Effect.flatMap(release, (result) => {
        if (Exit.isFailure(result)) {
          return rollback(Exit.failCause(Cause.map(result.cause, fail)))
        }
        parent.adoptHooks(transaction)
        return Effect.succeed(exit)
      })
      : rollback(exit)
  return commitOrRollback(
    transaction,
    exit,
    fail,
    () => Effect.flatMap(settled, commit),
    (exit) => Effect.flatMap(settled, () => rollback(exit))
  )
}

interface NestedOptions<A, E, E2> extends Nesting {
  readonly timeout: Timeout<A, E>
  readonly fail: Fail<E2>
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly interruptibility: Interruptibility
}

/** Runs an effect in a savepoint. */
export const nested = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  nestedOptions: NestedOptions<A, E | E2, E2>
): Effect.Effect<A, E | E2, Exclude<R, Session>> => {
  const { fail, interruptibility, options, parent, spanAttributes, timeout } = nestedOptions
  const { connectionLock } = parent
  const run = (span: Tracer.Span | undefined) =>
    Effect.suspend(() => {
      // The parent may have ended while this waited for its lock.
      const refusal = parent.refusal()
      if (refusal !== undefined) {
        return Effect.fail(fail(refusal))
      }
      const savepoint = makeSavepoint(nestedOptions)
      const { transaction } = savepoint
      transaction.fiber = interruptedBy(interruptibility, options)
      recordId(span, transaction.id)
      return runInside(interruptibility.restore, effect, transaction, span, (exit) => {
        const result = applyTimeout<A, E | E2>(failDefect(exit, fail), timeout)
        return Effect.flatMap(end(savepoint, result, fail, interruptibility), (exit) => {
          timeout.exit = exit
          if (Exit.isSuccess(exit) && interruptibility.isInterruptible && isInterrupted(currentFiber())) {
            // The savepoint was released, but the caller sees an interruption.
            parent.statementInterrupted()
          }
          return exit
        })
      })
    })
  return Effect.uninterruptible(
    Effect.flatMap(
      connectionLock.acquire(interruptibility.restore),
      () => Effect.ensuring(withSessionSpan(options, spanAttributes, run), Effect.sync(() => connectionLock.release()))
    )
  )
}

/** A savepoint as the session of a handle. `fiber` is the fiber that acquires it. */
export const nestedHandle = (nesting: Nesting, fiber: FiberId.FiberId): HandleSource => {
  const { parent } = nesting
  const { connectionLock } = parent
  const release = Effect.sync(() => connectionLock.release())
  return {
    begin: (interruptibility) =>
      Effect.flatMap(connectionLock.acquire(interruptibility.restore), () => {
        const refusal = parent.refusal()
        if (refusal !== undefined) {
          return Effect.zipRight(release, Effect.fail(refusal))
        }
        const savepoint = makeSavepoint(nesting)
        const handle: OpenHandle = {
          transaction: savepoint.transaction,
          target: savepoint.transaction,
          finish: (exit, interruptibility) =>
            Effect.ensuring(end(savepoint, exit, (error) => error, interruptibility), release)
        }
        connectionLock.holder = { fiber, end: rollbackHandle(handle, interruptibility) }
        return Effect.succeed(handle)
      })
  }
}
