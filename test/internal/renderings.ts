/**
 * Every way in which an error may reach a log, a span or a response.
 */
import * as Cause from "effect/Cause"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import { assert } from "vitest"
import { DatabaseError, toSqlError } from "../../src/DatabaseError.js"

const renderings = (error: DatabaseError): ReadonlyArray<readonly [how: string, text: string]> => [
  ["message", error.message],
  ["stack", error.stack ?? ""],
  ["String", String(error)],
  ["JSON.stringify", JSON.stringify(error)],
  ["inspect", inspect(error, { depth: Infinity, showHidden: true })],
  ["Cause.pretty", Cause.pretty(Cause.fail(error), { renderErrorCause: true })],
  ["Schema.encode", JSON.stringify(Schema.encodeSync(DatabaseError)(error))],
  ["SqlError", inspect(toSqlError(error), { depth: Infinity, showHidden: true })],
  ["SqlError's Cause.pretty", Cause.pretty(Cause.fail(toSqlError(error)), { renderErrorCause: true })]
]

/** No rendering holds the text, in whatever case, nor its escaped form. */
export const assertHoldsNot = (error: DatabaseError, text: string): void => {
  const folded = text.toLowerCase()
  const escaped = JSON.stringify(folded).slice(1, -1)
  for (const [how, rendered] of renderings(error)) {
    const found = rendered.toLowerCase()
    if (found.includes(folded) || found.includes(escaped)) {
      assert.fail(`${how} holds ${text}: ${rendered}`)
    }
  }
}

/** Every rendering holds the text. */
export const assertHolds = (error: DatabaseError, text: string): void => {
  for (const [how, rendered] of renderings(error)) {
    assert.include(rendered, text, how)
  }
}
