/**
 * Quantiles of the durations recorded within the last minute, in constant memory.
 */
import type { Quantiles } from "../../Telemetry.js"

/**
 * The upper bounds of the buckets grow exponentially, as in OpenTelemetry's exponential histograms. A quantile is read as
 * the middle of a bucket, so a growth of 10 % limits its error to 5 %.
 */
const growth = 1.1
/** The upper bound of the first bucket, in seconds. */
const minSeconds = 1e-6
/** They reach to about three minutes. Longer durations count in the last bucket. */
const bucketCount = 200

const windowCount = 6
const windowMillis = 10_000

const bucketOf = (seconds: number): number =>
  seconds <= minSeconds ? 0 : Math.min(bucketCount - 1, Math.ceil(Math.log(seconds / minSeconds) / Math.log(growth)))

/** The middle of a bucket. */
const secondsOf = (bucket: number): number => bucket === 0 ? 0 : minSeconds * growth ** (bucket - 0.5)

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
    const quantile = (q: number): number => {
      let remaining = Math.ceil(count * q)
      let bucket = 0
      while (remaining > sums[bucket]) {
        remaining -= sums[bucket++]
      }
      return secondsOf(bucket)
    }
    return { count, p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) }
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
