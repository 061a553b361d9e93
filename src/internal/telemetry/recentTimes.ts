/**
 * Quantiles of the durations recorded within the last minute, in constant memory.
 */
import type { Quantiles } from "../../Telemetry.js"
import { bucketCount, bucketOf, quantileOf } from "./durationBuckets.js"

const windowCount = 6
const windowMillis = 10_000

/**
 * A ring of six histograms, one for each ten seconds. The oldest is cleared when its place is needed, so that the
 * quantiles cover between 50 and 60 seconds.
 */
export class RecentTimes {
  private readonly histograms = Array.from({ length: windowCount }, () => new Uint32Array(bucketCount))
  /** The number of the current window, counted from time 0. */
  private window = 0

  /** Records a duration. `now` is a monotonic time in milliseconds. */
  record(seconds: number, now: number): void {
    this.advance(now)
    this.histograms[this.window % windowCount][bucketOf(seconds)]++
  }

  quantiles(now: number): Quantiles {
    this.advance(now)
    const sums = new Uint32Array(bucketCount)
    let count = 0
    for (const histogram of this.histograms) {
      for (let bucket = 0; bucket < bucketCount; bucket++) {
        sums[bucket] += histogram[bucket]
        count += histogram[bucket]
      }
    }
    return {
      count,
      p50: quantileOf(sums, count, 0.5),
      p95: quantileOf(sums, count, 0.95),
      p99: quantileOf(sums, count, 0.99)
    }
  }

  /** Clears the histograms of the windows that began since the last call. */
  private advance(now: number): void {
    const current = Math.floor(now / windowMillis)
    if (current === this.window) {
      return
    }
    for (let window = Math.max(this.window + 1, current - windowCount + 1); window <= current; window++) {
      this.histograms[window % windowCount].fill(0)
    }
    this.window = current
  }
}
