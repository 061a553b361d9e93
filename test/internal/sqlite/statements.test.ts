import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { describe, it } from "@effect/vitest"
import * as BigDecimal from "effect/BigDecimal"
import * as Chunk from "effect/Chunk"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { Buffer } from "node:buffer"
import * as Vm from "node:vm"
import { assert } from "vitest"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { connect, driver, file } from "./support.js"

const databases = {
  "a file, in a thread of its own": Effect.flatMap(file, (filename) => connect(driver(filename))),
  "in memory, on the main thread": connect(driver(":memory:"))
}

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  connection.execute(sql, params, undefined)

const failure = <A>(effect: Effect.Effect<A, SqlError>): Effect.Effect<DatabaseError, A> =>
  Effect.map(Effect.flip(effect), fromSqlError)

const tagOf = <A>(effect: Effect.Effect<A, SqlError>) => Effect.map(failure(effect), (error) => error._tag)

const collected = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  Effect.map(Stream.runCollect(connection.executeStream(sql, params, undefined)), Chunk.toReadonlyArray)

for (const [name, opened] of Object.entries(databases)) {
  const test = (
    name: string,
    body: (connection: SqliteConnection) => Effect.Effect<void, unknown>
  ) => it.scopedLive(name, () => Effect.flatMap(opened, body))

  describe(`statements: ${name}`, () => {
    test("values come back as they went in", (connection) =>
      Effect.gen(function*() {
        const params = [
          "text",
          "",
          1.5,
          -7,
          2n ** 53n - 1n,
          null,
          undefined,
          Buffer.from("bytes"),
          new Uint8Array([1, 2])
        ]
        const sql = `SELECT ${params.map((_, i) => `? AS c${i}`).join(", ")}`
        const expected = ["text", "", 1.5, -7, 2 ** 53 - 1, null, null, Buffer.from("bytes"), Buffer.from([1, 2])]
        const row = Object.fromEntries(expected.map((value, i) => [`c${i}`, value]))
        assert.deepStrictEqual(yield* run(connection, sql, params), [row])
        assert.deepStrictEqual(yield* connection.executeValues(sql, params), [expected])
        assert.deepStrictEqual(yield* connection.executeRaw(sql, params), [row])
        assert.deepStrictEqual(yield* collected(connection, sql, params), [row])
      }))

    test("of a view of a larger buffer only the view is bound", (connection) =>
      Effect.gen(function*() {
        const memory = Buffer.from("0123456789")
        const params = [memory.subarray(2, 5), new DataView(memory.buffer, memory.byteOffset + 5, 2)]
        assert.deepStrictEqual(yield* connection.executeValues("SELECT CAST(? AS TEXT), CAST(? AS TEXT)", params), [
          ["234", "56"]
        ])
      }))

    test("the error of a parameter that cannot be bound tells its position and type", (connection) =>
      Effect.gen(function*() {
        const cases: ReadonlyArray<readonly [unknown, string]> = [
          [new Date(Number.NaN), "invalid Date"],
          [new Date("-000001-12-31T23:59:59.999Z"), "year"],
          [new Date("+010000-01-01T00:00:00.000Z"), "year"],
          [BigDecimal.fromBigInt(1n), "Object"],
          [[1], "Array"],
          [{ a: 1 }, "Object"],
          [Object.create(null), "object"],
          [Symbol("s"), "symbol"],
          [() => 1, "function"],
          [2n ** 63n, "64 bits"],
          [-(2n ** 63n) - 1n, "64 bits"]
        ]
        for (const [param, type] of cases) {
          const error = yield* failure(run(connection, "SELECT ?, ?", [1, param]))
          assert.strictEqual(error._tag, "InvalidData")
          assert.include(error.message, "parameter 2")
          assert.include(error.message, type)
        }
        assert.strictEqual(yield* tagOf(run(connection, "SELECT ?", [])), "InvalidData")
        assert.strictEqual(yield* tagOf(run(connection, "SELECT 1", [1])), "InvalidData")
        const smallest = run(connection, "SELECT ? AS n", [-(2n ** 63n)])
        assert.deepStrictEqual(yield* Effect.provideService(smallest, SqlClient.SafeIntegers, true), [
          { n: -(2n ** 63n) }
        ])
      }))

    test("booleans are 1 and 0, and times are text in ISO 8601, in UTC, which SQLite's date functions read", (connection) =>
      Effect.gen(function*() {
        const text = "2024-05-06T07:08:09.123Z"
        const zoned = DateTime.unsafeMakeZoned(text, { timeZone: "Asia/Tokyo" })
        const foreign: unknown = Vm.runInNewContext(`new Date("${text}")`)
        const subclassed = new (class extends Date {
          override toISOString = () => "never called"
        })(text)
        for (const time of [new Date(text), DateTime.unsafeMake(text), zoned, foreign, subclassed]) {
          const sql =
            "SELECT ? AS a, unixepoch(?) AS seconds, typeof(?) AS type, strftime('%Y-%m-%dT%H:%M:%fZ', ?) AS same"
          const row = { a: text, seconds: 1714979289, type: "text", same: text }
          const params = [time, time, time, time]
          assert.deepStrictEqual(yield* run(connection, sql, params), [row])
          assert.deepStrictEqual(yield* connection.executeUnprepared(sql, params, undefined), [row])
          assert.deepStrictEqual(yield* connection.executeValues(sql, params), [Object.values(row)])
          assert.deepStrictEqual(yield* collected(connection, sql, params), [row])
        }
        for (const limit of ["0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]) {
          assert.deepStrictEqual(yield* run(connection, "SELECT datetime(?) AS a", [new Date(limit)]), [
            { a: limit.slice(0, 19).replace("T", " ") }
          ])
        }
        assert.deepStrictEqual(
          yield* run(connection, "SELECT ? AS t, typeof(?) AS type, ? AS f, ? = 1 AS one, NOT ? AS negated", [
            true,
            true,
            false,
            true,
            true
          ]),
          [{ t: 1, type: "integer", f: 0, one: 1, negated: 0 }]
        )
      }))

    test("bytes of a transferred or resized buffer cannot be bound", (connection) =>
      Effect.gen(function*() {
        const transferred = <A extends ArrayBufferView>(view: A): A => {
          structuredClone(view, { transfer: [view.buffer as ArrayBuffer] })
          return view
        }
        // Missing in the types: WebAssembly, and resizable buffers.
        const memory: { readonly buffer: ArrayBuffer; readonly grow: (pages: number) => void } = Reflect.construct(
          Reflect.get(Reflect.get(globalThis, "WebAssembly"), "Memory"),
          [{ initial: 1 }]
        )
        const grown = [new Uint8Array(memory.buffer), new Uint8Array(memory.buffer, 8, 4)]
        memory.grow(1)
        const buffer: ArrayBuffer = Reflect.construct(ArrayBuffer, [8, { maxByteLength: 16 }])
        const shrunk = [new Uint8Array(buffer, 4, 4), new DataView(buffer, 4, 4)]
        Reflect.get(buffer, "resize").call(buffer, 2)
        const gone = [
          transferred(new Uint8Array(8)),
          transferred(new Float64Array(8)),
          transferred(new DataView(new ArrayBuffer(8))),
          transferred(Buffer.from(new ArrayBuffer(8))),
          ...grown,
          ...shrunk
        ]
        for (const param of gone) {
          const errors = yield* Effect.all([
            failure(run(connection, "SELECT ?, ?", [1, param])),
            failure(collected(connection, "SELECT ?, ?", [1, param]))
          ], { concurrency: "unbounded" })
          for (const error of errors) {
            assert.strictEqual(error._tag, "InvalidData")
            assert.include(error.message, "parameter 2 holds bytes whose ArrayBuffer was detached or shrunk")
          }
          assert.deepStrictEqual(yield* run(connection, "SELECT 1 AS n"), [{ n: 1 }])
        }
        const empty = [new Uint8Array(0), Buffer.alloc(0), new Float64Array(0), new DataView(new ArrayBuffer(0))]
        const counts = empty.map(() => 0)
        assert.deepStrictEqual(
          yield* connection.executeValues(`SELECT ${empty.map(() => "length(?)").join(", ")}`, empty),
          [counts]
        )
        const whole = new Uint8Array(memory.buffer)
        assert.deepStrictEqual(yield* connection.executeValues("SELECT length(?)", [whole]), [[whole.length]])
      }))

    test("safe integers apply to one execution of a cached statement", (connection) =>
      Effect.gen(function*() {
        const safely = Effect.provideService(SqlClient.SafeIntegers, true)
        const big = 2n ** 60n + 1n
        const sql = "SELECT ? AS n"
        for (let i = 0; i < 2; i++) {
          assert.deepStrictEqual(yield* run(connection, sql, [5n]), [{ n: 5 }])
          assert.deepStrictEqual(yield* safely(run(connection, sql, [big])), [{ n: big }])
          assert.deepStrictEqual(yield* safely(connection.executeValues(sql, [big])), [[big]])
          assert.deepStrictEqual(yield* safely(connection.executeUnprepared(sql, [big], undefined)), [{ n: big }])
          assert.deepStrictEqual(yield* safely(collected(connection, sql, [big])), [{ n: big }])
          assert.deepStrictEqual(yield* connection.executeValues(sql, [5n]), [[5]])
          assert.deepStrictEqual(yield* collected(connection, sql, [5n]), [{ n: 5 }])
        }
        yield* run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
        const insert = connection.executeRaw("INSERT INTO t VALUES (NULL)", [])
        assert.deepStrictEqual(yield* insert, { changes: 1, lastInsertRowid: 1 })
        assert.deepStrictEqual(yield* safely(insert), { changes: 1, lastInsertRowid: 2n })
        assert.deepStrictEqual(yield* insert, { changes: 1, lastInsertRowid: 3 })
      }))

    test("several statements at once are refused", (connection) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* tagOf(run(connection, "SELECT 1; SELECT 2")), "InvalidStatement")
        assert.strictEqual(yield* tagOf(run(connection, "-- nothing")), "InvalidStatement")
        assert.deepStrictEqual(yield* run(connection, "SELECT 1 AS n; -- and no more"), [{ n: 1 }])
      }))

    test("cached statements survive eviction and schema changes", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE t (a)")
        yield* run(connection, "INSERT INTO t VALUES (1)")
        const all = run(connection, "SELECT * FROM t")
        assert.deepStrictEqual(yield* all, [{ a: 1 }])
        yield* run(connection, "ALTER TABLE t ADD COLUMN b DEFAULT 2")
        assert.deepStrictEqual(yield* all, [{ a: 1, b: 2 }])
        for (let i = 0; i < 450; i++) {
          assert.deepStrictEqual(yield* run(connection, `SELECT ${i % 300} AS n`), [{ n: i % 300 }])
        }
        assert.deepStrictEqual(yield* all, [{ a: 1, b: 2 }])
        yield* run(connection, "DROP TABLE t")
        assert.strictEqual(yield* tagOf(all), "InvalidStatement")
      }))

    test("a single statement is atomic, except INSERT OR FAIL", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE t (a UNIQUE)")
        const values = connection.executeValues("SELECT a FROM t ORDER BY a", [])
        assert.strictEqual(yield* tagOf(run(connection, "INSERT INTO t VALUES (1), (2), (1)")), "UniqueViolation")
        assert.deepStrictEqual(yield* values, [])
        assert.strictEqual(
          yield* tagOf(run(connection, "INSERT OR FAIL INTO t VALUES (1), (2), (1)")),
          "UniqueViolation"
        )
        assert.deepStrictEqual(yield* values, [[1], [2]])
        assert.strictEqual(
          yield* tagOf(run(connection, "INSERT OR ROLLBACK INTO t VALUES (3), (1)")),
          "UniqueViolation"
        )
        assert.deepStrictEqual(yield* values, [[1], [2]])
        yield* run(connection, "CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        yield* run(connection, "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        assert.strictEqual(yield* tagOf(run(connection, "INSERT INTO child VALUES (1)")), "ForeignKeyViolation")
        assert.deepStrictEqual(yield* run(connection, "SELECT * FROM child"), [])
        assert.strictEqual(connection.status(), "idle")
      }))

    test("statements that cannot run in a transaction run without one", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "VACUUM")
        yield* run(connection, "PRAGMA optimize")
        yield* connection.executeUnprepared("BEGIN IMMEDIATE", [], undefined)
        assert.strictEqual(connection.status(), "active")
        yield* connection.executeUnprepared("COMMIT", [], undefined)
        assert.strictEqual(connection.status(), "idle")
      }))

    test("statements after a rollback by SQLite itself are refused", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE t (a UNIQUE)")
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (1)")
        assert.strictEqual(
          yield* tagOf(run(connection, "INSERT OR ROLLBACK INTO t VALUES (2), (2)")),
          "UniqueViolation"
        )
        assert.strictEqual(connection.status(), "aborted")
        for (
          const effect of [
            run(connection, "INSERT INTO t VALUES (3)"),
            connection.executeValues("SELECT 1", []),
            Stream.runDrain(connection.executeStream("SELECT 1", [], undefined))
          ]
        ) {
          assert.strictEqual(yield* tagOf<unknown>(effect), "TransactionAborted")
        }
        assert.strictEqual((yield* Effect.flip(connection.savepoint("s")))._tag, "TransactionAborted")
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "TransactionAborted")
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* run(connection, "SELECT * FROM t"), [])
        yield* connection.begin({ readOnly: true })
        yield* connection.executeUnprepared("ROLLBACK", [], undefined)
        assert.strictEqual(connection.status(), "aborted")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")
        yield* run(connection, "INSERT INTO t VALUES (4)")
      }))

    test("a commit without a transaction and a nested begin are refused", (connection) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "TransactionAborted")
        yield* connection.begin({})
        assert.strictEqual((yield* Effect.flip(connection.begin({})))._tag, "InvalidStatement")
        assert.strictEqual(connection.status(), "active")
        yield* connection.rollback
      }))

    test("a reset clears temporary tables, and databases and settings of a transaction", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE kept (a)")
        yield* run(connection, "INSERT INTO kept VALUES (1)")
        yield* run(connection, "CREATE TEMP TABLE \"odd \"\" name\" (a)")
        yield* run(connection, "CREATE TEMP VIEW v AS SELECT * FROM kept")
        yield* run(connection, "CREATE TEMP TRIGGER tr AFTER INSERT ON kept BEGIN DELETE FROM kept; END")
        yield* connection.begin({})
        yield* run(connection, "ATTACH ':memory:' AS \"other \"\" one\"")
        yield* run(connection, "PRAGMA query_only = ON")
        yield* run(connection, "PRAGMA busy_timeout = 1000")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "dirty")
        yield* connection.reset
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* run(connection, "SELECT name FROM sqlite_temp_schema"), [])
        assert.deepStrictEqual(
          yield* connection.executeValues("SELECT name FROM pragma_database_list WHERE name <> 'temp'", []),
          [["main"]]
        )
        assert.deepStrictEqual(yield* connection.executeValues("SELECT * FROM pragma_busy_timeout", []), [[0]])
        yield* run(connection, "INSERT INTO kept VALUES (2)")
        assert.deepStrictEqual(yield* connection.executeValues("SELECT a FROM kept", []), [[1], [2]])
      }))

    test("reading settings does not make the connection dirty", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "PRAGMA foreign_keys")
        yield* run(connection, "PRAGMA table_info('t')")
        assert.strictEqual(connection.status(), "idle")
      }))

    test("a statement timeout cancels a statement that returns rows", (connection) =>
      Effect.gen(function*() {
        const slow =
          "WITH RECURSIVE m(j) AS (SELECT 1 UNION ALL SELECT j + 1 FROM m WHERE j < 20000 + n.i) SELECT count(*) FROM m"
        const endless = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, (${slow}) FROM n`
        for (
          const effect of [
            run(connection, endless),
            Stream.runDrain(connection.executeStream(endless, [], undefined))
          ]
        ) {
          yield* connection.begin({ statementTimeout: Duration.millis(100) })
          assert.strictEqual(yield* tagOf<unknown>(effect), "StatementTimeout")
          assert.strictEqual(connection.status(), "aborted")
          yield* connection.rollback
        }
      }))

    test("a timeout can be set for the statements outside of transactions, until a scope closes", (connection) =>
      Effect.gen(function*() {
        const counting = (count: number) =>
          run(
            connection,
            `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ${count}) SELECT i FROM n`
          )
        yield* Effect.scoped(Effect.gen(function*() {
          yield* connection.setStatementTimeout(Duration.millis(1))
          assert.strictEqual(yield* tagOf(counting(1e9)), "StatementTimeout")
        }))
        assert.strictEqual((yield* counting(20_000)).length, 20_000)
      }))

    test("a stream is not affected by later writes", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
        yield* run(
          connection,
          "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i FROM n"
        )
        yield* connection.begin({})
        const rows = connection.executeStream("SELECT a FROM t ORDER BY a", [], undefined)
        const seen: Array<number> = []
        yield* Stream.runForEach(rows, ({ a }: { readonly a: number }) => {
          seen.push(a)
          return a === 1 ? run(connection, "DELETE FROM t WHERE a > 10") : Effect.void
        })
        assert.strictEqual(seen.length, 2000)
        assert.deepStrictEqual(yield* connection.executeValues("SELECT count(*) FROM t", []), [[10]])
        yield* connection.rollback
      }))

    test("an error while the rows of a stream are buffered fails the stream", (connection) =>
      Effect.gen(function*() {
        yield* run(connection, "CREATE TABLE t (a)")
        yield* connection.begin({})
        const sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) " +
          "SELECT i, CASE i WHEN 1500 THEN json('{') END FROM n"
        let seen = 0
        const streaming = Stream.runForEach(connection.executeStream(sql, [], undefined), () => {
          seen++
          return seen === 1 ? run(connection, "INSERT INTO t VALUES (1)") : Effect.void
        })
        const error = yield* failure(streaming)
        assert.strictEqual(error.statement, sql)
        assert.strictEqual(seen, 1024)
        assert.strictEqual(connection.status(), "aborted")
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
      }))

    test("the end of its transaction cancels a stream", (connection) =>
      Effect.gen(function*() {
        const sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i FROM n"
        for (const end of [connection.commit, connection.rollback, connection.reset]) {
          yield* connection.begin({})
          const streaming = Stream.runForEach(
            connection.executeStream(sql, [], undefined),
            ({ i }: { readonly i: number }) => i === 1 ? Effect.orDie(end) : Effect.void
          )
          assert.strictEqual(yield* tagOf(streaming), "StatementCanceled")
          assert.strictEqual(connection.status(), "idle")
        }
      }))

    test("an open stream makes the connection dirty", (connection) =>
      Effect.gen(function*() {
        const sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i FROM n"
        const statuses = new Set<string>()
        yield* Stream.runForEach(connection.executeStream(sql, [], undefined), () =>
          Effect.sync(() => statuses.add(connection.status())))
        assert.deepStrictEqual([...statuses], ["dirty", "idle"])
      }))
  })
}
