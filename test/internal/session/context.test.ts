import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { Session } from "../../../src/Session.js"
import { forEachDialect } from "../../support/dialects.js"
import { assertIdle, insert, live, numbers, open } from "./harness.js"

class Mine extends Context.Tag("Mine")<Mine, number>() {}

/** Whether the code that asks is inside of a session, for us or for @effect/sql. */
const isInside = Effect.map(
  Effect.context<never>(),
  ({ unsafeMap }) => unsafeMap.has(Session.key) || unsafeMap.has(SqlClient.TransactionConnection.key)
)

forEachDialect((name, _, dialect) =>
  describe(`a session's context on ${name}`, () => {
    for (const timeout of [undefined, "30 seconds"] as const) {
      live(`does not come along with a fiber from inside that is joined outside (timeout ${timeout})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          // What has a context of its own takes that along.
          const inner = Effect.forkDaemon(Effect.provideService(Effect.as(Effect.yieldNow(), 1), Mine, 1))
          const joined = yield* db.session(inner, { timeout })
          assert.strictEqual(yield* Fiber.join(joined), 1)
          assert.isFalse(yield* isInside)
          yield* insert(db, 1)

          const found = yield* Deferred.make<Fiber.RuntimeFiber<number>>()
          const caller = yield* Effect.fork(
            db.session(
              Effect.flatMap(inner, (fiber) =>
                Deferred.succeed(found, fiber)),
              { timeout }
            )
          )
          yield* Fiber.await(caller)
          yield* Fiber.join(yield* Deferred.await(found))
          assert.isFalse(yield* isInside)
          yield* Fiber.join(caller)
          assert.isFalse(yield* isInside)
          yield* insert(db, 2)
          assert.deepStrictEqual(yield* numbers(db), [1, 2])
          yield* assertIdle(db)
        }))

      live(`stays where a fiber from outside, or one from inside, is joined inside (timeout ${timeout})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const outside = yield* Effect.fork(db.session(Effect.provideService(insert(db, 1), Mine, 1), { timeout }))
          yield* Fiber.await(outside)
          yield* Effect.ignore(db.session(
            Effect.gen(function*() {
              yield* insert(db, 2)
              yield* Fiber.join(outside)
              assert.isTrue(yield* isInside)
              const inside = yield* Effect.fork(db.session(Effect.provideService(insert(db, 3), Mine, 1), { timeout }))
              yield* Fiber.join(inside)
              assert.isTrue(yield* isInside)
              yield* insert(db, 4)
              return yield* Effect.fail("undone")
            }),
            { timeout }
          ))
          assert.isFalse(yield* isInside)
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* assertIdle(db)
        }))
    }

    live("takes back nothing else that its effect has set in the fiber", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const mine = FiberRef.unsafeMake("before")
        yield* FiberRef.set(mine, "outside")
        yield* db.session(insert(db, 1))
        assert.strictEqual(yield* FiberRef.get(mine), "outside")
        const set = Effect.zipRight(insert(db, 2), FiberRef.set(mine, "inside"))
        yield* db.session(set)
        assert.strictEqual(yield* FiberRef.get(mine), "inside")
        assert.isFalse(yield* isInside)
        // Also where it fails, and where it is nested.
        yield* Effect.ignore(db.session(Effect.zipRight(FiberRef.set(mine, "failed"), Effect.fail("undone"))))
        assert.strictEqual(yield* FiberRef.get(mine), "failed")
        yield* db.session(Effect.zipRight(db.session(FiberRef.set(mine, "nested")), isInside)).pipe(
          Effect.map((inside) =>
            assert.isTrue(inside)
          )
        )
        assert.strictEqual(yield* FiberRef.get(mine), "nested")
        assert.isFalse(yield* isInside)
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
        yield* assertIdle(db)
      }))
  })
)
