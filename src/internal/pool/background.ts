/**
 * The operations on a connection that take time. They run in fibers that belong to the pool, so that interrupting a
 * borrower does not stop them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Restore } from "../../Pool.js"
import { raceFirst } from "../raceFirst.js"
import { type PoolClock, sleep } from "./clock.js"

/** Starts a fiber that is interrupted when the pool's scope closes. */
export type RunFork = (effect: Effect.Effect<unknown>) => Fiber.RuntimeFiber<unknown>

/**
 * How long a ping, a reset or a close may take before the connection is destroyed, and how long the pool counts on an
 * attempt to connect before it starts another one, in milliseconds.
 */
export const backgroundTimeout = 2_000

/** The durations of a pool's options in milliseconds, with the defaults that Pool.Options documents. */
export const resolveDurations = <A>(options: Options<A>) => ({
  timeout: Duration.toMillis(options.timeout),
  recycle: Duration.toMillis(options.recycle),
  idleTimeout: Duration.toMillis(options.idleTimeout ?? "30 seconds"),
  keepAlive: Duration.toMillis(options.keepAlive ?? "60 seconds"),
  checkAfterIdle: Duration.toMillis(options.checkAfterIdle ?? "1 second"),
  heldThreshold: Duration.toMillis(options.heldThreshold ?? "60 seconds"),
  shutdownTimeout: Duration.toMillis(options.shutdownTimeout ?? "10 seconds")
})

/** Opens a connection. Only the parts that `attempt` restores can be interrupted, so `onEnd` is always called. */
export const connect = <A>(
  runFork: RunFork,
  attempt: (restore: Restore) => Effect.Effect<A, DatabaseError>,
  onEnd: (exit: Exit.Exit<A, DatabaseError>) => void
): Fiber.RuntimeFiber<unknown> =>
  runFork(
    Effect.uninterruptibleMask((restore) => Effect.map(Effect.exit(Effect.suspend(() => attempt(restore))), onEnd))
  )

/** The result of an effect, or none if it takes longer than `backgroundTimeout`; it is interrupted then. */
const withTimeout = <A, E>(clock: PoolClock, effect: Effect.Effect<A, E>): Effect.Effect<Option.Option<A>, E> =>
  raceFirst(Effect.asSome(effect), Effect.as(sleep(clock, backgroundTimeout), Option.none()))

/** Runs a ping or a reset, and reports whether it succeeded within `backgroundTimeout`. */
export const maintain = (
  clock: PoolClock,
  runFork: RunFork,
  operation: () => Effect.Effect<void, DatabaseError>,
  onEnd: (succeeded: boolean) => void
): void => {
  runFork(
    withTimeout(clock, Effect.suspend(operation)).pipe(
      Effect.matchCause({ onSuccess: (result) => result._tag === "Some", onFailure: () => false }),
      Effect.map(onEnd)
    )
  )
}

/** Closes a connection, and calls `onEnd` when that has succeeded, failed or run into `backgroundTimeout`. */
export const close = (
  clock: PoolClock,
  runFork: RunFork,
  operation: () => Effect.Effect<void>,
  onEnd: () => void
): void => {
  runFork(Effect.ensuring(withTimeout(clock, Effect.suspend(operation)), Effect.sync(onEnd)))
}
