import type { SqlError } from "@effect/sql/SqlError"
import { describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Worker } from "node:worker_threads"
import { assert } from "vitest"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { program } from "./process.js"
import { connect, driver, file } from "./support.js"

const numbers = (count: number) => `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})`

const counting = (count: number) => `${numbers(count)} SELECT count(*) AS count FROM n`

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  connection.execute(sql, params, undefined)

const typed = <A>(effect: Effect.Effect<A, SqlError>) => Effect.mapError(effect, fromSqlError)

/** How far counting gets in about so many milliseconds. */
const countOf = (connection: SqliteConnection, millis: number) =>
  Effect.gen(function*() {
    const since = performance.now()
    yield* run(connection, counting(300_000))
    return Math.ceil(300_000 * millis / (performance.now() - since))
  })

/** The longest time for which the event loop stood still. */
const stillness = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<readonly [number, A], E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      let last = performance.now()
      let longest = 0
      const timer = setInterval(() => {
        const now = performance.now()
        longest = Math.max(longest, now - last)
        last = now
      }, 5)
      return { timer, longest: () => longest }
    }),
    ({ longest }) => Effect.map(effect, (a) => [longest(), a] as const),
    ({ timer }) => Effect.sync(() => clearInterval(timer))
  )

/** Connects, and gives the thread too. */
const connectWithThread = (
  filename: string,
  lost: Array<DatabaseError>
): Effect.Effect<readonly [SqliteConnection, Worker], DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const threads: Array<Worker> = []
    const note = (thread: Worker) => void threads.push(thread)
    process.on("worker", note)
    const connection = yield* Effect.ensuring(
      connect(driver(filename), (error) => lost.push(error)),
      Effect.sync(() => process.off("worker", note))
    )
    assert.strictEqual(threads.length, 1)
    return [connection, threads[0]]
  })

const timedOut = { statementTimeout: Duration.millis(1) }

