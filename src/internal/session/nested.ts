/**
 * A session nested in another one of the same database: a savepoint.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Session } from "../../Session.js"
import { commitOrRollback } from "./commit.js"
import { runInside } from "./context.js"
import type { Fail } from "./errors.js"
import { type HandleSource, type OpenHandle, rollback as rollbackHandle } from "./handle.js"
import type { Interruptibility } from "./interruptibility.js"
import { withSessionSpan } from "./span.js"
import { applyTimeout, type Timeout } from "./timeout.js"
import type { Transaction } from "./transaction.js"
import { bounded, boundedAfterInterrupt } from "./watchdog.js"

export interface Nesting {
  readonly options: Options
  readonly parent: Transaction
  /** The session, of any database, that encloses it in the program. */
  readonly enclosing: Transaction | undefined
}

interface Savepoint {
  readonly transaction: Transaction
  readonly parent: Transaction
  readonly name: string
}

/** Sets a savepoint. Must be run uninterruptibly, with the parent's connection lock. */
const begin = (
  { enclosing, options, parent }: Nesting,
  { restore }: Interruptibility
): Effect.Effect<Savepoint, DatabaseError> => {
  const unlessRefused = <A>(effect: () => Effect.Effect<A, DatabaseError>) =>
    Effect.suspend(() => {
      const refusal = parent.refusal()
      return refusal === undefined ? effect() : Effect.fail(refusal)
    })
  return unlessRefused(() => {
    const name = parent.nextSavepoint()
    return Effect.zipRight(
      restore(parent.connection.savepoint(name)),
      // The parent may have ended meanwhile.
      unlessRefused(() => Effect.succeed({ transaction: parent.child(options, enclosing), parent, name }))
    )
  })
}

/** Whether a rollback failed because no transaction was open any more, so that there was nothing to roll back. */
const isTransactionOver = ({ cause }: Exit.Failure<void, DatabaseError>): boolean =>
  Option.exists(Cause.failureOption(cause), ({ _tag }) => _tag === "TransactionAborted")

/**
 * Releases a savepoint or rolls back to it. Sends nothing if the parent has ended, since the connection is not its to use
 * any more. Must be run uninterruptibly.
 */
const end = <A, E>(
  { name, parent, transaction }: Savepoint,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  interruptibility: Interruptibility
): Effect.Effect<Exit.Exit<A, E>> => {
  const { connection } = parent
  const rollbackToSavepoint = Effect.suspend(() =>
    Effect.map(bounded(connection, connection.rollbackToSavepoint(name)), (result) => {
      if (Exit.isFailure(result) && !isTransactionOver(result)) {
        connection.destroy()
      }
    })
  )
  const rollback = (exit: Exit.Exit<A, E>): Effect.Effect<Exit.Exit<A, E>> => {
    const refusal = parent.refusal()
    return Effect.map(refusal === undefined ? rollbackToSavepoint : Effect.void, () => {
      parent.outermost.nestedRollbackHooks.push(...transaction.rollbackHooks)
      return refusal === undefined || Exit.isFailure(exit) ? exit : Exit.fail(fail(refusal))
    })
  }
  const release = Effect.suspend(() => connection.releaseSavepoint(name))
  const commit = (): Effect.Effect<Exit.Exit<A, E>> =>
    parent.refusal() === undefined
      ? Effect.flatMap(boundedAfterInterrupt(connection, release, interruptibility), (result) => {
        if (Exit.isFailure(result)) {
          return rollback(Exit.failCause(Cause.map(result.cause, fail)))
        }
        parent.adoptHooks(transaction)
        return Effect.succeed(exit)
      })
      : rollback(exit)
  return commitOrRollback(transaction, exit, fail, commit, rollback)
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
  const { fail, interruptibility, options, parent: { connectionLock }, spanAttributes, timeout } = nestedOptions
  return Effect.uninterruptible(
    Effect.flatMap(
      connectionLock.acquire(interruptibility.restore),
      () =>
        withSessionSpan(
          options,
          spanAttributes,
          (span) =>
            Effect.flatMap(Effect.mapError(begin(nestedOptions, interruptibility), fail), (savepoint) => {
              const { transaction } = savepoint
              span?.attribute("sqlayer.session.id", transaction.id)
              return runInside(interruptibility.restore, effect, transaction, span, (exit) =>
                Effect.flatMap(
                  end<A, E | E2>(savepoint, applyTimeout(exit, timeout), fail, interruptibility),
                  (exit) => {
                    timeout.exit = exit
                    return exit
                  }
                ))
            })
        ).pipe(Effect.ensuring(Effect.sync(() => connectionLock.release())))
    )
  )
}

/** A savepoint as the session of a handle. `fiber` is the one that acquires it. */
export const nestedHandle = (nesting: Nesting, fiber: FiberId.FiberId): HandleSource => {
  const { connectionLock } = nesting.parent
  const release = Effect.sync(() => connectionLock.release())
  return {
    begin: (interruptibility) =>
      Effect.flatMap(
        connectionLock.acquire(interruptibility.restore),
        () =>
          Effect.matchCauseEffect(begin(nesting, interruptibility), {
            onFailure: (cause) => Effect.zipRight(release, Effect.failCause(cause)),
            onSuccess: (savepoint) => {
              const handle: OpenHandle = {
                transaction: savepoint.transaction,
                target: savepoint.transaction,
                finish: (exit, interruptibility) =>
                  Effect.ensuring(end(savepoint, exit, (error) => error, interruptibility), release)
              }
              connectionLock.holder = { fiber, end: rollbackHandle(handle, interruptibility) }
              return Effect.succeed(handle)
            }
          })
      ),
    onBeginFailure: Effect.failCause
  }
}
