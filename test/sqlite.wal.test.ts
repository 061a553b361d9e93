import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import * as Telemetry from "../src/Telemetry.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"

const megabyte = 1024 * 1024

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  it.scopedLive(name, () => Effect.provide(body(), Logger.remove(Logger.defaultLogger)), 120_000)

/** A database with a table, to which `write` adds a megabyte in a session. */
const opened = (name: string) =>
  Effect.gen(function*() {
    const filename = Path.join(yield* directory, "test.db")
    const database = yield* Database.make({
      environment: "test",
      name,
      connectTimeout: "1 minute",
      pragmas: { synchronous: "off" },
      url: `sqlite:///${filename}`
    })
    const { sql } = database
    yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB)`
    const write = database.session(sql`INSERT INTO items (bytes) VALUES (randomblob(1000000))`)
    const size = () => Fs.statSync(`${filename}-wal`).size
    return { database, filename, sql, write, size }
  })

/** How many gaps have ended so. */
const gaps = (name: string, outcome: string) =>
  Effect.map(
    Metric.value(
      Telemetry.walGaps.pipe(
        Metric.tagged("db.client.connection.pool.name", name),
        Metric.tagged("db.system.name", "sqlite"),
        Metric.tagged("outcome", outcome)
      )
    ),
    ({ count }) => count
  )

/** A session that reads until it is told to end. */
const openReader = ({ database, sql }: Effect.Effect.Success<ReturnType<typeof opened>>) =>
  Effect.gen(function*() {
    const began = yield* Deferred.make<void>()
    const end = yield* Deferred.make<void>()
    const fiber = yield* Effect.fork(database.session(
      Effect.gen(function*() {
        yield* sql`SELECT count(*) FROM items`
        yield* Deferred.succeed(began, undefined)
        yield* Deferred.await(end)
      }),
      { readOnly: true }
    ))
    yield* Deferred.await(began)
    return Effect.zipRight(Deferred.succeed(end, undefined), Fiber.join(fiber))
  })

describe("the WAL", () => {
  live("stays small while readers overlap", () =>
    Effect.gen(function*() {
      const { database, size, sql, write } = yield* opened("overlapping")
      const count = sql`SELECT count(*) AS n FROM items`
      let done = false
      let reads = 0
      const read = database.session(
        Effect.gen(function*() {
          const before = yield* count
          yield* Effect.sleep("30 millis")
          assert.deepStrictEqual(yield* count, before)
          reads++
        }),
        { readOnly: true }
      )
      const readers = yield* Effect.forEach([0, 10, 20], (delay) =>
        Effect.fork(Effect.delay(
          Effect.whileLoop({ while: () => !done, body: () => read, step: () => {} }),
          delay
        )))
      let maxSize = 0
      for (let i = 0; i < 80; i++) {
        yield* write
        maxSize = Math.max(maxSize, size())
      }
      done = true
      yield* Effect.forEach(readers, Fiber.join)
      assert.isAbove(reads, 0)
      assert.deepStrictEqual(yield* count, [{ n: 80 }])
      assert.isBelow(maxSize, 60 * megabyte)
      assert.isAtLeast(yield* gaps("overlapping", "emptied"), 1)
      const gauge = Telemetry.walSize.pipe(
        Metric.tagged("db.client.connection.pool.name", "overlapping"),
        Metric.tagged("db.system.name", "sqlite")
      )
      yield* eventually(Effect.map(Metric.value(gauge), ({ value }) => value === size()))
      assert.strictEqual((yield* database.report).walSize, size())
    }))

  live(
    "is emptied when a reader has ended that was open for long, and others read meanwhile",
    () =>
      Effect.gen(function*() {
        const test = yield* opened("long")
        const { database, size, sql, write } = test
        const end = yield* openReader(test)
        yield* Effect.replicateEffect(write, 20, { discard: true })
        // The first gap may be in vain. While the reader is open there is no other one.
        yield* Effect.sleep("600 millis")
        const inVain = yield* gaps("long", "readers")
        assert.isAtMost(inVain, 1)
        for (let i = 1; i <= 4; i++) {
          yield* write
          assert.deepStrictEqual(
            yield* database.session(sql`SELECT count(*) AS n FROM items`, { readOnly: true }),
            [{ n: 20 + i }]
          )
        }
        assert.strictEqual(yield* gaps("long", "readers"), inVain)
        assert.isAbove(size(), 20 * megabyte)
        yield* end
        yield* eventually(Effect.map(write, () => size() < 9 * megabyte))
      })
  )

  live("waits for another program that reads, which is not disturbed", () =>
    Effect.gen(function*() {
      const { filename, size, sql, write } = yield* opened("other")
      const other = yield* Effect.acquireRelease(
        Effect.sync(() => new Sqlite(filename, { timeout: 0 })),
        (other) => Effect.sync(() => other.close())
      )
      const count = other.prepare<[], { readonly n: number }>("SELECT count(*) AS n FROM items")
      other.exec("BEGIN")
      assert.deepStrictEqual(count.get(), { n: 0 })
      yield* Effect.replicateEffect(write, 20, { discard: true })
      yield* eventually(Effect.zipRight(write, Effect.map(gaps("other", "busy"), (count) => count > 0)))
      assert.deepStrictEqual(count.get(), { n: 0 })
      other.exec("COMMIT")
      yield* eventually(Effect.map(write, () => size() < 9 * megabyte))
      assert.deepStrictEqual(yield* sql`SELECT count(*) AS n FROM items`, [count.get()!])
      other.exec("DELETE FROM items WHERE n = 1")
    }))

  live("shrinks when a long reader has ended", () =>
    Effect.gen(function*() {
      const test = yield* opened("shrinking")
      const { size, write } = test
      const end = yield* openReader(test)
      yield* Effect.replicateEffect(write, 30, { discard: true })
      assert.isAbove(size(), 28 * megabyte)
      yield* end
      // The first writes checkpoint the WAL, and the next one begins it anew.
      yield* Effect.replicateEffect(write, 3, { discard: true })
      assert.isAtMost(size(), 9 * megabyte)
    }))
})
