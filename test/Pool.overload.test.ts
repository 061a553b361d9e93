import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import type * as Pool from "../src/Pool.js"
import { type FakeConnection, FakeServer, makePool, settle } from "./internal/pool/harness.js"

/** Two connections, each held for 100 ms: 20 uses a second. */
const options = { size: 2, timeout: "1 second" } as const
const use = "100 millis"

interface Request {
  readonly number: number
  /** When it was made, and what came of it when, in milliseconds. */
  readonly at: number
  readonly waited: number
  readonly message: string | undefined
}

const request = (pool: Pool.Pool<FakeConnection>, number: number): Effect.Effect<Request> =>
  Effect.gen(function*() {
    const at = yield* Clock.currentTimeMillis
    const took = yield* Effect.uninterruptibleMask((restore) =>
      Effect.either(pool.take(restore)).pipe(
        Effect.bindTo("taken"),
        Effect.bind("waited", () => Effect.map(Clock.currentTimeMillis, (now) => now - at)),
        Effect.tap(({ taken }) =>
          Either.isRight(taken) ? Effect.zipRight(Effect.sleep(use), taken.right.release) : Effect.void
        )
      )
    )
    const { taken, waited } = took
    return { number, at, waited, message: Either.isLeft(taken) ? taken.left.message : undefined }
  })

/** So many requests a second, evenly, for so long. */
const arrive = (pool: Pool.Pool<FakeConnection>, rate: number, time: Duration.DurationInput, from = 0) =>
  Effect.gen(function*() {
    const fibers: Array<Fiber.RuntimeFiber<Request>> = []
    const count = rate * Duration.toSeconds(time)
    for (let i = 0; i < count; i++) {
      fibers.push(yield* Effect.fork(request(pool, from + i)))
      yield* Effect.yieldNow()
      yield* TestClock.adjust(Duration.millis(1_000 / rate))
    }
    return fibers
  })

const ended = (fibers: ReadonlyArray<Fiber.RuntimeFiber<Request>>) =>
  Effect.zipRight(TestClock.adjust("10 seconds"), Fiber.join(Fiber.all(fibers)))

const served = (requests: Iterable<Request>) => Array.from(requests).filter(({ message }) => message === undefined)
const refused = (requests: Iterable<Request>) => Array.from(requests).filter(({ message }) => message !== undefined)

describe("a pool that is asked for twice of what it can give", () => {
  it.scoped("refuses early those who would wait in vain, and serves the others soon and in order", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(new FakeServer(), options)
      const requests = yield* Effect.flatMap(arrive(pool, 40, "5 seconds"), ended)
      const late = Array.from(requests).filter(({ at }) => at >= 3_000)
      for (const { waited } of served(late)) {
        assert.isAtMost(waited, 101)
      }
      for (const { message, waited } of refused(late)) {
        assert.approximately(waited, 100, 1)
        assert.match(message!, /within 100 ms: the pool is overloaded, for \d+ ms there has always been somebody/)
      }
      // It does as much as it can.
      assert.approximately(served(requests).length, 100, 8)
      // None overtakes another.
      const order = served(requests).map(({ at, number, waited }) => ({ number, began: at + waited }))
      assert.deepStrictEqual(
        order.toSorted((one, other) => one.began - other.began || one.number - other.number),
        order
      )
      assert.strictEqual(pool.stats().timeouts, refused(requests).length)
    }))

  it.scoped("waits as long as it was told before that, and says no more than that", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(new FakeServer(), options)
      const burst = yield* Effect.forEach(
        Array.from({ length: 30 }, (_, i) => i),
        (i) => Effect.zipLeft(Effect.fork(request(pool, i)), settle)
      )
      const requests = yield* ended(burst)
      assert.isAbove(refused(requests).length, 5)
      for (const { message, waited } of refused(requests)) {
        assert.approximately(waited, 1_000, 1)
        assert.notMatch(message!, /overloaded/)
      }
    }))

  it.scoped("is as before once there was a moment in which nobody waited", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(new FakeServer(), options)
      const before = yield* Effect.flatMap(arrive(pool, 40, "3 seconds"), ended)
      assert.isNotEmpty(refused(before))
      // More at once than it has served within a tenth of the timeout.
      const burst = yield* Effect.forEach(Array.from({ length: 12 }, (_, i) => i), (i) =>
        Effect.zipLeft(Effect.fork(request(pool, i)), settle))
      const after = yield* ended(burst)
      assert.deepStrictEqual(refused(after), [])
      assert.deepStrictEqual(
        Array.from(after, ({ waited }) =>
          waited),
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5].map((n) => n * 100)
      )
    }))
})

describe("a pool that is asked for just what it can give", () => {
  it.scoped("refuses nobody, although somebody always waits", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(new FakeServer(), { ...options, timeout: "2 seconds" })
      const first = yield* Effect.forEach(Array.from({ length: 3 }, (_, i) => i), (i) =>
        Effect.zipLeft(Effect.fork(request(pool, i)), settle))
      const others = yield* arrive(pool, 20, "6 seconds", 3)
      const requests = yield* ended([...first, ...others])
      assert.deepStrictEqual(refused(requests), [])
      assert.isAbove(
        served(requests).filter(({ waited }) =>
          waited > 0
        ).length,
        90
      )
    }))
})
