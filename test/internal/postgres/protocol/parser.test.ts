import { assert, describe, it } from "@effect/vitest"
import { Parser } from "../../../../src/internal/postgres/protocol/parser.js"
import * as Hostile from "../../../support/hostileServer.js"

const conversation = Buffer.concat([
  Hostile.problem({ S: "NOTICE", M: "before anything" }, "N"),
  Hostile.welcome,
  Hostile.rowDescription("column"),
  Hostile.dataRow("x".repeat(300)),
  Hostile.message("I"),
  Hostile.problem({ S: "ERROR", C: "22012", M: "division by zero" }),
  Hostile.ready("E")
])

const refused: ReadonlyArray<readonly [name: string, bytes: Buffer]> = [
  ["less than nothing", Hostile.message("C", "", 3)],
  ["more than there can be", Hostile.message("D", "", 0x4000_0000)],
  ["a long message of what is short", Hostile.message("C", "", 30_001)],
  ["an error without an end", Hostile.message("E", "SERROR\0")],
  ["an error without a field's end", Hostile.message("E", "SERROR")],
  ["an error of nothing", Hostile.message("E")],
  ["a notice behind its end", Hostile.message("N", "SNOTICE\0\0M")],
  ["ready in no state", Hostile.ready("X")],
  ["ready at length", Hostile.message("Z", "II")]
]

/** The messages that were received, and why there are no more, if so. */
const follow = (pieces: ReadonlyArray<Buffer>) => {
  const received: Array<Buffer> = []
  const frames = new Parser((kind, bytes, at, end) => {
    assert.strictEqual(kind, bytes[at - 5])
    received.push(Buffer.from(bytes.subarray(at - 5, end)))
  })
  try {
    pieces.forEach((piece) => frames.read(piece))
    return { received, refusal: undefined }
  } catch (refusal) {
    return { received, refusal }
  }
}

const cut = (all: Buffer, size: number): ReadonlyArray<Buffer> =>
  Array.from({ length: Math.ceil(all.length / size) }, (_, i) => all.subarray(i * size, (i + 1) * size))

describe("frames", () => {
  it("are the same however they are cut", () => {
    const whole = follow([conversation])
    assert.deepStrictEqual(Buffer.concat(whole.received), conversation)
    for (let size = 1; size <= conversation.length; size++) {
      assert.deepStrictEqual(follow(cut(conversation, size)), whole, `pieces of ${size}`)
    }
  })

  it("are whole however long they are, and what follows is read from where they end", () => {
    const long = Buffer.concat([Hostile.dataRow("x".repeat(1_000_000)), Hostile.message("I")])
    const all = Buffer.concat([conversation, long, long])
    for (const size of [1_000, 65_536, 700_001]) {
      const { received, refusal } = follow(cut(all, size))
      assert.isUndefined(refusal)
      assert.isTrue(Buffer.concat(received).equals(all), `pieces of ${size}`)
    }
  })

  it("that cannot be are refused however they are cut, and what came before is received", () => {
    for (const [name, bytes] of refused) {
      const all = Buffer.concat([conversation, bytes])
      for (let size = 1; size < all.length; size++) {
        const { received, refusal } = follow(cut(all, size))
        assert.isDefined(refusal, `${name}, in pieces of ${size}`)
        assert.deepStrictEqual(Buffer.concat(received), conversation, name)
      }
    }
  })

  it("are short until the server is ready for the first time", () => {
    for (const kind of "DTENS") {
      assert.isDefined(follow([Hostile.authenticationOk, Hostile.message(kind, "", 30_001)]).refusal)
    }
    assert.isUndefined(follow([Hostile.welcome, Hostile.message("D", "", 500_000_000)]).refusal)
  })
})
