/**
 * A statement whose fiber pauses between finding its session and being sent: Effect's scheduler may do that anywhere. Each
 * place is tried by giving the fiber a budget of steps and letting it spend a growing part of them before.
 */
import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import type * as Database from "../../../src/Database.js"
import { dialects } from "../../support/dialects.js"
import { assertIdle, insert, live, numbers, open } from "./harness.js"

/** How many steps a fiber may make before it pauses, how many of them it spends before, and how long its session waits. */
const cases = [[38, 0], [39, 0], [40, 0], [60, 1], [60, 2]].flatMap(([budget, pauses]) =>
  Array.from({ length: 60 }, (_, spent) => ({ budget, pauses, spent }))
)

const steps = (count: number): Effect.Effect<void> => {
  let effect: Effect.Effect<void> = Effect.void
  for (let i = 0; i < count; i++) {
    effect = Effect.zipRight(Effect.void, effect)
  }
  return effect
}

/** Spends steps and then runs something, in a fiber of its own that outlives its parent. */
const late = <A, E>(
  { budget, spent }: { readonly budget: number; readonly spent: number },
  began: { is: boolean },
  effect: Effect.Effect<A, E>
) =>
  Effect.forkDaemon(Effect.withMaxOpsBeforeYield(
    Effect.yieldNow().pipe(
      Effect.zipRight(steps(spent)),
      Effect.zipRight(Effect.sync(() => {
        began.is = true
      })),
      Effect.zipRight(Effect.exit(effect))
    ),
    budget
  ))

/** Starts what comes late, and goes on when it is about to be sent, or a little later. */
const started = <A, E>(each: (typeof cases)[number], effect: Effect.Effect<A, E>) =>
  Effect.gen(function*() {
    const began = { is: false }
    const child = yield* late(each, began, effect)
    for (let turn = 0; !began.is && turn < 200; turn++) {
      yield* Effect.yieldNow()
    }
    for (let turn = 0; turn < each.pauses; turn++) {
      yield* Effect.yieldNow()
    }
    return child
  })

const ways: ReadonlyArray<
  readonly [name: string, write: (db: Database.Service, n: number) => Effect.Effect<unknown, unknown>]
> = [
  ["a statement", insert],
  ["a stream", (db, n) => Stream.runDrain(db.sql`INSERT INTO items (n) VALUES (${n}) RETURNING n`.stream)]
]

for (const dialect of dialects) {
  for (const [name, write] of ways) {
    describe(`on ${dialect.name}, ${name} that comes late`, () => {
      live("is not kept where its session was undone, and is not said to be", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          for (const [n, each] of cases.entries()) {
            let child: Fiber.Fiber<Exit.Exit<unknown, unknown>> | undefined
            const inner = Effect.gen(function*() {
              yield* db.sql`SELECT 1`
              child = yield* started(each, write(db, n))
              return yield* Effect.fail("undone")
            })
            yield* db.session(Effect.zipRight(
              Effect.exit(db.session(inner)),
              Effect.suspend(() => Fiber.await(child!))
            ))
            yield* Fiber.join(child!)
            assert.deepStrictEqual(yield* numbers(db), [], `${each.spent} of ${each.budget} steps`)
          }
          yield* assertIdle(db)
        }))

      live("never runs in the session of somebody else", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          for (const [n, each] of cases.entries()) {
            let child: Fiber.Fiber<Exit.Exit<unknown, unknown>> | undefined
            yield* db.session(Effect.gen(function*() {
              yield* db.sql`SELECT 1`
              child = yield* started(each, write(db, n))
            }))
            yield* Effect.exit(db.session(Effect.gen(function*() {
              yield* db.sql`SELECT 1`
              yield* Fiber.await(child!)
              return yield* Effect.fail("undone")
            })))
            const exit = yield* Fiber.join(child!)
            const kept = yield* numbers(db)
            assert.deepStrictEqual(kept, Exit.isSuccess(exit) ? [n] : [], `${each.spent} of ${each.budget} steps`)
            yield* db.sql`DELETE FROM items`
          }
          yield* assertIdle(db)
        }))

      live("waits for a nested session that began meanwhile, and is not undone with it", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          for (const [n, each] of cases.entries()) {
            const exit = yield* db.session(Effect.gen(function*() {
              yield* db.sql`SELECT 1`
              const child = yield* started(each, write(db, n))
              yield* Effect.exit(db.session(Effect.zipRight(
                db.sql`SELECT 1`,
                Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 5), Effect.fail("undone"))
              )))
              return yield* Fiber.join(child)
            }))
            assert.deepStrictEqual(
              yield* numbers(db),
              Exit.isSuccess(exit) ? [n] : [],
              `${each.spent} of ${each.budget} steps`
            )
            yield* db.sql`DELETE FROM items`
          }
          yield* assertIdle(db)
        }))
    })
  }
}
