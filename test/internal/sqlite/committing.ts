/**
 * A program that commits sessions until it is killed, and writes the number of each.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Database from "../../../src/Database.js"

const [, , file, first] = process.argv

Effect.runFork(Effect.scoped(Effect.gen(function*() {
  const database = yield* Database.make({ environment: "test", url: `sqlite:///${file}`, lockTimeout: "60 seconds" })
  const { sql } = database
  for (let n = Number(first);; n++) {
    yield* database.session(Effect.gen(function*() {
      yield* sql`INSERT INTO entries (n, ballast) VALUES (${n}, randomblob(100000))`
      yield* sql`INSERT INTO halves (entry) VALUES (${n})`
      yield* sql`INSERT INTO halves (entry) VALUES (${n})`
    }))
    // Synchronously, so that it is written before the process can be killed in the next session.
    Fs.writeSync(1, `${n}\n`)
  }
})))
