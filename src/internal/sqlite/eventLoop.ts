/**
 * The event loop, which what answers at once would keep from timers and everybody else: Effect yields to other fibers,
 * but not to the loop for a long time.
 */
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scheduler from "effect/Scheduler"
import { setImmediate } from "node:timers"

/** For how many milliseconds it may stand still, once or twice. */
const patience = 10

/** The loop was seen to turn at this time, or is watched from then on. */
let since = 0
let watched = false

const turned = () => {
  watched = false
  since = performance.now()
}

/** `Effect.runSync` waits for nothing. */
const cannotWait = (): boolean =>
  Option.exists(
    Fiber.getCurrentFiber(),
    ({ currentScheduler }) => currentScheduler instanceof Scheduler.SyncScheduler && !currentScheduler.deferred
  )

/** Whether the loop has not turned for long, so that what comes next has to wait until it has. */
export const standsStill = (): boolean => {
  const now = performance.now()
  if (now - since < patience) {
    return false
  }
  if (watched) {
    return !cannotWait()
  }
  // Nobody asked for as long as that, or it stood still; which of them the next one knows.
  since = now
  watched = true
  setImmediate(turned)
  return false
}

/** Goes on when the loop has turned. */
export const afterTurn = (go: () => void): void => void setImmediate(go)
