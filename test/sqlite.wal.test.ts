import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import { directory } from "./internal/sqlite/support.js"

const megabyte = 1024 * 1024

describe("the WAL", () => {
  it.scopedLive("shrinks when a long reader has ended", () =>
    Effect.gen(function*() {
      const filename = Path.join(yield* directory, "test.db")
      const database = yield* Database.make({
        environment: "test",
        connectTimeout: "1 minute",
        pragmas: { synchronous: "off" },
        url: `sqlite:///${filename}`
      })
      const { sql } = database
      yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB)`
      const write = database.session(sql`INSERT INTO items (bytes) VALUES (randomblob(1000000))`)
      const began = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const reader = yield* Effect.fork(database.session(
        Effect.gen(function*() {
          yield* sql`SELECT count(*) FROM items`
          yield* Deferred.succeed(began, undefined)
          yield* Deferred.await(end)
        }),
        { readOnly: true }
      ))
      yield* Deferred.await(began)
      yield* Effect.replicateEffect(write, 30, { discard: true })
      const size = () => Fs.statSync(`${filename}-wal`).size
      assert.isAbove(size(), 28 * megabyte)
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(reader)
      // The first writes checkpoint the WAL, and the next one begins it anew.
      yield* Effect.replicateEffect(write, 3, { discard: true })
      assert.isAtMost(size(), 9 * megabyte)
    }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger))), 120_000)
})
