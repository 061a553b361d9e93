/**
 * Keeps synchronous statements from starving the event loop.
 *
 * A database on the main thread answers each statement synchronously, so a fiber that runs one statement after the other
 * yields to other fibers (Effect's scheduler) but not to timers and sockets.
 */
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scheduler from "effect/Scheduler"
import { setImmediate } from "node:timers"

/** How long statements may block the event loop, in milliseconds. In the worst case it is blocked twice as long. */
const maxBlocked = 10

/** When the event loop was last known to have completed an iteration, or when a probe was started. */
let lastIteration = 0
/** Whether an immediate is scheduled that records the next iteration. */
let probing = false

const recordIteration = () => {
  probing = false
  lastIteration = performance.now()
}

/** Whether the running fiber cannot wait, because it runs in `Effect.runSync`. */
export const runsSynchronously = (): boolean =>
  Option.exists(
    Fiber.getCurrentFiber(),
    ({ currentScheduler }) => currentScheduler instanceof Scheduler.SyncScheduler && !currentScheduler.deferred
  )

/** Whether the event loop has been blocked for so long that the next statement waits for its next iteration. */
export const isBlocked = (): boolean => {
  const now = performance.now()
  if (now - lastIteration < maxBlocked) {
    return false
  }
  if (probing) {
    return !runsSynchronously()
  }
  // The loop was either idle or blocked since the last iteration. The probe shows the next call which of the two it is.
  lastIteration = now
  probing = true
  setImmediate(recordIteration)
  return false
}

/** Runs `f` in the next iteration of the event loop. */
export const onNextIteration = (f: () => void): void => void setImmediate(f)
