import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { Interruptor, modes } from "../../support/interruptor.js"
import { connections } from "../../support/observe.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { assertIdle, createTables, failure, insert, live, numbers, open, timed } from "./harness.js"

/** In milliseconds: far less than the minute that a session would take otherwise, on a slow machine too. */
const promptly = 20_000

const small = { poolSize: 1, poolMaxOverflow: 0 }

/** A session that does what it is busy with for minutes, and knows when it is. */
type Busy = (database: Database.Service) => Effect.Effect<unknown, DatabaseError | SqlError>

const openAt = (url: string, options: Parameters<typeof open>[1] = {}) =>
  Effect.tap(Database.make({ environment: "test", ...options, url }), createTables)

/** Numbers from 0 to 1 that a seed decides. */
const generator = (seed: number) => {
  let state = seed
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296
    return state / 4_294_967_296
  }
}

const cases: ReadonlyArray<readonly [name: string, options: Parameters<typeof open>[1], busy: Busy]> = [
  ["a long statement", small, (db) => db.sql`SELECT pg_sleep(60)`],
  ["a statement that is nested", small, (db) => db.session(db.session(db.sql`SELECT pg_sleep(60)`))],
  ["a lock", {}, (db) => db.sql`SELECT n FROM items WHERE n = 1 FOR UPDATE`],
  ["the application", small, () => Effect.sleep("60 seconds")]
]

describe("postgres", () => {
  for (const [name, options, busy] of cases) {
    live(`${name} does not hold up a timeout or an interruption`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const db = yield* openAt(url, options)
        yield* insert(db, 1)
        const locked = yield* Deferred.make<void>()
        const locker = options?.poolSize === 1 ? undefined : yield* Effect.fork(
          db.session(
            db.sql`SELECT n FROM items WHERE n = 1 FOR UPDATE`.pipe(
              Effect.zipRight(Deferred.succeed(locked, undefined)),
              Effect.zipRight(Effect.never)
            )
          )
        )
        yield* (locker === undefined ? Effect.void : Deferred.await(locked))
        const [error, millis] = yield* timed(failure(
          db.session(Effect.zipRight(insert(db, 2), busy(db)), { timeout: "100 millis" })
        ))
        assert.strictEqual(error._tag, "SessionTimeout")
        assert.isBelow(millis, 100 + promptly)

        const fiber = yield* Effect.fork(db.session(Effect.zipRight(insert(db, 3), busy(db))))
        yield* Effect.sleep("100 millis")
        const [exit, interruption] = yield* timed(Fiber.interrupt(fiber))
        assert.isTrue(Exit.isInterrupted(exit))
        assert.isBelow(interruption, promptly)
        if (locker !== undefined) {
          yield* Fiber.interrupt(locker)
        }
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
        yield* eventually(Effect.map(connections(url), ({ active, inTransaction }) => active + inTransaction === 0))
        assert.strictEqual((yield* connections(url)).inTransaction, 0)
      }))
  }

  live("a session that has a timeout is over when its interruption is", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* openAt(url, small)
      const inside = yield* Deferred.make<void>()
      const session = db.session(
        Effect.zipRight(insert(db, 1), Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never)),
        { timeout: "60 seconds" }
      )
      const fiber = yield* Effect.fork(session)
      yield* Deferred.await(inside)
      const exit = yield* Fiber.interrupt(fiber)
      assert(Exit.isFailure(exit))
      assert.isTrue(Cause.isInterruptedOnly(exit.cause))
      yield* assertIdle(db)
      assert.deepStrictEqual(yield* numbers(db), [])
    }))

  for (const mode of modes) {
    live(
      `a session that is acquired is given back at whatever point it is interrupted (${mode})`,
      () =>
        Effect.gen(function*() {
          const url = yield* freshDatabase
          const db = yield* openAt(url, small)
          for (let at = 1, hit = true; hit; at++) {
            const interruptor = new Interruptor(mode, at)
            yield* interruptor.victim(Effect.scoped(db.acquireSession({ timeout: "30 seconds" })))
            hit = interruptor.hit
            yield* eventually(Effect.map(db.poolStats, ({ used, waiting }) => used + waiting === 0))
          }
          yield* eventually(Effect.map(connections(url), ({ inTransaction }) => inTransaction === 0))
          yield* assertIdle(db)
        })
    )
  }

  live("what interrupts a session at any point leaves nothing behind", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* openAt(url, { poolSize: 3, poolMaxOverflow: 2 })
      const seed = Date.now() % 1_000_000
      const random = generator(seed)
      let committed = 0
      const whole = (n: number, timeout?: number) =>
        db.session(
          Effect.gen(function*() {
            yield* insert(db, n)
            yield* Effect.exit(db.session(Effect.zipRight(
              insert(db, -n),
              Effect.zipRight(db.sql`SELECT pg_sleep(0.002)`, random() < 0.5 ? Effect.fail("undone") : Effect.void)
            )))
            yield* insert(db, 10_000 + n)
          }),
          { timeout }
        )
      const each = (from: number, count: number) => Array.from({ length: count }, (_, index) => from + index)
      // Twice the time that one takes here and now beside five others: some end before they are interrupted.
      const [, span] = yield* timed(Effect.forEach(each(5_001, 12), (n) => whole(n), { concurrency: 6, discard: true }))
      const once = (n: number) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.fork(whole(n, random() < 0.3 ? 1 + random() * span : undefined))
          yield* Effect.sleep(random() * span)
          const exit = yield* Fiber.interrupt(fiber)
          if (Exit.isSuccess(exit)) {
            committed++
          }
        })
      yield* Effect.forEach(each(1, 400), once, { concurrency: 6, discard: true })
      yield* eventually(Effect.map(db.poolStats, ({ used, waiting }) => used + waiting === 0))
      yield* eventually(Effect.map(connections(url), ({ inTransaction }) => inTransaction === 0))
      yield* assertIdle(db)
      const [halves] = yield* query(
        url,
        `SELECT count(*) FILTER (WHERE n BETWEEN 1 AND 9999)::int AS first, count(*) FILTER (WHERE n > 10000)::int AS second
           FROM items`
      )
      // All of a session or nothing, and what was reported as committed is there.
      assert.strictEqual(halves.first, halves.second, `seed ${seed}`)
      assert.isAtLeast(halves.first, committed, `seed ${seed}`)
      assert.isAbove(committed, 0, `seed ${seed}`)
      assert.isBelow(committed, 400, `seed ${seed}`)
    }))

  live(
    "a statement that is stopped by its session's end does not take one of the next session with it",
    () =>
      Effect.gen(function*() {
        const db = yield* open(postgres, small)
        for (let n = 1; n <= 50; n++) {
          const error = yield* failure(db.session(db.sql`SELECT pg_sleep(60)`, { timeout: "5 millis" }))
          assert.strictEqual(error._tag, "SessionTimeout")
          yield* db.session(Effect.zipRight(insert(db, n), db.sql`SELECT pg_sleep(0.001)`))
        }
        assert.strictEqual((yield* numbers(db)).length, 50)
      })
  )
})

