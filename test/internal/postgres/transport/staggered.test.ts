import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { attemptDelay, staggered } from "../../../../src/internal/postgres/transport/staggered.js"

interface Attempt {
  readonly startedAt: number
  readonly succeed: (value: string) => void
  readonly fail: (error: string) => void
  isGivenUp: boolean
}

const race = (count: number, onStart: (attempt: Attempt, index: number) => void = () => undefined) => {
  const attempts: Array<Attempt> = []
  const results: Array<string | ReadonlyArray<string>> = []
  const giveUp = staggered<string, string>({
    count,
    start: (index, succeed, fail) => {
      const attempt: Attempt = { startedAt: performance.now(), succeed, fail, isGivenUp: false }
      attempts.push(attempt)
      onStart(attempt, index)
      return () => {
        attempt.isGivenUp = true
      }
    },
    isFinal: (error) => error === "final",
    onSuccess: (value) => results.push(value),
    onFailure: (errors) => results.push(errors)
  })
  return { attempts, results, giveUp }
}

describe("staggered attempts", () => {
  it.live("the next begins after a delay, and none is given up before one succeeds", () =>
    Effect.gen(function*() {
      const { attempts, results } = race(3)
      assert.strictEqual(attempts.length, 1)
      yield* Effect.sleep(attemptDelay * 3)
      assert.strictEqual(attempts.length, 3)
      assert.isAtLeast(attempts[1].startedAt - attempts[0].startedAt, attemptDelay - 2)
      assert.isTrue(attempts.every(({ isGivenUp }) => !isGivenUp))
      attempts[0].succeed("late")
      assert.deepStrictEqual(results, ["late"])
      assert.deepStrictEqual(attempts.map(({ isGivenUp }) => isGivenUp), [false, true, true])
    }))

  it("the next begins at once when one fails, and all failures are reported in order", () => {
    const { attempts, results } = race(3)
    attempts[0].fail("a")
    attempts[1].fail("b")
    assert.deepStrictEqual(results, [])
    attempts[2].fail("c")
    assert.deepStrictEqual(results, [["a", "b", "c"]])
    assert.deepStrictEqual(race(3, ({ fail }, index) => fail(String(index))).results, [["0", "1", "2"]])
  })

  it.live("a final failure ends all, and a success that comes at once begins no other", () =>
    Effect.gen(function*() {
      const final = race(3)
      yield* Effect.sleep(attemptDelay * 1.5)
      final.attempts[1].fail("final")
      assert.deepStrictEqual(final.results, [["final"]])
      assert.isTrue(final.attempts[0].isGivenUp)
      const immediate = race(3, ({ succeed }) => succeed("now"))
      const given = race(3)
      given.giveUp()
      assert.isTrue(given.attempts[0].isGivenUp)
      yield* Effect.sleep(attemptDelay * 1.5)
      assert.deepStrictEqual([final, immediate, given].map(({ attempts }) => attempts.length), [2, 1, 1])
      assert.deepStrictEqual(immediate.results, ["now"])
      assert.deepStrictEqual(given.results, [])
    }))
})
