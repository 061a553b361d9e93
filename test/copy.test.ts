/** Copies between streams and tables, on every dialect. */
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { forEachDialect } from "./support/dialects.js"

const textOf = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<string, E, R> =>
  Effect.map(Stream.runCollect(stream), (chunks) => Buffer.concat(Chunk.toReadonlyArray(chunks)).toString())

const createTable = Effect.flatMap(
  Database.Database,
  ({ sql }) => sql`CREATE TABLE item (id INTEGER PRIMARY KEY, note TEXT, amount DOUBLE PRECISION)`
)

const ids = Effect.flatMap(
  Database.Database,
  ({ sql }) =>
    Effect.map(sql<{ readonly id: number }>`SELECT id FROM item ORDER BY id`, (rows) => rows.map(({ id }) => id))
)

const columns = ["id", "note"]

const awkward = ["", "\\", "\\N", "\t", "a\tb\nc\rd", "\"quoted\", and more", "\\.", "ü€😀", " ", "null", "x\\\n"]

/** Splits a text into pieces of a few characters, and every other one into bytes. */
const pieces = (text: string, size: number): ReadonlyArray<string | Uint8Array> => {
  const bytes = Buffer.from(text)
  const split: Array<string | Uint8Array> = []
  for (let i = 0; i < bytes.length; i += size) {
    split.push(bytes.subarray(i, i + size))
  }
  return split
}

