import { assert, describe } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, DeadlockDetected, SerializationFailure } from "../../../src/DatabaseError.js"
import { forEachDialect, make, postgres, sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { assertIdle, createTables, failure, insert, live, logged, numbers, open, timed } from "./harness.js"

const serializationFailure = new SerializationFailure({ dialect: "postgres", code: "40001", reason: "made up" })

/** The numbers of a seed, in [0, 1). */
const generator = (seed: number) => () => {
  seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
  return seed / 2_147_483_648
}

forEachDialect((_, __, dialect) =>
  describe(`on ${dialect.name}`, () => {
    live("concurrent siblings undo only their own work, and nothing that runs beside them", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const seed = Date.now() % 1_000_000
        const random = generator(seed)
        const kept: Array<number> = []
        for (let round = 0; round < 10; round++) {
          yield* db.session(Effect.forEach(Array.from({ length: 10 }, (_, index) => index), (index) => {
            const n = round * 1_000 + index * 10
            const fails = random() < 0.5
            kept.push(...(fails ? [n + 5] : [n, n + 1, n + 5]))
            const pause = random() < 0.5 ? Effect.yieldNow() : Effect.sleep(random() * 2)
            const nested = db.session(
              Effect.zipRight(
                Effect.zipRight(insert(db, n), pause),
                Effect.zipRight(insert(db, n + 1), fails ? Effect.fail("undone") : Effect.void)
              )
            )
            // The statement beside it belongs to the surrounding session.
            return Effect.all([Effect.exit(nested), Effect.zipRight(pause, insert(db, n + 5))], {
              concurrency: "unbounded"
            })
          }, { concurrency: "unbounded" }))
        }
        assert.deepStrictEqual(yield* numbers(db), kept.sort((left, right) => left - right), `seed ${seed}`)
        yield* assertIdle(db)
      }))

    live("a timeout of zero is no limit, of the database as of a session", () =>
      Effect.gen(function*() {
        const none = { statementTimeout: 0, lockTimeout: 0 }
        const slow = (db: Database.Service) =>
          db.sql`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
            SELECT count(*) AS count FROM n`
        const unlimited = yield* make(dialect, none)
        assert.strictEqual(Number((yield* slow(unlimited))[0].count), 300_000)
        // With one millisecond PostgreSQL now and then reports a cancellation on user request instead of the timeout.
        const limited = yield* make(dialect, { statementTimeout: "20 millis", lockTimeout: "20 millis" })
        assert.strictEqual((yield* failure(slow(limited)))._tag, "StatementTimeout")
        assert.strictEqual(Number((yield* limited.session(slow(limited), none))[0].count), 300_000)
      }))

    live("retry runs the whole session again after a retryable error, five times at most", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        let runs = 0
        const twice = yield* db.session(
          Effect.suspend(() => Effect.as(insert(db, ++runs), runs)).pipe(
            Effect.tap((run) => run < 3 ? Effect.fail(serializationFailure) : Effect.void)
          ),
          { retry: true }
        )
        assert.strictEqual(twice, 3)
        assert.deepStrictEqual(yield* numbers(db), [3])

        runs = 0
        const always = Effect.suspend(() => {
          runs++
          return Effect.fail(serializationFailure)
        })
        assert.strictEqual((yield* failure(db.session(always, { retry: true })))._tag, "SerializationFailure")
        assert.strictEqual(runs, 6)

        runs = 0
        yield* failure(db.session(always, { retry: Schedule.recurs(2) }))
        assert.strictEqual(runs, 3)

        runs = 0
        yield* failure(db.session(always))
        assert.strictEqual(runs, 1)
      }))

    live("retry is for retryable errors of the database only, and for the outermost session", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* insert(db, 1)
        let runs = 0
        const counted = <A, E>(effect: Effect.Effect<A, E>) =>
          Effect.suspend(() => {
            runs++
            return effect
          })
        yield* Effect.exit(db.session(counted(insert(db, 1)), { retry: true }))
        assert.strictEqual(runs, 1)
        assert.strictEqual(yield* Effect.flip(db.session(counted(Effect.fail("mine")), { retry: true })), "mine")
        assert.strictEqual(runs, 2)
        yield* Effect.exit(db.session(db.session(counted(Effect.fail(serializationFailure)), { retry: true })))
        assert.strictEqual(runs, 3)
      }))

    live(
      "a nested session that outlives the session around it is not half committed, and touches no other's work",
      () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const [inside, proceed] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
          const outliving = db.session(
            insert(db, 2).pipe(
              Effect.zipRight(Deferred.succeed(inside, undefined)),
              Effect.zipRight(Effect.raceFirst(Deferred.await(proceed), Effect.sleep("100 millis"))),
              Effect.zipRight(insert(db, 3))
            )
          )
          let fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
          const error = yield* failure(db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            fiber = yield* Effect.forkDaemon(outliving)
            yield* Deferred.await(inside)
          })))
          assert.strictEqual(error._tag, "TransactionAborted")
          // The savepoint has the name that the first one had.
          yield* db.session(Effect.zipRight(
            db.session(insert(db, 4)),
            Effect.zipRight(Deferred.succeed(proceed, undefined), Effect.sleep("20 millis"))
          ))
          assert.strictEqual((yield* failure(Fiber.join(fiber!)))._tag, "SessionClosed")
          assert.deepStrictEqual(yield* numbers(db), [4])
          yield* assertIdle(db)
        })
    )

    live("a nested session with one of its own still running is undone, and the one around them goes on", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          const inside = yield* Deferred.make<void>()
          const outliving = db.session(
            insert(db, 3).pipe(
              Effect.zipRight(Deferred.succeed(inside, undefined)),
              Effect.zipRight(Effect.sleep("50 millis"))
            )
          )
          const error = yield* failure(db.session(
            insert(db, 2).pipe(
              Effect.zipRight(Effect.forkDaemon(outliving)),
              Effect.zipRight(Deferred.await(inside))
            ),
            { name: "inner" }
          ))
          assert.strictEqual(error._tag, "TransactionAborted")
          assert.match(error.reason, /nested in .*inner.* was still running when that ended/)
          yield* insert(db, 4)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 4])
        yield* assertIdle(db)
      }))

    live("a nested session whose turn comes after the end of the one around it does not begin", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const inside = yield* Deferred.make<void>()
        let began = false
        let late: Fiber.RuntimeFiber<unknown, DatabaseError> | undefined
        const error = yield* failure(db.session(Effect.gen(function*() {
          yield* Effect.forkDaemon(
            db.session(Effect.zipRight(Deferred.succeed(inside, undefined), Effect.sleep("50 millis")))
          )
          yield* Deferred.await(inside)
          late = yield* Effect.forkDaemon(db.session(Effect.sync(() => {
            began = true
          })))
          yield* Effect.sleep("10 millis")
        })))
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.strictEqual((yield* failure(Fiber.join(late!)))._tag, "SessionClosed")
        assert.isFalse(began)
      }))

    live("a session that is read only refuses writes, and leaves the next one alone", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        assert.strictEqual((yield* failure(db.session(insert(db, 1), { readOnly: true })))._tag, "ReadOnlyViolation")
        yield* db.session(insert(db, 2))
        assert.deepStrictEqual(yield* numbers(db), [2])
      }))
  })
)

