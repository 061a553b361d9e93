/**
 * Limits of SQLite that PostgreSQL does not have, and what to do instead.
 */
import { describe } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { assert } from "vitest"
import * as Database from "../../../src/Database.js"
import { typed } from "../../../src/DatabaseError.js"
import { on, onEach } from "../clients.js"

const rows = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))

describe("limits", () => {
  onEach("a statement for each row of a stream, in the stream's session", ({ sql }) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (n integer)`
      yield* sql`INSERT INTO t ${sql.insert(rows(3))}`
      const work = Stream.runForEach(
        sql<{ readonly n: number }>`SELECT n FROM t`.stream,
        ({ n }) => sql`UPDATE t SET n = ${n + 10} WHERE n = ${n}`
      )
      yield* Database.session(work)
      assert.deepStrictEqual(yield* sql`SELECT n FROM t ORDER BY n`, [{ n: 10 }, { n: 11 }, { n: 12 }])
    }))

  on("sqlite")(
    "outside of a session a stream holds the only connection, and the error says so",
    ({ sql }) =>
      Effect.gen(function*() {
        yield* sql`CREATE TABLE t (n integer)`
        yield* sql`INSERT INTO t ${sql.insert(rows(3))}`
        const work = Stream.runForEach(sql`SELECT n FROM t`.stream, () => sql`UPDATE t SET n = 0`)
        const error = yield* Effect.flip(typed(work))
        assert.strictEqual(error._tag, "PoolTimeout")
        assert.include(error.message, "holds all 1 of them")
      })
  )

  on("postgres")("an insert may have more than 65,535 parameters", ({ sql }) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (n integer)`
      yield* sql`INSERT INTO t ${sql.insert(rows(70_000))}`
      assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS n FROM t`, [{ n: 70_000 }])
    }))

  on("sqlite")(
    "a statement takes 32,766 parameters, and larger inserts are split",
    ({ sql }) =>
      Effect.gen(function*() {
        yield* sql`CREATE TABLE t (n integer)`
        yield* sql`INSERT INTO t ${sql.insert(rows(32_766))}`
        const error = yield* Effect.flip(typed(sql`INSERT INTO t ${sql.insert(rows(32_767))}`))
        assert.strictEqual(error._tag, "InvalidStatement")
        yield* Stream.fromIterable(rows(32_767)).pipe(
          Stream.rechunk(10_000),
          Stream.chunks,
          Stream.runForEach((chunk) => sql`INSERT INTO t ${sql.insert(Chunk.toReadonlyArray(chunk))}`),
          Database.session()
        )
        assert.deepStrictEqual(yield* sql`SELECT count(*) AS n FROM t`, [{ n: 65_533 }])
      })
  )
})
