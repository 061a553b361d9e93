/** COPY as only PostgreSQL has it. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import { collect } from "../../support/collect.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { type Decision, proxy } from "../../support/proxy.js"
import { promptly } from "./harness.js"

const opened = (
  options: Omit<DatabaseConfig.Options, "url"> = {}
): Effect.Effect<Database.Service & { readonly url: string }, DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(url, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    const database = yield* Database.make({ environment: "test", ...options, url })
    return { ...database, url }
  })

/** A database behind a proxy, with one connection that is open already. */
const proxied = (options: Omit<DatabaseConfig.Options, "url"> = {}) =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(url, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    const between = yield* proxy(url)
    const database = yield* Database.make({ environment: "test", ...options, url: between.url })
    return { ...database, between, url }
  })

const ids = (url: string) =>
  Effect.map(query(url, "SELECT id FROM item ORDER BY id"), (rows) => rows.map(({ id }) => id as number))

const columns = ["id", "note"]

const failure = <A>(effect: Effect.Effect<A, SqlError>): Effect.Effect<DatabaseError, A> =>
  Effect.map(Effect.flip(effect), fromSqlError)

const copyDone = 0x63

describe("postgres copy", () => {
  it.scopedLive("a statement that copies data is refused before it is sent, and its session can go on", () =>
    Effect.gen(function*() {
      const { session, sql, url } = yield* opened()
      const texts = [
        "COPY item TO STDOUT",
        "copy item (id) from stdin with (format csv)",
        "/* first */ COPY (SELECT 'FROM' AS \"to\" FROM item) TO STDOUT",
        "SELECT 1; COPY item FROM STDIN",
        "-- SELECT\nCOPY BINARY item TO STDOUT; SELECT 1",
        // The grammar has these too.
        "COPY item TO STDIN"
      ]
      for (const text of texts) {
        const statement = sql.unsafe(text)
        const attempts: ReadonlyArray<Effect.Effect<unknown, SqlError>> = [
          statement,
          statement.raw,
          statement.values,
          statement.unprepared,
          Stream.runDrain(statement.stream)
        ]
        for (const attempt of attempts) {
          const error = yield* failure(attempt)
          assert.strictEqual(error._tag, "InvalidStatement", text)
        }
        yield* session(Effect.gen(function*() {
          yield* sql`INSERT INTO item VALUES (1)`
          yield* failure(statement)
          yield* sql`DELETE FROM item`
        }))
      }
      assert.deepStrictEqual(yield* ids(url), [])
    }))

  it.scopedLive("a statement that only mentions COPY is executed", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* opened()
      yield* query(url, "CREATE TABLE copy (\"to\" text, stdout text)")
      const texts = [
        "SELECT 'COPY item TO STDOUT' AS text",
        "/* COPY item FROM STDIN */ SELECT 1 AS copy",
        "SELECT copy.stdout FROM copy WHERE \"to\" = 'stdin'",
        "DO $$ BEGIN PERFORM 'COPY item TO STDOUT'; END $$",
        "SELECT 1; -- COPY item TO STDOUT",
        "COPY item TO '/dev/null'",
        "COPY (SELECT 'TO STDOUT') TO PROGRAM 'cat > /dev/null'"
      ]
      for (const text of texts) {
        yield* sql.unsafe(text)
        yield* Effect.scoped(Effect.asVoid(sql.unsafe(text).raw))
      }
    }))

  it.scopedLive("where the text does not tell, the server's wish for data is refused, and no data is lost in silence", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* opened()
      // A backslash escapes the quotation mark only with standard_conforming_strings off.
      for (const copy of ["COPY item TO STDOUT", "COPY item FROM STDIN"]) {
        const error = yield* Effect.flip(session(Effect.gen(function*() {
          yield* sql`SET LOCAL standard_conforming_strings = off`
          yield* sql`SET LOCAL escape_string_warning = off`
          yield* sql.unsafe(`SELECT 'a\\''; ${copy}; --'`)
        })))
        assert.strictEqual(error._tag, "InvalidStatement")
      }
      assert.deepStrictEqual(yield* sql`SELECT 1 AS one`, [{ one: 1 }])
    }))

  it.scopedLive("encodes values by the types of the columns, as statements do", () =>
    Effect.gen(function*() {
      const { copyFrom, sql, url } = yield* opened()
      yield* query(url, "CREATE TYPE mood AS ENUM ('sad', 'so, so')")
      yield* query(
        url,
        "CREATE TABLE typed (a bytea, b bytea[], c int[], d mood[], e jsonb, f jsonb, g timestamptz, h bool, i bigint, " +
          "j numeric[], k text[], l date)"
      )
      const row = {
        a: Buffer.from([0, 92, 255]),
        b: [Buffer.from("ab"), null],
        c: [[1, 2], [3, 4]],
        d: ["so, so", "sad"],
        e: { text: "a\tb\\", list: [null] },
        f: [1, "two", { three: 3 }],
        g: new Date("2024-02-29T12:34:56.789Z"),
        h: false,
        i: 2n ** 62n,
        j: ["1.10", null],
        k: ["a\"b", "c\\d", "", "NULL", "e\tf"],
        l: "2024-02-29"
      }
      const names = Object.keys(row)
      yield* sql`INSERT INTO typed ${sql.insert({ ...row, f: JSON.stringify(row.f) })}`
      yield* copyFrom("typed", names)(Stream.make(row))
      const [inserted, copied] = yield* sql`SELECT to_jsonb(typed) AS row FROM typed`
      assert.deepStrictEqual(copied, inserted)
    }))

  it.scopedLive("copies in the binary format, and between two tables", () =>
    Effect.gen(function*() {
      const { copyFrom, copyTo, sql, url } = yield* opened()
      yield* query(url, "CREATE TABLE other (id int, note text)")
      yield* query(url, "INSERT INTO item SELECT i, repeat('x', i) FROM generate_series(1, 3000) AS i")
      const count = yield* copyFrom("other", columns, { format: "binary" })(
        copyTo("TABLE item", { format: "binary" })
      )
      assert.strictEqual(count, 3_000)
      assert.deepStrictEqual(
        yield* sql`SELECT count(*)::int AS n FROM (SELECT * FROM item EXCEPT SELECT * FROM other) AS d`,
        [{ n: 0 }]
      )
      yield* sql`TRUNCATE other`
      yield* copyFrom("public.other", columns)(sql<object>`SELECT id, note FROM item`.stream)
      assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS n FROM other`, [{ n: 3_000 }])
    }))

  it.scopedLive("copies the rows of a statement that writes, and runs that to its end when it is left early", () =>
    Effect.gen(function*() {
      const { copyTo, session, sql, url } = yield* opened()
      const insert = sql`INSERT INTO item SELECT i, ${"a'b"} FROM generate_series(1, 50000) AS i RETURNING id, note`
      yield* session(Effect.zipRight(
        Stream.runCollect(Stream.take(copyTo(insert), 1)),
        sql`DELETE FROM item WHERE id > 2`
      ))
      assert.deepStrictEqual(yield* ids(url), [1, 2])
    }))

  it.scopedLive("a stream that uses the session that it is copied in is refused, whatever it uses it for", () =>
    Effect.gen(function*() {
      const { copyFrom, copyTo, session, sql, url } = yield* opened()
      const uses: ReadonlyArray<Stream.Stream<object, unknown>> = [
        sql<object>`SELECT 1 AS id, 'a' AS note`.stream,
        Stream.fromIterableEffect(sql<object>`SELECT 1 AS id, 'a' AS note`),
        Stream.fromIterableEffect(session(sql<object>`SELECT 1 AS id, 'a' AS note`)),
        Stream.fromEffect(copyFrom("item", columns)(Stream.make([1, "a"])).pipe(Effect.as([2, "b"]))),
        copyTo("SELECT 1, 'a'"),
        Stream.mapEffect(Stream.make(1, 2), () => sql`SELECT 1`, { concurrency: 2 })
      ]
      for (const stream of uses) {
        const error = yield* promptly(Effect.flip(session(copyFrom("item", columns)(stream)))) as Effect.Effect<
          DatabaseError
        >
        assert.strictEqual(error._tag, "InvalidStatement")
      }
      assert.deepStrictEqual(yield* ids(url), [])
      // Of another session it may be.
      yield* session(
        copyFrom("item", columns)(Stream.fromIterableEffect(
          session(sql<object>`SELECT 1 AS id, 'a' AS note`, { propagation: "new" })
        ))
      )
      assert.deepStrictEqual(yield* ids(url), [1])
    }))

  it.scopedLive("a statement of a sibling fiber waits for the end of the copy", () =>
    Effect.gen(function*() {
      const { copyFrom, session, sql } = yield* opened()
      const counts = yield* session(Effect.gen(function*() {
        const first = yield* Deferred.make<void>()
        const last = yield* Deferred.make<void>()
        const stream = Stream.concat(
          Stream.make([1, "a"]),
          Stream.fromEffect(Effect.as(
            Effect.zipRight(Deferred.succeed(first, undefined), Deferred.await(last)),
            [2, "b"]
          ))
        )
        const copy = yield* Effect.fork(copyFrom("item", columns)(stream))
        yield* Deferred.await(first)
        const count = yield* Effect.fork(sql`SELECT count(*)::int AS n FROM item`)
        yield* Effect.yieldNow()
        yield* Deferred.succeed(last, undefined)
        return [yield* Fiber.join(copy), yield* Fiber.join(count)]
      }))
      assert.deepStrictEqual(counts, [2, [{ n: 2 }]])
    }))

  it.scopedLive("is canceled while it waits for a lock, and by the statement timeout", () =>
    Effect.gen(function*() {
      const { copyFrom, poolStats, session, sql, url } = yield* opened()
      const isWaiting = Effect.map(
        query(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
        (rows) => rows.length > 0
      )
      const copying = copyFrom("item", columns)(Stream.make([1, "a"]))
      yield* session(Effect.gen(function*() {
        yield* sql`LOCK TABLE item`
        const fiber = yield* Effect.fork(session(copying, { propagation: "new" }))
        yield* eventually(isWaiting)
        yield* promptly(Fiber.interrupt(fiber))
        yield* eventually(Effect.map(isWaiting, (waits) => !waits))
      }))
      const slow = yield* Effect.flip(promptly(
        session(copyFrom("item", columns)(Stream.concat(Stream.make([1, "a"]), Stream.never)), {
          statementTimeout: "300 millis"
        })
      )) as Effect.Effect<DatabaseError>
      assert.strictEqual(slow._tag, "StatementTimeout")
      assert.deepStrictEqual(yield* ids(url), [])
      assert.strictEqual((yield* poolStats).used, 0)
    }))

  it.scopedLive("lost before the end of the data it has changed nothing; lost behind it the outcome is not known", () =>
    Effect.gen(function*() {
      const { between, copyFrom, copyTo, session } = yield* proxied()
      const copying = copyFrom("item", columns)
      const early = yield* Effect.flip(copying(Stream.concat(
        Stream.make([1, "a"]),
        Stream.drain(Stream.fromEffect(Effect.zipRight(between.cutAll, Effect.never)))
      )))
      assert.strictEqual(early._tag, "ConnectionLost")
      const cutAtEnd = between.onClientData((chunk): Decision =>
        chunk.length >= 10 && chunk.at(-10) === copyDone && chunk.at(-5) === 0x53
          ? { forward: chunk, then: "cut" }
          : "pass"
      )
      yield* cutAtEnd
      const late = yield* Effect.flip(copying(Stream.make([2, "b"])))
      assert.strictEqual(late._tag, "CommitOutcomeUnknown")
      // In a session the transaction was not committed.
      const inside = yield* Effect.flip(session(copying(Stream.make([3, "c"]))))
      assert.strictEqual(inside._tag, "ConnectionLost")
      yield* between.onClientData(undefined)
      const read = yield* Effect.flip(Stream.runForEach(
        copyTo("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
        () => between.cutAll
      ))
      assert.strictEqual(read._tag, "ConnectionLost")
    }))

  it.scopedLive("reads no more than is consumed, and a pause is not taken for silence", () =>
    Effect.gen(function*() {
      const { between, copyTo, url } = yield* proxied({ silence: "200 millis" })
      let received = 0
      yield* between.onServerData((chunk): Decision => {
        received += chunk.length
        return "pass"
      })
      const pull = yield* Stream.toPull(copyTo("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
      let taken = 0
      taken += Chunk.reduce(yield* pull, 0, (sum, chunk) => sum + chunk.length)
      yield* eventually(Effect.map(
        query(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'"),
        (rows) => rows.length > 0
      ))
      // A server that does not answer any more would be taken for lost.
      yield* between.refuse
      yield* Effect.sleep("1 seconds")
      const whilePaused = received
      assert.isBelow(whilePaused, 50_000_000)
      for (let chunk = yield* Effect.option(pull); chunk._tag === "Some"; chunk = yield* Effect.option(pull)) {
        taken += Chunk.reduce(chunk.value, 0, (sum, chunk) => sum + chunk.length)
      }
      assert.strictEqual(taken, 100_100_000)
    }), 120_000)

  it.scopedLive("pulls no more than the server takes", () =>
    Effect.gen(function*() {
      const { copyFrom, url } = yield* opened()
      yield* query(
        url,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
      )
      yield* query(url, "CREATE TRIGGER wait BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION wait()")
      const holder = yield* Database.make({ environment: "test", url })
      const release = yield* Deferred.make<void>()
      const held = yield* Deferred.make<void>()
      const holding = yield* Effect.fork(holder.session(Effect.gen(function*() {
        yield* holder.sql`SELECT pg_advisory_xact_lock(1)`
        yield* Deferred.succeed(held, undefined)
        yield* Deferred.await(release)
      })))
      yield* Deferred.await(held)
      let pulled = 0
      const note = "x".repeat(1_000)
      const stream = Stream.map(Stream.rechunk(Stream.range(1, 50_000), 100), (id) => {
        pulled++
        return [id, note]
      })
      const copying = yield* Effect.fork(copyFrom("item", columns)(stream))
      yield* eventually(Effect.map(
        query(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY%'"),
        (rows) => rows.length > 0
      ))
      let before = -1
      yield* eventually(Effect.sync(() => {
        const isSteady = pulled === before
        before = pulled
        return isSteady
      }))
      assert.isBelow(pulled, 50_000)
      yield* Deferred.succeed(release, undefined)
      assert.strictEqual(yield* Fiber.join(copying), 50_000)
      yield* Fiber.join(holding)
    }))

  it.scopedLive("exports half a million rows in constant memory", () =>
    Effect.gen(function*() {
      const { copyTo } = yield* opened()
      const used = () => {
        collect()
        const { arrayBuffers, heapUsed } = process.memoryUsage()
        return arrayBuffers + heapUsed
      }
      const start = used()
      let rows = 0
      let measured = 0
      let peak = 0
      yield* Stream.runForEach(
        copyTo("SELECT i, repeat('x', 200) FROM generate_series(1, 500000) AS i", { format: "csv" }),
        (chunk) =>
          Effect.sync(() => {
            for (let i = chunk.indexOf(10); i >= 0; i = chunk.indexOf(10, i + 1)) {
              rows++
            }
            if (rows - measured > 20_000) {
              measured = rows
              peak = Math.max(peak, used() - start)
            }
          })
      )
      assert.strictEqual(rows, 500_000)
      // It is more than 100 megabytes of data.
      assert.isBelow(peak, 20_000_000)
    }))
})
