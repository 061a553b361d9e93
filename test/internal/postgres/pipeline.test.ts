import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Path from "node:path"
import Pg from "pg"
import { type DatabaseError, fromSqlError, isRetryable } from "../../../src/DatabaseError.js"
import type { Connection } from "../../../src/internal/driver.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { connected, type Overrides, promptly, rows } from "./harness.js"

/** A connection through a proxy that counts round trips (ReadyForQuery) and records what the client sends. */
const counted = (overrides: Overrides = {}) =>
  Effect.gen(function*() {
    const database = yield* freshDatabase
    yield* query(database, "CREATE TABLE items (id int PRIMARY KEY, name text)")
    const between = yield* proxy(database)
    const { connection, losses } = yield* connected(between.url, overrides)
    let trips = 0
    const sent: Array<string> = []
    yield* between.onServerData((chunk) => {
      for (let at = chunk.indexOf("Z\0\0\0\x05"); at >= 0; at = chunk.indexOf("Z\0\0\0\x05", at + 1)) {
        trips++
      }
      return "pass"
    })
    yield* between.onClientData((chunk) => {
      sent.push(chunk.toString("latin1"))
      return "pass"
    })
    const during = <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.suspend(() => {
        const before = trips
        return Effect.map(Effect.exit(effect), () => trips - before)
      })
    return { sent, c: connection, database, during, losses }
  })

const insert = (c: Connection, id: number) => rows(c, "INSERT INTO items VALUES ($1, $2)", [id, `item ${id}`])

const count = (database: string) => Effect.map(query(database, "SELECT count(*)::int AS n FROM items"), (r) => r[0].n)

const ids = (database: string) =>
  Effect.map(query(database, "SELECT id FROM items ORDER BY id"), (found) => found.map(({ id }) => id))

/** A slow statement, and an insert that is in flight behind it. */
const pipelined = (c: Connection, id: number) =>
  Effect.gen(function*() {
    const slow = yield* Effect.fork(Effect.exit(rows(c, "SELECT pg_sleep(0.2)")))
    const behind = yield* Effect.fork(Effect.exit(insert(c, id)))
    yield* Effect.yieldNow()
    return [slow, behind] as const
  })

const errorOf = <A>(effect: Effect.Effect<A, any>): Effect.Effect<DatabaseError> =>
  Effect.map(
    Effect.flip(effect),
    (error) => error._tag === "SqlError" ? fromSqlError(error) : error as DatabaseError
  ) as Effect.Effect<DatabaseError>

