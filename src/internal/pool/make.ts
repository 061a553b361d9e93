/**
 * Makes a pool on a clock. `Pool.make` uses real time; the pool's tests control theirs.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Lease, Options, Pool, Restore } from "../../Pool.js"
import type { PoolClock } from "./clock.js"
import { Core } from "./core.js"
import type { Lease as InternalLease } from "./entry.js"

/** See `Pool.make`. */
export const makeWith = <A>(
  options: Options<A>,
  clock: PoolClock
): Effect.Effect<Pool<A>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const runFork = yield* FiberSet.makeRuntime<never, unknown>()
    // Fibers inherit whether they can be interrupted, and the pool may be made in an uninterruptible region.
    const core = new Core(options, clock, (effect) => runFork(Effect.interruptible(effect)))
    const shutdown = Effect.suspend(() => {
      core.shutdown()
      return Deferred.await(core.drained)
    })
    yield* Effect.addFinalizer(() => shutdown)

    const take = (restore: Restore, holding: ReadonlyArray<Lease<A>> = []): Effect.Effect<Lease<A>, DatabaseError> =>
      Effect.suspend(() => {
        const lease = core.takeIdle()
        if (lease !== undefined) {
          return Effect.succeed(lease)
        }
        const waiter = core.enqueue(holding)
        const waiting = Effect.async<InternalLease<A>, DatabaseError>((resume) => {
          if (waiter.exit === undefined) {
            waiter.resume = resume
          } else {
            resume(waiter.exit)
          }
        })
        return waiter.exit ?? Effect.catchAllCause(restore(waiting), (cause) => {
          core.cancel(waiter)
          return Effect.failCause(cause)
        })
      })

    return {
      name: options.name,
      take,
      takeIdle: () => core.takeIdle(),
      request: (onEnd, holding = []) => {
        let hasEnded = false
        const waiter = core.enqueue(holding)
        // In a microtask, so that the statement does not start inside of the call that returned the connection, and an
        // interruption that was requested earlier takes effect first.
        const end = (exit: Exit.Exit<InternalLease<A>, DatabaseError>): void =>
          queueMicrotask(() => {
            if (!hasEnded) {
              hasEnded = true
              onEnd(exit)
            }
          })
        if (waiter.exit === undefined) {
          waiter.resume = end
        } else {
          end(waiter.exit)
        }
        return () => {
          if (!hasEnded) {
            hasEnded = true
            core.cancel(waiter)
          }
        }
      },
      acquire: Effect.uninterruptibleMask((restore) =>
        Effect.tap(take(restore), (lease) => Effect.addFinalizer(() => lease.release)).pipe(
          Effect.map((lease) => lease.connection)
        )
      ),
      warm: Effect.async<void, DatabaseError>((resume) => core.warm(resume)),
      stats: () => core.snapshot(),
      connections: () => core.connections(),
      invalidate: Effect.sync(() => core.invalidate()),
      shutdown
    }
  })
