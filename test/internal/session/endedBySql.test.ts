/**
 * A statement of a session that ends its transaction: what comes after it must not commit by itself, and the session must
 * not be reported as committed.
 */
import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import * as Session from "../../../src/Session.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { freshDatabase } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { assertIdle, createTables, failure, insert, live, numbers, open } from "./harness.js"

/** What ends it, what of 1 is kept, and what of a 2 in the same text is. */
interface End {
  readonly statement: string
  readonly kept: ReadonlyArray<number>
}

const everywhere: ReadonlyArray<End> = [
  { statement: "ROLLBACK", kept: [] },
  { statement: "COMMIT", kept: [1] },
  { statement: "END", kept: [1] }
]

const onPostgres: ReadonlyArray<End> = [
  { statement: "/* a comment */ rollback work", kept: [] },
  { statement: "ABORT", kept: [] },
  { statement: "COMMIT AND CHAIN", kept: [1] },
  { statement: "ROLLBACK AND CHAIN", kept: [] },
  { statement: "ROLLBACK /* a */ WORK AND -- b\n CHAIN", kept: [] },
  { statement: "ROLLBACK; BEGIN", kept: [] },
  { statement: "ROLLBACK; START TRANSACTION", kept: [] },
  { statement: "COMMIT; BEGIN", kept: [1] },
  { statement: "ROLLBACK; INSERT INTO items VALUES (7)", kept: [7] }
]

forEachDialect((name, _, dialect) =>
  describe(`a session whose transaction a statement ends, on ${name}`, () => {
    for (const { kept, statement } of dialect.dialect === "postgres" ? [...everywhere, ...onPostgres] : everywhere) {
      live(`is not committed, and runs nothing more: ${statement}`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const hooks: Array<string> = []
          const end = db.sql.unsafe(statement)
          const error = yield* failure(db.session(Effect.gen(function*() {
            yield* Session.afterCommit(Effect.sync(() => hooks.push("commit")))
            yield* Session.afterRollback(Effect.sync(() => hooks.push("rollback")))
            yield* insert(db, 1)
            yield* end
            const refused = [
              yield* failure(insert(db, 2)),
              yield* failure(db.session(insert(db, 3))),
              ...yield* Effect.all([4, 5].map((n) => failure(insert(db, n))), { concurrency: "unbounded" })
            ]
            assert.deepStrictEqual(refused.map(({ _tag }) => _tag), Array(4).fill("TransactionAborted"))
          })))
          assert.strictEqual(error._tag, "TransactionAborted")
          assert.include(error.message, "the transaction has already ended")
          assert.deepStrictEqual(hooks, ["rollback"])
          assert.deepStrictEqual(yield* numbers(db), kept)
          yield* assertIdle(db)
          yield* db.sql`DELETE FROM items`
          assert.strictEqual(
            (yield* failure(db.sql.withTransaction(Effect.zipRight(insert(db, 8), end))))._tag,
            "TransactionAborted"
          )
          // The connection is as good as new.
          yield* db.session(insert(db, 9))
          assert.include(yield* numbers(db), 9)
          yield* assertIdle(db)
        }))
    }

    live("is run once, also where it may be run again, and a nested session has ended it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* db.sql`CREATE TABLE log (t TEXT)`
        const ends = dialect.dialect === "postgres" ? ["COMMIT", "COMMIT AND CHAIN"] : ["COMMIT"]
        for (const [i, end] of ends.entries()) {
          const work = Effect.zipRight(
            db.sql`INSERT INTO log VALUES ('paid')`,
            Effect.ignore(db.session(db.sql.unsafe(end)))
          )
          assert.strictEqual((yield* failure(db.session(work, { retry: true })))._tag, "TransactionAborted")
          assert.lengthOf(yield* db.sql`SELECT t FROM log`, i + 1)
        }
        yield* assertIdle(db)
      }))

    live("is not committed where nothing else was run", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        for (const statement of ["ROLLBACK", "COMMIT"]) {
          assert.strictEqual((yield* failure(db.session(db.sql.unsafe(statement))))._tag, "TransactionAborted")
        }
        yield* db.session(insert(db, 1))
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      }))

    live("keeps the cause that it fails with", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const exit = yield* Effect.flip(
          db.session(Effect.zipRight(insert(db, 1), Effect.zipRight(db.sql.unsafe("ROLLBACK"), Effect.fail("mine"))))
        )
        assert.strictEqual(exit, "mine")
        yield* assertIdle(db)
      }))

    live("goes on after a rollback to a savepoint of its own", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          yield* db.sql.unsafe("SAVEPOINT mine")
          yield* insert(db, 2)
          yield* db.sql.unsafe("ROLLBACK TO mine")
          yield* db.sql.unsafe("RELEASE mine")
          yield* insert(db, 3)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 3])
        yield* assertIdle(db)
      }))

    live("does not concern statements that begin and end transactions on a reserved connection", () =>
      Effect.scoped(Effect.gen(function*() {
        const db = yield* open(dialect)
        const reserved = yield* db.sql.reserve
        const run = (sql: string) =>
          reserved.executeUnprepared(sql, [], undefined)
        for (const end of ["COMMIT", "ROLLBACK"]) {
          yield* run("BEGIN")
          yield* run(`INSERT INTO items VALUES (${end.length})`)
          yield* run(end)
        }
        assert.deepStrictEqual(yield* run("SELECT n FROM items"), [{ n: 6 }])
      })))
  })
)

