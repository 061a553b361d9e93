/**
 * The requests and responses between a connection and its engine.
 */
import { describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { syncBuiltinESMExports } from "node:module"
import timers from "node:timers"
import { MessagePort } from "node:worker_threads"
import { assert } from "vitest"
import { fromSqlError } from "../../../src/DatabaseError.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { running } from "./process.js"
import { binding, connect, driver, file } from "./support.js"

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  Effect.mapError(connection.execute(sql, params, undefined), fromSqlError)

/** How often a method is called while an effect runs, with arguments that count. */
const callsOf = <A, E, R>(
  prototype: object,
  method: string,
  counts: (args: ReadonlyArray<unknown>) => boolean,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const own = Object.getOwnPropertyDescriptor(prototype, method)!
    let count = 0
    Object.defineProperty(prototype, method, {
      ...own,
      value(...args: ReadonlyArray<unknown>) {
        count += counts(args) ? 1 : 0
        return own.value.apply(this, args)
      }
    })
    return effect.pipe(
      Effect.ensuring(Effect.sync(() => Object.defineProperty(prototype, method, own))),
      Effect.map(() => count)
    )
  })

/** The number of messages with requests. */
const messages = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  callsOf(MessagePort.prototype, "postMessage", ([message]) => Array.isArray(message), effect)

const library = binding === "better-sqlite3"
  ? Sqlite
  : process.getBuiltinModule(binding as "sqlite") as unknown as { readonly DatabaseSync: typeof Sqlite }

const prepares = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  callsOf(
    "DatabaseSync" in library ? library.DatabaseSync.prototype : library.prototype,
    "prepare",
    // With node:sqlite an EXPLAIN tells whether a statement writes.
    ([sql]) => !(sql as string).startsWith("EXPLAIN"),
    effect
  )

/** How often an effect waits for an iteration of the event loop. */
const immediates = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const { setImmediate } = timers
    let count = 0
    const counting = Object.assign((...args: Parameters<typeof setImmediate>) => {
      count++
      return setImmediate(...args)
    }, setImmediate)
    const use = (replacement: typeof setImmediate) => {
      timers.setImmediate = replacement
      globalThis.setImmediate = replacement
      syncBuiltinESMExports()
    }
    use(counting)
    return effect.pipe(
      Effect.ensuring(Effect.sync(() => use(setImmediate))),
      Effect.map(() => count)
    )
  })

const all = <A, E, R>(count: number, f: (i: number) => Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: count }, (_, i) => i), f, { concurrency: "unbounded" })

/** Returns rows, so it can be canceled between two of them. */
const endlessRows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

const opened: Effect.Effect<SqliteConnection, unknown, Scope.Scope> = Effect.gen(function*() {
  const connection = yield* connect(driver(yield* file))
  yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
  return connection
})