forEachDialect((name, _, dialect) =>
  describe(`on ${name}`, () => {
    live("an exhausted pool does not hold up a timeout or an interruption", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const inside = yield* Deferred.make<void>()
        const holder = yield* Effect.fork(
          db.session(
            Effect.zipRight(numbers(db), Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never))
          )
        )
        yield* Deferred.await(inside)
        const [error, millis] = yield* timed(failure(db.session(insert(db, 1), { timeout: "100 millis" })))
        assert.strictEqual(error._tag, "SessionTimeout")
        assert.isBelow(millis, 100 + promptly)
        const fiber = yield* Effect.fork(db.session(insert(db, 2)))
        yield* Effect.sleep("50 millis")
        const [exit, interruption] = yield* timed(Fiber.interrupt(fiber))
        assert.isTrue(Exit.isInterrupted(exit))
        assert.isBelow(interruption, promptly)
        assert.strictEqual((yield* db.poolStats).waiting, 0)
        yield* Fiber.interrupt(holder)
        yield* assertIdle(db)
        assert.deepStrictEqual(yield* numbers(db), [])
      }))

    live("a nested session that runs out of time is rolled back alone", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          const error = yield* failure(
            db.session(Effect.zipRight(insert(db, 2), Effect.never), { timeout: "50 millis" })
          )
          assert.strictEqual(error._tag, "SessionTimeout")
          yield* insert(db, 3)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 3])
      }))

    live("a nested session that is interrupted while it is released takes nothing of the others with it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        for (let at = 1;; at++) {
          const interruptor = new Interruptor("answered", at)
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, 2 * at)
            yield* interruptor.victim(db.session(Effect.void))
            yield* insert(db, 2 * at + 1)
          }))
          if (!interruptor.hit) {
            assert.strictEqual((yield* numbers(db)).length, 2 * at)
            break
          }
        }
        yield* assertIdle(db)
      }))

    live("a nested session that waits for its sibling does not hold up a timeout or an interruption", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          const inside = yield* Deferred.make<void>()
          const sibling = yield* Effect.fork(
            db.session(Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never))
          )
          yield* Deferred.await(inside)
          const [error, millis] = yield* timed(failure(db.session(insert(db, 1), { timeout: "50 millis" })))
          assert.strictEqual(error._tag, "SessionTimeout")
          assert.isBelow(millis, 50 + promptly)
          const waiting = yield* Effect.fork(Effect.all([insert(db, 2), db.session(insert(db, 3))], { concurrency: 2 }))
          yield* Effect.sleep("20 millis")
          const [, interruption] = yield* timed(Fiber.interrupt(waiting))
          assert.isBelow(interruption, promptly)
          yield* Fiber.interrupt(sibling)
          yield* insert(db, 4)
        }))
        assert.deepStrictEqual(yield* numbers(db), [4])
      }))
  })
)
