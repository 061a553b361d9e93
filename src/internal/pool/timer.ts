/**
 * The one timer of a pool, set to the earliest time at which something is to be done.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type { Run } from "./background.js"

/** What setTimeout can count to. */
const longestSleep = 2 ** 31 - 1

/** What is due within a microsecond is due: a clock's nanoseconds do not fit a number exactly. */
export const grain = 0.001

/** An alarm that rings once, and must then be set again. Times are in milliseconds. */
export class Alarm {
  private at = Infinity
  private fiber: Fiber.RuntimeFiber<unknown> | undefined = undefined
  /** Which setting is the valid one: a clock may ring just when it is stopped. */
  private setting = 0

  constructor(
    private readonly run: Run,
    private readonly ring: () => void
  ) {}

  /** Rings at a time, unless it will ring before. */
  set(at: number, now: number): void {
    if (at >= this.at) {
      return
    }
    this.stop()
    const setting = this.setting
    this.at = at
    const sleep = Effect.sleep(Duration.millis(Math.min(Math.max(grain, at - now), longestSleep)))
    this.fiber = this.run(Effect.map(sleep, () => {
      if (this.setting === setting) {
        this.fiber = undefined
        this.stop()
        this.ring()
      }
    }))
  }

  stop(): void {
    this.setting++
    this.at = Infinity
    this.fiber?.unsafeInterruptAsFork(FiberId.none)
    this.fiber = undefined
  }
}
