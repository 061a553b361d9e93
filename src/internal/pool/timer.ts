/**
 * The single timer of a pool, which is set to the earliest time at which the pool has to act.
 */
import type { PoolClock, Scheduled } from "./clock.js"

/**
 * What is due within this many milliseconds counts as due. A double that holds fractional milliseconds does not
 * represent the clock's nanoseconds exactly.
 */
export const resolution = 0.001

/** A one-shot timer: after `onDue` was called it has to be set again. Times are in milliseconds of the clock. */
export class Timer {
  private dueAt = Infinity
  private scheduled: Scheduled | undefined = undefined
  private keepsAlive = false

  constructor(
    private readonly clock: PoolClock,
    private readonly onDue: () => void
  ) {}

  /** Sets the timer to a time. Does nothing if it is set to an earlier time already. */
  set(dueAt: number, now: number): void {
    if (dueAt >= this.dueAt) {
      return
    }
    this.stop()
    this.dueAt = dueAt
    this.scheduled = this.clock.schedule(() => {
      this.stop()
      this.onDue()
    }, Math.max(resolution, dueAt - now))
    this.scheduled.keepAlive(this.keepsAlive)
  }

  /** Sets whether the process stays alive until the timer is due. */
  keepAlive(value: boolean): void {
    if (value !== this.keepsAlive) {
      this.keepsAlive = value
      this.scheduled?.keepAlive(value)
    }
  }

  stop(): void {
    this.dueAt = Infinity
    this.scheduled?.cancel()
    this.scheduled = undefined
  }
}
