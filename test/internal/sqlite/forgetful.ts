/**
 * A program that opens a connection and never closes it.
 */
import * as Effect from "effect/Effect"
import { driver } from "./support.js"

await Effect.runPromise(Effect.gen(function*() {
  const connection = yield* Effect.uninterruptibleMask((restore) => driver(process.argv[2]).connect(() => {}, restore))
  const rows = yield* connection.execute("SELECT 1 AS n", [], undefined)
  process.stdout.write(`${JSON.stringify(rows)}\n`)
}))
