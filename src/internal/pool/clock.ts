/**
 * The clock of a pool. It is real time and not Effect's Clock, since a pool watches connections to a server outside of
 * the program: advancing a TestClock by a day must not make it ping its connections for a day.
 */
import * as Effect from "effect/Effect"

/** A timer that is running. */
export interface Scheduled {
  readonly cancel: () => void
  /** Sets whether the process stays alive until the timer has fired. At first it does not. */
  readonly keepAlive: (value: boolean) => void
}

/** Times are in milliseconds. */
export interface PoolClock {
  /** A monotonic time. */
  readonly now: () => number
  /** Calls `f` once after a delay. */
  readonly schedule: (f: () => void, delay: number) => Scheduled
}

/** The longest delay of setTimeout, in milliseconds. */
const maxDelay = 2 ** 31 - 1

export const realClock: PoolClock = {
  now: () => performance.now(),
  schedule: (f, delay) => {
    // Rounded up, since setTimeout drops the fraction.
    const timer = setTimeout(f, Math.min(Math.ceil(delay), maxDelay)).unref()
    return {
      cancel: () => clearTimeout(timer),
      keepAlive: (value) => void (value ? timer.ref() : timer.unref())
    }
  }
}

/** Waits on a pool's clock. Keeps no process alive. */
export const sleep = (clock: PoolClock, millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const { cancel } = clock.schedule(() => resume(Effect.void), millis)
    return Effect.sync(cancel)
  })
