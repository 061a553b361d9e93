import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as TestClock from "effect/TestClock"
import * as Database from "../src/Database.js"
import type { DatabaseError, PoolTimeout } from "../src/DatabaseError.js"
import type * as Pool from "../src/Pool.js"
import {
  closed,
  collect,
  type FakeConnection,
  FakeServer,
  lost,
  makePool,
  makeRealPool,
  refused,
  settle,
  take,
  wrongPassword
} from "./internal/pool/harness.js"

const timeoutOf = (result: Either.Either<unknown, DatabaseError>): PoolTimeout => {
  assert(Either.isLeft(result) && result.left._tag === "PoolTimeout")
  return result.left
}

const tagOf = <A>(result: Either.Either<A, DatabaseError>): string => Either.isLeft(result) ? result.left._tag : "taken"

const failureOf = (exit: Exit.Exit<unknown, DatabaseError>): DatabaseError => {
  assert(Exit.isFailure(exit) && exit.cause._tag === "Fail")
  return exit.cause.error
}

/** What a fiber is doing now: undefined while it goes on. */
const poll = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.map(Fiber.poll(fiber), (exit) => exit._tag === "Some" ? exit.value : undefined)

const forkTake = (pool: Pool.Pool<FakeConnection>) => Effect.zipLeft(Effect.fork(Effect.either(take(pool))), settle)

