import { assert, describe, it } from "@effect/vitest"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"

describe("assert.deepStrictEqual", () => {
  for (
    const [actual, expected] of [
      [Option.none(), Option.some(1)],
      [Option.some(1), Option.none()],
      [[Option.some(1)], [Option.none()]],
      [Exit.fail(Option.none()), Exit.fail(Option.some(1))]
    ]
  ) {
    it(`tells ${String(actual)} from ${String(expected)}`, () => {
      assert.throws(() => assert.deepStrictEqual(actual, expected), /deep/)
      assert.deepStrictEqual(actual, actual)
    })
  }
})
