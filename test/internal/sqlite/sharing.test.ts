import { describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { assert } from "vitest"
import { fromSqlError } from "../../../src/DatabaseError.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { limited, program, running } from "./process.js"
import { connect, driver, file } from "./support.js"

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  Effect.mapError(connection.execute(sql, params, undefined), fromSqlError)

const writing = `const db = new Sqlite(file)
  db.exec("BEGIN IMMEDIATE")
  db.exec("INSERT INTO t VALUES ('theirs')")
  console.log("writing")
  process.stdin.on("end", () => db.exec("COMMIT"))`

const ticks = Effect.acquireRelease(
  Effect.sync(() => {
    let count = 0
    const timer = setInterval(() => count++, 5)
    return { timer, count: () => count }
  }),
  ({ timer }) => Effect.sync(() => clearInterval(timer))
)

for (const thread of ["worker", "main"] as const) {
  describe(`sharing a file with another process, thread: ${thread}`, () => {
    const openWith = (lockTimeout: Duration.Duration) =>
      Effect.gen(function*() {
        const filename = yield* file
        const connection = yield* connect(driver(filename, { thread, lockTimeout }))
        yield* run(connection, "CREATE TABLE t (a)")
        return { filename, connection }
      })

    const opened = openWith(Duration.millis(600))

    it.scopedLive("waiting for its lock ends with LockTimeout, and does not block the event loop", () =>
      Effect.gen(function*() {
        const { connection, filename } = yield* opened
        const other = yield* running(writing, filename)
        assert.strictEqual(other.line, "writing")
        const insert = run(connection, "INSERT INTO t VALUES ('ours')")
        for (const effect of [insert, Effect.zipRight(connection.begin({}), run(connection, "SELECT a FROM t"))]) {
          const clock = yield* ticks
          const since = performance.now()
          const error = yield* Effect.flip(Effect.asVoid(effect))
          assert.strictEqual(error._tag, "LockTimeout")
          assert.isAtLeast(performance.now() - since, 550)
          assert.isAbove(clock.count(), 2)
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
        }
        // In WAL mode reading needs no lock.
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
        yield* connection.begin({ readOnly: true })
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
        yield* connection.commit
      }))

    it.scopedLive("the lock is acquired after it was released", () =>
      Effect.gen(function*() {
        const { connection, filename } = yield* opened
        const other = yield* running(writing, filename)
        const waiting = yield* Effect.fork(Effect.zipRight(
          connection.begin({ lockTimeout: Duration.seconds(30) }),
          Effect.zipRight(run(connection, "INSERT INTO t VALUES ('ours')"), connection.commit)
        ))
        yield* Effect.sleep(700)
        yield* other.end
        yield* Fiber.join(waiting)
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: "theirs" }, { a: "ours" }])
      }))

    it.scopedLive("statements outside of a transaction that wait for it run in order", () =>
      Effect.gen(function*() {
        const { connection, filename } = yield* opened
        const other = yield* running(writing, filename)
        const numbers = Array.from({ length: 10 }, (_, i) => i)
        const waiting = yield* Effect.fork(Effect.forEach(
          numbers,
          (i) => run(connection, "INSERT INTO t VALUES (?)", [i]),
          { concurrency: "unbounded" }
        ))
        yield* Effect.sleep(200)
        yield* other.end
        yield* Fiber.join(waiting)
        const rows = yield* connection.executeValues("SELECT a FROM t ORDER BY rowid", [])
        assert.deepStrictEqual(rows.flat(), ["theirs", ...numbers])
      }))

    it.scopedLive("waiting can be interrupted, and later requests go on", () =>
      Effect.gen(function*() {
        const { connection, filename } = yield* opened
        yield* running(writing, filename)
        yield* connection.begin({ lockTimeout: Duration.minutes(10) })
        const waiting = yield* Effect.fork(run(connection, "INSERT INTO t VALUES ('ours')"))
        const behind = yield* Effect.fork(connection.ping)
        yield* Effect.sleep(200)
        assert.isNull(behind.unsafePoll())
        assert(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
        yield* Fiber.join(behind)
        assert.strictEqual(connection.status(), "active")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
      }))

    it.scopedLive("a transaction with an outdated snapshot cannot write: SerializationFailure, without waiting", () =>
      Effect.gen(function*() {
        const { filename } = yield* opened
        const connection = yield* connect(driver(filename, { thread, lockTimeout: Duration.minutes(10) }))
        yield* connection.executeUnprepared("BEGIN", [], undefined)
        yield* run(connection, "SELECT a FROM t")
        const other = yield* running(
          "new Sqlite(file).exec(\"INSERT INTO t VALUES ('theirs')\"); console.log(\"written\")",
          filename
        )
        assert.strictEqual(other.line, "written")
        const error = yield* Effect.flip(run(connection, "INSERT INTO t VALUES ('ours')"))
        assert.strictEqual(error._tag, "SerializationFailure")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")
      }))

    it.scopedLive("without WAL a commit waits for readers", () =>
      Effect.gen(function*() {
        const filename = yield* file
        const connection = yield* connect(driver(filename, { thread, journalMode: "delete" }))
        yield* run(connection, "CREATE TABLE t (a)")
        yield* run(connection, "INSERT INTO t VALUES ('first')")
        const other = yield* running(
          `const rows = new Sqlite(file).prepare("SELECT a FROM t UNION ALL SELECT a FROM t").iterate()
          rows.next()
          console.log("reading")
          process.stdin.on("end", () => rows.return())`,
          filename
        )
        assert.strictEqual(other.line, "reading")
        yield* connection.begin({ lockTimeout: Duration.millis(200) })
        yield* run(connection, "INSERT INTO t VALUES ('second')")
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "LockTimeout")
        assert.strictEqual(connection.status(), "active")
        yield* connection.rollback
        yield* connection.begin({ lockTimeout: Duration.seconds(30) })
        yield* run(connection, "INSERT INTO t VALUES ('third')")
        const committing = yield* Effect.fork(connection.commit)
        yield* Effect.sleep(100)
        yield* other.end
        yield* Fiber.join(committing)
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: "first" }, { a: "third" }])
      }))

    it.scopedLive("an I/O error is a lost connection", () =>
      Effect.gen(function*() {
        const other = yield* limited("./limited.ts", yield* file, thread)
        const [tag, code, status, lost, commit] = JSON.parse(other.line) as ReadonlyArray<unknown>
        assert.strictEqual(tag, "ConnectionLost")
        assert.match(String(code), /^SQLITE_IOERR/)
        assert.strictEqual(status, "closed")
        assert.deepStrictEqual(lost, ["ConnectionLost"])
        assert.strictEqual(commit, "ConnectionLost")
      }))

    it.scopedLive("a killed process leaves no partial transaction", () =>
      Effect.gen(function*() {
        const filename = yield* file
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* connect(driver(filename))
          yield* run(connection, "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
          yield* run(connection, "CREATE TABLE transfers (id INTEGER PRIMARY KEY)")
          for (let id = 0; id < 10; id++) {
            yield* run(connection, "INSERT INTO accounts VALUES (?, 1000)", [id])
          }
        }))
        for (let round = 0; round < 3; round++) {
          const other = yield* program("./transfers.ts", filename, thread)
          assert.strictEqual(other.line, "moving")
          yield* Effect.sleep(20 + 37 * round)
          yield* other.kill
          yield* Effect.scoped(Effect.gen(function*() {
            const connection = yield* connect(driver(filename))
            assert.deepStrictEqual(yield* run(connection, "PRAGMA integrity_check"), [{ integrity_check: "ok" }])
            const [{ done, total }] = yield* run(
              connection,
              "SELECT (SELECT sum(balance) FROM accounts) AS total, (SELECT count(*) FROM transfers) AS done"
            )
            assert.strictEqual(total, 10_000)
            assert.isAbove(done, 20 * (round + 1))
            // The i-th transfer takes from one account and gives to the next, so that the balances hardly differ.
            const rows = yield* run(connection, "SELECT balance FROM accounts ORDER BY id")
            assert.isTrue(rows.every((row) => Math.abs(row.balance - 1000) <= 7 * (round + 1)), JSON.stringify(rows))
          }))
        }
      }), 240_000)
  })
}

describe("time", () => {
  it.scoped("lock timeouts use the real clock, also under a TestClock", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const one = yield* connect(driver(filename))
      const two = yield* connect(driver(filename, { lockTimeout: Duration.millis(200) }))
      yield* one.begin({})
      yield* run(one, "SELECT 1")
      const second = Effect.zipRight(two.begin({}), run(two, "SELECT 1"))
      assert.strictEqual((yield* Effect.flip(second))._tag, "LockTimeout")
      yield* two.rollback
      yield* one.rollback
      yield* second
      yield* two.rollback
      assert.strictEqual(yield* TestClock.currentTimeMillis, 0)
    }))
})
