/** A clock that a test moves. */
import type { PoolClock } from "../../../src/internal/pool/clock.js"

export class ManualClock implements PoolClock {
  private time = 0
  private readonly due = new Map<() => void, number>()

  readonly now = (): number => this.time

  readonly schedule: PoolClock["schedule"] = (f, delay) => {
    const entry = (): void => f()
    this.due.set(entry, this.time + delay)
    return { cancel: () => void this.due.delete(entry), keepAlive: () => undefined }
  }

  /** How many timers are set. */
  get timers(): number {
    return this.due.size
  }

  advance(millis: number): void {
    const until = this.time + millis
    for (;;) {
      const [next] = Array.from(this.due).filter(([, at]) => at <= until).toSorted((a, b) => a[1] - b[1])
      if (next === undefined) {
        this.time = until
        return
      }
      this.due.delete(next[0])
      this.time = next[1]
      next[0]()
    }
  }
}
