/**
 * What every driver is held to: one suite, run against each dialect.
 *
 *     driverContract("postgres", {
 *       driver: Effect.map(freshDatabase, (url) => Driver.make(settingsOf(url), targetOf(url))),
 *       placeholder: (n) => `$${n}`,
 *       endless: "SELECT pg_sleep(600)",
 *       …
 *     })
 *
 * `driver` is taken anew by each test and must lead to an empty database that is gone when the scope closes. Every
 * statement here is understood by all dialects but for what `Dialect` asks for. Tests of what needs a second connection
 * or an interruptible statement are left out where the driver has neither (`single`, `uninterruptible`).
 */
import { SqlError } from "@effect/sql/SqlError"
import { describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { assert } from "vitest"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../../src/DatabaseError.js"
import type { BeginOptions, Connection, Driver } from "../../src/internal/driver.js"

/** What differs from dialect to dialect. */
export interface Dialect {
  /** A driver of a new and empty database. */
  readonly driver: Effect.Effect<Driver, never, Scope.Scope>
  /** The placeholder of the n-th parameter, from 1. */
  readonly placeholder: (n: number) => string
  /** Runs for minutes, unless it is stopped. */
  readonly endless: string
  /** An expression that fails where `n` is 2000, because of its data. */
  readonly failing: string
  /** Leaves something on a connection, outside of a transaction, that only a reset clears. */
  readonly leaveTraces: string
  /** What `executeRaw` says of how many rows were written. */
  readonly written: (raw: unknown) => number
  /** A parameter that cannot be encoded, and holds the text `secret-value`. */
  readonly unencodable: unknown
  /** Only one connection leads to the same data. */
  readonly single?: boolean | undefined
  /** A statement that runs cannot be stopped. */
  readonly uninterruptible?: boolean | undefined
}

const tables = [
  `CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL DEFAULT 0 CHECK (amount >= 0)
  )`,
  `CREATE TABLE parts (
    id INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED
  )`
]

const numbers = (count: number): string =>
  `WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ${count}) SELECT n FROM numbers`

/** Runs the suite. */
export const driverContract = (name: string, dialect: Dialect): void => {
  const { placeholder } = dialect

  interface Setup {
    readonly driver: Driver
    readonly connection: Connection
    readonly lost: Array<DatabaseError>
    /** Another connection to the same database. */
    readonly another: Effect.Effect<Connection, DatabaseError, Scope.Scope>
  }

  const connect = (driver: Driver, lost: Array<DatabaseError>) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.tap(
        driver.connect((error) => lost.push(error), restore),
        (connection) => Effect.addFinalizer(() => connection.close)
      )
    )

  const setup: Effect.Effect<Setup, DatabaseError | SqlError, Scope.Scope> = Effect.gen(function*() {
    const driver = yield* dialect.driver
    const lost: Array<DatabaseError> = []
    const connection = yield* connect(driver, lost)
    for (const sql of tables) {
      yield* connection.executeUnprepared(sql, [], undefined)
    }
    return { driver, connection, lost, another: connect(driver, lost) }
  })

  const insert = (connection: Connection, id: number, name: string | null = `item ${id}`, amount = 0) =>
    connection.execute(
      `INSERT INTO items (id, name, amount) VALUES (${placeholder(1)}, ${placeholder(2)}, ${placeholder(3)})`,
      [id, name, amount],
      undefined
    )

  const ids = (connection: Connection) =>
    Effect.map(
      connection.executeValues("SELECT id FROM items ORDER BY id", []),
      (rows) => rows.map((row) => Number(row[0]))
    )

  const stream = (connection: Connection, sql: string, params: ReadonlyArray<unknown> = []) =>
    connection.executeStream(sql, params, undefined) as Stream.Stream<{ readonly n: number }, SqlError>

  /** The DatabaseError that an effect fails with, wherever it stands. */
  const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<DatabaseError, never, R> =>
    Effect.map(Effect.either(effect), (result) => {
      assert(Either.isLeft(result), "it should have failed")
      const error = result.left
      if (error instanceof SqlError) {
        assert.include(error.message, fromSqlError(error).message)
        return fromSqlError(error)
      }
      assert(isDatabaseError(error), String(error))
      return error
    })

  const tagOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.map(failure(effect), (error) => error._tag)

  /** Fails when the time since then is that of a statement which was not stopped: `endless` runs for minutes. */
  const prompt = (since: number) => assert.isBelow(performance.now() - since, 20_000)

  const test = (what: string, body: (setup: Setup) => Effect.Effect<void, DatabaseError | SqlError, Scope.Scope>) =>
    it.scopedLive(what, () => Effect.flatMap(setup, body))

  const testStopping = dialect.uninterruptible === true ? () => undefined : test
  const testTwo = dialect.single === true ? () => undefined : test

  describe(`driver contract: ${name}`, () => {
    describe("statements", () => {
      test("a new connection is idle, answers, and says what it is connected to", ({ connection, driver }) =>
        Effect.gen(function*() {
          assert.strictEqual(connection.status(), "idle")
          yield* connection.ping
          const info = yield* driver.serverInfo(connection)
          assert.match(info.version, /^\d+\.\d+/)
          assert.include(["primary", "standby", "embedded"], info.role)
          assert.strictEqual(connection.status(), "idle")
        }))

      test("rows come as objects, as arrays, and as what the library gives", ({ connection }) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* insert(connection, 1), [])
          const sql = `SELECT id, name FROM items WHERE id = ${placeholder(1)}`
          assert.deepStrictEqual([...(yield* connection.execute(sql, [1], undefined))], [{ id: 1, name: "item 1" }])
          assert.deepStrictEqual([...(yield* connection.executeUnprepared(sql, [1], undefined))], [
            { id: 1, name: "item 1" }
          ])
          assert.deepStrictEqual([...(yield* connection.executeValues(sql, [1]))], [[1, "item 1"]])
          // Nothing of how one was run sticks to the next.
          assert.deepStrictEqual([...(yield* connection.execute(sql, [1], undefined))], [{ id: 1, name: "item 1" }])
          const raw = yield* connection.executeRaw("UPDATE items SET amount = 2", [])
          assert.strictEqual(dialect.written(raw), 1)
          assert.deepStrictEqual([...(yield* connection.executeValues("UPDATE items SET amount = 3", []))], [])
        }))

      test("rows are transformed", ({ connection }) =>
        Effect.gen(function*() {
          yield* insert(connection, 1)
          const upper = <A extends object>(rows: ReadonlyArray<A>): ReadonlyArray<A> =>
            rows.map((row) =>
              Object.fromEntries(Object.entries(row).map(([key, value]) => [key.toUpperCase(), value])) as A
            )
          const sql = "SELECT id FROM items"
          assert.deepStrictEqual([...(yield* connection.execute(sql, [], upper))], [{ ID: 1 }])
          assert.deepStrictEqual([...(yield* connection.executeUnprepared(sql, [], upper))], [{ ID: 1 }])
          const streamed = yield* Stream.runCollect(connection.executeStream(sql, [], upper))
          assert.deepStrictEqual(Chunk.toReadonlyArray(streamed), [{ ID: 1 }])
        }))

      test("a statement that writes and returns rows does both", ({ connection }) =>
        Effect.gen(function*() {
          const sql = "INSERT INTO items (id, name) VALUES (1, 'a'), (2, 'b') RETURNING id AS n"
          assert.deepStrictEqual([...(yield* connection.execute(sql, [], undefined))], [{ n: 1 }, { n: 2 }])
          const more = "INSERT INTO items (id, name) VALUES (3, 'c'), (4, 'd') RETURNING id AS n"
          const streamed = yield* Stream.runCollect(stream(connection, more))
          assert.deepStrictEqual(Chunk.toReadonlyArray(streamed), [{ n: 3 }, { n: 4 }])
          assert.deepStrictEqual(yield* ids(connection), [1, 2, 3, 4])
          assert.strictEqual(connection.status(), "idle")
        }))

      test("statements given at once run in the order given", ({ connection }) =>
        Effect.gen(function*() {
          const done: Array<number> = []
          yield* Effect.forEach(
            Array.from({ length: 100 }, (_, i) => i),
            (i) => Effect.tap(insert(connection, 1000 - i), () => Effect.sync(() => done.push(i))),
            { concurrency: "unbounded" }
          )
          assert.deepStrictEqual(done, Array.from({ length: 100 }, (_, i) => i))
        }))
    })

    describe("errors", () => {
      test("constraints, syntax and unknown names are told apart", ({ connection }) =>
        Effect.gen(function*() {
          yield* insert(connection, 1)
          const error = yield* failure(insert(connection, 2, "item 1"))
          assert.strictEqual(error._tag, "UniqueViolation")
          assert.strictEqual(error.dialect, (yield* dialect.driver).dialect)
          assert.include(error.statement, "INSERT INTO items")
          assert.notInclude(JSON.stringify(error), "item 1")
          assert.strictEqual(yield* tagOf(insert(connection, 1, "other")), "UniqueViolation")
          assert.strictEqual(yield* tagOf(insert(connection, 3, null)), "NotNullViolation")
          assert.strictEqual(yield* tagOf(insert(connection, 3, "x", -1)), "CheckViolation")
          const foreign = connection.execute("INSERT INTO parts (id, item) VALUES (1, 99)", [], undefined)
          assert.strictEqual(yield* tagOf(foreign), "ForeignKeyViolation")
          assert.strictEqual(
            yield* tagOf(connection.execute("SELECT * FROM nowhere", [], undefined)),
            "InvalidStatement"
          )
          assert.deepStrictEqual(yield* ids(connection), [1])
          assert.strictEqual(connection.status(), "idle")
        }))

      test("every way to run a statement fails in the same typed way", ({ connection }) =>
        Effect.gen(function*() {
          const sql = "SELEC 1"
          for (
            const effect of [
              connection.execute(sql, [], undefined),
              connection.executeRaw(sql, []),
              connection.executeValues(sql, []),
              connection.executeUnprepared(sql, [], undefined),
              Stream.runDrain(connection.executeStream(sql, [], undefined))
            ]
          ) {
            const error = yield* failure<unknown, SqlError, never>(effect)
            assert.strictEqual(error._tag, "InvalidStatement")
            assert.strictEqual(error.statement, sql)
          }
          yield* connection.ping
        }))

      test("a parameter that cannot be encoded is InvalidData, and is not shown", ({ connection }) =>
        Effect.gen(function*() {
          const sql = `SELECT id FROM items WHERE name = ${placeholder(1)}`
          const params = [dialect.unencodable]
          for (
            const effect of [
              connection.execute(sql, params, undefined),
              connection.executeRaw(sql, params),
              connection.executeValues(sql, params),
              connection.executeUnprepared(sql, params, undefined),
              Stream.runDrain(connection.executeStream(sql, params, undefined))
            ]
          ) {
            const error = yield* failure<unknown, SqlError, never>(effect)
            assert.strictEqual(error._tag, "InvalidData")
            assert.notInclude(error.message, "secret-value")
          }
          yield* connection.ping
        }))
    })

    describe("transactions", () => {
      test("what is committed stays, what is rolled back does not", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          assert.strictEqual(connection.status(), "active")
          yield* insert(connection, 1)
          yield* connection.commit
          assert.strictEqual(connection.status(), "idle")
          yield* connection.begin({})
          yield* insert(connection, 2)
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [1])
        }))

      test("a rollback without a transaction does nothing", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
        }))

      test("every isolation is accepted", ({ connection }) =>
        Effect.forEach(
          ["read uncommitted", "read committed", "repeatable read", "serializable"] as const,
          (isolation) => Effect.zipRight(connection.begin({ isolation, deferrable: true }), connection.commit),
          { discard: true }
        ))

      test("after a failed statement a transaction can be rolled back", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          yield* insert(connection, 1)
          yield* failure(insert(connection, 1))
          assert.include(["active", "aborted"], connection.status())
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [])
        }))

      test("a commit that a deferred constraint refuses fails with its violation, and keeps nothing", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          yield* insert(connection, 1)
          yield* connection.execute("INSERT INTO parts (id, item) VALUES (1, 99)", [], undefined)
          assert.strictEqual(yield* tagOf(connection.commit), "ForeignKeyViolation")
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [])
        }))

      test("a read-only transaction refuses to write, and the next one does not", ({ connection }) =>
        Effect.gen(function*() {
          yield* insert(connection, 1)
          yield* connection.begin({ readOnly: true })
          assert.deepStrictEqual(yield* ids(connection), [1])
          assert.strictEqual(yield* tagOf(insert(connection, 2)), "ReadOnlyViolation")
          yield* connection.rollback
          yield* connection.begin({ readOnly: true })
          yield* connection.commit
          yield* insert(connection, 2)
          yield* connection.begin({})
          yield* insert(connection, 3)
          yield* connection.commit
          assert.deepStrictEqual(yield* ids(connection), [1, 2, 3])
        }))

      test("savepoints keep or undo a part", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          yield* insert(connection, 1)
          yield* connection.savepoint("one")
          yield* insert(connection, 2)
          yield* connection.savepoint("a \"quoted\" name")
          yield* insert(connection, 3)
          yield* connection.rollbackToSavepoint("a \"quoted\" name")
          yield* insert(connection, 4)
          yield* connection.releaseSavepoint("one")
          yield* connection.savepoint("two")
          yield* insert(connection, 5)
          yield* failure(insert(connection, 5))
          yield* connection.rollbackToSavepoint("two")
          assert.strictEqual(connection.status(), "active")
          yield* connection.commit
          assert.deepStrictEqual(yield* ids(connection), [1, 2, 4])
        }))

      test("rolling back to a savepoint releases it too", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          yield* connection.savepoint("one")
          yield* insert(connection, 1)
          yield* connection.rollbackToSavepoint("one")
          // It may be told only with the statement that follows.
          yield* failure(Effect.zipRight(connection.releaseSavepoint("one"), ids(connection)))
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
        }))

      testTwo("others see nothing before the commit", ({ another, connection }) =>
        Effect.gen(function*() {
          const other = yield* another
          assert.notStrictEqual(other.id, connection.id)
          yield* connection.begin({})
          yield* insert(connection, 1)
          assert.deepStrictEqual(yield* ids(other), [])
          yield* connection.commit
          assert.deepStrictEqual(yield* ids(other), [1])
        }))

      testTwo("a lock that is not granted in time is LockTimeout", ({ another, connection }) =>
        Effect.gen(function*() {
          const other = yield* another
          yield* insert(connection, 1)
          yield* connection.begin({})
          yield* connection.execute("UPDATE items SET amount = 1", [], undefined)
          const update = (options: BeginOptions) =>
            Effect.zipRight(other.begin(options), other.execute("UPDATE items SET amount = 2", [], undefined))
          const since = performance.now()
          assert.strictEqual(yield* tagOf(update({ lockTimeout: Duration.millis(300) })), "LockTimeout")
          assert.isAtLeast(performance.now() - since, 250)
          prompt(since)
          yield* other.rollback
          assert.strictEqual(other.status(), "idle")
          const waiting = yield* Effect.fork(update({ lockTimeout: Duration.seconds(30) }))
          yield* Effect.sleep(200)
          yield* connection.commit
          yield* Fiber.join(waiting)
          yield* other.commit
          assert.deepStrictEqual([...(yield* connection.executeValues("SELECT amount FROM items", []))], [[2]])
        }))

      testTwo("waiting for a lock can be interrupted", ({ another, connection }) =>
        Effect.gen(function*() {
          const other = yield* another
          yield* insert(connection, 1)
          yield* connection.begin({})
          yield* connection.execute("UPDATE items SET amount = 1", [], undefined)
          const waiting = yield* Effect.fork(
            Effect.zipRight(
              other.begin({ lockTimeout: Duration.minutes(10) }),
              other.execute("UPDATE items SET amount = 2", [], undefined)
            )
          )
          yield* Effect.sleep(200)
          const since = performance.now()
          assert(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
          prompt(since)
          yield* other.rollback
          assert.strictEqual(other.status(), "idle")
          yield* connection.commit
        }))
    })

    describe("streams", () => {
      test("all rows come, in order", ({ connection }) =>
        Effect.gen(function*() {
          const rows = yield* Stream.runCollect(stream(connection, numbers(5000)))
          assert.deepStrictEqual(
            Chunk.toReadonlyArray(rows).map((row) => row.n),
            Array.from({ length: 5000 }, (_, i) => i + 1)
          )
          assert.strictEqual(connection.status(), "idle")
          const none = yield* Stream.runCollect(
            stream(connection, `SELECT id AS n FROM items WHERE id = ${placeholder(1)}`, [1])
          )
          assert.strictEqual(Chunk.size(none), 0)
        }))

      test("a stream that is left early leaves the connection usable", ({ connection }) =>
        Effect.gen(function*() {
          const rows = yield* Stream.runCollect(Stream.take(stream(connection, numbers(1_000_000)), 3))
          assert.deepStrictEqual(Chunk.toReadonlyArray(rows).map((row) => row.n), [1, 2, 3])
          yield* insert(connection, 1)
          assert.strictEqual(connection.status(), "idle")
          const failed = Stream.mapEffect(stream(connection, numbers(1_000_000)), () => failingWith("enough"))
          assert.deepStrictEqual(yield* Effect.either(Stream.runDrain(failed)), Either.left("enough"))
          yield* insert(connection, 2)
          assert.strictEqual(connection.status(), "idle")
        }))

      test("within a transaction, statements run while a stream is read", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          let seen = 0
          yield* Stream.runForEach(stream(connection, numbers(3000)), ({ n }) => {
            seen++
            return n % 1000 === 1 ? insert(connection, n) : n % 1000 === 2 ? ids(connection) : Effect.void
          })
          assert.strictEqual(seen, 3000)
          const twice = Stream.zip(stream(connection, numbers(3000)), stream(connection, numbers(3000)))
          assert.strictEqual(yield* Stream.runCount(twice), 3000)
          yield* connection.commit
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [1, 1001, 2001])
        }))

      test("a stream that fails on its way fails with the typed error", ({ connection }) =>
        Effect.gen(function*() {
          let seen = 0
          const sql = `SELECT n, ${dialect.failing} AS m FROM (${numbers(3000)}) AS numbers`
          const error = yield* failure(Stream.runForEach(stream(connection, sql), () => Effect.sync(() => seen++)))
          assert.include(["InvalidData", "InvalidStatement"], error._tag)
          assert.strictEqual(error.statement, sql)
          assert.isBelow(seen, 2000)
          yield* insert(connection, 1)
          assert.strictEqual(connection.status(), "idle")
        }))
    })

    describe("interruption", () => {
      testStopping(
        "what runs is stopped, what waits is dropped, what follows is not hit",
        ({ connection, lost }) =>
          Effect.gen(function*() {
            const running = yield* Effect.fork(connection.execute(dialect.endless, [], undefined))
            yield* Effect.sleep(100)
            const waiting = yield* Effect.fork(insert(connection, 1))
            yield* Effect.sleep(50)
            const following = yield* Effect.fork(insert(connection, 2))
            yield* Effect.sleep(50)
            const since = performance.now()
            assert(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
            assert(Exit.isInterrupted(yield* Fiber.interrupt(running)))
            prompt(since)
            yield* Fiber.join(following)
            assert.deepStrictEqual(yield* ids(connection), [2])
            assert.strictEqual(connection.status(), "idle")
            assert.deepStrictEqual(lost, [])
          })
      )

      testStopping(
        "within a transaction, the transaction can be rolled back",
        ({ connection }) =>
          Effect.gen(function*() {
            yield* connection.begin({})
            yield* insert(connection, 1)
            const running = yield* Effect.fork(connection.execute(dialect.endless, [], undefined))
            yield* Effect.sleep(100)
            yield* Fiber.interrupt(running)
            yield* connection.rollback
            assert.strictEqual(connection.status(), "idle")
            assert.deepStrictEqual(yield* ids(connection), [])
          })
      )

      testStopping("a stream is stopped too", ({ connection }) =>
        Effect.gen(function*() {
          const first = yield* Deferred.make<void>()
          const running = yield* Effect.fork(
            Stream.runForEach(stream(connection, numbers(100_000_000)), () => Deferred.succeed(first, undefined))
          )
          yield* Deferred.await(first)
          const since = performance.now()
          yield* Fiber.interrupt(running)
          prompt(since)
          yield* insert(connection, 1)
          assert.strictEqual(connection.status(), "idle")
        }))

      testStopping(
        "a statement timeout of a transaction is StatementTimeout, and ends with it",
        ({ connection }) =>
          Effect.gen(function*() {
            yield* connection.begin({ statementTimeout: Duration.millis(300) })
            const since = performance.now()
            assert.strictEqual(yield* tagOf(connection.execute(dialect.endless, [], undefined)), "StatementTimeout")
            assert.isAtLeast(performance.now() - since, 250)
            prompt(since)
            yield* connection.rollback
            assert.strictEqual(connection.status(), "idle")
            const running = yield* Effect.fork(connection.execute(dialect.endless, [], undefined))
            yield* Effect.sleep(600)
            assert.isTrue(running.unsafePoll() === null, "it should still run")
            yield* Fiber.interrupt(running)
          })
      )

      test("interruptions at any moment leave no transaction open", ({ connection, lost }) =>
        Effect.gen(function*() {
          for (let i = 0; i < 60; i++) {
            const work = Effect.gen(function*() {
              yield* connection.begin({})
              yield* insert(connection, i)
              yield* Stream.runDrain(Stream.take(stream(connection, numbers(2000)), 600))
              yield* connection.commit
            })
            const fiber = yield* Effect.fork(work)
            yield* Effect.sleep(i % 12)
            yield* Fiber.interrupt(fiber)
            yield* connection.rollback
            assert.strictEqual(connection.status(), "idle", `round ${i}`)
          }
          assert.deepStrictEqual(lost, [])
          yield* insert(connection, 1000)
        }))
    })

    describe("monitoring", () => {
      test("reads its figures in a read-only transaction, and plans without values or effect", ({ connection, driver }) =>
        Effect.gen(function*() {
          const { explain, sections, waits } = driver.monitoring
          yield* insert(connection, 1)
          yield* connection.begin({ readOnly: true, statementTimeout: Duration.minutes(1) })
          for (const { columns, id, read } of sections) {
            const { rows } = yield* read(connection)
            assert.isTrue(rows.every((row) => row.length === columns.length), id)
          }
          assert.deepStrictEqual(waits === undefined ? [] : yield* waits(connection, [connection.id]), [])
          yield* explain(connection, "SELECT name FROM items WHERE id = 1")
          yield* explain(connection, "DELETE FROM items")
          for (const text of ["SELECT 1; DELETE FROM items", "DROP TABLE items", "SELECT * FROM no_items"]) {
            const refused = yield* Effect.either(explain(connection, text))
            assert(Either.isLeft(refused), text)
            assert.strictEqual(refused.left._tag, "InvalidStatement", text)
            yield* connection.rollback
            yield* connection.begin({ readOnly: true })
          }
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [1])
        }))
    })

    describe("resetting and closing", () => {
      test("a reset rolls back", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.begin({ readOnly: true })
          yield* connection.reset
          assert.strictEqual(connection.status(), "idle")
          yield* connection.begin({})
          yield* insert(connection, 1)
          yield* connection.savepoint("one")
          yield* connection.reset
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [])
          yield* connection.reset
          assert.strictEqual(connection.status(), "idle")
        }))

      test("a transaction that was begun by hand is known, and reset", ({ connection }) =>
        Effect.gen(function*() {
          yield* connection.executeUnprepared("BEGIN", [], undefined)
          assert.strictEqual(connection.status(), "active")
          yield* insert(connection, 1)
          yield* connection.reset
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [])
        }))

      test("what a borrower left is known, and reset", ({ connection }) =>
        Effect.gen(function*() {
          yield* insert(connection, 1)
          yield* connection.executeUnprepared(dialect.leaveTraces, [], undefined)
          assert.strictEqual(connection.status(), "dirty")
          yield* connection.reset
          assert.strictEqual(connection.status(), "idle")
          assert.deepStrictEqual(yield* ids(connection), [1])
        }))

      test("after close everything fails with a typed error, at once", ({ connection, lost }) =>
        Effect.gen(function*() {
          yield* connection.close
          assert.strictEqual(connection.status(), "closed")
          yield* connection.close
          for (
            const effect of [
              insert(connection, 1),
              Stream.runDrain(stream(connection, numbers(1))),
              connection.begin({}),
              connection.commit,
              connection.savepoint("one"),
              connection.ping,
              connection.reset
            ]
          ) {
            assert.strictEqual(yield* tagOf<unknown, DatabaseError | SqlError, never>(effect), "ConnectionLost")
          }
          assert.deepStrictEqual(lost, [], "closing is not losing")
        }))

      test("destroy closes at once", ({ connection, lost }) =>
        Effect.gen(function*() {
          yield* connection.begin({})
          yield* insert(connection, 1)
          connection.destroy()
          assert.strictEqual(connection.status(), "closed")
          connection.destroy()
          yield* connection.close
          assert.strictEqual(yield* tagOf(connection.commit), "ConnectionLost")
          assert.strictEqual(yield* tagOf(connection.ping), "ConnectionLost")
          assert.deepStrictEqual(lost, [], "closing is not losing")
        }))

      testTwo(
        "what a destroyed connection had not committed is not there",
        ({ another, connection }) =>
          Effect.gen(function*() {
            yield* connection.begin({})
            yield* insert(connection, 1)
            connection.destroy()
            const other = yield* another
            assert.deepStrictEqual(yield* ids(other), [])
            yield* insert(other, 1)
            assert.deepStrictEqual(yield* ids(other), [1])
          })
      )

      testStopping("destroying while a statement runs ends it", ({ connection }) =>
        Effect.gen(function*() {
          const running = yield* Effect.fork(connection.execute(dialect.endless, [], undefined))
          yield* Effect.sleep(100)
          const since = performance.now()
          connection.destroy()
          assert.strictEqual(yield* tagOf(Fiber.join(running)), "ConnectionLost")
          prompt(since)
        }))

      testStopping("closing while a statement runs is bounded", ({ connection }) =>
        Effect.gen(function*() {
          const running = yield* Effect.fork(connection.execute(dialect.endless, [], undefined))
          yield* Effect.sleep(100)
          const since = performance.now()
          yield* connection.close
          prompt(since)
          assert.strictEqual(connection.status(), "closed")
          yield* Fiber.interrupt(running)
        }))
    })
  })
}

const failingWith = <E>(error: E): Effect.Effect<never, E> => Effect.fail(error)