describe("waiting", () => {
  it.scoped("gives up at its deadline, a fraction of a millisecond included, and not before", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, timeout: "250.5 millis" })
      yield* take(pool)
      yield* TestClock.adjust("0.25 millis")
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("250.4 millis")
      assert.strictEqual(yield* poll(waiting), undefined)
      yield* TestClock.adjust("0.1 millis")
      const error = timeoutOf(yield* Fiber.join(waiting))
      assert.deepStrictEqual({ ...error.stats }, {
        name: "memory",
        maximum: 1,
        size: 1,
        overflow: 0,
        idle: 0,
        used: 1,
        waiting: 1
      })
      assert.strictEqual(error.cause, undefined)
      assert.include(error.message, "250.5 ms")
      assert.strictEqual(pool.stats().waiting, 0)
      assert.strictEqual(pool.stats().timeouts, 1)
    }))

  it.scoped("no racer gives up before its own deadline", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, timeout: "1 second" })
      yield* take(pool)
      const racers: Array<Fiber.RuntimeFiber<Either.Either<unknown, DatabaseError>>> = []
      for (let index = 0; index < 20; index++) {
        racers.push(yield* forkTake(pool))
        yield* TestClock.adjust("40.3 millis")
      }
      for (let index = 0; index < 20; index++) {
        const deadline = 40.3 * index + 1_000
        yield* TestClock.setTime(deadline - 0.1)
        assert.strictEqual(yield* poll(racers[index]), undefined, `racer ${index} was early`)
        yield* TestClock.setTime(deadline + 0.1)
        assert.isDefined(yield* poll(racers[index]), `racer ${index} was late`)
      }
      assert.strictEqual(pool.stats().timeouts, 20)
    }))

  it.scoped("is first come first served, and nobody barges in", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const lease = yield* take(pool)
      const order: Array<number> = []
      for (let index = 0; index < 10; index++) {
        yield* Effect.fork(Effect.scoped(Effect.tap(pool.acquire, () => {
          order.push(index)
          return Effect.yieldNow()
        })))
        yield* settle
      }
      yield* lease.release
      // The connection is promised already: a newcomer joins the end.
      yield* Effect.scoped(Effect.tap(pool.acquire, () => Effect.sync(() => order.push(10))))
      assert.deepStrictEqual(order, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
      assert.strictEqual(world.attempts, 1)
    }))

  it.scoped("takes what can be used at once before what must be checked first", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { checkAfterIdle: "1 second", keepAlive: "10 seconds" })
      const [first, second] = yield* Effect.all([take(pool), take(pool)])
      yield* second.release
      yield* TestClock.adjust("6500 millis")
      yield* first.release
      while (second.connection.pings === 0) {
        yield* TestClock.adjust("100 millis")
      }
      // The one that came back last is stale by now; the other one is not, since it was looked after.
      assert.strictEqual(first.connection.pings, 0)
      const answer = yield* Deferred.make<void>()
      world.pinging = Deferred.await(answer)
      yield* Effect.addFinalizer(() => Deferred.succeed(answer, undefined))
      const taken = yield* poll(yield* Effect.zipLeft(Effect.fork(take(pool)), settle))
      assert(taken !== undefined && Exit.isSuccess(taken), "it waits")
      assert.strictEqual(taken.value.connection, second.connection)
      assert.strictEqual(first.connection.pings, 0)
      const waiting = yield* forkTake(pool)
      assert.strictEqual(first.connection.pings, 1)
      yield* taken.value.release
      yield* settle
      assert.strictEqual(pool.stats().waiting, 0)
      assert.isTrue(Either.isRight(yield* Fiber.join(waiting)))
    }))

  it.scoped("ends at whatever step of it a connection comes back", () =>
    Effect.gen(function*() {
      const pool = yield* makePool(new FakeServer(), { size: 1 })
      let hit = true
      for (let at = 1; hit; at++) {
        hit = false
        let steps = 0
        const lease = yield* take(pool)
        const waiting = yield* Effect.withScheduler(Effect.fork(Effect.scoped(pool.acquire)), {
          shouldYield: (fiber) => {
            if (++steps === at) {
              hit = true
              Effect.runSync(lease.release)
            }
            return Scheduler.defaultScheduler.shouldYield(fiber)
          },
          scheduleTask: (task, priority) => Scheduler.defaultScheduler.scheduleTask(task, priority)
        })
        yield* settle
        yield* lease.release
        yield* settle
        assert.strictEqual((yield* poll(waiting))?._tag, "Success", `step ${at}`)
      }
    }))

  it.scoped("the connection used last goes out first", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 3 })
      const [a, b, c] = yield* Effect.all([take(pool), take(pool), take(pool)])
      yield* b.release
      yield* c.release
      yield* a.release
      const again = yield* Effect.all([take(pool), take(pool), take(pool)])
      assert.deepStrictEqual(again.map(({ connection }) => connection.id), [1, 3, 2])
    }))

  it.scoped("a fiber that holds all of the connections and wants another fails at once", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world)
      yield* take(pool)
      yield* take(pool)
      const error = timeoutOf(yield* Effect.either(take(pool)))
      assert.include(error.reason, "holds all 2")
      assert.strictEqual(error.stats?.used, 2)
    }))

  it.scoped("leases that are held for a caller in other fibers count as its own", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world)
      const leases = yield* Effect.all([
        Fiber.join(yield* Effect.fork(take(pool))),
        Fiber.join(yield* Effect.fork(take(pool)))
      ])
      const error = timeoutOf(yield* Effect.either(take(pool, leases)))
      assert.include(error.reason, "holds all 2")
    }))

  it.scoped("a fiber that holds some and waits for another is told so, once", () => {
    const messages: Array<string> = []
    return Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { timeout: "1 second" })
      yield* Effect.fork(take(pool))
      yield* settle
      const nested = yield* Effect.fork(Effect.zipRight(
        take(pool),
        Effect.zipRight(Effect.either(take(pool)), Effect.either(take(pool)))
      ))
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* settle
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(nested))._tag, "Left")
      assert.lengthOf(messages, 1)
      assert.match(messages[0], /^fiber #\d+ holds 1 of the 2 connections of the pool memory and waits for another/)
    }).pipe(Effect.provide(collect(messages)))
  })
})

