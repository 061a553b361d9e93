import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { formatArray, formatElement, parseArray } from "../../../../src/internal/postgres/types/array.js"

const identity = (text: string): string => text

const elements = FastCheck.array(
  FastCheck.option(
    FastCheck.oneof(FastCheck.string(), FastCheck.constantFrom("NULL", "null", "", " a ", "\\", "\"", "{}", ","))
  ),
  { minLength: 1, maxLength: 5 }
)

describe("the text of an array", () => {
  for (const delimiter of [",", ";"]) {
    it(`with the delimiter ${delimiter} is read as what it was made of`, () => {
      FastCheck.assert(FastCheck.property(
        FastCheck.oneof(elements, FastCheck.array(elements, { minLength: 1, maxLength: 3 })),
        (array) => {
          assert.deepStrictEqual(
            parseArray(
              formatArray(array, delimiter, (value) => formatElement(value as string | null)),
              delimiter,
              identity
            ),
            array
          )
        }
      ))
    })
  }

  it("may begin with its bounds", () => {
    assert.deepStrictEqual(parseArray("[-2:-1][5:5]={{a},{b}}", ",", identity), [["a"], ["b"]])
  })

  it("is refused where it is none", () => {
    for (
      const text of [
        "",
        "a",
        "{",
        "}",
        "{a",
        "{a,",
        "{\"a}",
        "{\"a\\",
        "{a}b",
        "{{a}",
        "{a}}",
        "[1:2]",
        "[1:2]{a}",
        "{\"a\"b}"
      ]
    ) {
      assert.throws(() => parseArray(text, ",", identity), undefined, undefined, text)
    }
  })
})
