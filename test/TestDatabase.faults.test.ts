import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { createTables } from "./internal/session/harness.js"
import { dialects } from "./support/dialects.js"

type Client = Database.Database | SqlClient.SqlClient
type Faults = ReadonlyArray<TestDatabase.Fault>

const numbers = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => Effect.map(sql<{ n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))
)
const insert = (n: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO items (n) VALUES (${n})`)

const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert(Exit.isFailure(exit) && exit.cause._tag === "Fail", `not a failure: ${String(exit)}`)
    return exit.cause.error
  })
const tagOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(failure(effect), ({ _tag }) => _tag)

const { error } = TestDatabase

describe("TestDatabase.error", () => {
  it.each(DatabaseError.DatabaseError.members.map(({ _tag }) => _tag))(
    "%s has a code and says what it means",
    (tag) => {
      for (const dialect of ["postgres", "sqlite"] as const) {
        const made = error(tag)(dialect)
        assert.strictEqual(made._tag, tag)
        assert.strictEqual(made.dialect, dialect)
        assert.match(made.code, dialect === "postgres" ? /^[0-9A-Z]{5}$/ : /^SQLITE_/)
        assert.isNotEmpty(made.reason)
      }
    }
  )

  it("takes what else an error can tell", () => {
    const made = error("UniqueViolation", { constraint: "member_email_key", table: "member" })("postgres")
    assert.deepInclude(made, { code: "23505", constraint: "member_email_key", table: "member" })
  })
})

for (const dialect of dialects) {
  // On the database itself, and within a sandbox of one.
  for (const how of ["a database", "a sandbox"] as const) {
    const provide = (faults: Faults) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const plain = Database.layerFrom({ environment: "test", url })
        const tables = Layer.effectDiscard(Effect.flatMap(Database.Database, createTables))
        const layer = how === "a database"
          ? Database.layerFrom({ environment: "test", url }).pipe(
            Layer.provide(TestDatabase.faults(faults)),
            (faulty) =>
              url === ":memory:"
                ? Layer.provideMerge(tables, faulty)
                : Layer.provide(faulty, Layer.provideMerge(tables, plain))
          )
          : TestDatabase.sandbox.pipe(
            Layer.provide(TestDatabase.faults(faults)),
            Layer.provide(Layer.provideMerge(tables, plain))
          )
        return yield* Effect.provide(effect, layer)
      }) as Effect.Effect<A, E | DatabaseError.DatabaseError, Exclude<R, Client> | Scope.Scope>

    const test = <E>(
      name: string,
      faults: Faults,
      body: Effect.Effect<void, E, Client | Scope.Scope>
    ) => it.scopedLive(name, () => body.pipe(provide(faults), Effect.provide(Logger.remove(Logger.defaultLogger))))

    // Where the tables are made over the faulty database itself, they count.
    const isOpen = !(how === "a database" && dialect.name === "sqlite :memory:")

    describe(`TestDatabase.faults: ${dialect.name}, ${how}`, () => {
      test(
        "a statement that matches fails as if it had been run",
        [
          { on: "statement", matching: /INSERT INTO items/, nth: 2, error: error("CheckViolation", { table: "items" }) }
        ],
        Effect.gen(function*() {
          yield* insert(1)
          const failed = yield* failure(insert(2))
          assert.instanceOf(failed, SqlError)
          assert.deepInclude(DatabaseError.fromSqlError(failed), {
            _tag: "CheckViolation",
            table: "items",
            dialect: dialect.dialect
          })
          yield* insert(3)
          assert.deepStrictEqual(yield* numbers, [1, 3])
        })
      )

      test(
        "in a session it is the session's error, and nothing of that is kept",
        [{ on: "statement", matching: /INSERT/, nth: 2, error: error("LockTimeout") }],
        Effect.gen(function*() {
          assert.strictEqual(yield* tagOf(Database.session(Effect.zipRight(insert(1), insert(2)))), "LockTimeout")
          assert.deepStrictEqual(yield* numbers, [])
          yield* Database.session(insert(3))
          assert.deepStrictEqual(yield* numbers, [3])
        })
      )

      test(
        "a failure that is swallowed has its consequences",
        [{ on: "statement", matching: /INSERT/, nth: 2, error: error("UniqueViolation") }],
        Effect.gen(function*() {
          assert.strictEqual(
            yield* tagOf(Database.session(Effect.all([insert(1), Effect.ignore(insert(2))]))),
            "TransactionAborted"
          )
          assert.deepStrictEqual(yield* numbers, [])
        })
      )

      test(
        "in a nested session that is all that it undoes",
        [{ on: "statement", matching: /INSERT/, nth: 2, error: error("UniqueViolation") }],
        Effect.gen(function*() {
          yield* Database.session(Effect.all([insert(1), Effect.ignore(Database.session(insert(2))), insert(3)]))
          assert.deepStrictEqual(yield* numbers, [1, 3])
        })
      )

      test(
        "a stream fails",
        [{ on: "statement", matching: /SELECT/, error: error("InvalidData") }],
        Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const failed = yield* failure(Stream.runDrain(sql`SELECT n FROM items`.stream))
          assert.strictEqual(DatabaseError.fromSqlError(failed)._tag, "InvalidData")
          assert.deepStrictEqual(yield* numbers, [])
        })
      )

      test(
        "a session that is run again succeeds, whatever of it failed",
        [
          { on: "begin", error: error(isOpen ? "ConnectionFailed" : "LockTimeout") },
          { on: "begin", nth: 2, error: error("LockTimeout") },
          { on: "statement", matching: /INSERT/, error: error("DeadlockDetected") },
          { on: "commit", error: error("SerializationFailure") }
        ],
        Effect.gen(function*() {
          let attempts = 0
          const committed: Array<string> = []
          yield* Database.session(
            Effect.gen(function*() {
              attempts++
              yield* insert(attempts)
              yield* Session.afterCommit(Effect.sync(() => committed.push("once")))
            }),
            { retry: true }
          )
          assert.strictEqual(attempts, 5)
          assert.deepStrictEqual(committed, ["once"])
          assert.deepStrictEqual(yield* numbers, [5])
        })
      )

      test(
        "a beginning that fails begins nothing",
        [{ on: "begin", error: error("ResourceExhausted") }],
        Effect.gen(function*() {
          assert.strictEqual(yield* tagOf(Database.session(insert(1))), "ResourceExhausted")
          yield* Database.session(insert(2))
          assert.deepStrictEqual(yield* numbers, [2])
        })
      )

      test(
        "a commit that fails keeps nothing, and what waited for it is not done",
        [{ on: "commit", nth: 2, error: error("ForeignKeyViolation", { constraint: "some_fkey" }) }],
        Effect.gen(function*() {
          const told: Array<string> = []
          const tell = (what: string) => Effect.sync(() => told.push(what))
          yield* Database.session(insert(1))
          const failed = yield* failure(Database.session(Effect.all([
            insert(2),
            Session.afterCommit(tell("committed")),
            Session.afterRollback(tell("rolled back"))
          ])))
          assert.deepInclude(failed, { _tag: "ForeignKeyViolation", constraint: "some_fkey" })
          assert.deepStrictEqual(told, ["rolled back"])
          assert.deepStrictEqual(yield* numbers, [1])
        })
      )

      test(
        "an error can be given as it is",
        [{ on: "commit", error: error("SerializationFailure", { reason: "mine" })(dialect.dialect) }],
        Effect.map(
          failure(Database.session(insert(1))),
          (failed) => assert.deepInclude(failed, { _tag: "SerializationFailure", reason: "mine" })
        )
      )

      // A database in memory is gone with its connection.
      if (isOpen) {
        test(
          "a connection that is lost takes its session with it, and the next has another",
          [
            { on: "statement", matching: /INSERT/, nth: 2, error: error("ConnectionLost") },
            { on: "commit", nth: 2, error: error("ConnectionLost") }
          ],
          Effect.gen(function*() {
            assert.strictEqual(yield* tagOf(Database.session(Effect.zipRight(insert(1), insert(2)))), "ConnectionLost")
            assert.deepStrictEqual(yield* numbers, [])
            yield* Database.session(insert(3))
            assert.strictEqual(yield* tagOf(Database.session(insert(4))), "ConnectionLost")
            let attempts = 0
            yield* Database.session(Effect.suspend(() => insert(10 + ++attempts)), { retry: true })
            assert.deepStrictEqual(yield* numbers, [3, 11])
          })
        )

        test(
          "a commit of unknown outcome is not run again, whether it was committed or not",
          [
            { on: "commit", error: error("CommitOutcomeUnknown") },
            { on: "commit", nth: 2, error: error("CommitOutcomeUnknown"), committed: true }
          ],
          Effect.gen(function*() {
            const told: Array<string> = []
            const attempt = (n: number) =>
              tagOf(Database.session(
                Effect.zipRight(insert(n), Session.afterCommit(Effect.sync(() => told.push("committed")))),
                { retry: true }
              ))
            assert.strictEqual(yield* attempt(1), "CommitOutcomeUnknown")
            assert.deepStrictEqual(yield* numbers, [])
            assert.strictEqual(yield* attempt(2), "CommitOutcomeUnknown")
            assert.deepStrictEqual(yield* numbers, [2])
            assert.deepStrictEqual(told, [])
          })
        )
      }

      test(
        "health asks no statement that counts",
        [{ on: "statement", matching: /version|SELECT 1/, error: error("InvalidData") }],
        Effect.gen(function*() {
          assert.isTrue(yield* Database.health)
          assert.isTrue((yield* Database.report).healthy)
        })
      )
    })
  }
}
