/**
 * Integers of 64 bits on SQLite: one that a number cannot hold is an error, in whatever way it is read, and with
 * SafeIntegers it is exact.
 */
import * as SqliteKysely from "@effect/sql-kysely/Sqlite"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import { file } from "./internal/sqlite/support.js"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

const quiet = Logger.remove(Logger.defaultLogger)
const safely = Effect.provideService(SqlClient.SafeIntegers, true)

/** 2^53 - 1, the last integer of which every smaller one is a number too. */
const last = Number.MAX_SAFE_INTEGER
const beyond = [2n ** 53n, -(2n ** 53n) - 1n, 2n ** 63n - 1n]
/** Numbers of that size, which are no integers. */
const reals = [9007199254740992.0, -9007199254740994.0, 4e18, 2 ** 63, -(2 ** 63), 1e300, -Infinity, Infinity]

type Reads = { readonly [name: string]: Effect.Effect<unknown, SqlError> }

/** Every way to read the column `n` of the table `t`. */
const readsOf = ({ sql }: Database.Service): Reads => {
  const statement = sql<{ readonly n: number }>`SELECT id, n FROM t`
  return {
    rows: statement,
    "rows again": statement,
    values: statement.values,
    unprepared: sql.unsafe("SELECT id, n FROM t").unprepared,
    "executeRaw": statement.raw,
    "withoutTransform": statement.withoutTransform,
    stream: Stream.runCollect(statement.stream),
    aggregate: sql`SELECT max(n) AS n FROM t`,
    sum: sql`SELECT sum(n) AS n FROM t`,
    "window": sql`SELECT first_value(n) OVER () AS n FROM t`,
    "CTE": sql`WITH c AS (SELECT n FROM t) SELECT * FROM c`,
    "parameter": sql`SELECT n, ${1} AS one, ${"text"} AS text FROM t WHERE id = ${1}`,
    "UPDATE RETURNING": sql`UPDATE t SET note = 'updated' RETURNING n`,
    "INSERT RETURNING": sql`INSERT INTO t (n) SELECT n FROM t RETURNING n`,
    "values of RETURNING": sql`UPDATE t SET note = 'updated' RETURNING n`.values,
    "DELETE RETURNING": sql`DELETE FROM t RETURNING n`,
    "stream of RETURNING": Stream.runCollect(sql`UPDATE t SET note = 'updated' RETURNING n`.stream)
  }
}

