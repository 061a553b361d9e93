/**
 * A network whose round trips take longer than the half second that is allowed after an interruption. Nothing here is
 * interrupted, so nothing is lost.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { freshDatabase } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

const throughSlow = Effect.gen(function*() {
  const direct = yield* freshDatabase
  const slow = yield* proxy(direct)
  const db = yield* Database.make({ url: slow.url, environment: "test", connectTimeout: "1 minute", poolSize: 1 })
  yield* db.sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
  yield* slow.delay(300)
  return db
})

const insert = (db: Database.Service, n: number) => db.sql`INSERT INTO items VALUES (${n})`

/** Each row is sent at once, and all of them take longer than any test. */
const endless = "SELECT repeat('x', 9000), pg_sleep(0.01) FROM generate_series(1, 1000000)"

const leaving: Readonly<Record<string, (db: Database.Service) => Effect.Effect<unknown, unknown>>> = {
  "a stream that is left early": (db) =>
    Stream.runDrain(Stream.take(db.sql`SELECT i FROM generate_series(1, 100000) AS i`.stream, 500)),
  "a copy that is left early": (db) => Stream.runDrain(Stream.take(db.copyTo(endless), 1)),
  "a copy whose consumer fails": (db) => Effect.flip(Stream.runForEach(db.copyTo(endless), () => Effect.fail("mine"))),
  "a nested session that fails": (db) => Effect.flip(db.session(Effect.zipRight(insert(db, 10), Effect.fail("mine")))),
  "a nested session whose statement fails": (db) =>
    Effect.flip(db.session(Effect.zipRight(insert(db, 10), insert(db, 10)))),
  "a nested session whose copy has a source that fails": (db) =>
    Effect.flip(db.session(db.copyFrom("items", ["n"])(Stream.concat(Stream.make([20]), Stream.fail("mine"))))),
  "a nested session": (db) => db.session(Effect.void)
}

describe("a slow network", { concurrent: true }, () => {
  for (const [what, leave] of Object.entries(leaving)) {
    it.scopedLive(`costs a session nothing: ${what}`, () =>
      Effect.gen(function*() {
        const db = yield* throughSlow
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          yield* leave(db)
          yield* insert(db, 2)
        }))
        const { created } = yield* db.poolStats
        assert.deepStrictEqual(yield* db.sql`SELECT n FROM items ORDER BY n`, [{ n: 1 }, { n: 2 }])
        assert.strictEqual(created, 1)
      }), 240_000)
  }
})