describe("messages", () => {
  it.scopedLive("concurrent statements are sent in one message, up to the number that may be in flight", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      yield* connection.begin({})
      yield* run(connection, "SELECT 1")
      const count = yield* messages(all(64, (i) => run(connection, "INSERT INTO t VALUES (?)", [i])))
      assert.strictEqual(count, 1)
      const results = yield* all(64, (i) => run(connection, "SELECT a FROM t WHERE a = ?", [i]))
      assert.deepStrictEqual(results, Array.from({ length: 64 }, (_, i) => [{ a: i }]))
      // The others are sent as responses arrive.
      const more = yield* all(640, (i) => run(connection, "SELECT ? AS n", [i]))
      assert.deepStrictEqual(more, Array.from({ length: 640 }, (_, i) => [{ n: i }]))
      yield* connection.commit
    }))

  it.scopedLive("a request that cannot be cloned fails alone, and the others of its message are sent", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      yield* connection.begin({})
      // Transferred after the statement was checked and before it is sent.
      const transferred = (i: number) => {
        const bytes = new Uint8Array(8)
        return [
          Effect.exit(run(connection, "INSERT INTO t VALUES (? IS NULL)", [bytes])),
          Effect.exit(Effect.suspend(() => {
            structuredClone(bytes, { transfer: [bytes.buffer] })
            return run(connection, "INSERT INTO t VALUES (?)", [i])
          }))
        ]
      }
      for (const before of [[], [1, 2, 3]]) {
        const inserts = before.map((i) => Effect.exit(run(connection, "INSERT INTO t VALUES (?)", [i])))
        const exits = yield* Effect.all([...inserts, ...transferred(10 + before.length)], { concurrency: "unbounded" })
        const failed = exits[before.length]
        assert.deepStrictEqual(exits.map(Exit.isSuccess), exits.map((exit) => exit !== failed))
        const error = yield* Effect.flip(failed)
        assert.strictEqual(error._tag, "InvalidData")
        assert.include(error.message, "the ArrayBuffer of a parameter was detached")
      }
      yield* connection.commit
      const rows = yield* run(connection, "SELECT a FROM t ORDER BY a")
      assert.deepStrictEqual(rows, [1, 2, 3, 10, 13].map((a) => ({ a })))
    }))

  it.scopedLive("a session of n statements takes n + 1 messages, and an empty one takes none", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      for (const end of [connection.commit, connection.rollback]) {
        const session = Effect.gen(function*() {
          yield* connection.begin({})
          yield* run(connection, "SELECT a FROM t")
          yield* run(connection, "INSERT INTO t VALUES (NULL)")
          yield* run(connection, "SELECT a FROM t")
          yield* end
        })
        assert.strictEqual(yield* messages(session), 4)
        assert.strictEqual(yield* messages(Effect.zipRight(connection.begin({}), end)), 0)
        assert.strictEqual(connection.status(), "idle")
      }
      const concurrent = Effect.gen(function*() {
        yield* connection.begin({})
        yield* run(connection, "SELECT 1")
        yield* all(20, (i) => run(connection, "INSERT INTO t VALUES (?)", [1_000 + i]))
        yield* connection.commit
      })
      assert.strictEqual(yield* messages(concurrent), 3)
    }))

  it.scopedLive("responses that arrive together are handed over in order, one in each iteration of the event loop", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      yield* connection.begin({})
      yield* run(connection, "SELECT 1")
      const sequential = Effect.forEach([1, 2, 3, 4, 5], (n) => run(connection, "SELECT ? AS n", [n]))
      assert.strictEqual(yield* immediates(sequential), 0)
      for (let round = 0; round < 20; round++) {
        let iteration = 0
        let counting = true
        const count = () => {
          iteration++
          if (counting) {
            setImmediate(count)
          }
        }
        count()
        const iterations: Array<number> = []
        yield* all(20, (i) =>
          Effect.tap(run(connection, "SELECT ? AS n", [i]), () =>
            Effect.sync(() => {
              iterations.push(iteration)
            })))
        counting = false
        assert.lengthOf(new Set(iterations), 20)
        assert.deepStrictEqual(iterations, iterations.toSorted((a, b) => a - b))
      }
      yield* connection.commit
    }))

  it.scopedLive("a response that cannot be read is a lost connection, also for the requests behind it", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      yield* connection.begin({})
      const ports = new Set<MessagePort>()
      const { postMessage } = MessagePort.prototype
      MessagePort.prototype.postMessage = function(this: MessagePort, ...args: Parameters<typeof postMessage>) {
        ports.add(this)
        return postMessage.apply(this, args)
      }
      const restore = Effect.sync(() => {
        MessagePort.prototype.postMessage = postMessage
      })
      yield* Effect.ensuring(run(connection, "SELECT 1"), restore)
      assert.strictEqual(ports.size, 1)
      const fibers = yield* all(3, () => Effect.fork(Effect.flip(run(connection, endlessRows))))
      yield* Effect.sleep(20)
      ports.forEach((port) => port.emit("messageerror", new Error("too large")))
      const errors = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(errors.map(({ _tag }) => _tag), ["ConnectionLost", "ConnectionLost", "ConnectionLost"])
      assert.strictEqual(connection.status(), "closed")
    }))

  it.scopedLive("a response does not wait for the other requests of its message", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      const [first, slow, dropped, last] = yield* Effect.forEach([
        run(connection, "SELECT 1 AS n"),
        run(connection, endlessRows),
        run(connection, "INSERT INTO t VALUES (1)"),
        run(connection, "INSERT INTO t VALUES (2)")
      ], (effect) => Effect.fork(effect))
      assert.deepStrictEqual(yield* Fiber.join(first), [{ n: 1 }])
      assert(Exit.isInterrupted(yield* Fiber.interrupt(dropped)))
      assert.isNull(last.unsafePoll())
      assert(Exit.isInterrupted(yield* Fiber.interrupt(slow)))
      yield* Fiber.join(last)
      assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: 2 }])
      assert.strictEqual(connection.status(), "idle")
    }))

  it.scopedLive("a cancellation at any moment never affects a later request", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      for (let i = 0; i < 100; i++) {
        const fibers = yield* all(10, (k) => Effect.fork(run(connection, "INSERT INTO t VALUES (?)", [i * 10 + k])))
        yield* Effect.repeatN(Effect.yieldNow(), i % 7)
        if (i % 3 === 0) {
          yield* Effect.sleep(0)
        }
        const interrupted = yield* Effect.exit(Fiber.interrupt(fibers[i % 10]))
        assert.isTrue(Exit.isSuccess(interrupted))
        const exits = yield* Effect.forEach(fibers, Fiber.await)
        exits.forEach((exit, k) => assert.isTrue(Exit.isSuccess(exit) || k === i % 10))
        const rows = yield* run(connection, "SELECT a FROM t WHERE a BETWEEN ? AND ?", [i * 10, i * 10 + 9])
        const done = exits.flatMap((exit, k) => Exit.isSuccess(exit) ? [{ a: i * 10 + k }] : [])
        assert.includeDeepMembers([...rows], done)
      }
      assert.strictEqual(connection.status(), "idle")
    }))

  it.scopedLive("when the connection is destroyed all requests in flight fail", () =>
    Effect.gen(function*() {
      const connection = yield* opened
      const fibers = yield* all(
        20,
        (i) => Effect.fork(i === 5 ? run(connection, endlessRows) : run(connection, "INSERT INTO t VALUES (?)", [i]))
      )
      const done = yield* Effect.forEach(fibers.slice(0, 5), Fiber.await)
      connection.destroy()
      const lost = yield* Effect.forEach(fibers.slice(5), (fiber) => Effect.flip(Fiber.join(fiber)))
      assert.isTrue(done.every(Exit.isSuccess))
      assert.isTrue(lost.every(({ _tag }) => _tag === "ConnectionLost"))
    }))
})

