import { assert, describe, it } from "@effect/vitest"
import { newSeed, random } from "./random.js"

const take = (seed: number, count = 1_000) => {
  const { next } = random(seed)
  return Array.from({ length: count }, next)
}

describe("random", () => {
  it("repeats itself for the same seed, and for no other", () => {
    assert.deepStrictEqual(take(1), take(1))
    assert.notDeepEqual(take(1), take(2))
  })

  it("is spread evenly", () => {
    const numbers = take(7, 20_000)
    assert.isTrue(numbers.every((number) => number >= 0 && number < 1))
    for (let tenth = 0; tenth < 10; tenth++) {
      const share = numbers.filter((number) => Math.floor(number * 10) === tenth).length
      assert.approximately(share, 2_000, 250)
    }
  })

  it("picks among all, and within the limits", () => {
    const source = random(3)
    const picked = Array.from({ length: 200 }, () => source.pick(["a", "b", "c"]))
    assert.deepStrictEqual(Array.from(new Set(picked)).sort(), ["a", "b", "c"])
    const between = Array.from({ length: 200 }, () => source.between(5, 6))
    assert.isTrue(between.every((number) => number >= 5 && number < 6))
    const chances = Array.from({ length: 1_000 }, () => source.chance(0.3)).filter((yes) => yes).length
    assert.approximately(chances, 300, 80)
  })

  it("branches alike whatever was taken before", () => {
    const one = random(9)
    const other = random(9)
    other.next()
    assert.strictEqual(one.branch("x").next(), other.branch("x").next())
    assert.notStrictEqual(one.branch("x").next(), one.branch("y").next())
  })

  it("takes its seed from TEST_SEED, else it is a new one", () => {
    assert.strictEqual(newSeed("42"), 42)
    assert.notStrictEqual(newSeed(""), newSeed(""))
  })
})