describe("round trips", () => {
  it.scopedLive("a transaction of n statements takes n + 1, whatever its options", () =>
    Effect.gen(function*() {
      const { c, during } = yield* counted()
      const timeouts = { statementTimeout: Duration.seconds(1), lockTimeout: Duration.seconds(1) }
      for (
        const options of [
          {},
          { isolation: "serializable", readOnly: false, deferrable: true },
          timeouts,
          { outcome: "verified", ...timeouts }
        ] as const
      ) {
        for (let round = 0; round < 3; round++) {
          assert.strictEqual(
            yield* during(Effect.gen(function*() {
              yield* c.begin(options)
              yield* insert(c, 1)
              yield* rows(c, "SELECT 1")
              yield* rows(c, "DELETE FROM items")
              yield* c.commit
            })),
            4
          )
          assert.strictEqual(c.status(), "idle")
        }
      }
    }))

  it.scopedLive("a transaction sets only the timeouts that it is given", () =>
    Effect.gen(function*() {
      const { sent, c } = yield* counted()
      for (
        const [options, said] of [
          [{}, []],
          [{ lockTimeout: Duration.seconds(2) }, ["lock_timeout = 2000"]],
          [{ statementTimeout: Duration.seconds(3) }, ["statement_timeout = 3000"]]
        ] as const
      ) {
        sent.length = 0
        yield* c.begin(options)
        yield* rows(c, "SELECT 1")
        yield* c.commit
        const settings = sent.join().match(/(?:lock|statement)_timeout [=A-Z 0-9]*/g) ?? []
        assert.deepStrictEqual([...settings], [...said])
      }
    }))

  it.scopedLive("an empty transaction takes none, and BEGIN shares that of DDL too", () =>
    Effect.gen(function*() {
      const { c, during } = yield* counted()
      assert.strictEqual(yield* during(Effect.zipRight(c.begin({ outcome: "verified" }), c.commit)), 0)
      assert.strictEqual(yield* during(Effect.zipRight(c.begin({}), c.rollback)), 0)
      assert.strictEqual(c.status(), "idle")
      assert.strictEqual(
        yield* during(Effect.all([c.begin({}), rows(c, "CREATE TABLE others (id int)"), c.commit])),
        2
      )
      // A simple query is executed even if the BEGIN before it fails, so it waits for its own round trip.
      assert.strictEqual(
        yield* during(Effect.all([c.begin({}), rows(c, "SELECT 1; SELECT 2"), c.commit])),
        3
      )
    }))

  it.scopedLive("savepoints and their release take none", () =>
    Effect.gen(function*() {
      const { c, database, during } = yield* counted()
      assert.strictEqual(
        yield* during(Effect.gen(function*() {
          yield* c.begin({})
          yield* c.savepoint("a")
          yield* insert(c, 1)
          yield* c.releaseSavepoint("a")
          yield* c.savepoint("b")
          yield* c.releaseSavepoint("b")
          yield* c.savepoint("c")
          yield* c.rollbackToSavepoint("c")
          yield* insert(c, 2)
          yield* c.savepoint("d")
          yield* insert(c, 3)
          yield* c.releaseSavepoint("d")
          yield* c.commit
        })),
        4
      )
      assert.strictEqual(yield* count(database), 3)
    }))

  it.scopedLive("rolls back to a savepoint that was sent, and discards one that was not", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* c.begin({})
      yield* insert(c, 1)
      yield* c.savepoint("a")
      yield* insert(c, 2)
      yield* c.savepoint("b")
      yield* c.rollbackToSavepoint("a")
      yield* insert(c, 3)
      yield* c.commit
      assert.deepStrictEqual(yield* ids(database), [1, 3])
    }))

  it.scopedLive("a savepoint comes after the statements that were submitted before it", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* c.begin({})
      yield* insert(c, 1)
      const slow = yield* Effect.fork(rows(c, "SELECT pg_sleep(0.2)"))
      const queued = yield* Effect.fork(rows(c, "INSERT INTO items VALUES (2, 'a;b')"))
      yield* Effect.yieldNow()
      yield* c.savepoint("a")
      yield* insert(c, 3)
      yield* c.rollbackToSavepoint("a")
      yield* Fiber.join(Fiber.zip(slow, queued))
      yield* c.commit
      assert.strictEqual(yield* count(database), 2)
    }))
})

