import type { SqlError } from "@effect/sql/SqlError"
import { describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Worker } from "node:worker_threads"
import { assert } from "vitest"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import * as Connection from "../../../src/internal/sqlite/connection.js"
import type { Operation, Request } from "../../../src/internal/sqlite/protocol.js"
import type { Completion } from "../../../src/internal/sqlite/transport.js"
import { type GracePeriods, workerTransport } from "../../../src/internal/sqlite/workerTransport.js"
import { eventually } from "../../support/eventually.js"
import { lock, waitForLocksOn } from "./blocking.js"
import { connect, connectionOptions, driver, file, openOptions } from "./support.js"

const numbers = (count: number) => `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count})`

const run = (connection: Connection.SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  connection.execute(sql, params, undefined)

const typed = <A>(effect: Effect.Effect<A, SqlError>) => Effect.mapError(effect, fromSqlError)

/** The worker threads that are started from now on and have not ended. */
const runningThreads: Effect.Effect<ReadonlySet<Worker>, never, Scope.Scope> = Effect.gen(function*() {
  const threads = new Set<Worker>()
  const add = (thread: Worker) => {
    threads.add(thread)
    thread.once("exit", () => threads.delete(thread))
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("worker", add)),
    () => Effect.sync(() => process.off("worker", add))
  )
  return threads
})

/** Opens a connection whose losses are recorded, and returns its thread too. */
const connectWithThread = (filename: string, lost: Array<DatabaseError> = []) =>
  Effect.gen(function*() {
    const threads = yield* runningThreads
    const connection = yield* connect(driver(filename), (error) => lost.push(error))
    assert.strictEqual(threads.size, 1)
    return [connection, [...threads][0]] as const
  })

/** Opens a connection with grace periods that do not elapse within a test, or elapse at once. */
const connectWith = (
  filename: string,
  grace: GracePeriods,
  timeouts: { readonly statementTimeout?: Duration.Duration } = {},
  onLost: (error: DatabaseError) => void = () => {},
  journalMode = "wal"
) =>
  Effect.acquireRelease(
    Effect.suspend(() =>
      Connection.make({
        ...connectionOptions(filename, workerTransport({ ...openOptions(filename), journalMode }, grace)),
        timeouts,
        openTimeout: Duration.seconds(10),
        onLost
      })
    ),
    (connection) => connection.close
  )

/** Waits until the event loop has completed so many iterations. */
const iterations = (count: number) =>
  Effect.repeatN(Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))), count - 1)

