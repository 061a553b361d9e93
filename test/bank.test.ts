import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Bank from "./support/bank.js"
import * as BankFile from "./support/bankFile.js"
import { server } from "./support/postgres.js"

describe("the bank", () => {
  it.scopedLive("on PostgreSQL keeps its books while everything goes wrong", () =>
    Effect.gen(function*() {
      const own = yield* server(Bank.serverOptions)
      const { events, faults, maxMillis, problems, recoveries, seed } = yield* Bank.run(own, { millis: 18_000 })
      const message = `TEST_SEED=${seed} repeats it`
      assert.deepStrictEqual(problems, [], message)
      assert.isAbove(events.acknowledged, 10, message)
      assert.isAbove(events.interrupted, 10, message)
      assert.isAbove(Object.keys(faults).length, 8, message)
      // Nothing hangs. An idle machine needs two seconds for the recovery, and much less than one for the others.
      for (const millis of [...recoveries, maxMillis.interruption, maxMillis.excess, maxMillis.health]) {
        assert.isBelow(millis, 20_000, message)
      }
    }), 240_000)

  it.live("on SQLite keeps its books while its processes are killed", () =>
    Effect.gen(function*() {
      const { events, killed, problems, seed } = yield* Effect.promise(() =>
        BankFile.run({ millis: 10_000, processes: 3 })
      )
      const message = `TEST_SEED=${seed} repeats it`
      assert.deepStrictEqual(problems, [], message)
      assert.isAbove(events.acknowledged, 10, message)
      assert.isAbove(killed, 0, message)
    }), 240_000)
})