describe("a transaction that cannot begin", () => {
  it.scopedLive("runs nothing outside of it, and fails whatever is asked until it is rolled back", () =>
    Effect.gen(function*() {
      const standby = yield* server()
      yield* standby.stop("fast")
      Fs.writeFileSync(Path.join(standby.socketDir, "data", "standby.signal"), "")
      yield* standby.start
      const { connection: c } = yield* connected(standby.url)
      for (const first of ["SELECT 1 AS n", "SELECT $1::int AS n", "SELECT 1; SELECT 2", "SHOW port"]) {
        for (let round = 0; round < 3; round++) {
          // A server in recovery rejects READ WRITE.
          yield* c.begin({ readOnly: false })
          assert.strictEqual(c.status(), "active")
          const error = yield* errorOf(rows(c, first, first.includes("$1") ? [1] : []))
          assert.include(error.message, "recovery", first)
          assert.strictEqual(c.status(), "aborted")
          assert.strictEqual((yield* errorOf(rows(c, "SELECT 1"))).code, error.code)
          assert.strictEqual((yield* errorOf(rows(c, "SELECT 1; SELECT 2"))).code, error.code)
          assert.strictEqual((yield* errorOf(c.commit)).code, error.code)
          yield* c.rollback
          assert.strictEqual(c.status(), "idle")
        }
        yield* c.begin({ readOnly: true })
        yield* rows(c, "SELECT 1")
        yield* c.commit
        // Statements behind the first one do not run either.
        yield* c.begin({ readOnly: false })
        const both = yield* Effect.all([rows(c, "SELECT 1"), rows(c, "SELECT 2"), c.commit].map(errorOf), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(new Set(both.map(({ code }) => code)), new Set(["0A000"]), first)
        yield* c.rollback
      }
    }))

  it.scopedLive("differs from one whose first statement fails", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      for (const text of ["INSERT INTO nowhere VALUES ($1)", "INSERT INTO nowhere VALUES (7)"]) {
        for (const first of [text, `${text}; SELECT 1`]) {
          yield* c.begin({})
          yield* insert(c, 1)
          yield* c.rollback
          yield* c.begin({})
          assert.strictEqual(
            (yield* errorOf(rows(c, first, first === text && text.includes("$1") ? [1] : [])))._tag,
            "InvalidStatement"
          )
          assert.strictEqual(c.status(), "aborted")
          assert.strictEqual((yield* errorOf(insert(c, 1)))._tag, "TransactionAborted")
          assert.strictEqual((yield* errorOf(c.commit))._tag, "TransactionAborted")
          assert.strictEqual(c.status(), "idle")
        }
      }
      assert.strictEqual(yield* count(database), 0)
    }))

  it.scopedLive("begins with the next statement if the first one was interrupted before it was sent", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      const slow = yield* Effect.fork(rows(c, "SELECT pg_sleep(0.1)"))
      yield* Effect.yieldNow()
      yield* c.begin({})
      const dropped = yield* Effect.fork(insert(c, 1))
      const next = yield* Effect.fork(insert(c, 2))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(dropped)
      yield* Fiber.join(slow)
      yield* Fiber.join(next)
      assert.strictEqual(yield* count(database), 0)
      yield* c.rollback
      assert.strictEqual(yield* count(database), 0)
      assert.strictEqual(c.status(), "idle")
    }))
})

