import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { eventually } from "./eventually.js"

describe("eventually", () => {
  it.effect("waits in real time until the condition is true", () =>
    Effect.gen(function*() {
      let checks = 0
      yield* eventually(Effect.sync(() => ++checks === 3))
      assert.strictEqual(checks, 3)
    }))

  it.effect("dies at its timeout", () =>
    Effect.gen(function*() {
      const cause = yield* Effect.flip(Effect.sandbox(eventually(Effect.succeed(false), { timeout: 50 })))
      assert.isTrue(Cause.isDie(cause))
      assert.include(Cause.pretty(cause), "within 50ms")
    }))

  it.effect("fails when the condition fails", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.flip(eventually(Effect.fail("no"))), "no")
    }))
})