describe("postgres", () => {
  live(
    "a nested session that does not end with the one around it takes the connection with it",
    () =>
      Effect.gen(function*() {
        const db = yield* open(postgres)
        const inside = yield* Deferred.make<void>()
        let outliving: Fiber.RuntimeFiber<unknown, DatabaseError> | undefined
        const before = (yield* db.poolStats).created
        const error = yield* failure(db.session(Effect.gen(function*() {
          yield* insert(db, 2)
          outliving = yield* Effect.forkDaemon(
            db.session(Effect.zipRight(
              insert(db, 3),
              Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never)
            ))
          )
          yield* Deferred.await(inside)
        })))
        assert.strictEqual(error._tag, "TransactionAborted")
        yield* insert(db, 1)
        assert.strictEqual((yield* db.poolStats).created, before + 1)
        yield* Fiber.interrupt(outliving!)
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      })
  )

  live("isolation, access mode and limits are the transaction's", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      const shown = (setting: string) =>
        Effect.map(db.sql.unsafe(`SHOW ${setting}`).values, (rows) => String(rows[0]?.[0]))
      const all = Effect.all([
        shown("transaction_isolation"),
        shown("transaction_read_only"),
        shown("transaction_deferrable"),
        shown("statement_timeout"),
        shown("lock_timeout")
      ])
      assert.deepStrictEqual(
        yield* db.session(all, {
          isolation: "serializable",
          readOnly: true,
          deferrable: true,
          statementTimeout: "7 seconds",
          lockTimeout: "3 seconds"
        }),
        ["serializable", "on", "on", "7s", "3s"]
      )
      assert.deepStrictEqual(yield* db.session(all, { isolation: "repeatable read" }), [
        "repeatable read",
        "off",
        "off",
        "0",
        "0"
      ])
    }))

  live("statementTimeout and lockTimeout end a statement with their own errors", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      yield* insert(db, 1)
      const slow = yield* failure(db.session(db.sql`SELECT pg_sleep(60)`, { statementTimeout: "100 millis" }))
      assert.strictEqual(slow._tag, "StatementTimeout")
      const locked = yield* Deferred.make<void>()
      const holder = yield* Effect.fork(db.session(
        Effect.zipRight(
          Effect.zipRight(db.sql`UPDATE items SET n = 2 WHERE n = 1`, Deferred.succeed(locked, undefined)),
          Effect.never
        )
      ))
      yield* Deferred.await(locked)
      const waited = yield* failure(
        db.session(db.sql`UPDATE items SET n = 3 WHERE n = 1`, { lockTimeout: "100 millis" })
      )
      assert.strictEqual(waited._tag, "LockTimeout")
      yield* Fiber.interrupt(holder)
    }))

  live("new is another connection, which commits by itself", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      const backend = Effect.map(db.sql`SELECT pg_backend_pid() AS pid`, ([row]) => row?.pid)
      const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        const inner = db.session(Effect.zipRight(insert(db, 2), backend), { propagation: "new" })
        assert.notStrictEqual(yield* inner, yield* backend)
        return yield* Effect.fail("undone")
      })))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* numbers(db), [2])
    }))

  live("two sessions that deadlock both succeed with retry", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      yield* db.sql`CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)`
      yield* db.sql`INSERT INTO counters VALUES (1, 0), (2, 0)`
      const change = (id: number) => db.sql`UPDATE counters SET value = value + 1 WHERE id = ${id}`
      let runs = 0
      const bothBegan = yield* Deferred.make<void>()
      const crossing = (first: number, second: number) =>
        db.session(
          Effect.suspend(() => {
            runs++
            return change(first).pipe(
              Effect.zipRight(runs === 2 ? Deferred.succeed(bothBegan, undefined) : Deferred.await(bothBegan)),
              Effect.zipRight(change(second))
            )
          }),
          { retry: true }
        )
      const logs = yield* logged(Effect.all([crossing(1, 2), crossing(2, 1)], { concurrency: 2 }))
      assert.deepStrictEqual(yield* db.sql`SELECT value FROM counters ORDER BY id`, [{ value: 2 }, { value: 2 }])
      assert.isAtLeast(runs, 3)
      assert.isTrue(logs.some(({ text }) => text.includes(DeadlockDetected.name)))
    }))

  live("write skew under serializable ends in a serial result with retry", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      yield* insert(db, 1)
      // Each adds one more than the most that it saw: serially that gives 2 and 3.
      const next = db.session(
        Effect.gen(function*() {
          const [row] = yield* db.sql<{ readonly most: number }>`SELECT max(n) AS most FROM items`
          yield* Effect.sleep("50 millis")
          yield* insert(db, (row?.most ?? 0) + 1)
        }),
        { isolation: "serializable", retry: Schedule.recurs(5) }
      )
      const retried = Effect.retry(next, {
        while: (error: DatabaseError) => error._tag === "UniqueViolation",
        times: 5
      })
      yield* Effect.all([retried, retried], { concurrency: 2 })
      assert.deepStrictEqual(yield* numbers(db), [1, 2, 3])
    }))
})