describe("concurrent statements of a transaction", () => {
  it.scopedLive("are in flight together, each with its own result", () =>
    Effect.gen(function*() {
      const { c, database, sent } = yield* counted()
      const { connection: holder } = yield* connected(database)
      yield* rows(holder, "SELECT pg_advisory_lock(1)")
      // The first repeated statement finds out whether there is a pooler, and nothing is pipelined behind it.
      yield* Effect.replicateEffect(rows(c, "SELECT 0"), 2)
      yield* c.begin({})
      yield* rows(c, "SELECT 0")
      sent.length = 0
      const fiber = yield* Effect.fork(Effect.forEach(
        Array.from({ length: 20 }, (_, i) => i),
        (i) => rows(c, "SELECT $1::int AS i, pg_advisory_xact_lock(1)::text AS s", [i]),
        { concurrency: "unbounded" }
      ))
      // The first waits for the lock, and all are sent nevertheless.
      const syncMessage = "S\0\0\0\x04"
      yield* eventually(Effect.sync(() => sent.join("").split(syncMessage).length - 1 === 20))
      yield* rows(holder, "SELECT pg_advisory_unlock(1)")
      const results = yield* Fiber.join(fiber)
      assert.deepStrictEqual(results.map((result: any) => result[0].i), Array.from({ length: 20 }, (_, i) => i))
      yield* c.commit
    }))

  it.scopedLive("fail with the error of the first, and those behind it with TransactionAborted", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* c.begin({})
      yield* insert(c, 1)
      const exits = yield* Effect.all(
        [insert(c, 2), insert(c, 1), insert(c, 3), rows(c, "SELECT 1/0")].map(Effect.exit),
        { concurrency: "unbounded" }
      )
      const tags = exits.map((exit) => Exit.isSuccess(exit) ? "success" : fromSqlError((exit.cause as any).error)._tag)
      assert.deepStrictEqual(tags, ["success", "UniqueViolation", "TransactionAborted", "TransactionAborted"])
      assert.strictEqual((yield* errorOf(c.commit))._tag, "TransactionAborted")
      assert.strictEqual(c.status(), "idle")
      assert.strictEqual(yield* count(database), 0)
    }))

  it.scopedLive("never commit after one of them was interrupted, whatever its position", () =>
    Effect.gen(function*() {
      let connected = yield* counted()
      for (let round = 0; round < 30; round++) {
        // On a busy machine a cancellation may take longer than its timeout, which closes the connection.
        connected = connected.c.status() === "closed" ? yield* counted() : connected
        const { c, database } = connected
        yield* c.begin({})
        yield* rows(c, "SELECT 0")
        const slow = Effect.zipRight(rows(c, "SELECT pg_sleep(0.05)"), Effect.void)
        const fibers = yield* Effect.forEach(
          [slow, insert(c, 1), insert(c, 2), slow, insert(c, 3)],
          (each) => Effect.fork(Effect.exit(each))
        )
        yield* Effect.sleep(Duration.millis(round % 10))
        const target = fibers[round % fibers.length]
        yield* promptly(Fiber.interrupt(target))
        const exits = yield* Effect.forEach(fibers.filter((fiber) => fiber !== target), Fiber.join)
        if (c.status() === "closed") {
          assert.strictEqual(yield* count(database), 0)
          continue
        }
        for (const exit of exits) {
          if (Exit.isFailure(exit)) {
            assert.strictEqual(fromSqlError((exit.cause as any).error)._tag, "TransactionAborted")
          }
        }
        const committed = yield* Effect.exit(c.commit)
        yield* c.rollback
        const kept = yield* count(database)
        assert.strictEqual(kept, Exit.isSuccess(committed) ? 3 : 0, `round ${round}`)
        if (Exit.isSuccess(committed)) {
          yield* query(database, "DELETE FROM items")
        }
        assert.strictEqual(c.status(), "idle")
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS n"), [{ n: 1 }])
        assert.deepStrictEqual(connected.losses, [])
      }
    }))

  it.scopedLive("interrupted in a savepoint can be rolled back with it", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* c.begin({})
      yield* insert(c, 1)
      yield* c.savepoint("a")
      yield* insert(c, 2)
      const [slow, queued] = yield* pipelined(c, 3)
      yield* Fiber.interrupt(queued)
      yield* Fiber.join(slow)
      assert.strictEqual(c.status(), "aborted")
      yield* c.rollbackToSavepoint("a")
      yield* insert(c, 4)
      yield* c.commit
      assert.deepStrictEqual(yield* ids(database), [1, 4])
    }))
})

