/** A stream belongs to the session in which it was opened, and streams and statements at once all end. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Database from "../../../src/Database.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { assertIdle, failure, insert, live, numbers, open, timed } from "./harness.js"

const one = { poolSize: 1, poolMaxOverflow: 0 }

const rowCount = 400

/** Rows from 1 to `rowCount`, in several batches. */
const rows = (db: Database.Service) =>
  db.sql<{ readonly n: number }>`
    WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ${rowCount})
    SELECT n FROM counted`.stream

const all = Array.from({ length: rowCount }, (_, i) => i + 1)

const deadline = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutFail(effect, { duration: "20 seconds", onTimeout: () => "it waits for ever" as const })

forEachDialect((name, _, dialect) =>
  describe(`streams of a session on ${name}`, () => {
    live("and statements at once all end, in the order given", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const collect = Effect.map(Stream.runCollect(rows(db)), (read) => Chunk.toReadonlyArray(read).map(({ n }) => n))
        for (let i = 0; i < 20; i++) {
          const results = yield* deadline(db.session(Effect.all([
            collect,
            numbers(db),
            collect,
            Effect.as(insert(db, i), []),
            collect,
            db.session(numbers(db))
          ], { concurrency: "unbounded" })))
          assert.deepStrictEqual([results[0], results[2], results[4]], [all, all, all])
        }
        assert.strictEqual((yield* numbers(db)).length, 20)
        yield* assertIdle(db)
      }), 240_000)

    for (const concurrency of [1, 4, "unbounded"] as const) {
      live(`run nested sessions for each row, ${concurrency} at once`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, one)
          const inside = (n: number): Effect.Effect<unknown, SqlError | "undone"> =>
            n % 3 === 0 ? Effect.fail("undone") : n % 3 === 1 ? insert(db, 1_000 + n) : Effect.void
          const nested = ({ n }: { readonly n: number }) =>
            Effect.exit(db.session(Effect.zipRight(insert(db, n), inside(n))))
          yield* deadline(db.session(Stream.runDrain(Stream.mapEffect(rows(db), nested, { concurrency }))))
          assert.deepStrictEqual(
            yield* numbers(db),
            [...all.filter((n) => n % 3 !== 0), ...all.filter((n) => n % 3 === 1).map((n) => 1_000 + n)]
          )
          yield* assertIdle(db)
        }), 240_000)
    }

    live("are not read inside of a session nested in it, by whatever fiber", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        for (const buffered of [false, true]) {
          yield* db.session(Effect.scoped(Effect.gen(function*() {
            const source = rows(db)
            const pull = yield* Stream.toPull(buffered ? Stream.rechunk(source, 1) : source)
            yield* pull
            const read = Effect.gen(function*() {
              for (;;) {
                yield* pull
              }
            }).pipe(Effect.mapError(Option.getOrThrow))
            const [error, millis] = yield* timed(failure(db.session(Effect.zipRight(
              insert(db, buffered ? 1 : 2),
              buffered ? Effect.flatMap(Effect.fork(read), Fiber.join) : read
            ))))
            assert.strictEqual(error._tag, "InvalidStatement")
            assert.include(error.reason, "read a stream in the session in which it was opened")
            assert.isBelow(millis, 20_000)
            yield* insert(db, buffered ? 3 : 4)
          })))
        }
        assert.deepStrictEqual(yield* numbers(db), [3, 4])
        yield* assertIdle(db)
      }))

    live("wait for a session nested in it, as any statement does, and its rollback undoes nothing of theirs", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* db.session(Effect.gen(function*() {
          let seen = 0
          const inside = yield* Deferred.make<void>()
          const goOn = yield* Deferred.make<void>()
          const reading = yield* Effect.fork(Stream.runForEachChunk(rows(db), (chunk) =>
            Effect.gen(function*() {
              seen += chunk.length
              yield* Deferred.succeed(inside, undefined)
              yield* Deferred.await(goOn)
            })))
          yield* Deferred.await(inside)
          const before = seen
          yield* Effect.exit(db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            yield* Deferred.succeed(goOn, undefined)
            yield* Effect.sleep("50 millis")
            assert.strictEqual(seen, before)
            return yield* Effect.fail("undone")
          })))
          yield* deadline(Fiber.join(reading))
          assert.strictEqual(seen, rowCount)
          yield* insert(db, 2)
        }))
        assert.deepStrictEqual(yield* numbers(db), [2])
        yield* assertIdle(db)
      }))

    live("that are the first of it begin it, wait for the pool, and can be left early", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* db.session(Effect.gen(function*() {
          const first = yield* Stream.runCollect(Stream.take(rows(db), 3))
          assert.strictEqual(first.length, 3)
          yield* insert(db, 1)
          yield* Effect.all([insert(db, 2), Stream.runDrain(Stream.take(rows(db), 40))], { concurrency: "unbounded" })
        }))
        const { created } = yield* db.poolStats
        yield* db.session(Effect.zipRight(db.session(Stream.runDrain(Stream.take(rows(db), 1))), insert(db, 3)))
        assert.strictEqual((yield* db.poolStats).created, created)
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3])
        yield* assertIdle(db)
      }))

    live("are refused once it has ended", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* Effect.scoped(Effect.gen(function*() {
          const pull = yield* Effect.flatMap(Effect.scope, (scope) =>
            db.session(Effect.gen(function*() {
              const pull = yield* Scope.extend(Stream.toPull(rows(db)), scope)
              yield* pull
              return pull
            })))
          const exit = yield* Effect.exit(Effect.forever(pull))
          assert(Exit.isFailure(exit))
          assert.include(String(exit.cause), "has ended")
        }))
        yield* insert(db, 1)
        yield* assertIdle(db)
      }))
  })
)

