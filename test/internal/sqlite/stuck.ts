/**
 * A program that gives up a statement that never ends, writes a line, and stays alive.
 */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Database from "../../../src/Database.js"

const [, , file] = process.argv

Effect.runFork(
  Effect.scoped(Effect.gen(function*() {
    const database = yield* Database.make({ environment: "test", url: `sqlite:///${file}` })
    const { sql } = database
    yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB)`
    yield* sql`INSERT INTO items (n) VALUES (1)`
    const endless = sql`
    INSERT INTO items (n)
    WITH RECURSIVE i(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM i) SELECT max(n) FROM i`
    yield* Effect.ignore(database.session(endless, { timeout: "300 millis" }))
    yield* Effect.sync(() => process.stdout.write("given up\n"))
    yield* Effect.never
  })).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
)
