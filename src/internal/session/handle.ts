/**
 * The handle of `acquireSession`: a session with an explicit commit, which its scope rolls back.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Handle, Options } from "../../Session.js"
import { databaseErrorOf } from "../telemetry/errorType.js"
import { provide } from "./context.js"
import { timedOut } from "./errors.js"
import { type Interruptibility, interruptibilityOf, interruptible } from "./interruptibility.js"
import { withTimeout } from "./timeout.js"
import type { Enclosing, Transaction } from "./transaction.js"

/** A session that has begun. */
export interface OpenHandle {
  /** The handle's own transaction, which shows whether the handle has ended. */
  readonly transaction: Transaction
  /** The transaction that `run` runs effects in: its own one, or the one that it joined. */
  readonly target: Transaction
  /** Commits or rolls back. Called once, and must be run uninterruptibly. */
  readonly finish: (
    exit: Exit.Exit<void, DatabaseError>,
    interruptibility: Interruptibility
  ) => Effect.Effect<Exit.Exit<void, DatabaseError>>
}

/** How the session of a handle begins: outermost, nested or joined. */
export interface HandleSource {
  /** Must be run uninterruptibly. */
  readonly begin: (interruptibility: Interruptibility) => Effect.Effect<OpenHandle, DatabaseError>
}

/** Ends a handle; of several calls, the first one does. Must be run uninterruptibly. */
const end = (
  { finish, transaction }: OpenHandle,
  exit: Exit.Exit<void, DatabaseError>,
  interruptibility: Interruptibility,
  commits: boolean
): Effect.Effect<void, DatabaseError> =>
  Effect.suspend(() => {
    if (!transaction.end(databaseErrorOf(exit))) {
      return Effect.fail(transaction.endReason()!)
    }
    transaction.isRollbackOnly ||= !commits
    return Effect.flatten(finish(exit, interruptibility))
  })

/** Rolls back a handle, unless it has ended. Its statements fail with the error of `exit` from now on, if it has one. */
export const rollback = (
  handle: OpenHandle,
  interruptibility: Interruptibility,
  exit: Exit.Exit<void, DatabaseError> = Exit.void
): Effect.Effect<void> => Effect.uninterruptible(Effect.ignore(end(handle, exit, interruptibility, false)))

/** Begins within the session's timeout. Must be run uninterruptibly. */
const beginWithinTimeout = (
  { begin }: HandleSource,
  options: Options,
  caller: Interruptibility,
  dialect: Dialect
): Effect.Effect<OpenHandle, DatabaseError> => {
  const interruptibility = options.timeout === undefined ? caller : interruptible
  let handle: OpenHandle | undefined = undefined
  const beginning = Effect.tap(Effect.suspend(() => begin(interruptibility)), (opened) =>
    Effect.sync(() => {
      handle = opened
    }))
  return caller.restore(
    withTimeout(() => Effect.uninterruptible(beginning), options.timeout, () => timedOut(options, dialect))
  ).pipe(
    Effect.catchAllCause((cause) =>
      handle === undefined
        ? Effect.failCause(cause)
        // The interruption arrived when the session had begun.
        : Effect.zipRight(rollback(handle, caller, Exit.failCause(cause)), Exit.failCause(cause))
    )
  )
}

/** Begins a session, which is open until it is committed or rolled back, its timeout expires or its scope closes. */
export const makeHandle = (
  source: () => HandleSource,
  options: Options,
  caller: Interruptibility,
  dialect: Dialect
): Effect.Effect<Handle, DatabaseError, Scope.Scope> =>
  Effect.uninterruptible(Effect.gen(function*() {
    const clock = yield* Effect.clock
    const startedAt = clock.unsafeCurrentTimeMillis()
    const handle = yield* beginWithinTimeout(source(), options, caller, dialect)
    yield* Effect.addFinalizer(() => rollback(handle, caller))
    if (options.timeout !== undefined) {
      const expire = Effect.suspend(() => rollback(handle, caller, Exit.fail(timedOut(options, dialect))))
      const elapsed = Duration.millis(clock.unsafeCurrentTimeMillis() - startedAt)
      const remaining = Duration.subtract(options.timeout, elapsed)
      yield* Effect.forkScoped(Effect.interruptible(Effect.zipRight(Effect.sleep(remaining), expire)))
    }
    const { target, transaction } = handle
    return {
      id: target.id,
      run: (effect) =>
        Effect.suspend(() => provide(effect, transaction.endReason() === undefined ? target : transaction)),
      // The fiber that ends the session may differ in interruptibility from the one that began it.
      commit: Effect.withFiberRuntime((_, { runtimeFlags }) =>
        Effect.uninterruptible(end(handle, Exit.void, interruptibilityOf(runtimeFlags), true))
      ),
      rollback: Effect.withFiberRuntime((_, { runtimeFlags }) => rollback(handle, interruptibilityOf(runtimeFlags)))
    }
  }))

/** A handle that joins the session around it, which cannot commit until the handle has ended. */
export const joinedHandle = (
  options: Options,
  surrounding: Transaction,
  enclosing: Enclosing
): HandleSource => ({
  begin: () =>
    Effect.sync(() => {
      const transaction = surrounding.child(options, enclosing, () => surrounding.beginConnection())
      surrounding.openJoined++
      return {
        transaction,
        target: surrounding,
        finish: (exit) =>
          Effect.sync(() => {
            surrounding.openJoined--
            if (transaction.isRollbackOnly) {
              surrounding.rollbackOnly()
              return exit
            }
            const refusal = surrounding.refusal()
            return refusal === undefined ? exit : Exit.fail(refusal)
          })
      }
    })
})
