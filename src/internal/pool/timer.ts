/**
 * The single timer of a pool, which is set to the earliest time at which the pool has to act.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type { RunFork } from "./background.js"

/** The longest delay of setTimeout, in milliseconds. */
const maxSleep = 2 ** 31 - 1

/**
 * What is due within this many milliseconds counts as due: milliseconds with a fraction, as a double, do not represent the
 * clock's nanoseconds exactly.
 */
export const resolution = 0.001

/** A one-shot timer: after `onDue` was called it has to be set again. Times are in milliseconds. */
export class Timer {
  private dueAt = Infinity
  private fiber: Fiber.RuntimeFiber<unknown> | undefined = undefined
  /** Incremented by each stop, because a sleep may end at the moment at which its fiber is interrupted. */
  private version = 0

  constructor(
    private readonly runFork: RunFork,
    private readonly onDue: () => void
  ) {}

  /** Sets the timer to a time. Does nothing if it is set to an earlier time already. */
  set(dueAt: number, now: number): void {
    if (dueAt >= this.dueAt) {
      return
    }
    this.stop()
    const { version } = this
    this.dueAt = dueAt
    const sleep = Effect.sleep(Duration.millis(Math.min(Math.max(resolution, dueAt - now), maxSleep)))
    this.fiber = this.runFork(Effect.map(sleep, () => {
      if (this.version === version) {
        this.fiber = undefined
        this.stop()
        this.onDue()
      }
    }))
  }

  stop(): void {
    this.version++
    this.dueAt = Infinity
    this.fiber?.unsafeInterruptAsFork(FiberId.none)
    this.fiber = undefined
  }
}