for (const thread of ["worker", "main"] as const) {
  describe(`a transaction that begins with its first statement, thread: ${thread}`, () => {
    const setUp = Effect.gen(function*() {
      const filename = yield* file
      const connection = yield* connect(driver(filename, { thread }))
      yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
      return { connection, filename }
    })

    it.scopedLive("if BEGIN fails, so do its statement, all later ones and the commit", () =>
      Effect.gen(function*() {
        const { connection, filename } = yield* setUp
        const other = yield* running(
          "globalThis.held = new Sqlite(file).exec(\"BEGIN IMMEDIATE\"); console.log(\"writing\")",
          filename
        )
        assert.strictEqual(other.line, "writing")
        const insert = run(connection, "INSERT INTO t VALUES (1)")
        yield* connection.begin({ lockTimeout: Duration.millis(50) })
        const errors = yield* Effect.all([Effect.flip(insert), Effect.flip(insert)], { concurrency: "unbounded" })
        yield* other.end
        // Now it could begin, but without its first statements.
        errors.push(yield* Effect.flip(run(connection, "SELECT 1")))
        errors.push(yield* Effect.flip(connection.savepoint("one")))
        errors.push(yield* Effect.flip(connection.commit))
        assert.deepStrictEqual(errors.map(({ _tag }) => _tag), Array.from({ length: 5 }, () => "LockTimeout"))
        assert.strictEqual(connection.status(), "aborted")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
        yield* insert
      }))

    it.scopedLive("a statement that is not sent does not begin it", () =>
      Effect.gen(function*() {
        const { connection } = yield* setUp
        yield* connection.begin({})
        const error = yield* Effect.flip(run(connection, "INSERT INTO t VALUES (?)", [{}]))
        assert.strictEqual(error._tag, "InvalidData")
        yield* run(connection, "INSERT INTO t VALUES (1)")
        yield* connection.rollback
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
      }))

    it.scopedLive("a statement that fails begins it", () =>
      Effect.gen(function*() {
        const { connection } = yield* setUp
        yield* connection.begin({})
        assert.strictEqual((yield* Effect.flip(run(connection, "SELEC 1")))._tag, "InvalidStatement")
        assert.strictEqual(connection.status(), "aborted")
        const insert = run(connection, "INSERT INTO t VALUES (1)")
        const error = yield* Effect.flip(insert)
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.include(error.message, "nested session")
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
        yield* insert
      }))

    it.scopedLive("statements in flight behind a failed one are refused", () =>
      Effect.gen(function*() {
        const { connection } = yield* setUp
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (1)")
        yield* connection.savepoint("one")
        const insert = (i: number) => run(connection, "INSERT INTO t VALUES (?)", [i])
        const exits = yield* all(10, (i) => Effect.exit(insert(i === 3 ? 1 : 100 + i)))
        assert.deepStrictEqual(exits.map(Exit.isSuccess), Array.from({ length: 10 }, (_, i) => i < 3))
        const tags = yield* Effect.forEach(exits.slice(3), (exit) => Effect.map(Effect.flip(exit), ({ _tag }) => _tag))
        assert.deepStrictEqual(tags, ["UniqueViolation", ...Array.from({ length: 6 }, () => "TransactionAborted")])
        assert.strictEqual(connection.status(), "aborted")
        yield* connection.rollbackToSavepoint("one")
        assert.strictEqual(connection.status(), "active")
        yield* insert(2)
        yield* connection.commit
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: 1 }, { a: 2 }])
      }))

    // Without WAL a read may find the file busy within a transaction.
    it.scopedLive("waiting for a lock does not fail the transaction, and a lock timeout does", () =>
      Effect.gen(function*() {
        const filename = yield* file
        const locked = (millis: number) =>
          running(
            `const db = new Sqlite(file)
            db.exec("CREATE TABLE IF NOT EXISTS t (a); BEGIN EXCLUSIVE")
            setTimeout(() => db.exec("COMMIT"), ${millis})
            console.log("locked")`,
            filename
          )
        yield* Effect.flatMap(locked(0), ({ end }) => end)
        const connection = yield* connect(driver(filename, { thread, readOnly: true }))
        const read = run(connection, "SELECT a FROM t")
        const holder = yield* locked(60_000)
        yield* connection.begin({ lockTimeout: Duration.millis(50) })
        assert.strictEqual((yield* Effect.flip(read))._tag, "LockTimeout")
        assert.strictEqual(connection.status(), "aborted")
        assert.strictEqual((yield* Effect.flip(read))._tag, "TransactionAborted")
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "TransactionAborted")
        assert.strictEqual(connection.status(), "idle")
        yield* connection.begin({ lockTimeout: Duration.minutes(1) })
        // One that is interrupted meanwhile has done nothing.
        assert.isTrue(Option.isNone(yield* Effect.timeoutOption(read, 50)))
        assert.strictEqual(connection.status(), "active")
        assert.deepStrictEqual(yield* run(connection, "SELECT 1 AS n"), [{ n: 1 }])
        yield* connection.rollback
        yield* holder.end
        yield* locked(200)
        yield* connection.begin({ lockTimeout: Duration.minutes(1) })
        assert.deepStrictEqual(yield* read, [])
        assert.strictEqual(connection.status(), "active")
        yield* connection.commit
      }))

    it.scopedLive("a rollback by SQLite itself also applies to statements in flight", () =>
      Effect.gen(function*() {
        const { connection } = yield* setUp
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (1)")
        const exits = yield* all(10, (i) =>
          Effect.exit(
            i === 3
              ? run(connection, "INSERT OR ROLLBACK INTO t VALUES (1)")
              : run(connection, "INSERT INTO t VALUES (?)", [100 + i])
          ))
        const tags = exits.map((exit) => Exit.isSuccess(exit) ? "done" : exit.cause.toString().match(/\w+(?=:)/)?.[0])
        assert.deepStrictEqual(exits.map(Exit.isSuccess), Array.from({ length: 10 }, (_, i) => i < 3), tags.join())
        for (const exit of exits.slice(4)) {
          assert.strictEqual((yield* Effect.flip(exit))._tag, "TransactionAborted")
        }
        assert.strictEqual((yield* Effect.flip(connection.commit))._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
      }))
  })
}

