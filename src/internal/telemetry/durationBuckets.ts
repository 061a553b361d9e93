/**
 * The buckets that durations are counted in, and the quantiles that are read from them.
 */

/**
 * The upper bounds of the buckets grow exponentially, as in OpenTelemetry's exponential histograms. A quantile is read as
 * the middle of a bucket, so a growth of 10 % limits its error to 5 %.
 */
const growth = 1.1
/** The upper bound of the first bucket, in seconds. */
const minSeconds = 1e-6

/** They reach to about three minutes. Longer durations count in the last bucket. */
export const bucketCount = 200

export const bucketOf = (seconds: number): number =>
  seconds <= minSeconds ? 0 : Math.min(bucketCount - 1, Math.ceil(Math.log(seconds / minSeconds) / Math.log(growth)))

/** The middle of a bucket. */
const secondsOf = (bucket: number): number => bucket === 0 ? 0 : minSeconds * growth ** (bucket - 0.5)

/** The duration that a share of `count` durations do not exceed, in seconds. Zero if there are none. */
export const quantileOf = (buckets: Uint32Array, count: number, share: number): number => {
  let remaining = Math.ceil(count * share)
  let bucket = 0
  while (remaining > buckets[bucket]) {
    remaining -= buckets[bucket++]
  }
  return secondsOf(bucket)
}
