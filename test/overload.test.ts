import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

const live = <A, E>(title: string, body: () => Effect.Effect<A, E, Scope.Scope>, timeout?: number): void => {
  it.scopedLive(title, () => Effect.provide(body(), Logger.remove(Logger.defaultLogger)), timeout)
}

const many = 10_000
const pool = 10
const numbers = Array.from({ length: many }, (_, i) => i)

const heap = (): number => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
}

describe("ten thousand sessions at once over ten connections to a slow server", () => {
  live("are all served, first come first served, in bounded memory", () =>
    Effect.gen(function*() {
      const database = yield* Dialects.make(Dialects.postgres, {
        poolSize: pool,
        poolMaxOverflow: 0,
        poolTimeout: "2 minutes"
      })
      const { session, sql } = database
      yield* sql`CREATE TABLE served (n INTEGER PRIMARY KEY)`
      const began: Array<number> = []
      const before = heap()
      let most = 0
      let peak = 0
      const watching = yield* Effect.fork(Effect.forever(Effect.zipRight(
        Effect.sleep("20 millis"),
        Effect.map(database.poolStats, ({ used, waiting }) => {
          most = Math.max(most, waiting)
          peak = Math.max(peak, process.memoryUsage().heapUsed)
          assert.isAtMost(used, pool)
        })
      )))
      const exits = yield* Effect.forEach(
        numbers,
        (n) =>
          Effect.exit(session(
            Effect.zipRight(
              Effect.sync(() => began.push(n)),
              sql`INSERT INTO served SELECT ${n} FROM pg_sleep(0.002)`
            )
          )),
        { concurrency: "unbounded" }
      )
      assert.isNull(watching.unsafePoll(), "the pool never gave more than it has")
      assert.isTrue(exits.every(Exit.isSuccess), "none is refused")
      // Ten begin together, and asking takes its time too, so one may be seen a few places beside its own.
      const worst = began.reduce((most, n, place) => Math.max(most, Math.abs(n - place)), 0)
      assert.isAtMost(worst, many / 50)
      assert.strictEqual(new Set(began).size, many)
      assert.isAbove(most, many / 2)
      const [{ n }] = yield* sql<{ readonly n: number }>`SELECT count(*)::int AS n FROM served`
      assert.strictEqual(n, many)
      // What one costs that waits: its fiber and its place in the queue.
      assert.isBelow((peak - before) / many, 50_000)
      const { closed, created, timeouts, used, waiting } = yield* database.poolStats
      assert.deepStrictEqual({ created, timeouts, used, waiting }, { created: pool, timeouts: 0, used: 0, waiting: 0 })
      assert.strictEqual(Object.values(closed).reduce((sum, count) => sum + count, 0), 0)
    }), 240_000)

  live(
    "are told when they waited too long, none is lost, and soon everything is as before",
    () =>
      Effect.gen(function*() {
        const database = yield* Dialects.make(Dialects.postgres, {
          poolSize: pool,
          poolMaxOverflow: 0,
          poolTimeout: "5 seconds"
        })
        const { session, sql } = database
        yield* sql`CREATE TABLE served (n INTEGER PRIMARY KEY)`
        // However busy the machine is: all connections are open, and ten sessions have them when the others ask.
        yield* eventually(
          Effect.zipRight(
            Effect.all(numbers.slice(0, pool).map(() => Effect.exit(sql`SELECT pg_sleep(0.2)`)), {
              concurrency: "unbounded"
            }),
            Effect.map(database.poolStats, ({ idle }) => idle === pool)
          ),
          { timeout: "1 minute" }
        )
        const began: Array<number> = []
        const insert = (n: number) => sql`INSERT INTO served SELECT ${n} FROM pg_sleep(0.02)`
        const ask = (n: number, work: Effect.Effect<unknown, SqlError>) =>
          Effect.fork(Effect.either(session(Effect.zipRight(Effect.sync(() => began.push(n)), work))))
        const all = yield* Deferred.make<void>()
        let holding = 0
        const first = yield* Effect.forEach(numbers.slice(0, pool), (n) =>
          ask(n, Effect.zipRight(Effect.map(insert(n), () => holding++), Deferred.await(all))))
        yield* eventually(
          Effect.sync(() =>
            holding === pool
          ),
          { timeout: "1 minute" }
        )
        const others = yield* Effect.forEach(numbers.slice(pool), (n) => ask(n, insert(n)))
        yield* Deferred.succeed(all, undefined)
        const results = yield* Effect.forEach([...first, ...others], Fiber.join)
        const served = numbers.filter((n) => Either.isRight(results[n]))
        for (const result of results) {
          if (Either.isLeft(result)) {
            assert.strictEqual(result.left._tag, "PoolTimeout", result.left.message)
          }
        }
        assert.isAtLeast(served.length, pool)
        assert.isBelow(served.length, many)
        // Nobody was served before one who came long before and was not refused.
        began.forEach((n, place) => assert.isAbove(n, (began[place - 1] ?? 0) - many / 50))
        const rows = yield* sql<{ readonly n: number }>`SELECT n FROM served ORDER BY n`
        assert.deepStrictEqual(rows.map(({ n }) => n), served)
        yield* eventually(Effect.map(database.poolStats, ({ used, waiting }) => used === 0 && waiting === 0))
        const { timeouts } = yield* database.poolStats
        assert.strictEqual(timeouts, many - served.length)
        assert.isTrue(yield* database.health)
        yield* session(sql`SELECT 1`)
      }),
    240_000
  )

  live("may all be interrupted while they wait, and leave nothing", () =>
    Effect.gen(function*() {
      const database = yield* Dialects.make(Dialects.postgres, {
        poolSize: pool,
        poolMaxOverflow: 0,
        poolTimeout: "2 minutes"
      })
      const { session, sql } = database
      const all = Effect.forEach(numbers, () => session(sql`SELECT pg_sleep(10)`), {
        concurrency: "unbounded",
        discard: true
      })
      yield* Effect.timeoutOption(all, "3 seconds")
      yield* eventually(Effect.map(database.poolStats, ({ used, waiting }) => used === 0 && waiting === 0))
      assert.deepStrictEqual((yield* database.activity).sessions, [])
      yield* session(sql`SELECT 1`)
    }), 240_000)
})

Dialects.forEachDialect((name, _, dialect) => {
  describe(`on ${name}`, () => {
    live("a fiber that holds all there is and waits for another is told so at once", () =>
      Effect.gen(function*() {
        const database = yield* Dialects.make(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "10 minutes" })
        const { session, sql } = database
        // A session holds its connection from its first statement on.
        const holding = <A, E, R>(effect: Effect.Effect<A, E, R>) => session(Effect.zipRight(sql`SELECT 1`, effect))
        const nested = [
          holding(session(sql`SELECT 1`, { propagation: "new" })),
          holding(Effect.scoped(Effect.flatMap(sql.reserve, () => Effect.void))),
          holding(session(session(sql`SELECT 1`, { propagation: "new" })))
        ]
        for (const effect of nested) {
          const error = yield* Effect.flip(effect)
          assert.strictEqual(error._tag, "PoolTimeout", error.message)
          assert.match(error.message, /holds all 1 of them and would wait forever/)
        }
        yield* session(sql`SELECT 1`)
      }))
  })
})