describe("connecting", () => {
  it.scoped("a failed attempt refunds its slot and is repeated within the waiter's deadline", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, timeout: "5 seconds" })
      world.connecting = Effect.fail(refused)
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* poll(waiting), undefined)
      const { attempts } = world
      assert.isAtLeast(attempts, 4)
      assert.isAtMost(attempts, 8, "the pauses grow")
      world.connecting = Effect.void
      yield* TestClock.adjust("1.2 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(waiting)), "taken")
      assert.strictEqual(world.attempts, attempts + 1)
      assert.strictEqual(pool.stats().connectFailures, attempts)
      assert.strictEqual(pool.stats().created, 1)
    }))

  it.scoped("attempts that fail together are one step of the pauses", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 10, timeout: "5 seconds" })
      world.connecting = Effect.zipRight(Effect.sleep("10 millis"), Effect.fail(refused))
      const waiting = yield* Effect.forEach(Array.from({ length: 10 }), () => forkTake(pool))
      yield* TestClock.adjust("10 millis")
      assert.strictEqual(world.attempts, 10)
      world.connecting = Effect.void
      yield* TestClock.adjust("60 millis")
      assert.deepStrictEqual((yield* Fiber.join(Fiber.all(waiting))).map(tagOf), Array(10).fill("taken"))
    }))

  it.scoped("a wait that runs out says why connecting failed", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { timeout: "5 seconds" })
      world.connecting = Effect.fail(refused)
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(timeoutOf(yield* Fiber.join(waiting)).cause, refused)
      // What was so then is not said of later: a success ends it.
      world.connecting = Effect.void
      yield* TestClock.adjust("1 second")
      yield* Effect.all([take(pool), take(pool)])
      assert.strictEqual(timeoutOf(yield* Effect.either(take(pool))).cause, undefined)
    }))

  it.scoped("an error that cannot pass fails all who wait at once", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      world.connecting = Effect.zipRight(Effect.sleep("1 second"), Effect.fail(wrongPassword))
      const waiting = yield* Effect.all([forkTake(pool), forkTake(pool), forkTake(pool)])
      yield* TestClock.adjust("1 second")
      for (const fiber of waiting) {
        assert.deepStrictEqual(yield* Fiber.join(fiber), Either.left(wrongPassword))
      }
      world.connecting = Effect.void
      assert.strictEqual((yield* take(pool)).connection.id, 1)
    }))

  it.scoped("an attempt that dies is an error, and its slot is refunded", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      world.connecting = Effect.dieMessage("oh")
      const { _tag, cause, code, dialect, reason } = yield* Effect.flip(take(pool))
      assert.deepStrictEqual(
        [_tag, dialect, code, reason, String(cause)],
        [
          "UnknownDatabaseError",
          "postgres",
          "XX000",
          "the attempt to connect ended unexpectedly",
          "RuntimeException: oh"
        ]
      )
      world.connecting = Effect.void
      assert.strictEqual((yield* take(pool)).connection.id, 1)
    }))

  it.scoped("an attempt that hangs does not block others, nor lose its slot", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 2, timeout: "30 seconds" })
      const stuck = yield* Deferred.make<void, DatabaseError>()
      world.connecting = Deferred.await(stuck)
      const first = yield* forkTake(pool)
      world.connecting = Effect.void
      const second = yield* forkTake(pool)
      assert.strictEqual(tagOf(yield* Fiber.join(first)), "taken", "the first is served by what came first")
      assert.strictEqual(yield* poll(second), undefined)
      const lease = yield* Fiber.join(first)
      assert(Either.isRight(lease))
      yield* lease.right.release
      assert.strictEqual(tagOf(yield* Fiber.join(second)), "taken")
      yield* Deferred.fail(stuck, refused)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* take(pool)).connection.id, 2)
      assert.strictEqual(world.maxOpen, 2)
    }))

  it.scoped("nobody relies on an attempt that takes long where the limit allows another", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 2, timeout: "30 seconds" })
      world.connecting = Effect.never
      const waiting = yield* forkTake(pool)
      world.connecting = Effect.void
      yield* TestClock.adjust("1.9 seconds")
      assert.strictEqual(world.attempts, 1)
      yield* TestClock.adjust("0.1 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(waiting)), "taken")
      assert.strictEqual(world.attempts, 2)
    }))

  it.scoped("a connection that breaks while it is being opened is a failed attempt, with a pause", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, {
        timeout: "2 seconds",
        connect: (onLost, restore) =>
          Effect.tap(world.connect(onLost, restore), (connection) => Effect.sync(() => world.kill(connection)))
      })
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(timeoutOf(yield* Fiber.join(waiting)).cause, lost)
      assert.isAtMost(world.attempts, 8)
      assert.lengthOf(world.open, 0)
      assert.strictEqual(pool.stats().created, 0)
    }))

  it.scoped("warming tells how connecting went, and never goes over the limit", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      world.connecting = Effect.fail(refused)
      assert.deepStrictEqual(yield* Effect.either(pool.warm), Either.left(refused))
      world.connecting = Effect.zipRight(Effect.sleep("5 seconds"), Effect.fail(refused))
      const first = yield* Effect.fork(Effect.either(pool.warm))
      yield* TestClock.adjust("1 second")
      const second = yield* Effect.fork(Effect.either(pool.warm))
      yield* TestClock.adjust("2 seconds")
      const third = yield* Effect.fork(Effect.either(pool.warm))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(
        yield* Fiber.join(Fiber.all([first, second, third])),
        [Either.left(refused), Either.left(refused), Either.left(refused)]
      )
      assert.strictEqual(world.attempts, 2)
      world.connecting = Effect.sleep("1 second")
      const both = yield* Effect.fork(Effect.all([pool.warm, pool.warm], { concurrency: "unbounded" }))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(both)
      assert.strictEqual(pool.stats().idle, 1)
      yield* pool.warm
      assert.strictEqual(world.connections.length, 1)
      assert.strictEqual((yield* take(pool)).connection.id, 1)
      yield* pool.warm
      assert.strictEqual(world.maxOpen, 1)
    }))

  it.scoped("the limit holds under 64 racing fibers, and all are served", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      world.connecting = Effect.yieldNow()
      world.closing = Effect.yieldNow()
      const pool = yield* makePool(world, { size: 3, maxOverflow: 4 })
      let inUse = 0
      let most = 0
      yield* Effect.forEach(
        Array.from({ length: 64 }, (_, index) => index),
        (index) =>
          Effect.repeatN(
            Effect.scoped(Effect.tap(pool.acquire, () => {
              most = Math.max(most, ++inUse)
              return Effect.ensuring(Effect.repeatN(Effect.yieldNow(), index % 5), Effect.sync(() => inUse--))
            })),
            30
          ),
        { concurrency: "unbounded" }
      )
      yield* settle
      assert.strictEqual(most, 7)
      assert.strictEqual(world.maxOpen, 7)
      const stats = pool.stats()
      assert.strictEqual(stats.checkouts, 64 * 31)
      assert.strictEqual(stats.used, 0)
      assert.strictEqual(stats.idle, 7)
      // None was closed between two uses.
      assert.strictEqual(stats.created, 7)
      yield* TestClock.adjust("30 seconds")
      assert.lengthOf(world.open, 3)
      assert.strictEqual(closed(pool.stats()), 4)
    }))

  it.scoped("an idle connection can be had without a wait, and given back at once", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 2 })
      assert.strictEqual(pool.takeIdle(), undefined)
      const other = yield* take(pool)
      yield* Effect.scoped(take(pool))
      const lease = pool.takeIdle()
      assert(lease !== undefined)
      assert.strictEqual(lease.connection, world.connections[1])
      assert.strictEqual(pool.takeIdle(), undefined)
      const { idle, used } = pool.stats()
      assert.deepStrictEqual({ idle, used }, { idle: 0, used: 2 })
      const waiting = yield* forkTake(pool)
      lease.giveBack()
      lease.giveBack()
      assert.strictEqual(tagOf(yield* Fiber.join(waiting)), "taken")
      assert.strictEqual(pool.takeIdle(), undefined)
      yield* other.release
      yield* TestClock.adjust("2 seconds")
      // It has been idle for too long to be used unseen.
      assert.strictEqual(pool.takeIdle(), undefined)
      assert.strictEqual(pool.stats().idle, 1)
      yield* pool.invalidate
      assert.strictEqual(pool.takeIdle(), undefined)
    }))

  it.scoped("with no idle timeout, extra connections are closed when they come back", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, maxOverflow: 2, idleTimeout: 0 })
      const leases = yield* Effect.all([take(pool), take(pool), take(pool)])
      assert.strictEqual(pool.stats().used, 3)
      yield* leases[1].release
      yield* settle
      assert.lengthOf(world.open, 2)
      yield* leases[0].release
      yield* leases[2].release
      yield* settle
      assert.lengthOf(world.open, 1)
      assert.strictEqual(pool.stats().closed.overflow, 2)
      assert.strictEqual(pool.stats().idle, 1)
    }))

  it.scoped("extra connections linger for the idle timeout, and those that were used last stay", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, maxOverflow: 3, idleTimeout: "5 seconds" })
      const leases = yield* Effect.replicateEffect(take(pool), 4)
      for (const lease of leases.slice(0, 3)) {
        yield* lease.release
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(pool.stats().idle, 3)
      // It would be closed after two more seconds if it were not used again.
      const again = yield* take(pool)
      assert.strictEqual(again.connection, leases[2].connection)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(world.open.map(({ id }) => id), [2, 3, 4])
      yield* again.release
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(world.open.map(({ id }) => id), [3, 4])
      yield* leases[3].release
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(world.open.map(({ id }) => id), [4])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(world.open.map(({ id }) => id), [4])
      assert.strictEqual(pool.stats().closed.overflow, 3)
    }))

  it.scoped("beyond the minimum, idle connections are closed, and opened again when they are needed", () =>
    Effect.gen(function*() {
      for (
        const [min, idleTimeout, left] of [[0, "5 seconds", 0], [1, "5 seconds", 1], [0, 0, 0], [3, 0, 3]] as const
      ) {
        const world = new FakeServer()
        const pool = yield* makePool(world, { size: 3, min, idleTimeout })
        yield* Effect.scoped(Effect.replicateEffect(take(pool), 3))
        yield* settle
        assert.lengthOf(world.open, idleTimeout === 0 ? left : 3)
        // A ping is no use.
        yield* TestClock.adjust("5 seconds")
        assert.lengthOf(world.open, left)
        assert.strictEqual(pool.stats().closed.idle, 3 - left)
        yield* Effect.scoped(take(pool))
        assert.strictEqual(pool.stats().created, left === 0 ? 4 : 3)
      }
    }))

  it.scoped("no idle connection is closed while as many are used as the pool keeps", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 2, idleTimeout: "1 second", keepAlive: "1 hour" })
      const held = yield* take(pool)
      yield* Effect.scoped(take(pool))
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(world.open, 2)
      yield* held.release
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(world.open, 2)
    }))

  it.scoped("a connection that clears its state by itself is used at once, and reset if it stays idle", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const later: Array<number> = []
      const pool = yield* makePool(world, {
        size: 1,
        resetLater: ({ id }) => {
          later.push(id)
          return true
        }
      })
      const lease = yield* take(pool)
      const { connection } = lease
      const waiting = yield* forkTake(pool)
      connection.status = "dirty"
      yield* lease.release
      const next = yield* Fiber.join(waiting)
      assert(Either.isRight(next))
      assert.strictEqual(next.right.connection, connection)
      assert.deepStrictEqual([later, connection.resets], [[1], 0])
      yield* next.right.release
      yield* TestClock.adjust("9 millis")
      assert.deepStrictEqual([later, connection.resets], [[1, 1], 0])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual([later, connection.resets, connection.status], [[1, 1], 1, "idle"])
      // In an open transaction it is reset before anybody else uses it.
      const last = yield* take(pool)
      connection.status = "active"
      yield* last.release
      yield* settle
      assert.deepStrictEqual([later, connection.resets], [[1, 1], 2])
    }))

  it.scoped("a connection counts until it is really closed", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      world.closing = Effect.sleep("1 second")
      const pool = yield* makePool(world, { size: 1 })
      const lease = yield* take(pool)
      yield* pool.invalidate
      yield* lease.release
      const waiting = yield* forkTake(pool)
      assert.strictEqual(yield* poll(waiting), undefined)
      assert.lengthOf(world.open, 1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(tagOf(yield* Fiber.join(waiting)), "taken")
      assert.strictEqual(world.maxOpen, 1)
      world.closing = Effect.void
    }))

  it.scoped("a goodbye that hangs is cut short", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      world.closing = Effect.never
      const pool = yield* makePool(world, { size: 1 })
      yield* pool.warm
      yield* pool.invalidate
      assert.lengthOf(world.open, 1)
      yield* TestClock.adjust("2 seconds")
      assert.lengthOf(world.open, 0)
    }))
})

