import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Fiber from "effect/Fiber"
import { assert } from "vitest"
import { makeTurn } from "../../../src/internal/sqlite/turn.js"

describe("turn", () => {
  it.effect("one at a time, in the order of asking, whoever gives up", () =>
    Effect.promise(() =>
      FastCheck.assert(
        FastCheck.asyncProperty(
          FastCheck.array(
            FastCheck.record({ steps: FastCheck.nat(3), interruptAfter: FastCheck.option(FastCheck.nat(12)) }),
            { maxLength: 12 }
          ),
          (jobs) =>
            Effect.runPromise(Effect.gen(function*() {
              const turn = makeTurn()
              const began: Array<number> = []
              let within = 0
              const fibers = yield* Effect.forEach(jobs, ({ steps }, i) =>
                Effect.fork(turn(Effect.acquireUseRelease(
                  Effect.sync(() => {
                    assert.strictEqual(++within, 1)
                    began.push(i)
                  }),
                  () => Effect.repeatN(Effect.yieldNow(), steps),
                  () => Effect.sync(() => within--)
                ))))
              yield* Effect.forEach(jobs, ({ interruptAfter }, i) =>
                interruptAfter === null
                  ? Fiber.await(fibers[i])
                  : Effect.zipRight(Effect.repeatN(Effect.yieldNow(), interruptAfter), Fiber.interrupt(fibers[i])), {
                concurrency: "unbounded",
                discard: true
              })
              assert.deepStrictEqual(began, [...began].sort((a, b) => a - b))
              const finished = jobs.flatMap(({ interruptAfter }, i) => interruptAfter === null ? [i] : [])
              assert.includeMembers(began, finished)
              // Nobody took a turn away with him.
              assert.strictEqual(yield* turn(Effect.succeed("free")), "free")
            }))
        ),
        { numRuns: 300 }
      )
    ))

  it.effect("a failure and a defect give the turn on", () =>
    Effect.gen(function*() {
      const turn = makeTurn()
      assert.strictEqual(yield* Effect.flip(turn(Effect.fail("no"))), "no")
      yield* Effect.exit(turn(Effect.die("never")))
      assert.strictEqual(yield* turn(Effect.succeed(1)), 1)
    }))
})
