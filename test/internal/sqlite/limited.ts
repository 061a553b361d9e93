/**
 * A program that writes until the operating system refuses, and prints the errors.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { driver } from "./support.js"

const [, , file, thread] = process.argv

await Effect.runPromise(Effect.gen(function*() {
  const lost: Array<DatabaseError> = []
  const connection = yield* Effect.uninterruptibleMask((restore) =>
    driver(file, { thread: thread as "main" | "worker" }).connect((error) => lost.push(error), restore)
  )
  yield* connection.execute("CREATE TABLE t (a)", [], undefined)
  yield* connection.begin({})
  const error = yield* Effect.flip(
    Effect.forever(connection.execute("INSERT INTO t VALUES (randomblob(1000000))", [], undefined))
  )
  const commit = yield* Effect.flip(connection.commit)
  process.stdout.write(`${
    JSON.stringify([
      fromSqlError(error)._tag,
      fromSqlError(error).code,
      connection.status(),
      lost.map((error) => error._tag),
      commit._tag
    ])
  }\n`)
}))