forEachDialect((name, layer) =>
  describe(`copies on ${name}`, () => {
    it.live("copies rows, as arrays and as objects, and gives their number", () =>
      Effect.gen(function*() {
        yield* createTable
        const { sql } = yield* Database.Database
        const count = yield* Database.copyFrom("item", ["id", "note", "amount"])(
          Stream.make<[object, object, object]>([1, "a", 1.5], { id: 2, amount: 1e300, note: null }, [
            3,
            undefined,
            null
          ])
        )
        assert.strictEqual(count, 3)
        assert.deepStrictEqual(yield* sql`SELECT * FROM item ORDER BY id`, [
          { id: 1, note: "a", amount: 1.5 },
          { id: 2, note: null, amount: 1e300 },
          { id: 3, note: null, amount: null }
        ])
      }).pipe(Effect.provide(layer)))

    it.live("copies awkward texts out and in again, in each format and in pieces of any size", () =>
      Effect.gen(function*() {
        yield* createTable
        const { sql } = yield* Database.Database
        const rows = awkward.map((note, id) => [id, note])
        yield* Database.copyFrom("item", columns)(Stream.fromIterable([...rows, [awkward.length, null]]))
        const expected = yield* sql`SELECT id, note FROM item ORDER BY id`
        assert.deepStrictEqual(expected.map(({ note }) => note), [...awkward, null])
        const formats: ReadonlyArray<Database.CopyOptions> = [
          {},
          { format: "csv" },
          { format: "csv", header: true, delimiter: ";", null: "null" },
          { format: "text", delimiter: "|", null: "-" }
        ]
        for (const options of formats) {
          const text = yield* textOf(Database.copyTo("SELECT id, note FROM item ORDER BY id", options))
          for (const size of [1, 7, 10_000]) {
            yield* sql`DELETE FROM item`
            const count = yield* Database.copyFrom("item", columns, options)(Stream.fromIterable(pieces(text, size)))
            assert.strictEqual(count, expected.length)
            assert.deepStrictEqual(yield* sql`SELECT id, note FROM item ORDER BY id`, expected)
          }
        }
      }).pipe(Effect.provide(layer)))

    it.live("gives CSV with a header, and takes a statement with parameters", () =>
      Effect.gen(function*() {
        yield* createTable
        const { sql } = yield* Database.Database
        yield* Database.copyFrom("item", columns)(Stream.make([1, "it's \\ \"a\""], [2, "$1"]))
        const query = sql`SELECT id, note FROM item WHERE note = ${"it's \\ \"a\""} /* $1 ? */`
        assert.strictEqual(
          yield* textOf(Database.copyTo(query, { format: "csv", header: true })),
          "id,note\n1,\"it's \\ \"\"a\"\"\"\n"
        )
      }).pipe(Effect.provide(layer)))

    it.live("keeps both of two columns with the same name", () =>
      Effect.gen(function*() {
        const text = yield* textOf(
          Database.copyTo("SELECT 1 AS a, 2 AS a, 3 AS \"0\"", { format: "csv", header: true })
        )
        assert.strictEqual(text, "a,a,0\n1,2,3\n")
      }).pipe(Effect.provide(layer)))

    it.live("fails with the line, and copies nothing", () =>
      Effect.gen(function*() {
        yield* createTable
        const many = Stream.concat(
          Stream.map(Stream.range(1, 5_000), (id) => [id, "x"]),
          Stream.make([17, "y"], [5_001, "z"])
        )
        const violation = yield* Effect.flip(Database.copyFrom("item", columns)(many))
        assert.strictEqual(violation._tag, "UniqueViolation")
        assert.strictEqual(violation.line, 5_001)
        const invalid = yield* Effect.flip(
          Database.copyFrom("item", columns, { format: "csv", header: true })(Stream.make("id,note\n1,a\nsecret,b\n"))
        )
        assert.strictEqual(invalid._tag, "InvalidData")
        assert.strictEqual(invalid.line, 3)
        assert.notInclude(`${invalid.message}${JSON.stringify(invalid)}`, "secret")
        const missing = yield* Effect.flip(
          Database.copyFrom("item", columns)(Stream.make({ id: 1, note: "a" }, { id: 2 }))
        )
        assert.strictEqual(missing._tag, "InvalidData")
        assert.strictEqual(missing.line, 2)
        assert.strictEqual(missing.column, "note")
        const unsendable = yield* Effect.flip(
          Database.copyFrom("item", columns)(Stream.make([1, "a"], [2, Symbol("secret")]))
        )
        assert.strictEqual(unsendable._tag, "InvalidData")
        assert.strictEqual(unsendable.line, 2)
        for (const data of ["1\n", "1\ta\tb\n"]) {
          const malformed = yield* Effect.flip(Database.copyFrom("item", columns)(Stream.make(data)))
          assert.strictEqual(malformed._tag, "InvalidData")
          assert.strictEqual(malformed.line, 1)
        }
        assert.deepStrictEqual(yield* ids, [])
      }).pipe(Effect.provide(layer)))

    it.live("refuses what is no table, no option or no mixture", () =>
      Effect.gen(function*() {
        yield* createTable
        const rows: Stream.Stream<object | string> = Stream.make([1, "a"])
        const attempts = [
          Database.copyFrom("missing", columns)(rows),
          Database.copyFrom("item", ["missing"])(rows),
          Database.copyFrom("item", [])(rows),
          Database.copyFrom("item", columns, { format: "csv" })(rows),
          Database.copyFrom("item", columns, { delimiter: "ab" })(rows),
          Database.copyFrom("item", columns)(Stream.concat(rows, Stream.make("2\tb\n"))),
          Stream.runDrain(Database.copyTo("SELECT nothing FROM item")),
          Stream.runDrain(Database.copyTo("SELECT 1", { format: "binary", header: true }))
        ]
        for (const attempt of attempts) {
          assert.strictEqual((yield* Effect.flip(attempt))._tag, "InvalidStatement")
        }
        assert.deepStrictEqual(yield* ids, [])
      }).pipe(Effect.provide(layer)))

    it.live("fails with the failure of its stream, or dies with it, and copies nothing", () =>
      Effect.gen(function*() {
        yield* createTable
        const first = Stream.make([1, "a"])
        const failed = yield* Effect.flip(
          Database.copyFrom("item", columns)(Stream.concat(first, Stream.fail(undefined)))
        )
        assert.strictEqual(failed, undefined)
        const died = yield* Effect.exit(
          Database.copyFrom("item", columns)(Stream.concat(first, Stream.die("defect")))
        )
        assert.deepStrictEqual(died, Exit.die("defect"))
        assert.deepStrictEqual(yield* ids, [])
        assert.strictEqual(yield* Database.copyFrom("item", columns)(first), 1)
        assert.strictEqual(yield* Database.copyFrom("item", columns)(Stream.empty), 0)
      }).pipe(Effect.provide(layer)))

    it.live("is undone when it is interrupted while it waits for its stream", () =>
      Effect.gen(function*() {
        yield* createTable
        const waiting = yield* Deferred.make<void>()
        const stream = Stream.concat(
          Stream.make([1, "a"]),
          Stream.fromEffect(Effect.zipRight(Deferred.succeed(waiting, undefined), Effect.never))
        )
        const fiber = yield* Effect.fork(Database.copyFrom("item", columns)(stream))
        yield* Deferred.await(waiting)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* ids, [])
        assert.strictEqual((yield* Database.poolStats).used, 0)
      }).pipe(Effect.provide(layer)))

    it.live("runs in its session, and is rolled back with it", () =>
      Effect.gen(function*() {
        yield* createTable
        yield* Effect.exit(Database.session(
          Effect.zipRight(Database.copyFrom("item", columns)(Stream.make([1, "a"])), Effect.fail("mine"))
        ))
        assert.deepStrictEqual(yield* ids, [])
        const inside = yield* Database.session(Effect.gen(function*() {
          const { sql } = yield* Database.Database
          yield* sql`INSERT INTO item (id) VALUES (1)`
          yield* Database.copyFrom("item", columns)(Stream.make([2, "b"]))
          yield* Effect.ignore(Database.session(
            Effect.zipRight(Database.copyFrom("item", columns)(Stream.make([3, "c"])), Effect.fail("mine"))
          ))
          yield* Database.session(Database.copyFrom("item", columns)(Stream.make([4, "d"])))
          return yield* textOf(Database.copyTo("SELECT id FROM item ORDER BY id"))
        }))
        assert.strictEqual(inside, "1\n2\n4\n")
        assert.deepStrictEqual(yield* ids, [1, 2, 4])
      }).pipe(Effect.provide(layer)))

    it.live("that has failed keeps its session from being committed", () =>
      Effect.gen(function*() {
        yield* createTable
        const failures: ReadonlyArray<Stream.Stream<object, string>> = [
          Stream.concat(Stream.make([1, "a"]), Stream.fail("mine")),
          Stream.make([1, "a"], [1, "b"]),
          Stream.concat(Stream.map(Stream.range(1, 2_000), (id) => [id, "x"]), Stream.make({ id: 0 }))
        ]
        for (const stream of failures) {
          const exit = yield* Effect.exit(
            Database.session(Effect.ignore(Database.copyFrom("item", columns)(stream)))
          )
          assert.isTrue(Exit.isFailure(exit))
          assert.deepStrictEqual(yield* ids, [])
        }
        const interrupted = yield* Effect.flip(Database.session(
          Database.copyFrom("item", columns)(Stream.concat(Stream.make([1, "a"]), Stream.never)).pipe(
            Effect.timeoutOption("100 millis")
          )
        ))
        assert.strictEqual(interrupted._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* ids, [])
      }).pipe(Effect.provide(layer)))

    it.live("leaving a copy early touches nothing else of its session", () =>
      Effect.gen(function*() {
        yield* createTable
        const { sql } = yield* Database.Database
        yield* Database.copyFrom("item", columns)(Stream.map(Stream.range(1, 20_000), (id) => [id, "x".repeat(50)]))
        const wide = "SELECT a.id, b.note FROM item a, item b WHERE b.id < 200"
        yield* Database.session(Effect.gen(function*() {
          yield* sql`DELETE FROM item WHERE id = 1`
          assert.strictEqual(Chunk.size(yield* Stream.runCollect(Stream.take(Database.copyTo(wide), 1))), 1)
          yield* sql`DELETE FROM item WHERE id = 2`
          yield* Effect.flip(Stream.runForEach(Database.copyTo(wide), () => Effect.fail("mine")))
          yield* sql`DELETE FROM item WHERE id = 3`
          yield* Effect.timeoutOption(Stream.runForEach(Database.copyTo(wide), () => Effect.never), "50 millis")
          yield* sql`DELETE FROM item WHERE id = 4`
        }))
        assert.deepStrictEqual((yield* ids).slice(0, 2), [5, 6])
      }).pipe(Effect.provide(layer)))

    it.live("a statement of the session that consumes a copy is executed, and so is a nested session", () =>
      Effect.gen(function*() {
        yield* createTable
        const { sql } = yield* Database.Database
        yield* Database.copyFrom("item", columns)(Stream.map(Stream.range(1, 20_000), (id) => [id, "x".repeat(50)]))
        let size = 0
        let chunks = 0
        yield* Database.session(
          Stream.runForEach(Database.copyTo("SELECT * FROM item"), (chunk) => {
            size += chunk.length
            chunks++
            const update = sql`UPDATE item SET amount = ${chunks} WHERE id = 1`
            return Effect.asVoid(chunks % 2 === 0 ? Database.session(update) : Effect.orDie(update))
          })
        )
        assert.isAbove(size, 20_000 * 50)
        const [row] = yield* sql<{ readonly amount: number }>`SELECT amount FROM item WHERE id = 1`
        assert.strictEqual(row.amount, chunks)
      }).pipe(Effect.provide(layer)))

    it.live("exports to an HTTP response", () =>
      Effect.gen(function*() {
        yield* createTable
        yield* Database.copyFrom("item", columns)(Stream.map(Stream.range(1, 3_000), (id) => [id, `note ${id}`]))
        const database = yield* Database.Database
        const response = HttpServerResponse.toWeb(
          HttpServerResponse.stream(database.copyTo("SELECT id, note FROM item ORDER BY id", { format: "csv" }), {
            contentType: "text/csv"
          })
        )
        const body = yield* Effect.promise(() => response.text())
        assert.strictEqual(body.split("\n").length, 3_001)
        assert.isTrue(body.startsWith("1,note 1\n2,note 2\n"))
      }).pipe(Effect.provide(layer)))

    it.live("fails where a test wants it to", () =>
      Effect.gen(function*() {
        yield* createTable
        const rows = Stream.make([1, "a"])
        assert.strictEqual((yield* Effect.flip(Database.copyFrom("item", columns)(rows)))._tag, "DeadlockDetected")
        assert.strictEqual(yield* Database.copyFrom("item", columns)(rows), 1)
        const query = Database.copyTo("SELECT id FROM item")
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(query)))._tag, "DeadlockDetected")
        assert.strictEqual(yield* textOf(query), "1\n")
      }).pipe(Effect.provide(Layer.provide(
        layer,
        TestDatabase.faults([
          {
            on: "statement",
            matching: /^(?:COPY "item"|INSERT INTO "item")/,
            error: TestDatabase.error("DeadlockDetected")
          },
          { on: "statement", matching: /SELECT id FROM item/, error: TestDatabase.error("DeadlockDetected") }
        ])
      ))))

    it.live("works in a sandbox, also where its stream uses that", () =>
      Effect.gen(function*() {
        yield* createTable
        yield* Database.copyFrom("item", columns)(Stream.make([1, "a"], [2, "b"]))
        const { sql } = yield* Database.Database
        // The source uses the sandbox too.
        yield* Database.copyFrom("item", columns)(
          Stream.map(sql<{ readonly id: number }>`SELECT id FROM item`.stream, ({ id }) => [id + 10, "c"])
        )
        yield* Effect.flip(Database.copyFrom("item", columns)(Stream.make([30, "a"], [1, "b"])))
        yield* Database.session(Database.copyFrom("item", columns)(Stream.make([20, "d"])))
        assert.strictEqual(
          yield* textOf(Database.copyTo("SELECT id FROM item ORDER BY id")),
          "1\n2\n11\n12\n20\n"
        )
      }).pipe(Effect.provide(Layer.provide(TestDatabase.sandbox, layer))))
  })
)
