/**
 * A session that ends with a scope: the handle of `acquireSession`, which is committed explicitly, or that of a stream.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import type * as Scope from "effect/Scope"
import type * as Tracer from "effect/Tracer"
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
  /** Must be run uninterruptibly. The session's end is recorded in the span, if there is one. */
  readonly begin: (
    interruptibility: Interruptibility,
    span: Tracer.Span | undefined
  ) => Effect.Effect<OpenHandle, DatabaseError>
}

/** Ends a handle. If it has ended before, fails with the reason of that end. Must be run uninterruptibly. */
export const end = (
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

export interface OpenOptions {
  readonly source: () => HandleSource
  readonly options: Options
  readonly caller: Interruptibility
  readonly dialect: Dialect
  readonly span?: Tracer.Span | undefined
}

/** Begins within the session's timeout. Must be run uninterruptibly. */
const beginWithinTimeout = (
  { caller, dialect, options, source, span }: OpenOptions
): Effect.Effect<OpenHandle, DatabaseError> => {
  const interruptibility = options.timeout === undefined ? caller : interruptible
  let handle: OpenHandle | undefined = undefined
  const beginning = Effect.tap(
    Effect.suspend(() => source().begin(interruptibility, span)),
    (opened) =>
      Effect.sync(() => {
        handle = opened
      })
  )
  return caller.restore(
    withTimeout(() => Effect.uninterruptible(beginning), options.timeout, () => timedOut(options, dialect))
  ).pipe(
    Effect.catchAllCause((cause) =>
      handle === undefined
        ? Effect.failCause(cause)
        // The interruption arrived after the session had begun.
        : Effect.zipRight(rollback(handle, caller, Exit.failCause(cause)), Exit.failCause(cause))
    )
  )
}

/**
 * Begins a session. Runs `onExpired` when its timeout has expired, and `onClose` when its scope closes. Must be run
 * uninterruptibly.
 */
export const openHandle = (
  openOptions: OpenOptions,
  onExpired: (handle: OpenHandle, error: DatabaseError) => Effect.Effect<void>,
  onClose: (handle: OpenHandle, exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
): Effect.Effect<OpenHandle, DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const { dialect, options } = openOptions
    const clock = yield* Effect.clock
    const startedAt = clock.unsafeCurrentTimeMillis()
    const handle = yield* beginWithinTimeout(openOptions)
    yield* Effect.addFinalizer((exit) => onClose(handle, exit))
    if (options.timeout !== undefined) {
      const expire = Effect.suspend(() => onExpired(handle, timedOut(options, dialect)))
      const elapsed = Duration.millis(clock.unsafeCurrentTimeMillis() - startedAt)
      const remaining = Duration.subtract(options.timeout, elapsed)
      yield* Effect.forkScoped(Effect.interruptible(Effect.zipRight(Effect.sleep(remaining), expire)))
    }
    return handle
  })

/** Begins a session, which is open until it is committed or rolled back, its timeout expires or its scope closes. */
export const makeHandle = (openOptions: OpenOptions): Effect.Effect<Handle, DatabaseError, Scope.Scope> =>
  Effect.uninterruptible(Effect.gen(function*() {
    const { caller } = openOptions
    const handle = yield* openHandle(
      openOptions,
      (handle, error) => rollback(handle, caller, Exit.fail(error)),
      (handle, exit) =>
        Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
          ? Effect.asVoid(Effect.exit(rollback(handle, caller, Exit.interrupt(FiberId.none))))
          : rollback(handle, caller)
    )
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

/**
 * A handle that joins the session around it, which cannot commit until the handle has ended. With `undoesSurrounding`,
 * a rollback of the handle makes that session roll back too.
 */
export const joinedHandle = (
  options: Options,
  surrounding: Transaction,
  enclosing: Enclosing,
  undoesSurrounding: boolean
): HandleSource => ({
  begin: () =>
    Effect.sync(() => {
      const transaction = surrounding.child(options, enclosing, (_, restore) => surrounding.beginConnection(restore))
      surrounding.openJoined++
      return {
        transaction,
        target: surrounding,
        finish: (exit) =>
          Effect.sync(() => {
            surrounding.openJoined--
            if (transaction.isRollbackOnly) {
              if (undoesSurrounding) {
                surrounding.rollbackOnly()
              }
              return exit
            }
            const refusal = surrounding.refusal()
            return refusal === undefined ? exit : Exit.fail(refusal)
          })
      }
    })
})
