import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { eventually } from "./eventually.js"

describe("eventually", () => {
  it.effect("waits in real time until it is so", () =>
    Effect.gen(function*() {
      let asked = 0
      yield* eventually(Effect.sync(() => ++asked === 3))
      assert.strictEqual(asked, 3)
    }))

  it.effect("gives up in time", () =>
    Effect.gen(function*() {
      const cause = yield* Effect.flip(Effect.sandbox(eventually(Effect.succeed(false), { timeout: 50 })))
      assert.isTrue(Cause.isDie(cause))
      assert.include(Cause.pretty(cause), "within 50ms")
    }))

  it.effect("passes on what fails", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.flip(eventually(Effect.fail("no"))), "no")
    }))
})
