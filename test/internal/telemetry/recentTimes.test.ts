import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { RecentTimes } from "../../../src/internal/telemetry/recentTimes.js"

const none = { count: 0, p50: 0, p95: 0, p99: 0 }

/** Of the times themselves, by their ranks. */
const exact = (seconds: ReadonlyArray<number>, share: number): number =>
  seconds.toSorted((one, other) => one - other)[Math.ceil(seconds.length * share) - 1]

describe("RecentTimes", () => {
  it("has nothing to say of nothing", () => {
    assert.deepStrictEqual(new RecentTimes().quantiles(0), none)
  })

  it("is at most 5 % wrong, from a microsecond to minutes", () => {
    const seconds = FastCheck.double({ min: Math.log(1.1e-6), max: Math.log(150), noNaN: true }).map(Math.exp)
    FastCheck.assert(
      FastCheck.property(FastCheck.array(seconds, { minLength: 1, maxLength: 300 }), (all) => {
        const times = new RecentTimes()
        all.forEach((one) => times.record(one, 1_000))
        const { count, p50, p95, p99 } = times.quantiles(1_000)
        assert.strictEqual(count, all.length)
        for (const [found, share] of [[p50, 0.5], [p95, 0.95], [p99, 0.99]]) {
          assert.approximately(found / exact(all, share), 1, 0.05)
        }
      })
    )
  })

  it("counts what took no time as zero, and what took hours as minutes", () => {
    const times = new RecentTimes()
    times.record(0, 0)
    assert.deepStrictEqual(times.quantiles(0), { ...none, count: 1 })
    times.record(7_200, 0)
    const { count, p99 } = times.quantiles(0)
    assert.strictEqual(count, 2)
    assert.isAbove(p99, 120)
    assert.isBelow(p99, 240)
  })

  it("forgets after a minute, ten seconds at a time", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(FastCheck.integer({ min: 0, max: 30_000 }), { minLength: 1, maxLength: 100 }),
        (steps) => {
          const times = new RecentTimes()
          const recorded: Array<number> = []
          let now = 5_000_000
          for (const step of steps) {
            now += step
            times.record(0.5, now)
            recorded.push(now)
            const oldest = Math.floor(now / 10_000) * 10_000 - 50_000
            assert.strictEqual(times.quantiles(now).count, recorded.filter((at) => at >= oldest).length)
          }
          assert.deepStrictEqual(times.quantiles(now + 60_000), none)
        }
      )
    )
  })
})