describe("prepared statements", () => {
  const names = (c: Connection) =>
    Effect.map(
      c.executeUnprepared(
        "SELECT statement, name FROM pg_prepared_statements WHERE name LIKE 'sqlayer%'",
        [],
        undefined
      ),
      (found) => (found as ReadonlyArray<{ readonly statement: string; readonly name: string }>)
    )

  const select = "SELECT name FROM items WHERE id = $1"

  it.scopedLive("are made at the second execution, and each execution is one round trip", () =>
    Effect.gen(function*() {
      const { sent, c, during } = yield* counted()
      for (let i = 0; i < 4; i++) {
        assert.strictEqual(yield* during(rows(c, select, [1])), 1)
      }
      assert.deepStrictEqual((yield* names(c)).map(({ statement }) => statement), [select])
      sent.length = 0
      yield* rows(c, select, [1])
      assert.strictEqual(sent.length, 1)
      assert.notInclude(sent[0], "SELECT", "the text is not sent again")
      yield* rows(c, "CREATE TABLE more (id int)")
      yield* rows(c, "DROP TABLE more")
      assert.strictEqual((yield* names(c)).length, 1)
    }))

  it.scopedLive("are not made if they are off, nor for .unprepared", () =>
    Effect.gen(function*() {
      const { c } = yield* counted({ settings: { preparedStatements: "off" } })
      const on = (yield* counted({ settings: { preparedStatements: "on" } })).c
      for (let i = 0; i < 4; i++) {
        yield* rows(c, select, [1])
        yield* on.executeUnprepared(select, [1], undefined)
      }
      assert.deepStrictEqual(yield* names(c), [])
      assert.deepStrictEqual(yield* names(on), [])
      yield* rows(on, select, [1])
      yield* rows(on, select, [1])
      assert.strictEqual((yield* names(on)).length, 1)
    }))

  const numbered = (n: number) => `SELECT ${n} AS n, $1::int AS p`

  it.scopedLive("are limited: one that was not used for long is evicted and closed on the server", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      const twice = (n: number) =>
        Effect.forEach([1, 2], (p) =>
          Effect.map(rows(c, numbered(n), [p]), (given) => {
            assert.deepStrictEqual(given, [{ n, p }])
          }))
      // The first repeated statement finds out whether there is a pooler.
      yield* Effect.replicateEffect(rows(c, "SELECT 1"), 2)
      const kept = Effect.map(names(c), (found) => new Set(found.map(({ statement }) => statement)))
      yield* Effect.forEach(Array.from({ length: 300 }, (_, n) => n), twice)
      const first = yield* kept
      assert.deepStrictEqual(
        first,
        new Set(Array.from({ length: 256 }, (_, n) => numbered(n))),
        "a full cache adds none"
      )
      for (let i = 0; i < 2_048; i++) {
        yield* rows(c, numbered(i % 100), [i])
      }
      yield* Effect.forEach(Array.from({ length: 256 }, (_, n) => 1_000 + n), twice)
      const later = yield* kept
      assert.strictEqual(later.size, 256)
      for (let n = 0; n < 256; n++) {
        assert.strictEqual(later.has(numbered(n)), n < 100, `statement ${n}`)
      }
      yield* rows(c, numbered(200), [1])
      assert.deepStrictEqual(yield* kept, later, "an evicted text must be executed twice again")
      for (let i = 0; i < 2_048; i++) {
        yield* rows(c, numbered(1_000), [i])
      }
      yield* rows(c, numbered(200), [1])
      assert.isTrue((yield* kept).has(numbered(200)))
    }))

  it.scopedLive("stay prepared if more texts alternate than the cache holds", () =>
    Effect.gen(function*() {
      const { sent, c } = yield* counted()
      const round = Effect.forEach(Array.from({ length: 400 }, (_, n) => n), (n) => rows(c, numbered(n), [n]))
      yield* Effect.replicateEffect(rows(c, "SELECT 1"), 2)
      yield* round
      yield* round
      sent.length = 0
      yield* round
      assert.strictEqual(sent.filter((bytes) => !bytes.includes("SELECT")).length, 256)
    }))

  it.scopedLive("use the type parsers that an application sets later", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      const money = Pg.types.builtins.MONEY
      const usual = Pg.types.getTypeParser(money)
      const read = c.executeUnprepared("SELECT 1::money AS price", [], undefined)
      const prepared = rows(c, "SELECT $1::money AS price", [3])
      assert.deepStrictEqual(yield* read, [{ price: "$1.00" }])
      assert.deepStrictEqual(
        yield* Effect.replicateEffect(prepared, 3),
        Array.from({ length: 3 }, () => [{ price: "$3.00" }])
      )
      yield* Effect.acquireRelease(
        Effect.sync(() => Pg.types.setTypeParser(money, (value) => Number(value.slice(1)))),
        () => Effect.sync(() => Pg.types.setTypeParser(money, usual))
      )
      assert.deepStrictEqual(yield* read, [{ price: 1 }])
      assert.deepStrictEqual(yield* c.executeUnprepared("SELECT 2::money AS price", [], undefined), [{ price: 2 }])
      assert.deepStrictEqual(yield* Effect.replicateEffect(prepared, 2), [[{ price: 3 }], [{ price: 3 }]])
    }))

  it.scopedLive("results do not share what a caller may change", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      const raw = c.executeRaw("SELECT 1 AS a, $1::int AS b", [2]) as Effect.Effect<Pg.QueryResult, SqlError>
      for (let i = 0; i < 4; i++) {
        const { fields, rows: [row] } = yield* raw
        assert.deepStrictEqual([fields.map(({ name }) => name), row], [["a", "b"], { a: 1, b: 2 }])
        fields[0].name = "changed"
        fields.pop()
        row.a = 5
      }
    }))

  it.scopedLive("follow a table whose columns change; inside of a transaction that is a retryable error", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      const all = "SELECT * FROM items WHERE id = $1"
      yield* insert(c, 1)
      for (let i = 0; i < 3; i++) {
        assert.deepStrictEqual(yield* rows(c, all, [1]), [{ id: 1, name: "item 1" }])
      }
      yield* query(database, "ALTER TABLE items ADD COLUMN more int DEFAULT 5")
      assert.deepStrictEqual(yield* rows(c, all, [1]), [{ id: 1, name: "item 1", more: 5 }])
      assert.deepStrictEqual(yield* rows(c, all, [1]), [{ id: 1, name: "item 1", more: 5 }])
      assert.deepStrictEqual(yield* rows(c, all, [1]), [{ id: 1, name: "item 1", more: 5 }])
      yield* query(database, "ALTER TABLE items DROP COLUMN more")
      yield* c.begin({})
      yield* rows(c, "SELECT 1")
      const error = yield* errorOf(rows(c, all, [1]))
      assert.isTrue(isRetryable(error), error._tag)
      assert.strictEqual(error.code, "0A000")
      yield* c.rollback
      yield* c.begin({})
      assert.deepStrictEqual(yield* rows(c, all, [1]), [{ id: 1, name: "item 1" }])
      yield* c.commit
    }))

  it.scopedLive("survive a failed Parse, DEALLOCATE and a reset", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      for (let i = 0; i < 3; i++) {
        assert.strictEqual(
          (yield* errorOf(rows(c, "SELECT nothing FROM items WHERE id = $1", [1])))._tag,
          "InvalidStatement"
        )
        assert.strictEqual((yield* errorOf(rows(c, "SELECT $1::int AS n", ["x"])))._tag, "InvalidData")
      }
      assert.deepStrictEqual(yield* rows(c, "SELECT $1::int AS n", [3]), [{ n: 3 }])
      for (const forgetting of ["DEALLOCATE ALL", "DISCARD ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"]) {
        yield* rows(c, select, [1])
        yield* rows(c, select, [1])
        yield* rows(c, forgetting)
        assert.deepStrictEqual(yield* rows(c, select, [1]), [], forgetting)
        assert.deepStrictEqual(yield* rows(c, select, [1]), [], forgetting)
      }
      yield* rows(c, "SET work_mem = '5MB'")
      yield* rows(c, select, [1])
      yield* rows(c, select, [1])
      const prepared = yield* names(c)
      assert.isNotEmpty(prepared)
      yield* c.reset
      assert.deepStrictEqual(yield* names(c), prepared)
      // Those that were prepared with SQL are dropped, and with them all others.
      yield* rows(c, "PREPARE something AS SELECT 1")
      yield* c.reset
      assert.deepStrictEqual(yield* names(c), [])
      assert.deepStrictEqual(yield* rows(c, select, [1]), [])
    }))

  it.scopedLive("survive the rollback of the transaction that prepared them, and work beside streams", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      yield* c.begin({})
      yield* rows(c, "CREATE TABLE passing (id int)")
      yield* rows(c, "SELECT id FROM passing")
      yield* rows(c, "SELECT id FROM passing")
      yield* c.rollback
      assert.strictEqual((yield* errorOf(rows(c, "SELECT id FROM passing")))._tag, "InvalidStatement")
      yield* c.begin({})
      yield* insert(c, 1)
      yield* rows(c, select, [1])
      const streamed = yield* Stream.runCollect(
        Stream.mapEffect(c.executeStream(select, [1], undefined), () => rows(c, select, [1]))
      )
      assert.deepStrictEqual(Array.from(streamed), [[{ name: "item 1" }]])
      yield* c.commit
    }))
})

