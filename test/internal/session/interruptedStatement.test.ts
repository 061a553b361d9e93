/** A statement that was sent and then interrupted ends what its session can commit; one that was never sent does not. */
import { assert, describe } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import { databaseErrorOf } from "../../../src/internal/telemetry/errorType.js"
import * as Session from "../../../src/Session.js"
import { blocked } from "../../support/blocked.js"
import { forEachDialect } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase } from "../../support/postgres.js"
import { type Random, random } from "../../support/random.js"
import { assertIdle, createTables, failure, insert, live, numbers, open } from "./harness.js"

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000)

/** Many runs of a session that has to commit one of two rows, `2 * i` or `2 * i + 1`, or none. */
const eitherOrNone = (
  db: Database.Service,
  count: number,
  body: (first: number, second: number, chance: Random) => Effect.Effect<unknown, unknown, Session.Session>
) =>
  Effect.gen(function*() {
    const indices = Array.from({ length: count }, (_, i) => i)
    const exits = yield* Effect.forEach(indices, (i) =>
      Effect.exit(db.session(body(2 * i, 2 * i + 1, random(seed).branch(i)))), { concurrency: 4 })
    const found = new Set(yield* numbers(db))
    const wrong = indices.filter((i) => {
      const rows = Number(found.has(2 * i)) + Number(found.has(2 * i + 1))
      return rows !== (Exit.isSuccess(exits[i]) ? 1 : 0)
    })
    assert.deepStrictEqual(
      wrong.map((i) => [i, found.has(2 * i), found.has(2 * i + 1), String(exits[i])]),
      [],
      `seed ${seed}`
    )
    const tags = new Set(exits.flatMap((exit) =>
      Exit.isFailure(exit) ? [databaseErrorOf(exit)?._tag] : []
    ))
    assert.deepStrictEqual([...tags].filter((tag) => tag !== "TransactionAborted"), [], `seed ${seed}`)
    yield* assertIdle(db)
    return exits.filter(Exit.isSuccess).length
  })

const within = (chance: Random, millis: number) => Duration.millis(chance.next() * millis)

forEachDialect((name, _, dialect) =>
  describe(`a statement of a session on ${name}`, () => {
    const count = dialect.dialect === "postgres" ? 300 : 100
    const small = { poolSize: 4, poolMaxOverflow: 0 }

    live("that timed out is not committed together with what replaced it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* eitherOrNone(db, count, (first, second, chance) =>
          Effect.gen(function*() {
            // So that the session has begun, and the connection is there, half of the time.
            if (chance.chance(0.5)) {
              yield* numbers(db)
            }
            const inserted = yield* Effect.timeoutOption(insert(db, first), within(chance, 3))
            if (Option.isNone(inserted)) {
              yield* Effect.ignore(insert(db, second))
            }
          }))
      }), 240_000)

    live("that lost a race is not committed together with the winner", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* eitherOrNone(db, count, (first, second, chance) =>
          Effect.race(
            Effect.delay(insert(db, first), within(chance, 1)),
            Effect.delay(insert(db, second), within(chance, 1))
          ))
      }), 240_000)

    live("that a sibling's failure interrupted is not committed, although that failure was caught", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* eitherOrNone(db, count, (first, second, chance) =>
          Effect.gen(function*() {
            let isComplete = false
            const completes = Effect.sync(() => {
              isComplete = true
            })
            yield* Effect.all([
              Effect.zipRight(insert(db, first), completes),
              Effect.delay(Effect.fail("mine"), within(chance, 2))
            ], { concurrency: "unbounded" }).pipe(
              // One that had completed before the failure counts.
              Effect.catchAll(() =>
                isComplete ? Effect.void : Effect.asVoid(insert(db, second))
              ),
              Effect.ignore
            )
          }))
      }), 240_000)

    live("ends only the nested session around it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const indices = Array.from({ length: count }, (_, i) =>
          i)
        const nested = yield* Effect.forEach(indices, (i) => {
          const chance = random(seed).branch(`nested ${i}`)
          return db.session(Effect.gen(function*() {
            yield* insert(db, 10 * i)
            const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
              const inserted = yield* Effect.timeoutOption(insert(db, 10 * i + 1), within(chance, 3))
              if (Option.isNone(inserted)) {
                yield* Effect.ignore(insert(db, 10 * i + 2))
              }
            })))
            yield* insert(db, 10 * i + 3)
            return exit
          }))
        }, { concurrency: 4 })
        const found = new Set(yield* numbers(db))
        for (const i of indices) {
          assert.isTrue(found.has(10 * i) && found.has(10 * i + 3), `seed ${seed}, ${i}`)
          const rows = Number(found.has(10 * i + 1)) + Number(found.has(10 * i + 2))
          assert.strictEqual(rows, Exit.isSuccess(nested[i]) ? 1 : 0, `seed ${seed}, ${i}: ${String(nested[i])}`)
        }
        yield* assertIdle(db)
      }), 240_000)

    live("that waits for a nested session is dropped without effect", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          const inside = yield* Deferred.make<void>()
          const goOn = yield* Deferred.make<void>()
          const nested = yield* Effect.fork(db.session(Effect.gen(function*() {
            yield* insert(db, 2)
            yield* Deferred.succeed(inside, undefined)
            yield* Deferred.await(goOn)
          })))
          yield* Deferred.await(inside)
          assert.isTrue(Option.isNone(yield* Effect.timeoutOption(insert(db, 3), "20 millis")))
          yield* Deferred.succeed(goOn, undefined)
          yield* Fiber.join(nested)
          yield* insert(db, 4)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 4])
        yield* assertIdle(db)
      }))

    live("that waits for a connection is dropped without effect, also in a nested session", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
        for (const nested of [false, true]) {
          const taken = yield* Deferred.make<void>()
          const goOn = yield* Deferred.make<void>()
          const holder = yield* Effect.fork(db.session(Effect.gen(function*() {
            yield* numbers(db)
            yield* Deferred.succeed(taken, undefined)
            yield* Deferred.await(goOn)
          })))
          yield* Deferred.await(taken)
          const waiting = Effect.timeoutOption(insert(db, nested ? 1 : 2), "20 millis")
          yield* db.session(Effect.gen(function*() {
            assert.isTrue(Option.isNone(yield* nested ? db.session(waiting) : waiting))
            yield* Deferred.succeed(goOn, undefined)
            yield* insert(db, nested ? 3 : 4)
          }))
          yield* Fiber.join(holder)
        }
        assert.deepStrictEqual(yield* numbers(db), [3, 4])
        yield* assertIdle(db)
      }))

    live("that an uninterruptible caller sees the result of is committed", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          const fiber = yield* Effect.fork(Effect.uninterruptible(Effect.zipRight(insert(db, 1), insert(db, 2))))
          yield* Effect.yieldNow()
          yield* Fiber.interrupt(fiber)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
        yield* assertIdle(db)
      }))
  })
)