describe("the clock", () => {
  it.scoped("of the application does not drive a pool: a simulated day is over at once and pings nothing", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makeRealPool(world)
      yield* pool.warm
      yield* pool.warm
      const before = performance.now()
      yield* TestClock.adjust("1 day")
      yield* settle
      assert.isBelow(performance.now() - before, 60_000)
      assert.deepStrictEqual(world.connections.map(({ open, pings }) => [open, pings]), [[true, 0], [true, 0]])
      assert.strictEqual(pool.stats().created, 2)
    }))

  it.scoped("of the application does not drive a database either", () =>
    Effect.gen(function*() {
      const database = yield* Database.make({ url: "sqlite:///:memory:", name: "simulated day" })
      yield* database.sql`SELECT 1`
      const before = performance.now()
      yield* TestClock.adjust("1 day")
      assert.isBelow(performance.now() - before, 60_000)
      assert.deepStrictEqual(yield* database.sql`SELECT 1 AS one`, [{ one: 1 }])
    }))

  it.scoped("of a waiter is real time too", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makeRealPool(world, { size: 1, timeout: "150 millis" })
      yield* take(pool)
      const before = performance.now()
      const waiting = yield* Effect.fork(Effect.flip(Effect.scoped(take(pool))))
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(pool.stats().waiting, 1)
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "PoolTimeout")
      assert.isAtLeast(performance.now() - before, 150)
    }))
})

