import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Failover from "./support/failover.js"
import { cluster } from "./support/postgres.js"
import { newSeed } from "./support/random.js"

// An idle machine needs less than a second for a kill or a switchover, and `silence` and two seconds more for a frozen server.
const limit = 30_000

const faults: ReadonlyArray<{ readonly fault: Failover.Fault; readonly name: string }> = [
  { fault: "kill", name: "killed" },
  { fault: "freeze", name: "frozen" },
  { fault: "switchover", name: "switched over" }
]

describe("a primary that is", () => {
  for (const { fault, name } of faults) {
    it.scopedLive(`${name} loses, doubles and invents nothing, and every worker goes on`, () =>
      Effect.gen(function*() {
        const own = yield* cluster({ synchronous: true, config: { deadlock_timeout: "100ms" } })
        const seed = newSeed()
        const { failOver, finish } = yield* Failover.open(own, {
          seed,
          commits: ["recorded", "verified"],
          workers: 6,
          settings: { silence: "1 second" }
        })
        const { everyWorker, firstSuccess } = yield* failOver(fault)
        const { events, problems, unknown } = yield* finish
        const message = `TEST_SEED=${seed} repeats it`
        assert.deepStrictEqual(problems, [], message)
        assert.strictEqual(unknown("recorded"), 0, message)
        assert.isAbove(events.acknowledged, 10, message)
        assert.isBelow(firstSuccess, limit, message)
        assert.isBelow(everyWorker, limit, message)
      }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger))), 240_000)
  }
})