describe("a statement of a session on postgres", () => {
  const make = Effect.gen(function*() {
    const url = yield* freshDatabase
    const db = yield* Effect.tap(Database.make({ environment: "test", url }), createTables)
    return [db, yield* blocked(url)] as const
  })

  live(
    "that is interrupted while it runs fails the session, its statements, and not the session's own failure",
    () =>
      Effect.gen(function*() {
        const [db, lock] = yield* make
        const interrupted = Effect.zipRight(
          insert(db, 1),
          Effect.timeoutOption(db.sql.unsafe(lock.sql), "50 millis")
        )
        const error = yield* failure(db.session(Effect.zipRight(interrupted, Effect.void)))
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.include(error.reason, "was interrupted after it was sent")
        const refused = yield* failure(db.session(Effect.zipRight(interrupted, insert(db, 2))))
        assert.strictEqual(refused._tag, "TransactionAborted")
        assert.include(refused.reason, "was interrupted after it was sent")
        assert.strictEqual(yield* Effect.flip(db.session(Effect.zipRight(interrupted, Effect.fail("mine")))), "mine")
        yield* db.session(Effect.zipRight(interrupted, Session.rollbackOnly))
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      })
  )

  live("that waits behind another one of the same connection is dropped without effect", () =>
    Effect.gen(function*() {
      const [db, lock] = yield* make
      yield* db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        const running = yield* Effect.fork(db.sql.unsafe(lock.sql))
        yield* Effect.sleep("50 millis")
        // Of several statements, so that it is not sent before the other one has completed.
        const waiting = db.sql.unsafe("insert into items values (2); insert into items values (3)")
        assert.isTrue(Option.isNone(yield* Effect.timeoutOption(waiting, "50 millis")))
        yield* lock.release
        yield* Fiber.join(running)
        yield* insert(db, 4)
      }))
      assert.deepStrictEqual(yield* numbers(db), [1, 4])
    }))

  live(
    "that is streamed and interrupted between two batches fails the session if it may write",
    () =>
      Effect.gen(function*() {
        const [db] = yield* make
        yield* db.sql`create function note(n integer) returns integer as
        'insert into items values (n); select n' language sql`
        const interrupted = (text: string) =>
          db.session(Effect.gen(function*() {
            const reading = yield* Effect.fork(
              Stream.runForEach(db.sql.unsafe(text).stream, () => Effect.sleep("1 minute"))
            )
            yield* Effect.sleep("100 millis")
            yield* Fiber.interrupt(reading)
          }))
        yield* interrupted("select n from generate_series(1, 1000) as n")
        const error = yield* failure(interrupted("select note(n) from generate_series(1, 1000) as n"))
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* numbers(db), [])
        // Leaving it early is no interruption.
        yield* db.session(Stream.runDrain(
          Stream.take(db.sql`select note(n) from generate_series(1, 2000) as n`.stream, 1)
        ))
        assert.isAbove((yield* numbers(db)).length, 0)
      })
  )

  live(
    "that is interrupted on a reserved connection fails the transaction that was begun by hand",
    () =>
      Effect.gen(function*() {
        const [db, lock] = yield* make
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* db.sql.reserve
          const run = (sql: string) => connection.executeUnprepared(sql, [], undefined)
          yield* run("begin")
          yield* run("insert into items values (1)")
          assert.isTrue(Option.isNone(yield* Effect.timeoutOption(run(lock.sql), "50 millis")))
          const error = yield* failure(run("insert into items values (2)"))
          assert.strictEqual(error._tag, "TransactionAborted")
          yield* run("rollback")
        }))
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* eventually(Effect.map(db.poolStats, ({ used }) => used === 0))
      })
  )
})