describe("streams of a session on postgres", () => {
  const changes = (db: Database.Service) =>
    Effect.zipRight(
      db.sql`create table changed (n integer)`,
      db.sql`create function change(n integer) returns integer as
        'insert into changed values (n); select n' language sql volatile`
    )

  live(
    "that write keep what they wrote when a nested session beside them is rolled back",
    () =>
      Effect.gen(function*() {
        const db = yield* open(postgres, one)
        yield* changes(db)
        yield* db.session(Stream.runForEach(
          db.sql<{ readonly n: number }>`select change(n) as n from generate_series(1, 2000) as n`.stream,
          ({ n }) =>
            n % 100 === 0 ? Effect.exit(db.session(Effect.zipRight(insert(db, n), Effect.fail("undone")))) : Effect.void
        ))
        const [{ count }] = yield* db.sql<{ readonly count: number }>`select count(*)::integer as count from changed`
        assert.strictEqual(count, 2_000)
        assert.deepStrictEqual(yield* numbers(db), [])
      })
  )

  live("that lock keep their locks when a nested session beside them is rolled back", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, { poolSize: 2, poolMaxOverflow: 0 })
      yield* db.sql`insert into items select generate_series(1, 1200)`
      yield* db.session(Effect.gen(function*() {
        yield* Stream.runForEach(
          db.sql<{ readonly n: number }>`select n from items order by n for update`.stream,
          ({ n }) =>
            n % 100 === 0 ? Effect.exit(db.session(Effect.zipRight(numbers(db), Effect.fail("undone")))) : Effect.void
        )
        const free = yield* db.session(db.sql`select n from items for update skip locked`, { propagation: "new" })
        assert.strictEqual(free.length, 0)
      }))
    }))

  live(
    "that fail do not abort a nested session beside them, and a slow batch does not destroy the connection",
    () =>
      Effect.gen(function*() {
        const db = yield* open(postgres, one)
        const { created } = yield* db.poolStats
        const error = yield* failure(db.session(Effect.gen(function*() {
          const goOn = yield* Deferred.make<void>()
          const reading = yield* Effect.fork(Stream.runForEach(
            db.sql<{ readonly n: number }>`select 100 / (100 - n) as n from generate_series(1, 200) as n`.stream,
            () => Deferred.await(goOn)
          ))
          yield* Effect.sleep("50 millis")
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            yield* Deferred.succeed(goOn, undefined)
            yield* Effect.sleep("50 millis")
            yield* insert(db, 2)
          }))
          yield* Fiber.join(reading)
        })))
        assert.strictEqual(error._tag, "InvalidData")
        yield* db.session(Effect.gen(function*() {
          const slow =
            db.sql`select n from generate_series(1, 64) as n, pg_sleep(case when n = 40 then 1 else 0 end)`.stream
          yield* Effect.all([
            Stream.runDrain(slow),
            Effect.delay(Effect.exit(db.session(Effect.zipRight(insert(db, 3), Effect.fail("undone")))), "50 millis"),
            Effect.delay(db.session(insert(db, 4)), "60 millis")
          ], { concurrency: "unbounded" })
        }))
        assert.deepStrictEqual(yield* numbers(db), [4])
        assert.strictEqual((yield* db.poolStats).created, created)
        yield* assertIdle(db)
      })
  )
})