describe("edge cases", () => {
  it.scopedLive("a failed COPY FROM STDIN does not shift the responses of later statements", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      // The text does not show that it copies, since a backslash escapes the quotation mark.
      yield* c.executeRaw("SET standard_conforming_strings = off; SET escape_string_warning = off", [])
      const hidden = "SELECT 'a\\''; COPY items FROM STDIN; --'"
      for (let round = 0; round < 5; round++) {
        yield* c.begin({})
        const copy = yield* Effect.fork(Effect.exit(rows(c, `INSERT INTO items VALUES (99); ${hidden}`)))
        yield* Effect.yieldNow()
        const commit = yield* Effect.exit(c.commit)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(copy)))
        assert.isTrue(Exit.isFailure(commit))
        yield* c.rollback
        assert.deepStrictEqual(yield* rows(c, "SELECT 42 AS n"), [{ n: 42 }])
        for (const text of [hidden, `SELECT 1; ${hidden}`]) {
          yield* c.begin({})
          assert.isTrue(Exit.isFailure(yield* Effect.exit(rows(c, text))), text)
          assert.strictEqual((yield* errorOf(rows(c, "SELECT 42 AS n")))._tag, "TransactionAborted")
          yield* c.rollback
          assert.isTrue(Exit.isFailure(yield* Effect.exit(rows(c, text))))
          assert.deepStrictEqual(yield* rows(c, "SELECT 42 AS n"), [{ n: 42 }])
        }
      }
      assert.strictEqual(yield* count(database), 0)
      assert.strictEqual(c.status(), "dirty")
    }))

  it.scopedLive("a parameter that cannot be sent affects neither its own connection nor another", () =>
    Effect.gen(function*() {
      const { c: one } = yield* counted()
      const { c: other, losses } = yield* counted()
      const function_ = Object.assign(() => 0, { toString: () => 5 })
      for (
        const value of [{ toJSON: () => undefined }, function_, { toPostgres: () => ({ toJSON: () => undefined }) }]
      ) {
        const error = yield* errorOf(rows(one, "SELECT $1::text, $2::text", ["secret-value", value]))
        assert.strictEqual(error._tag, "InvalidData")
        assert.notInclude(error.message, "secret-value")
        assert.deepStrictEqual(yield* rows(other, "SELECT $1::int AS n", [1]), [{ n: 1 }])
        assert.deepStrictEqual(yield* rows(one, "SELECT $1::int AS n", [1]), [{ n: 1 }])
      }
      assert.deepStrictEqual(losses, [])
    }))

  it.scopedLive("a savepoint that could not be created fails, and the outer one can be rolled back to", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* c.begin({})
      yield* insert(c, 1)
      yield* c.savepoint("outer")
      const slow = yield* Effect.fork(Effect.exit(rows(c, "SELECT 1 / (pg_sleep(0.1)::text = 'x')::int")))
      yield* Effect.yieldNow()
      // The transaction fails before the savepoint is created.
      const inner = yield* Effect.exit(c.savepoint("inner"))
      assert.isTrue(Exit.isFailure(inner))
      yield* Fiber.join(slow)
      yield* c.rollbackToSavepoint("outer")
      yield* insert(c, 2)
      yield* c.commit
      assert.strictEqual(yield* count(database), 2)
    }))

  it.scopedLive("an interrupted statement is undone only by a savepoint that is older", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      const interruptOne = Effect.gen(function*() {
        const fibers = yield* pipelined(c, 2)
        const inner = yield* Effect.fork(c.savepoint("inner"))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(fibers[1])
        yield* Fiber.join(fibers[0])
        yield* Fiber.join(inner)
        assert.strictEqual((yield* errorOf(insert(c, 3)))._tag, "TransactionAborted")
      })
      yield* c.begin({})
      yield* insert(c, 1)
      yield* interruptOne
      yield* c.rollbackToSavepoint("inner")
      assert.strictEqual((yield* errorOf(insert(c, 3)))._tag, "TransactionAborted")
      assert.strictEqual((yield* errorOf(c.commit))._tag, "TransactionAborted")
      yield* c.rollback
      assert.strictEqual(yield* count(database), 0)
      yield* c.begin({})
      yield* insert(c, 1)
      yield* c.savepoint("outer")
      yield* rows(c, "SELECT 1")
      yield* interruptOne
      yield* c.rollbackToSavepoint("outer")
      yield* insert(c, 4)
      yield* c.commit
      assert.deepStrictEqual(yield* ids(database), [1, 4])
    }))

  it.scopedLive("a statement is not repeated if a part of it was executed", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      for (let round = 0; round < 3; round++) {
        yield* c.begin({})
        yield* rows(c, "SELECT 1")
        yield* c.commit
      }
      yield* c.begin({})
      yield* Effect.exit(rows(c, "INSERT INTO items VALUES (1, 'once'); COMMIT; EXECUTE sqlayer_nothing"))
      yield* c.rollback
      assert.strictEqual(yield* count(database), 1)
    }))

  it.scopedLive("errors of a user's own prepared statements do not affect the cache", () =>
    Effect.gen(function*() {
      const { sent, c } = yield* counted({ settings: { preparedStatements: "on" } })
      const select = "SELECT name FROM items WHERE id = $1"
      for (let round = 0; round < 3; round++) {
        yield* rows(c, select, [1])
        yield* c.begin({})
        yield* rows(c, select, [1])
        assert.strictEqual((yield* errorOf(rows(c, "EXECUTE nothing")))._tag, "InvalidStatement")
        yield* c.rollback
        assert.strictEqual((yield* errorOf(rows(c, "DEALLOCATE nothing")))._tag, "InvalidStatement")
      }
      sent.length = 0
      yield* rows(c, select, [1])
      assert.notInclude(sent.join(), "SELECT")
    }))

  it.scopedLive("a temporary table is seen by a statement that was prepared before it was created", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      const select = "SELECT name FROM items"
      yield* insert(c, 1)
      yield* rows(c, "CREATE TEMP TABLE other (id int)")
      for (let round = 0; round < 3; round++) {
        assert.deepStrictEqual(yield* rows(c, select), [{ name: "item 1" }])
      }
      yield* rows(c, "CREATE TEMP TABLE items (name text)")
      assert.deepStrictEqual(yield* rows(c, select), [])
      assert.deepStrictEqual(yield* rows(c, select), [])
    }))

  it.scopedLive("a transaction that a user began with BEGIN can be rolled back after an interruption", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      for (const ending of ["ROLLBACK", " rollback", "ABORT"]) {
        yield* rows(c, "BEGIN")
        yield* insert(c, 1)
        const fibers = yield* pipelined(c, 2)
        yield* Fiber.interrupt(fibers[1])
        yield* Fiber.join(fibers[0])
        assert.strictEqual((yield* errorOf(rows(c, "SELECT 1")))._tag, "TransactionAborted")
        assert.strictEqual((yield* errorOf(rows(c, "COMMIT")))._tag, "TransactionAborted")
        yield* rows(c, ending)
        assert.strictEqual(c.status(), "idle")
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS n"), [{ n: 1 }])
      }
      assert.strictEqual(yield* count(database), 0)
    }))

  it.scopedLive("a procedure that commits can be called while the pooler check is pending", () =>
    Effect.gen(function*() {
      const { c, database } = yield* counted()
      yield* query(
        database,
        "CREATE PROCEDURE twice(n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO items VALUES (n, 'x'); COMMIT; END $$"
      )
      for (let round = 0; round < 3; round++) {
        yield* c.begin({})
        yield* rows(c, "SHOW port")
        yield* c.commit
        yield* rows(c, "CALL twice($1)", [round])
      }
      assert.strictEqual(yield* count(database), 3)
    }))

  it.scopedLive("an application's type parser is not mistaken for pg's integer parser", () =>
    Effect.gen(function*() {
      const numeric = Pg.types.builtins.NUMERIC
      const usual = Pg.types.getTypeParser(numeric)
      Pg.types.setTypeParser(numeric, function(value) {
        return parseInt(value, 10)
      })
      const { c } = yield* counted()
      const given = yield* rows(c, "SELECT 12.5::numeric AS n, 7 AS i, -8::int2 AS s, 4000000000::oid AS o")
      Pg.types.setTypeParser(numeric, usual)
      assert.deepStrictEqual(given, [{ n: 12, i: 7, s: -8, o: 4_000_000_000 }])
    }))
})
