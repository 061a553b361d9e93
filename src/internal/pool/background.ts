/**
 * What takes time on a connection. It runs in fibers of the pool's own, so that no interrupted borrower stops it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Restore } from "../../Pool.js"

/** Starts a fiber of the pool. */
export type Run = (effect: Effect.Effect<unknown>) => Fiber.RuntimeFiber<unknown>

/**
 * How long a ping, a reset or a goodbye may take before the connection is destroyed, and how long somebody who waits
 * relies on an attempt to connect, in milliseconds.
 */
export const patience = 2_000

/** A pool's options with their defaults, in milliseconds. */
export const times = <A>(options: Options<A>) => ({
  timeout: Duration.toMillis(options.timeout),
  recycle: Duration.toMillis(options.recycle),
  keepAlive: Duration.toMillis(options.keepAlive ?? "60 seconds"),
  checkAfterIdle: Duration.toMillis(options.checkAfterIdle ?? "1 second"),
  heldThreshold: Duration.toMillis(options.heldThreshold ?? "60 seconds"),
  shutdownTimeout: Duration.toMillis(options.shutdownTimeout ?? "10 seconds")
})

/** Opens a connection. Only what the attempt restores can be interrupted: what comes of it is always told. */
export const connect = <A>(
  run: Run,
  attempt: (restore: Restore) => Effect.Effect<A, DatabaseError>,
  ended: (exit: Exit.Exit<A, DatabaseError>) => void
): Fiber.RuntimeFiber<unknown> =>
  run(Effect.uninterruptibleMask((restore) => Effect.map(Effect.exit(Effect.suspend(() => attempt(restore))), ended)))

/** Pings or resets a connection, and tells whether that went well and in time. */
export const attempt = (
  run: Run,
  work: () => Effect.Effect<void, DatabaseError>,
  ended: (well: boolean) => void
): Fiber.RuntimeFiber<unknown> =>
  run(
    Effect.suspend(work).pipe(
      Effect.timeoutOption(patience),
      Effect.matchCause({ onSuccess: (done) => done._tag === "Some", onFailure: () => false }),
      Effect.map(ended)
    )
  )

/** Says goodbye, and tells when that is over, however it went. */
export const goodbye = (run: Run, work: () => Effect.Effect<void>, ended: () => void): Fiber.RuntimeFiber<unknown> =>
  run(Effect.ensuring(Effect.timeoutOption(Effect.suspend(work), patience), Effect.sync(ended)))