describe("statements on the main thread", () => {
  const onMain = Effect.gen(function*() {
    const connection = yield* connect(driver(yield* file, { thread: "main" }))
    yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
    return connection
  })

  it.scopedLive("complete synchronously", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      const session = Effect.gen(function*() {
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (1)")
        const rows = yield* run(connection, "SELECT a FROM t")
        yield* connection.commit
        return rows
      })
      assert.deepStrictEqual(Effect.runSync(session), [{ a: 1 }])
      assert.deepStrictEqual(Effect.runSync(run(connection, "SELECT a FROM t")), [{ a: 1 }])
    }))

  it.scopedLive("wait for the event loop only where another fiber has run the last one of the transaction", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      const count = 50
      const select = (i: number) =>
        connection.execute("SELECT ? AS n", [i], undefined, { refusal: () => undefined, isSent: false, mayWrite: true })
      const inTransaction = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.zipRight(connection.begin({}), Effect.zipLeft(effect, connection.commit))
      // A chain of statements also yields when it has blocked the event loop for a while.
      const yields = (millis: number) => 2 + Math.floor(millis / 5)
      const sequential = Effect.forEach(Array.from({ length: count }, (_, i) => i), select)
      const [elapsed, calls] = yield* Effect.timed(immediates(inTransaction(sequential)))
      assert.isAtMost(calls, yields(Duration.toMillis(elapsed)))
      const own = yield* Effect.timed(immediates(all(count, select)))
      assert.isAtMost(own[1], yields(Duration.toMillis(own[0])))
      const concurrent = yield* immediates(inTransaction(all(count, select)))
      assert.isAtLeast(concurrent, count - 1)
    }))

  it.scopedLive("yield to other fibers", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      let count = 0
      const chain = yield* Effect.fork(Effect.whileLoop({
        while: () => count < 20_000,
        body: () => run(connection, "SELECT 1"),
        step: () => void count++
      }))
      yield* Effect.repeat(Effect.yieldNow(), { until: () => count > 0 })
      assert.isBelow(count, 20_000)
      yield* Fiber.interrupt(chain)
      assert.isBelow(count, 20_000)
    }))

  it.scopedLive("yield to the event loop", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      for (const fibers of [1, 10]) {
        let ticks = 0
        const timer = setInterval(() => ticks++, 5)
        const chain = Effect.whileLoop({
          while: () => ticks < 5,
          body: () => run(connection, "SELECT 1"),
          step: () => {}
        })
        yield* Effect.ensuring(all(fibers, () => chain), Effect.sync(() => clearInterval(timer)))
      }
      // They run in order, wherever they yield.
      for (const slow of [2, 3, 4, 5]) {
        const done: Array<number> = []
        const counting = `SELECT count(*) FROM (${endlessRows} LIMIT 300000)`
        yield* all(20, (i) =>
          Effect.tap(run(connection, i < slow ? counting : "SELECT 1"), () => Effect.sync(() => done.push(i))))
        assert.deepStrictEqual(
          done,
          Array.from({ length: 20 }, (_, i) =>
            i)
        )
      }
      // A statement that waits for the event loop can be interrupted, and its connection destroyed.
      const chain = yield* Effect.fork(Effect.forever(run(connection, "SELECT 1")))
      yield* Effect.sleep(50)
      yield* Fiber.interrupt(chain)
      assert.strictEqual(connection.status(), "idle")
      const ended = yield* Effect.fork(Effect.flip(Effect.forever(run(connection, "SELECT 1"))))
      yield* Effect.sleep(50)
      connection.destroy()
      assert.strictEqual((yield* Fiber.join(ended))._tag, "ConnectionLost")
    }))

  it.scopedLive("do not yield to the event loop in runSync", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      const since = performance.now()
      const chain = Effect.whileLoop({
        while: () => performance.now() - since < 100,
        body: () => run(connection, "SELECT 1"),
        step: () => {}
      })
      Effect.runSync(chain)
      assert.isAtLeast(performance.now() - since, 100)
    }))

  it.scopedLive("are prepared once, unless evicted from the cache", () =>
    Effect.gen(function*() {
      const connection = yield* onMain
      const texts = (count: number) =>
        Effect.forEach(Array.from({ length: count }, (_, i) => i), (i) => run(connection, `SELECT ${i}`))
      const session = Effect.zipRight(
        connection.begin({}),
        Effect.zipRight(run(connection, "SELECT a FROM t"), connection.commit)
      )
      // COMMIT was prepared when the table was created.
      assert.strictEqual(yield* prepares(Effect.repeatN(session, 9)), 2)
      assert.strictEqual(yield* prepares(Effect.repeatN(texts(50), 9)), 50)
      assert.strictEqual(yield* prepares(Effect.repeatN(texts(201), 1)), 151 + 201)
      assert.strictEqual(yield* prepares(connection.executeUnprepared("SELECT 200", [], undefined)), 1)
      assert.strictEqual(yield* prepares(run(connection, "SELECT 200")), 0)
    }))
})