describe.each(Object.keys(kinds) as Array<keyof typeof kinds>)("%s", (kind) => {
  const open = Effect.gen(function*() {
    const database = yield* Database.make({ environment: "test", ...kinds[kind](yield* file) })
    yield* database.sql`CREATE TABLE t (id INTEGER PRIMARY KEY, n, note TEXT)`
    return database
  })
  const store = ({ sql }: Database.Service, n: bigint | number) =>
    Effect.zipRight(sql`DELETE FROM t`, sql`INSERT INTO t (id, n) VALUES (1, ${n})`)

  it.scopedLive(
    "an integer that a number cannot hold is InvalidData, in whatever way it is read",
    () =>
      Effect.gen(function*() {
        const database = yield* open
        for (const value of beyond) {
          for (const [name, read] of Object.entries(readsOf(database))) {
            yield* store(database, value)
            const sessions = name.includes("RETURNING") ? [] : [
              database.session(read),
              database.session(read, { readOnly: true })
            ]
            for (const attempt of [Effect.mapError(read, fromSqlError), ...sessions]) {
              const error = yield* Effect.flip(attempt)
              assert.strictEqual(error._tag, "InvalidData", `${name} of ${value}`)
              assert.strictEqual(error.column, "n", name)
              assert.include(error.message, "a value of the column \"n\"", name)
              assert.include(error.message, "read it with SafeIntegers", name)
              assert.notInclude(error.message, String(value).slice(0, 8), name)
            }
            if (name.includes("RETURNING")) {
              // The statement has failed, and so it has written nothing.
              assert.deepStrictEqual(yield* database.sql`SELECT id, note FROM t`, [{ id: 1, note: null }], name)
            }
            yield* safely(read)
            assert.deepStrictEqual(
              yield* safely(database.sql`SELECT n FROM t WHERE id = 1`),
              name === "DELETE RETURNING" ? [] : [{ n: value }],
              name
            )
          }
        }
      }).pipe(Effect.provide(quiet)),
    120_000
  )

  it.scopedLive("an integer that a number cannot hold is InvalidData through Kysely too, and exact with SafeIntegers", () =>
    Effect.gen(function*() {
      const database = yield* open
      const db = yield* Effect.provide(
        SqliteKysely.make<{ readonly t: { readonly id: number; readonly n: number } }>(),
        database.context
      )
      /** A builder of Kysely's is an Effect, which the compiler does not see under exactOptionalPropertyTypes. */
      const effectOf = (builder: unknown) => builder as Effect.Effect<ReadonlyArray<unknown>, SqlError>
      const query = effectOf(db.selectFrom("t").select(["id", "n"]).where("id", "=", 1))
      const max = effectOf(db.selectFrom("t").select(({ fn }) => fn.max("n").as("highest")))
      const update = effectOf(db.updateTable("t").set({ id: 2 }).returning("n"))
      for (const value of beyond) {
        yield* store(database, value)
        for (
          const [read, column] of [
            [query, "n"],
            [max, "highest"],
            [update, "n"]
          ] as const
        ) {
          for (const attempt of [Effect.mapError(read, fromSqlError), database.session(read)]) {
            const error = yield* Effect.flip(attempt)
            assert.strictEqual(error._tag, "InvalidData")
            assert.strictEqual(error.column, column)
            assert.include(error.message, "read it with SafeIntegers")
          }
        }
        assert.deepStrictEqual(yield* safely(query), [{ id: 1n, n: value }])
      }
      yield* store(database, last)
      assert.deepStrictEqual(yield* query, [{ id: 1, n: last }])
    }).pipe(Effect.provide(quiet)))

  it.scopedLive("is exact with SafeIntegers, and as COPY, and text", () =>
    Effect.gen(function*() {
      const database = yield* open
      const { sql } = database
      for (const value of beyond) {
        yield* store(database, value)
        assert.deepStrictEqual(yield* safely(sql`SELECT n FROM t`), [{ n: value }])
        assert.deepStrictEqual(yield* safely(sql`SELECT n FROM t`.values), [[value]])
        assert.deepStrictEqual(yield* safely(sql`UPDATE t SET note = 'x' RETURNING n`), [{ n: value }])
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(yield* safely(Stream.runCollect(sql`SELECT n FROM t`.stream))),
          [{ n: value }]
        )
        const copied = yield* Stream.mkString(Stream.decodeText(database.copyTo(sql`SELECT n FROM t`)))
        assert.strictEqual(copied, `${value}\n`)
        assert.deepStrictEqual(yield* sql`SELECT CAST(n AS TEXT) AS n FROM t`, [{ n: String(value) }])
      }
    }))

  it.scopedLive("integers that a number holds and REALs of any size are numbers", () =>
    Effect.gen(function*() {
      const database = yield* open
      const { sql } = database
      for (const value of [last, -last, 0, 42, ...reals]) {
        for (const stored of Number.isSafeInteger(value) ? [value, BigInt(value)] : [value]) {
          yield* store(database, stored)
          for (let i = 0; i < 2; i++) {
            assert.deepStrictEqual(yield* sql`SELECT n FROM t`, [{ n: value }])
            assert.deepStrictEqual(yield* sql`SELECT id, n FROM t`.values, [[1, value]])
            assert.deepStrictEqual(yield* sql`UPDATE t SET note = 'x' RETURNING n, id`, [{ n: value, id: 1 }])
            assert.deepStrictEqual(
              Chunk.toReadonlyArray(yield* Stream.runCollect(sql`SELECT n, id FROM t`.stream)),
              [{ n: value, id: 1 }]
            )
          }
        }
      }
      // Both kinds in one result.
      yield* sql`DELETE FROM t`
      yield* sql`INSERT INTO t (n) VALUES (1.5), (4e18), (${last}), (NULL), ('text'), (x'00')`
      const rows = yield* sql<{ readonly n: unknown }>`SELECT n FROM t ORDER BY id`
      assert.deepStrictEqual(rows.map(({ n }) => n), [1.5, 4e18, last, null, "text", Buffer.from([0])])
    }))

  it.scopedLive("a row far into a stream fails the stream, after the rows before it", () =>
    Effect.gen(function*() {
      const { sql } = yield* open
      yield* sql`WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2000)
        INSERT INTO t (id, n) SELECT i, CASE i WHEN 1500 THEN ${2n ** 60n} ELSE i END FROM c`
      let count = 0
      const error = yield* Effect.flip(
        Stream.runForEach(sql`SELECT n FROM t ORDER BY id`.stream, () => Effect.sync(() => count++))
      )
      assert.strictEqual(fromSqlError(error).column, "n")
      assert.isAtLeast(count, 1024)
      assert.isBelow(count, 1500)
      assert.deepStrictEqual(yield* sql`SELECT count(*) AS count FROM t`, [{ count: 2000 }])
    }))

  it.scopedLive("the rowid of an inserted row too, and then it is not inserted", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open
      const rowid = 2n ** 60n + 1n
      const insert = sql`INSERT INTO t (id) VALUES (${rowid})`
      const error = fromSqlError(yield* Effect.flip(insert.raw))
      assert.strictEqual(error._tag, "InvalidData")
      assert.include(error.message, "rowid of the inserted row")
      assert.deepStrictEqual(yield* sql`SELECT 1 AS one FROM t`, [])
      assert.strictEqual((yield* Effect.flip(session(insert.raw)))._tag, "InvalidData")
      // Who does not ask for it does not mind it.
      yield* insert
      assert.deepStrictEqual(yield* safely(sql`SELECT id FROM t`), [{ id: rowid }])
      yield* sql`DELETE FROM t`
      assert.deepStrictEqual(yield* safely(insert.raw), { changes: 1, lastInsertRowid: rowid })
      // SQLite reports it after other statements too, which have not inserted it.
      for (
        const other of [sql`UPDATE t SET note = 'x'`, sql`WITH c AS (SELECT replace('a', 'a', 'b')) DELETE FROM t`]
      ) {
        assert.deepStrictEqual(yield* other.raw, { changes: 1, lastInsertRowid: rowid })
      }
      assert.deepStrictEqual(yield* sql`INSERT INTO t (id) VALUES (7)`.raw, { changes: 1, lastInsertRowid: 7 })
    }).pipe(Effect.provide(quiet)))
})
