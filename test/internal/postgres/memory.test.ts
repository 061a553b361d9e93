/**
 * What the collector finds at once, and need not keep until it goes through the whole heap.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { GCProfiler } from "node:v8"
import * as Database from "../../../src/Database.js"
import { collect } from "../../support/collect.js"
import { freshDatabase } from "../../support/postgres.js"

const batch = 1_000
const batches = 600

/** How much more of the heap was in use after a collection than before all of them, at most; in megabytes. */
const grownBy = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    const profiler = new GCProfiler()
    collect()
    const { heapUsed } = process.memoryUsage()
    profiler.start()
    yield* effect
    const used = profiler.stop().statistics.map(({ afterGC }) => afterGC.heapStatistics.usedHeapSize)
    assert.isAtLeast(used.length, 2)
    return (Math.max(...used) - heapUsed) / 2 ** 20
  })

describe("rows that were read", () => {
  it.live("are collected as soon as nobody has them, streamed or not", () =>
    Effect.scoped(Effect.gen(function*() {
      const { sql } = yield* Database.make({ url: yield* freshDatabase })
      const text = "SELECT i AS id, i * 7 AS amount, 'the note of row ' || i AS note FROM generate_series(1, $1) i"
      const streamed = Stream.runForEachChunk(sql.unsafe(text, [batch * batches]).stream, () => Effect.void)
      const selected = Effect.repeatN(sql.unsafe(text, [batch]), batches - 1)
      for (const [name, effect] of [["streamed", streamed], ["selected", selected]] as const) {
        yield* effect
        // All of them together are above 60 megabytes.
        assert.isBelow(yield* grownBy(effect), 20, name)
      }
    })), 240_000)
})
