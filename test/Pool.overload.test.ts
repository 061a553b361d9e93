import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { Waiters } from "../src/internal/pool/waiters.js"
import type * as Pool from "../src/Pool.js"
import { type FakeConnection, FakeServer, makePool, settle } from "./internal/pool/harness.js"
import { type Request, Simulation } from "./internal/pool/simulation.js"

/** Two connections, each held for 100 ms: 20 uses a second. */
const options = { size: 2, timeout: "1 second" } as const
const use = "100 millis"

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
      // As many as there are connections are never refused early: they wait for one use more.
      for (const { waited } of served(late)) {
        assert.isAtMost(waited, 201)
      }
      for (const { message, waited } of refused(late)) {
        assert.isAtLeast(waited, 99)
        assert.isAtMost(waited, 201)
        assert.match(message!, /within \d+ ms: the pool is overloaded: no connection has been free for \d+ ms/)
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

/** The most refusals in one millisecond. */
const mostAtOnce = (requests: ReadonlyArray<Request>): number => {
  const counts = new Map<number, number>()
  for (const { at, waited } of requests) {
    const millisecond = Math.floor(at + waited)
    counts.set(millisecond, (counts.get(millisecond) ?? 0) + 1)
  }
  return Math.max(...counts.values())
}

describe("a pool that is asked for five times of what it can give", () => {
  for (const [timeout, clients] of [[1_000, 1_000], [3_000, 1_000], [30_000, 100]] as const) {
    // Twice the timeout until it is overloaded, and as long as that afterwards.
    const time = 4 * timeout
    const capacity = 20 * time / 1_000

    it(`serves as many as it can, and never goes back to long waits: 100 a second, a timeout of ${timeout} ms`, () => {
      const simulation = new Simulation({ size: 2, timeout }, 100)
      for (let at = 0; at < time; at += 10) {
        simulation.request()
        simulation.advance(10)
      }
      const requests = simulation.requests
      assert.isAtLeast(served(requests).length, capacity * 0.95)
      // Those who came first are refused one after the other, which takes a moment.
      const late = requests.filter(({ at }) => at >= 2.5 * timeout)
      assert.isNotEmpty(served(late))
      assert.isNotEmpty(refused(late))
      for (const { waited } of late) {
        assert.isAtMost(waited, Math.max(100, timeout / 10) + 101)
      }
      // Early ones are not refused all at once.
      const early = refused(requests).filter(({ waited }) => waited < timeout)
      assert.isAtMost(mostAtOnce(early), 12)
    })

    it(`is not kept busy by clients that come back at once: ${clients}, a timeout of ${timeout} ms`, () => {
      const simulation = new Simulation({ size: 2, timeout }, 100)
      const come = () => simulation.now < time ? simulation.request(come) : undefined
      for (let i = 0; i < clients; i++) {
        simulation.request(come)
      }
      simulation.advance(time)
      assert.isAtLeast(served(simulation.requests).length, capacity * 0.95)
      // By the timeout alone each client is refused once within it; early refusals come one in a millisecond.
      assert.isAtMost(refused(simulation.requests).length, time * (clients / timeout + 1))
    })
  }

  it("says for how long no connection has been free, whatever fraction of a millisecond that began at", () => {
    const waiters = new Waiters<FakeConnection>(1_000, 1)
    const since = 596.3620950450943
    waiters.complete(waiters.enqueue(since, undefined), Exit.void as never)
    waiters.enqueue(1_596.8, undefined)
    waiters.enqueue(1_596.8, undefined)
    // When it is due, which is less than 2,000 after it as a difference of doubles.
    const now = since + 2_000
    assert.isBelow(now - since, 2_000)
    assert.isTrue(waiters.takeDue(now)?.isEarly)
    assert.strictEqual(waiters.overloadedFor(now), now - since)
  })

  it("is overloaded until a connection is free while nobody waits, also while refusals leave the queue empty", () => {
    const simulation = new Simulation({ size: 1, timeout: 1_000 }, 9_000)
    const four = () => Array.from({ length: 4 }, () => simulation.request())
    // One has the connection, and three are refused, so that the queue is empty for three seconds.
    four()
    simulation.advance(4_000)
    const refusals = (from: number) => refused(simulation.requests).filter(({ at }) => at === from)
    assert.deepStrictEqual(refusals(0).map(({ waited }) => Math.round(waited)), [1_000, 1_000, 1_000])
    assert.isTrue(refusals(0).every(({ message }) => !message!.includes("overloaded")))
    four()
    simulation.advance(5_500)
    // One stays, since it may be the next.
    assert.deepStrictEqual(refusals(4_000).map(({ waited }) => Math.round(waited)), [100, 100, 100, 1_000])
    assert.match(
      refusals(4_000)[0].message!,
      /within 100 ms: the pool is overloaded: no connection has been free for 4100 ms/
    )
    simulation.useMillis = 200
    four()
    simulation.advance(5_000)
    assert.deepStrictEqual(refusals(9_500), [])
  })
})