describe("thread", () => {
  it.scopedLive("a slow statement does not hold up the event loop", () =>
    Effect.gen(function*() {
      const connection = yield* connect(driver(yield* file))
      const count = yield* countOf(connection, 1000)
      const since = performance.now()
      const [longest, rows] = yield* stillness(run(connection, counting(count)))
      assert.deepStrictEqual(rows, [{ count }])
      const took = performance.now() - since
      assert.isAbove(took, 300)
      assert.isBelow(longest, took / 2)
    }))

  it.scopedLive("a write that ends soon after its timeout is undone, and the connection stays", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const filename = yield* file
      const other = yield* connect(driver(filename))
      yield* run(other, "CREATE TABLE t (a)")
      const connection = yield* connect(driver(filename, timedOut), (error) => lost.push(error))
      const insert = typed(run(connection, `INSERT INTO t ${counting(60_000)} RETURNING a`))
      const error = yield* Effect.flip(insert)
      assert.strictEqual(error._tag, "StatementTimeout")
      assert.strictEqual(connection.status(), "idle")
      assert.deepStrictEqual(yield* run(other, "SELECT * FROM t"), [])
      assert.deepStrictEqual(lost, [])
    }))

  it.scopedLive("a statement that does not end is left behind, and commits nothing when it does", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const filename = yield* file
      const connection = yield* connect(driver(filename), (error) => lost.push(error))
      yield* run(connection, "CREATE TABLE t (a)")
      const count = yield* countOf(connection, 3000)
      const writing = yield* Effect.fork(run(connection, `INSERT INTO t ${counting(count)}`))
      yield* Effect.sleep(100)
      const waiting = yield* Effect.fork(run(connection, "SELECT 1"))
      const since = performance.now()
      const [longest, exit] = yield* stillness(Fiber.interrupt(writing))
      assert(Exit.isInterrupted(exit))
      assert.isBelow(performance.now() - since, 2000)
      assert.isBelow(longest, 1500)
      assert.strictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
      assert.strictEqual((yield* Effect.flip(typed(Fiber.join(waiting))))._tag, "ConnectionLost")
      // Another connection writes when the statement that was left behind has ended.
      const other = yield* connect(driver(filename, { lockTimeout: Duration.seconds(60) }))
      yield* run(other, "INSERT INTO t VALUES ('other')")
      assert.deepStrictEqual(yield* run(other, "SELECT a FROM t"), [{ a: "other" }])
      assert.deepStrictEqual(yield* run(other, "PRAGMA integrity_check"), [{ integrity_check: "ok" }])
    }))

  it.scopedLive("a transaction whose statement is left behind is rolled back", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const filename = yield* file
      const connection = yield* connect(driver(filename), (error) => lost.push(error))
      yield* run(connection, "CREATE TABLE t (a)")
      const count = yield* countOf(connection, 2500)
      yield* connection.begin({ statementTimeout: Duration.millis(100) })
      yield* run(connection, "INSERT INTO t VALUES (1)")
      const error = yield* Effect.flip(typed(run(connection, counting(count))))
      assert.strictEqual(error._tag, "StatementTimeout")
      assert.strictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
      yield* connection.rollback
      assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "ConnectionLost")
      const other = yield* connect(driver(filename, { lockTimeout: Duration.seconds(60) }))
      yield* run(other, "INSERT INTO t VALUES (2)")
      assert.deepStrictEqual(yield* run(other, "SELECT a FROM t"), [{ a: 2 }])
    }))

  it.scopedLive("a thread that ends by itself is a lost connection, told once", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const filename = yield* file
      const [connection, thread] = yield* connectWithThread(filename, lost)
      yield* run(connection, "CREATE TABLE t (a)")
      yield* connection.begin({})
      yield* run(connection, "INSERT INTO t VALUES (1)")
      const running = yield* Effect.fork(run(connection, `${numbers(1e9)} SELECT i FROM n`))
      yield* Effect.sleep(100)
      yield* Effect.promise(() => thread.terminate())
      const error = yield* Effect.flip(typed(Fiber.join(running)))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.include(error.message, filename)
      assert.strictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
      assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "ConnectionLost")
      const other = yield* connect(driver(filename))
      assert.deepStrictEqual(yield* run(other, "SELECT * FROM t"), [])
    }))

  it.scopedLive("an idle thread that ends by itself is a lost connection", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const [connection, thread] = yield* connectWithThread(yield* file, lost)
      yield* Effect.promise(() => thread.terminate())
      assert.strictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
      assert.strictEqual((yield* Effect.flip(connection.ping))._tag, "ConnectionLost")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
    }))

  it.scopedLive("a thread that fails is a lost connection, and it is told why", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const [connection, thread] = yield* connectWithThread(yield* file, lost)
      thread.emit("error", new Error("Worker terminated due to reaching memory limit: JS heap out of memory"))
      assert.include(lost.map((error) => error.message).join(), "memory limit")
      assert.strictEqual((yield* Effect.flip(connection.ping))._tag, "ConnectionLost")
    }))

  it.scopedLive(
    "a commit in whose middle the thread ends is of unknown outcome, and the file says which",
    () =>
      Effect.gen(function*() {
        const filename = yield* file
        yield* Effect.scoped(Effect.flatMap(connect(driver(filename)), (c) => run(c, "CREATE TABLE t (a)")))
        const outcomes = new Set<string>()
        for (let i = 0; i < 30 && !outcomes.has("CommitOutcomeUnknown"); i++) {
          const lost: Array<DatabaseError> = []
          const [connection, thread] = yield* connectWithThread(filename, lost)
          yield* run(connection, "PRAGMA cache_size = -200000")
          const before = (yield* run(connection, "SELECT a FROM t")).length
          yield* connection.begin({})
          yield* run(connection, "INSERT INTO t VALUES (zeroblob(30000000))")
          const committing = yield* Effect.fork(connection.commit)
          yield* Effect.sleep(1 + i)
          const ended = thread.terminate()
          const exit = yield* Fiber.await(committing)
          yield* Effect.promise(() => ended)
          const tag = Exit.isSuccess(exit) ? "committed" : (yield* Effect.flip(exit))._tag
          outcomes.add(tag)
          const after = yield* Effect.scoped(
            Effect.flatMap(connect(driver(filename)), (other) => run(other, "SELECT count(*) AS n FROM t"))
          )
          if (tag === "committed") {
            assert.deepStrictEqual(after, [{ n: before + 1 }])
          } else if (tag === "ConnectionLost") {
            assert.deepStrictEqual(after, [{ n: before }])
          } else {
            assert.strictEqual(tag, "CommitOutcomeUnknown")
            assert.include([before, before + 1], after[0].n)
            assert.deepStrictEqual(lost.map((error) => error._tag), ["CommitOutcomeUnknown"])
          }
        }
        assert.include([...outcomes], "CommitOutcomeUnknown")
      }),
    60_000
  )

  it.scopedLive("an interrupted commit is either not begun or done", () =>
    Effect.gen(function*() {
      const connection = yield* connect(driver(yield* file))
      yield* run(connection, "CREATE TABLE t (a)")
      for (let i = 0; i < 40; i++) {
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (?)", [i])
        const committing = yield* Effect.fork(connection.commit)
        if (i % 2 === 0) {
          yield* Effect.yieldNow()
        }
        yield* Fiber.interrupt(committing)
        const done = connection.status() === "idle"
        yield* connection.rollback
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t WHERE a = ?", [i]), done ? [{ a: i }] : [])
      }
    }))

  it.scopedLive("a stream that sets its rows aside for a write can be stopped, and then goes on", () =>
    Effect.gen(function*() {
      const connection = yield* connect(driver(yield* file))
      yield* run(connection, "CREATE TABLE t (a)")
      let seen = 0
      const slow =
        "WITH RECURSIVE m(j) AS (SELECT 1 UNION ALL SELECT j + 1 FROM m WHERE j < 5000 + n.i) SELECT count(*) FROM m"
      const rows = connection.executeStream(`${numbers(1500)} SELECT i, (${slow}) FROM n`, [], undefined)
      yield* Stream.runForEach(rows, () => {
        seen++
        return seen === 1 || seen === 700
          ? Effect.asVoid(Effect.timeoutOption(run(connection, "INSERT INTO t VALUES (1)"), 20))
          : Effect.void
      })
      assert.strictEqual(seen, 1500)
      assert.strictEqual(connection.status(), "idle")
    }))

  it.live("opening can be interrupted at any moment", () =>
    Effect.gen(function*() {
      const threads = new Set<Worker>()
      const note = (thread: Worker) => {
        threads.add(thread)
        thread.once("exit", () => threads.delete(thread))
      }
      process.on("worker", note)
      yield* Effect.scoped(Effect.gen(function*() {
        const filename = yield* file
        for (let i = 0; i < 10; i++) {
          const opening = yield* Effect.fork(Effect.scoped(connect(driver(filename))))
          yield* Effect.sleep(i * 15)
          yield* Fiber.interrupt(opening)
        }
      }))
      yield* Effect.sleep(1000).pipe(Effect.when(() => threads.size > 0), Effect.repeatN(5))
      process.off("worker", note)
      assert.strictEqual(threads.size, 0)
    }))

  it.scopedLive("a connection that nobody closes does not keep the process alive", () =>
    Effect.gen(function*() {
      const other = yield* program("./forgetful.ts", yield* file)
      assert.strictEqual(other.line, "[{\"n\":1}]")
      const since = performance.now()
      other.process.stdin?.end()
      yield* Effect.promise(() =>
        new Promise<void>((resolve) => {
          if (other.process.exitCode !== null) {
            return resolve()
          }
          other.process.once("exit", () => resolve())
        })
      )
      assert.strictEqual(other.process.exitCode, 0)
      assert.isBelow(performance.now() - since, 10_000)
    }))
})