describe("a session on PostgreSQL", () => {
  live(
    "whose text ends and begins transactions is not committed, though its interruption hid the half of it",
    () =>
      Effect.gen(function*() {
        const network = yield* proxy(yield* freshDatabase)
        const db = yield* Database.make({ url: network.url, environment: "test" })
        yield* createTables(db)
        const error = yield* failure(db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          yield* network.throttle(4_000_000)
          const text = "ROLLBACK; SELECT repeat('x', 1000) FROM generate_series(1, 1000); BEGIN"
          const fiber = yield* Effect.fork(db.sql.unsafe(text))
          yield* Effect.sleep("150 millis")
          yield* Fiber.interrupt(fiber)
          yield* network.throttle(Infinity)
          yield* Effect.ignore(insert(db, 2))
        })))
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      })
  )

  live("goes on after words that only look like the end of a transaction", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      yield* db.sql`CREATE TABLE links (a BOOLEAN, chain BOOLEAN)`
      yield* db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* db.sql.unsafe("SAVEPOINT mine")
        yield* db.sql.unsafe("ROLLBACK TO mine; DELETE FROM links WHERE a AND chain")
        yield* insert(db, 2)
      }))
      assert.deepStrictEqual(yield* numbers(db), [1, 2])
    }))

  live(
    "a stream whose transaction is ended by a statement fails, and the reserved connection goes on",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const db = yield* open(postgres)
        const reserved = yield* db.sql.reserve
        const run = (sql: string) => reserved.executeUnprepared(sql, [], undefined)
        const rows = reserved.executeStream("SELECT i FROM generate_series(1, 10000) i", [], undefined)
        const exit = yield* Effect.exit(Stream.runForEach(rows, ({ i }) => i === 5 ? run("COMMIT") : Effect.void))
        assert.isTrue(Exit.isFailure(exit))
        assert.deepStrictEqual(yield* run("SELECT 3 AS n"), [{ n: 3 }])
        // Two beside a stream, of which neither comes to its end.
        const slowly = Stream.runForEach(Stream.take(rows, 200), () => Effect.sleep("10 millis"))
        const reading = yield* Effect.fork(Effect.exit(slowly))
        yield* Effect.sleep("300 millis")
        const one = yield* Effect.fork(Effect.exit(reserved.execute("SELECT pg_sleep(0.3)", [], undefined)))
        const other = yield* Effect.fork(Effect.exit(reserved.execute("SELECT 2", [], undefined)))
        yield* Effect.sleep("50 millis")
        yield* Fiber.interrupt(other)
        yield* Fiber.interrupt(one)
        yield* Fiber.join(reading)
        assert.deepStrictEqual(yield* run("SELECT 4 AS n"), [{ n: 4 }])
      }))
  )
})