describe("a SQLite file", () => {
  live(
    "a session takes the write lock with its first statement, and waiting for another's does not block the event loop",
    () =>
      Effect.gen(function*() {
        const url = yield* sqliteFile.url
        const db = yield* Database.make({ environment: "test", url, lockTimeout: "30 seconds" })
        yield* createTables(db)
        const other = yield* Effect.acquireRelease(
          Effect.sync(() => new Sqlite(url.replace("sqlite:///", ""), { timeout: 0 })),
          (database) => Effect.sync(() => database.close())
        )
        const refused = Effect.sync(() => assert.throws(() => other.exec("BEGIN IMMEDIATE"), /locked/))
        yield* db.session(Effect.zipRight(numbers(db), refused))

        other.exec("BEGIN IMMEDIATE")
        const fiber = yield* Effect.fork(db.session(insert(db, 1)))
        let ticks = 0
        const ticking = setInterval(() => ticks++, 5)
        yield* eventually(Effect.sync(() => ticks > 20))
        clearInterval(ticking)
        assert.isNull(fiber.unsafePoll(), "it waits")
        other.exec("COMMIT")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* numbers(db), [1])

        other.exec("BEGIN IMMEDIATE")
        const [error, millis] = yield* timed(failure(db.session(insert(db, 2), { lockTimeout: "100 millis" })))
        assert.strictEqual(error._tag, "LockTimeout")
        assert.isBelow(millis, 20_000)
        other.exec("ROLLBACK")
      })
  )
})
