/**
 * How a transaction ends, in bounded time and whatever the server does.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Connection } from "../driver.js"
import { currentFiber } from "../pool/leakDetection.js"
import { type Fail, unfinished } from "./errors.js"
import * as Patience from "./watchdog.js"
import type { Interruptibility } from "./interruptibility.js"
import type { Transaction } from "./transaction.js"

/** How long a nested session that is left behind may take before the connection is destroyed. */
const grace = "500 millis"

const patiently = (
  connection: Connection,
  effect: Effect.Effect<void, DatabaseError>,
  fiber: Patience.Wait["fiber"]
): Effect.Effect<Exit.Exit<void, DatabaseError>> =>
  Effect.suspend(() => {
    const wait = Patience.begin(connection, fiber)
    return Effect.matchCause(effect, {
      onSuccess: () => {
        Patience.end(wait)
        return Exit.void
      },
      onFailure: (cause) => {
        Patience.end(wait)
        return Exit.failCause(cause)
      }
    })
  })

/**
 * Commits, or releases a savepoint: once that is asked for, its answer must be known. After an interruption it waits for
 * the answer only a little longer. To be run uninterruptibly, by the fiber that calls it.
 */
export const answered = (
  connection: Connection,
  effect: Effect.Effect<void, DatabaseError>,
  { isInterruptible }: Interruptibility
): Effect.Effect<Exit.Exit<void, DatabaseError>> =>
  isInterruptible ? patiently(connection, effect, currentFiber()) : Effect.exit(effect)

/** Rolls back what is open. A connection that cannot is destroyed: the server then rolls back by itself. */
export const rolledBack = (connection: Connection): Effect.Effect<void> =>
  Effect.suspend(() => {
    const status = connection.status()
    return status === "active" || status === "aborted"
      ? Effect.map(briefly(connection, connection.rollback), (exit) => {
        if (Exit.isFailure(exit)) {
          connection.destroy()
        }
      })
      : Effect.void
  })

/** Runs what must not wait long, where nothing interrupts it. */
export const briefly = (
  connection: Connection,
  effect: Effect.Effect<void, DatabaseError>
): Effect.Effect<Exit.Exit<void, DatabaseError>> => patiently(connection, effect, undefined)

/** What was promised for the end is done although the session is interrupted, which does not wait for it. */
export const runHooks = (hooks: ReadonlyArray<Effect.Effect<void>>, { restore }: Interruptibility): Effect.Effect<unknown> =>
  Effect.flatMap(
    Effect.forkDaemon(Effect.interruptible(Effect.forEach(hooks, (run) => run, { discard: true }))),
    (fiber) => Effect.exit(restore(Fiber.await(fiber)))
  )

/**
 * Ends a session: keeps its work, if that is to be kept and no nested session is left running by some other fiber, or
 * undoes it. One that is left has done half of its work, so nothing may be committed.
 */
export const decided = <A, E, B>(
  unit: Transaction,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  keep: () => Effect.Effect<B>,
  undo: (exit: Exit.Exit<A, E>) => Effect.Effect<B>
): Effect.Effect<B> => {
  const keeps = Exit.isSuccess(exit) && !unit.isRollbackOnly
  unit.end()
  return Effect.suspend(() =>
    unit.isAlone
      ? (keeps ? keep() : undo(exit))
      : Effect.flatMap(settled(unit), () => undo(keeps ? Exit.fail(fail(unfinished(unit, unit.dialect))) : exit))
  )
}

/**
 * Waits until what is nested in a session has ended. It must not use the connection once others have it, so what does not
 * end in time takes the connection with it. A session that was acquired is ended here: nobody else might.
 */
const settled = ({ connection, connectionLock }: Transaction): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* connectionLock.holder?.leave ?? Effect.void
    if (connectionLock.isOpen) {
      return
    }
    const over = yield* Deferred.make<void>()
    const tell = Deferred.succeed(over, undefined)
    const turn = yield* Effect.forkDaemon(
      Effect.uninterruptible(Effect.zipRight(
        connectionLock.hold(Effect.interruptible),
        Effect.zipRight(Effect.sync(() => connectionLock.release()), tell)
      ))
    )
    const timer = yield* Effect.forkDaemon(Effect.interruptible(Effect.delay(
      Effect.zipRight(Effect.sync(() => connection.destroy()), tell),
      grace
    )))
    yield* Deferred.await(over)
    yield* Fiber.interruptFork(turn)
    yield* Fiber.interruptFork(timer)
  })