/** Interrupts a statement that blocks, once it runs. One that has not started is dropped, and is then started again. */
const giveUp = (connection: Connection.SqliteConnection, statement: Effect.Effect<unknown, SqlError>) =>
  Effect.gen(function*() {
    for (let millis = 50; connection.status() !== "closed"; millis *= 2) {
      const fiber = yield* Effect.fork(statement)
      yield* Effect.sleep(millis)
      assert(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
    }
  })

/** Waits until a commit that needs the file alone waits for its readers. Until it is done, nobody else can read. */
const committing = (filename: string) =>
  eventually(Effect.sync(() => {
    const database = new Sqlite(filename, { timeout: 0 })
    try {
      database.exec("SELECT * FROM t")
      return false
    } catch {
      return true
    } finally {
      database.close()
    }
  }))

/** A file with an empty table, and a file that is attached to hold locks apart from it. */
const files = Effect.gen(function*() {
  const filename = yield* file
  const database = new Sqlite(filename)
  database.pragma("journal_mode = WAL")
  database.exec("CREATE TABLE t (a PRIMARY KEY)")
  database.close()
  const attached = `${filename}.attached`
  new Sqlite(attached).exec("CREATE TABLE u (a PRIMARY KEY); INSERT INTO u VALUES (1)").close()
  return { filename, attached }
})

/** Reads with a new connection that bypasses sqlayer. */
const read = (filename: string, sql: string) =>
  Effect.sync(() => {
    const database = new Sqlite(filename)
    try {
      return database.prepare(sql).pluck().all()
    } finally {
      database.close()
    }
  })

describe("workerTransport", () => {
  it.scopedLive("a slow statement does not block the event loop", () =>
    Effect.gen(function*() {
      const { filename } = yield* files
      const connection = yield* connect(driver(filename))
      yield* waitForLocksOn((sql) => run(connection, sql))
      const unlock = yield* lock(filename)
      const insert = yield* Effect.fork(run(connection, "INSERT INTO t VALUES (1)"))
      yield* iterations(1000)
      yield* Effect.sleep(100)
      assert.isNull(insert.unsafePoll())
      yield* unlock
      yield* Fiber.join(insert)
    }))

  it.scopedLive("a write that ends after its timeout and within the grace period is rolled back", () =>
    Effect.gen(function*() {
      const { filename } = yield* files
      const lost: Array<DatabaseError> = []
      const connection = yield* connectWith(
        filename,
        { statement: 600_000 },
        { statementTimeout: Duration.millis(100) },
        (error) => lost.push(error)
      )
      yield* waitForLocksOn((sql) => run(connection, sql))
      const unlock = yield* lock(filename)
      const insert = yield* Effect.fork(typed(run(connection, "INSERT INTO t VALUES (1) RETURNING a")))
      yield* Effect.sleep(300)
      yield* unlock
      assert.strictEqual((yield* Effect.flip(Fiber.join(insert)))._tag, "StatementTimeout")
      assert.strictEqual(yield* Effect.map(read(filename, "SELECT count(*) FROM t"), ([n]) => n), 0)
      assert.notStrictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost, [])
    }))

  for (const [outcome, value] of [["succeeds", 2], ["fails", 1]] as const) {
    it.scopedLive(`an autocommit statement that is given up and then ${outcome} commits nothing`, () =>
      Effect.gen(function*() {
        const { filename } = yield* files
        new Sqlite(filename).exec("INSERT INTO t VALUES (1)").close()
        const lost: Array<DatabaseError> = []
        const [connection, thread] = yield* connectWithThread(filename, lost)
        yield* waitForLocksOn((sql) => run(connection, sql))
        const unlock = yield* lock(filename)
        yield* giveUp(connection, run(connection, "INSERT INTO t VALUES (?)", [value]))
        assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
        assert.strictEqual((yield* Effect.flip(typed(run(connection, "SELECT 1"))))._tag, "ConnectionLost")
        // The statement still runs, and the thread ends after it.
        const ended = yield* Effect.fork(Effect.async<number>((resume) => {
          thread.once("exit", (code) => resume(Effect.succeed(code)))
        }))
        yield* iterations(10)
        assert.isNull(ended.unsafePoll())
        yield* unlock
        assert.strictEqual(yield* Fiber.join(ended), 0)
        assert.deepStrictEqual(yield* read(filename, "SELECT a FROM t"), [1])
        assert.deepStrictEqual(yield* read(filename, "PRAGMA integrity_check"), ["ok"])
      }))

    it.scopedLive(`a transaction whose statement is given up and then ${outcome} is rolled back`, () =>
      Effect.gen(function*() {
        const { attached, filename } = yield* files
        const lost: Array<DatabaseError> = []
        const [connection, thread] = yield* connectWithThread(filename, lost)
        yield* waitForLocksOn((sql) => run(connection, sql))
        yield* connection.begin({ statementTimeout: Duration.seconds(1) })
        yield* run(connection, "INSERT INTO t VALUES (1)")
        // After BEGIN IMMEDIATE, which would lock it too.
        yield* run(connection, "ATTACH ? AS attached", [attached])
        const unlock = yield* lock(attached)
        const ended = yield* Effect.fork(Effect.async<void>((resume) => {
          thread.once("exit", () => resume(Effect.void))
        }))
        const error = yield* Effect.flip(typed(run(connection, "INSERT INTO attached.u VALUES (?)", [value])))
        assert.strictEqual(error._tag, "StatementTimeout")
        assert.strictEqual(connection.status(), "closed")
        assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
        yield* connection.rollback
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "ConnectionLost")
        // Until then the file is locked, as by any other writer.
        const other = yield* connect(driver(filename, { lockTimeout: Duration.millis(50) }))
        const insert = run(other, "INSERT INTO t VALUES (2)")
        assert.strictEqual((yield* Effect.flip(typed(insert)))._tag, "LockTimeout")
        yield* unlock
        yield* Fiber.join(ended)
        yield* insert
        assert.deepStrictEqual(yield* run(other, "SELECT a FROM t"), [{ a: 2 }])
        assert.deepStrictEqual(yield* read(attached, "SELECT a FROM u"), [1])
      }))
  }

  for (const sql of ["COMMIT", "END TRANSACTION", "RELEASE first"]) {
    it.scopedLive(`${sql} by the caller is not canceled while it commits, and its loss is CommitOutcomeUnknown`, () =>
      Effect.gen(function*() {
        const filename = yield* file
        // Without WAL a commit waits for the readers.
        new Sqlite(filename).exec("CREATE TABLE t (a)").close()
        const connection = yield* connectWith(filename, { commit: 600_000 }, {}, () => {}, "delete")
        yield* waitForLocksOn((sql) => run(connection, sql))
        const begin = Effect.zipRight(
          run(connection, sql.startsWith("RELEASE") ? "SAVEPOINT first" : "BEGIN"),
          run(connection, "INSERT INTO t VALUES (1)")
        )
        yield* begin
        const reader = new Sqlite(filename)
        reader.exec("BEGIN; SELECT * FROM t")
        const interrupted = yield* Effect.fork(run(connection, sql))
        yield* committing(filename)
        const interrupting = yield* Effect.fork(Fiber.interrupt(interrupted))
        yield* iterations(10)
        assert.isNull(interrupting.unsafePoll())
        reader.close()
        yield* Fiber.join(interrupting)
        assert.deepStrictEqual(yield* read(filename, "SELECT a FROM t"), [1])
        yield* begin
        const other = new Sqlite(filename)
        other.exec("BEGIN; SELECT * FROM t")
        const lost = yield* Effect.fork(Effect.flip(typed(run(connection, sql))))
        yield* committing(filename)
        connection.destroy()
        assert.strictEqual((yield* Fiber.join(lost))._tag, "CommitOutcomeUnknown")
        other.close()
      }))
  }

  it.scopedLive("a thread that ends by itself is a lost connection, reported once", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const { filename } = yield* files
      const [connection, thread] = yield* connectWithThread(filename, lost)
      yield* connection.begin({})
      yield* run(connection, "INSERT INTO t VALUES (1)")
      // Returns rows, so the thread can be terminated between two of them.
      const running = yield* Effect.fork(run(connection, `${numbers(1e9)} SELECT i FROM n`))
      yield* Effect.sleep(100)
      yield* Effect.promise(() => thread.terminate())
      const error = yield* Effect.flip(typed(Fiber.join(running)))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.include(error.message, filename)
      assert.strictEqual(connection.status(), "closed")
      assert.deepStrictEqual(lost.map((error) => error._tag), ["ConnectionLost"])
      assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* read(filename, "SELECT * FROM t"), [])
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

  it.scopedLive("the error of a thread that fails is reported", () =>
    Effect.gen(function*() {
      const lost: Array<DatabaseError> = []
      const [connection, thread] = yield* connectWithThread(yield* file, lost)
      thread.emit("error", new Error("Worker terminated due to reaching memory limit: JS heap out of memory"))
      assert.include(lost.map((error) => error.message).join(), "memory limit")
      assert.strictEqual((yield* Effect.flip(connection.ping))._tag, "ConnectionLost")
    }))

  it.scopedLive("a thread that ends during a commit leaves its outcome unknown", () =>
    Effect.gen(function*() {
      const filename = yield* file
      new Sqlite(filename).exec("CREATE TABLE t (a)").close()
      const lost: Array<DatabaseError> = []
      const connection = yield* connect(driver(filename, { journalMode: "delete" }), (error) => lost.push(error))
      yield* waitForLocksOn((sql) => run(connection, sql))
      yield* connection.begin({})
      yield* run(connection, "INSERT INTO t VALUES (1)")
      const reader = new Sqlite(filename)
      reader.exec("BEGIN; SELECT * FROM t")
      const commit = yield* Effect.fork(Effect.flip(connection.commit))
      yield* committing(filename)
      connection.destroy()
      assert.strictEqual((yield* Fiber.join(commit))._tag, "CommitOutcomeUnknown")
      reader.close()
      yield* eventually(Effect.map(read(filename, "SELECT a FROM t"), ([a]) => a === 1))
    }))

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

  it.scopedLive("a stream whose rows are being buffered for a write can be canceled, and then goes on", () =>
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

  it.scopedLive("opening can be interrupted at any moment, and leaves no thread", () =>
    Effect.gen(function*() {
      const threads = yield* runningThreads
      const filename = yield* file
      for (let i = 0; i < 10; i++) {
        const opening = yield* Effect.fork(Effect.scoped(connect(driver(filename))))
        yield* Effect.sleep(i * 15)
        yield* Fiber.interrupt(opening)
      }
      yield* eventually(Effect.sync(() => threads.size === 0), { timeout: "50 seconds" })
    }))

  it.scopedLive("a listener that throws loses the connection, and nothing else", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const transport = workerTransport(openOptions(filename))
      const request = (operation: Operation): Request => ({
        operation,
        begin: undefined,
        requiresTransaction: false,
        transactionFailed: false
      })
      const completions = yield* Effect.async<ReadonlyArray<Completion>>((resume) => {
        const completions: Array<Completion> = []
        const onComplete = (completion: Completion) => {
          completions.push(completion)
          if (completions.length === 3) {
            resume(Effect.succeed(completions))
          }
          throw new Error("broken")
        }
        transport.send(request({ _tag: "Open", keepsMode: false }), undefined, onComplete)
        const endless = `${numbers(1).slice(0, numbers(1).indexOf("WHERE"))}) SELECT i FROM n`
        transport.send(
          request({ _tag: "Run", sql: endless, params: [], form: "rows", cached: false, safeIntegers: false }),
          undefined,
          onComplete
        )
        transport.send(request({ _tag: "Ping" }), undefined, onComplete)
      })
      assert.deepStrictEqual(completions.map(({ _tag }) => _tag), ["Responded", "Lost", "Lost"])
      let later: Completion | undefined
      transport.send(request({ _tag: "Ping" }), undefined, (completion) => {
        later = completion
      })
      assert.strictEqual(later?._tag, "Lost")
    }))
})