describe("a request", () => {
  type Answer = Exit.Exit<Pool.Lease<FakeConnection>, DatabaseError>

  /** Asks for a connection, in a fiber of its own or in that which runs it. */
  const requestHere = (pool: Pool.Pool<FakeConnection>, answers: Array<Answer>) =>
    Effect.sync(() => pool.request((answer) => answers.push(answer)))

  const request = (pool: Pool.Pool<FakeConnection>, answers: Array<Answer>) =>
    Effect.flatMap(Effect.fork(requestHere(pool, answers)), Fiber.join)

  const taken = (answer: Answer): Pool.Lease<FakeConnection> => {
    assert(Exit.isSuccess(answer))
    return answer.value
  }

  it.scoped("is answered once, in its turn among those that wait, and not inside of what returns the connection", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const answers: Array<Answer> = []
      yield* request(pool, answers)
      yield* settle
      const first = taken(answers[0])
      yield* request(pool, answers)
      const behind = yield* forkTake(pool)
      const end = yield* request(pool, answers)
      assert.strictEqual(pool.stats().waiting, 3)
      yield* Effect.sync(() => {
        first.giveBack()
        assert.lengthOf(answers, 1)
        assert.strictEqual(pool.stats().waiting, 2)
      })
      yield* settle
      assert.lengthOf(answers, 2)
      assert.strictEqual(yield* poll(behind), undefined)
      yield* taken(answers[1]).release
      yield* settle
      assert.lengthOf(answers, 2)
      assert.strictEqual(tagOf(yield* Fiber.join(behind)), "taken")
      const { checkouts, waiting } = pool.stats()
      assert.deepStrictEqual({ checkouts, waiting }, { checkouts: 3, waiting: 1 })
      end()
    }))

  it.scoped("that ends leaves the queue, or returns what it was granted, and nothing that it was given", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const held: Array<Answer> = []
      const end = yield* request(pool, held)
      yield* settle
      const answers: Array<Answer> = []
      const queued = yield* request(pool, answers)
      const granted = yield* request(pool, answers)
      queued()
      queued()
      assert.strictEqual(pool.stats().waiting, 1)
      yield* Effect.sync(() => {
        taken(held[0]).giveBack()
        assert.strictEqual(pool.stats().used, 1)
        granted()
        assert.strictEqual(pool.stats().used, 0)
      })
      yield* settle
      assert.lengthOf(answers, 0)
      const again: Array<Answer> = []
      const endAgain = yield* request(pool, again)
      yield* settle
      end()
      endAgain()
      assert.strictEqual(pool.stats().used, 1)
      yield* taken(again[0]).release
      assert.strictEqual(pool.stats().idle, 1)
    }))

  it.scoped("fails as a fiber that waits does: late, in a pool that is closed, and where its fiber holds everything", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, timeout: "1 second" })
      const answers: Array<Answer> = []
      yield* requestHere(pool, answers)
      yield* settle
      yield* requestHere(pool, answers)
      yield* settle
      yield* request(pool, answers)
      yield* TestClock.adjust("1 second")
      yield* settle
      yield* request(pool, answers)
      yield* settle
      yield* Effect.fork(pool.shutdown)
      yield* settle
      yield* request(pool, answers)
      yield* settle
      const tags = answers.map((answer) => Exit.isFailure(answer) ? failureOf(answer)._tag : "taken")
      assert.deepStrictEqual(tags, ["taken", "PoolTimeout", "PoolTimeout", "DatabaseClosed", "DatabaseClosed"])
      yield* taken(answers[0]).release
    }))
})
