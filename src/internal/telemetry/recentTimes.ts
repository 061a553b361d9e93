/**
 * How long something took in the last minute, kept in a bounded space.
 */
import type { Quantiles } from "../../Telemetry.js"

/** Each bucket reaches a tenth further than the one before, so what is read off is at most 5 % wrong. */
const growth = 1.1
const shortest = 1e-6
/** Up to about three minutes; what takes longer counts as that. */
const buckets = 200

const slots = 6
const slotMillis = 10_000

const bucketOf = (seconds: number): number =>
  seconds <= shortest ? 0 : Math.min(buckets - 1, Math.ceil(Math.log(seconds / shortest) / Math.log(growth)))

/** The middle of a bucket. */
const secondsOf = (bucket: number): number => bucket === 0 ? 0 : shortest * growth ** (bucket - 0.5)

/** A ring of six slots of ten seconds: the oldest is forgotten when a new one begins. */
export class RecentTimes {
  private readonly counts = Array.from({ length: slots }, () => new Uint32Array(buckets))
  private slot = 0

  /** At a time, in milliseconds, that never runs backwards. */
  record(seconds: number, now: number): void {
    this.turn(now)
    this.counts[this.slot % slots][bucketOf(seconds)]++
  }

  quantiles(now: number): Quantiles {
    this.turn(now)
    const sums = new Uint32Array(buckets)
    let count = 0
    for (const slot of this.counts) {
      for (let bucket = 0; bucket < buckets; bucket++) {
        sums[bucket] += slot[bucket]
        count += slot[bucket]
      }
    }
    const quantile = (share: number): number => {
      let left = Math.ceil(count * share)
      let bucket = 0
      while (left > sums[bucket]) {
        left -= sums[bucket++]
      }
      return secondsOf(bucket)
    }
    return { count, p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) }
  }

  private turn(now: number): void {
    const slot = Math.floor(now / slotMillis)
    if (slot === this.slot) {
      return
    }
    for (let passed = Math.max(this.slot + 1, slot - slots + 1); passed <= slot; passed++) {
      this.counts[passed % slots].fill(0)
    }
    this.slot = slot
  }
}
