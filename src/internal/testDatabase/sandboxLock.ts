/**
 * The lock on the one connection of a sandbox. Savepoints are a stack, so only the innermost one may be used, by one fiber
 * at a time.
 */
import * as Effect from "effect/Effect"
import type { Restore } from "../../Pool.js"
import { FifoLock, type Readiness } from "../fifoLock.js"

export class SandboxLock {
  private readonly lock = new FifoLock()

  /**
   * Runs an effect with the lock once `readiness` is "ready", or `otherwise`, without the lock, once it is "never". The
   * wait can be interrupted. With `isUrgent` it waits in front of all others.
   */
  withLock<A, E>(
    readiness: () => Readiness,
    effect: (restore: Restore) => Effect.Effect<A, E>,
    otherwise: Effect.Effect<A, E>,
    isUrgent = false
  ): Effect.Effect<A, E> {
    const release = Effect.sync(() => this.lock.release())
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        this.lock.acquire(restore, { readiness, isUrgent }),
        (isGranted) => isGranted ? Effect.ensuring(effect(restore), release) : restore(otherwise)
      )
    )
  }
}
