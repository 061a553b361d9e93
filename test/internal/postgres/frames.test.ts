import { assert, describe, it } from "@effect/vitest"
import { Frames } from "../../../src/internal/postgres/frames.js"
import * as Hostile from "../../support/hostileServer.js"

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

describe("frames", () => {
  it("are the same however they are cut", () => {
    for (let size = 1; size <= conversation.length; size++) {
      const frames = new Frames()
      for (let at = 0; at < conversation.length; at += size) {
        assert.isUndefined(frames.refusal(conversation.subarray(at, at + size)), `pieces of ${size}`)
      }
      assert.strictEqual(frames.accepted, (conversation.length % size) || size)
    }
  })

  it("that cannot be are refused however they are cut, and what came before is accepted", () => {
    for (const [name, bytes] of refused) {
      const all = Buffer.concat([conversation, bytes])
      for (let size = 1; size < all.length; size++) {
        const frames = new Frames()
        const pieces = Array.from(
          { length: Math.ceil(all.length / size) },
          (_, i) => all.subarray(i * size, (i + 1) * size)
        )
        assert.isTrue(pieces.some((piece) => frames.refusal(piece) !== undefined), `${name}, in pieces of ${size}`)
      }
      const frames = new Frames()
      frames.refusal(all)
      assert.strictEqual(frames.accepted, conversation.length, name)
    }
  })

  it("are short until the server is ready for the first time", () => {
    for (const kind of "DTENS") {
      assert.isDefined(
        new Frames().refusal(Buffer.concat([Hostile.authenticationOk, Hostile.message(kind, "", 30_001)]))
      )
    }
    const frames = new Frames()
    assert.isUndefined(frames.refusal(Buffer.concat([Hostile.welcome, Hostile.message("D", "", 500_000_000)])))
  })
})
