/**
 * Backups of a SQLite database that is written meanwhile.
 */
import type * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import * as Sqlite from "../src/Sqlite.js"
import { directory } from "./internal/sqlite/support.js"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "a file, journal mode delete": (filename: string) => ({ url: `sqlite:///${filename}`, journalMode: "delete" }),
  "memory": () => ({ url: ":memory:" })
} as const

/** Two accounts whose sum is always 0, in a database of some thousand pages. */
const setUp = Effect.gen(function*() {
  const { sql } = yield* Database.Database
  yield* sql`CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER)`
  yield* sql`INSERT INTO accounts VALUES (1, 0), (2, 0)`
  yield* sql`CREATE TABLE big (a BLOB)`
  yield* sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO big SELECT zeroblob(4000) FROM n`
})

const transfer = Effect.gen(function*() {
  const { session, sql } = yield* Database.Database
  yield* session(Effect.gen(function*() {
    yield* sql`UPDATE accounts SET amount = amount + 1 WHERE id = 1`
    yield* sql`UPDATE accounts SET amount = amount - 1 WHERE id = 2`
  }))
})

describe.each(Object.keys(kinds) as Array<keyof typeof kinds>)("%s", (kind) => {
  it.scopedLive("is copied with progress, as of one moment", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const layer = Sqlite.layerFrom({
        environment: "test",
        connectTimeout: "1 minute",
        ...kinds[kind](Path.join(folder, "test.db"))
      })
      const copy = Path.join(folder, "copy.db")
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* setUp
          const progress: Array<SqliteClient.BackupMetadata> = []
          let transfers = 0
          let duringBackup = 0
          const writer = yield* Effect.fork(Effect.forever(Effect.zipRight(
            transfer,
            Effect.suspend(() => {
              transfers++
              return Effect.yieldNow()
            })
          )))
          const before = transfers
          const result = yield* Sqlite.backup(copy, {
            onProgress: (pages) =>
              Effect.sync(() => {
                progress.push(pages)
                duringBackup = transfers - before
              })
          })
          yield* Fiber.interrupt(writer)
          assert.isAbove(result.totalPages, 3000)
          assert.strictEqual(result.remainingPages, 0)
          assert.deepStrictEqual(progress.at(-1), result)
          const remaining = progress.map(({ remainingPages }) => remainingPages)
          assert.deepStrictEqual(remaining, remaining.toSorted((a, b) => b - a))
          if (kind === "a file") {
            assert.isAbove(duringBackup, 0)
          }
          const { sql } = yield* Database.Database
          assert.deepStrictEqual(yield* sql`SELECT sum(amount) AS sum FROM accounts`, [{ sum: 0 }])
        }),
        layer
      )
      const restored = yield* Database.make({
        environment: "test",
        url: `sqlite:///${copy}`,
        connectTimeout: "1 minute"
      })
      assert.deepStrictEqual(
        yield* restored.sql`SELECT sum(amount) AS sum, (SELECT count(*) FROM big) AS big FROM accounts`,
        [{ sum: 0, big: 3000 }]
      )
      assert.deepStrictEqual(yield* restored.sql`PRAGMA integrity_check`, [{ integrity_check: "ok" }])
    }), 120_000)

  it.scopedLive("can be interrupted, and its errors are typed", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const layer = Sqlite.layerFrom({
        environment: "test",
        connectTimeout: "1 minute",
        ...kinds[kind](Path.join(folder, "test.db"))
      })
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* setUp
          const begun = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(Sqlite.backup(Path.join(folder, "copy.db"), {
            onProgress: () => Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never)
          }))
          yield* Deferred.await(begun)
          yield* Fiber.interrupt(fiber)
          const error = fromSqlError(yield* Effect.flip(Sqlite.backup(Path.join(folder, "missing", "copy.db"))))
          assert.strictEqual(error._tag, "ConnectionFailed")
          yield* transfer
          const { sql } = yield* Database.Database
          assert.deepStrictEqual(yield* sql`SELECT amount FROM accounts`, [{ amount: 1 }, { amount: -1 }])
        }),
        layer
      )
    }), 120_000)
})
