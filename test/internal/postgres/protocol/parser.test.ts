import { assert, describe, it } from "@effect/vitest"
import { Parser } from "../../../../src/internal/postgres/protocol/parser.js"
import * as Hostile from "../../../support/hostileServer.js"

const messages = Buffer.concat([
  Hostile.problem({ S: "NOTICE", M: "before anything" }, "N"),
  Hostile.welcome,
  Hostile.rowDescription("column"),
  Hostile.dataRow("x".repeat(300)),
  Hostile.message("I"),
  Hostile.problem({ S: "ERROR", C: "22012", M: "division by zero" }),
  Hostile.ready("E")
])

const refused: ReadonlyArray<readonly [name: string, bytes: Buffer]> = [
  ["a length below four", Hostile.message("C", "", 3)],
  ["a length beyond the maximum", Hostile.message("D", "", 0x4000_0000)],
  ["a long message of a short type", Hostile.message("C", "", 30_001)],
  ["an error without an end", Hostile.message("E", "SERROR\0")],
  ["an error with an unterminated field", Hostile.message("E", "SERROR")],
  ["an empty error", Hostile.message("E")],
  ["a notice with bytes behind its end", Hostile.message("N", "SNOTICE\0\0M")],
  ["an unknown transaction status", Hostile.ready("X")],
  ["a ReadyForQuery that is too long", Hostile.message("Z", "II")]
]

/** The messages that the parser emits, and the error that it throws. */
const parse = (chunks: ReadonlyArray<Buffer>) => {
  const received: Array<Buffer> = []
  const parser = new Parser((type, bytes, offset, end) => {
    assert.strictEqual(type, bytes[offset - 5])
    received.push(Buffer.from(bytes.subarray(offset - 5, end)))
  })
  try {
    chunks.forEach((chunk) => parser.parse(chunk))
    return { received, error: undefined }
  } catch (error) {
    return { received, error }
  }
}

const split = (all: Buffer, size: number): ReadonlyArray<Buffer> =>
  Array.from({ length: Math.ceil(all.length / size) }, (_, i) => all.subarray(i * size, (i + 1) * size))

describe("messages", () => {
  it("are the same however they are split", () => {
    const whole = parse([messages])
    assert.deepStrictEqual(Buffer.concat(whole.received), messages)
    for (let size = 1; size <= messages.length; size++) {
      assert.deepStrictEqual(parse(split(messages, size)), whole, `chunks of ${size}`)
    }
  })

  it("are complete whatever their length, and the next one begins where they end", () => {
    const long = Buffer.concat([Hostile.dataRow("x".repeat(1_000_000)), Hostile.message("I")])
    const all = Buffer.concat([messages, long, long])
    for (const size of [1_000, 65_536, 700_001]) {
      const { received, error } = parse(split(all, size))
      assert.isUndefined(error)
      assert.isTrue(Buffer.concat(received).equals(all), `chunks of ${size}`)
    }
  })

  it("that are invalid are rejected however they are split, after those before them were received", () => {
    for (const [name, bytes] of refused) {
      const all = Buffer.concat([messages, bytes])
      for (let size = 1; size < all.length; size++) {
        const { received, error } = parse(split(all, size))
        assert.isDefined(error, `${name}, in chunks of ${size}`)
        assert.deepStrictEqual(Buffer.concat(received), messages, name)
      }
    }
  })

  it("are limited in length until the first ReadyForQuery", () => {
    for (const type of "DTENS") {
      assert.isDefined(parse([Hostile.authenticationOk, Hostile.message(type, "", 30_001)]).error)
    }
    assert.isUndefined(parse([Hostile.welcome, Hostile.message("D", "", 500_000_000)]).error)
  })
})
