import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as Tracer from "effect/Tracer"
import type { DatabaseError } from "../src/DatabaseError.js"
import { leakDetectionExempt } from "../src/internal/pool/leakDetection.js"
import type * as Pool from "../src/Pool.js"
import * as Telemetry from "../src/Telemetry.js"
import {
  closed,
  collect,
  type FakeConnection,
  FakeServer,
  lost,
  makePool,
  refused,
  settle,
  take
} from "./internal/pool/harness.js"
import { eventually } from "./support/eventually.js"

const forkTake = (pool: Pool.Pool<FakeConnection>) => Effect.zipLeft(Effect.fork(Effect.either(take(pool))), settle)

describe("idle connections", () => {
  it.scoped("live for as long as they may, less a random share of up to a tenth", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 20, recycle: "1000 seconds", keepAlive: "10000 seconds" })
      yield* Effect.replicateEffect(pool.warm, 20)
      yield* TestClock.setTime(899_000)
      assert.lengthOf(world.open, 20)
      yield* TestClock.setTime(950_000)
      const half = world.open.length
      assert.isTrue(half > 0 && half < 20, `${half} of 20 live`)
      yield* TestClock.setTime(1_000_000)
      assert.lengthOf(world.open, 0)
      assert.strictEqual(pool.stats().closed.lifetime, 20)
    }))

  it.scoped("used ones end their life when they come back", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, recycle: "10 seconds" })
      const lease = yield* take(pool)
      yield* TestClock.adjust("11 seconds")
      assert.lengthOf(world.open, 1)
      const waiting = yield* forkTake(pool)
      yield* lease.release
      const next = yield* Fiber.join(waiting)
      assert(Either.isRight(next))
      assert.strictEqual(next.right.connection.id, 2)
      assert.strictEqual(pool.stats().closed.lifetime, 1)
    }))

  it.scoped("are pinged now and then, and before use when they were idle for more than a second", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      yield* pool.warm
      const [connection] = world.connections
      yield* TestClock.setTime(53_000)
      assert.strictEqual(connection.pings, 0)
      yield* TestClock.setTime(67_000)
      assert.strictEqual(connection.pings, 1)
      yield* TestClock.setTime(69_000)
      yield* Effect.scoped(pool.acquire)
      assert.strictEqual(connection.pings, 2)
      yield* TestClock.adjust("1 second")
      yield* Effect.scoped(pool.acquire)
      assert.strictEqual(connection.pings, 2)
    }))

  it.scoped("a dead one is found by the ping and replaced before the borrower gets it", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 3 })
      yield* Effect.replicateEffect(pool.warm, 3)
      world.connections.forEach((connection) => world.kill(connection, true))
      yield* TestClock.adjust("2 seconds")
      const lease = yield* take(pool)
      assert.isFalse(lease.connection.dead)
      assert.strictEqual(pool.stats().closed.lost, 3)
    }))

  it.scoped("pings that hang cost one wait, however many there are", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 10 })
      yield* Effect.replicateEffect(pool.warm, 10)
      world.pinging = Effect.never
      yield* TestClock.adjust("2 seconds")
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Right")
      assert.strictEqual(world.attempts, 11)
    }))

  it.scoped("one that breaks goes at once, and its siblings are checked", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 3 })
      const leases = yield* Effect.all([take(pool), take(pool), take(pool)])
      yield* leases[0].release
      yield* leases[1].release
      world.kill(leases[1].connection)
      assert.strictEqual(pool.stats().closed.lost, 1)
      yield* settle
      assert.strictEqual(leases[1].connection.pings, 0)
      assert.strictEqual(pool.stats().idle, 1)
      assert.strictEqual(leases[0].connection.pings, 1)
      assert.strictEqual(leases[2].connection.pings, 0)
      yield* leases[2].release
      yield* settle
      assert.strictEqual(leases[2].connection.pings, 1, "one in use is checked when it comes back")
      assert.strictEqual(pool.stats().closed.lost, 1)
    }))

  it.scoped("no more of them are checked than somebody waits for", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 4 })
      yield* Effect.replicateEffect(pool.warm, 4)
      yield* TestClock.adjust("2 seconds")
      yield* Effect.all([take(pool), take(pool)], { concurrency: "unbounded" })
      assert.deepStrictEqual(world.connections.map(({ pings }) => pings), [0, 0, 1, 1])
    }))

  it.scoped("keep their order when they are pinged", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 6, checkAfterIdle: "1 hour" })
      const leases = yield* Effect.replicateEffect(take(pool), 6)
      for (const { release } of leases) {
        yield* release
        yield* TestClock.adjust("1 millis")
      }
      yield* TestClock.setTime(67_000)
      assert.deepStrictEqual(world.connections.map(({ pings }) => pings), [1, 1, 1, 1, 1, 1])
      const again = yield* Effect.replicateEffect(take(pool), 6)
      assert.deepStrictEqual(again.map(({ connection }) => connection.id), [6, 5, 4, 3, 2, 1])
    }))

  it.scoped("one that breaks while it is checked is not lent, whatever its ping says", () =>
    Effect.gen(function*() {
      for (
        const breaks of [
          (connection: FakeConnection) => connection.onLost(lost),
          (connection: FakeConnection) => {
            connection.status = "closed"
          }
        ]
      ) {
        const world = new FakeServer()
        world.pinging = Effect.sleep("1 second")
        const pool = yield* makePool(world, { size: 1 })
        yield* pool.warm
        yield* TestClock.adjust("2 seconds")
        const waiting = yield* forkTake(pool)
        breaks(world.connections[0])
        yield* TestClock.adjust("1 second")
        const next = yield* Fiber.join(waiting)
        assert(Either.isRight(next))
        assert.strictEqual(next.right.connection.id, 2)
        assert.isFalse(world.connections[0].open)
      }
    }))

  it.scoped("are checked once for each that broke, and not for one that the pool itself has ended", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 3, maxOverflow: 1, idleTimeout: 0 })
      const [idle, broken, silent, extra] = yield* Effect.replicateEffect(take(pool), 4)
      const again = (connection: FakeConnection) => Effect.zipRight(Effect.sync(() => connection.onLost(lost)), settle)
      world.closing = Effect.sleep("1 second")
      yield* extra.release
      assert.strictEqual(pool.stats().closed.overflow, 1)
      world.closing = Effect.void
      yield* idle.release
      yield* again(extra.connection)
      assert.strictEqual(idle.connection.pings, 0)
      yield* again(broken.connection)
      yield* again(broken.connection)
      assert.strictEqual(idle.connection.pings, 1)
      silent.connection.status = "closed"
      yield* silent.release
      yield* settle
      assert.strictEqual(idle.connection.pings, 2)
      yield* again(silent.connection)
      assert.strictEqual(idle.connection.pings, 2)
    }))

  it.live("one whose life ended while the machine slept is not lent", () => {
    let slept = 0n
    return Effect.gen(function*() {
      for (const checkAfterIdle of ["1 second", "1 day"] as const) {
        const world = new FakeServer()
        const pool = yield* makePool(world, { size: 1, recycle: "30 minutes", checkAfterIdle })
        yield* pool.warm
        slept += 3_600_000_000_000n
        assert.strictEqual((yield* take(pool)).connection.id, 2)
        assert.strictEqual(pool.stats().closed.lifetime, 1)
        assert.strictEqual(world.connections[0].pings, 0)
      }
    }).pipe(
      Effect.scoped,
      Effect.withClock(Object.assign(Clock.make(), {
        unsafeCurrentTimeNanos: () => process.hrtime.bigint() + slept
      }))
    )
  })

  it.scoped("an idle one serves while an attempt to connect hangs", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world)
      const lease = yield* take(pool)
      world.connecting = Effect.never
      const interrupted = yield* forkTake(pool)
      yield* Fiber.interrupt(interrupted)
      yield* lease.release
      yield* TestClock.adjust("1.5 seconds")
      assert.strictEqual((yield* take(pool)).connection.id, 1)
    }))
})

describe("coming back", () => {
  it.scoped("one that is not clean is reset before others get it", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      for (const status of ["active", "aborted", "dirty"] as const) {
        const lease = yield* take(pool)
        lease.connection.status = status
        yield* lease.release
        yield* settle
      }
      const lease = yield* take(pool)
      assert.strictEqual(lease.connection.id, 1)
      assert.strictEqual(lease.connection.resets, 3)
    }))

  it.scoped("one whose reset fails, hangs or does not clean is destroyed, and who waits gets another", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const resets = [Effect.dieMessage("no"), Effect.never, Effect.void]
      for (const [index, resetting] of resets.entries()) {
        world.resetting = resetting
        const lease = yield* take(pool)
        lease.connection.status = "dirty"
        const waiting = yield* forkTake(pool)
        yield* lease.release
        yield* TestClock.adjust("2 seconds")
        const next = yield* Fiber.join(waiting)
        assert(Either.isRight(next))
        assert.strictEqual(next.right.connection.id, Math.min(index + 2, 3))
        yield* next.right.release
      }
      assert.strictEqual(pool.stats().closed.unusable, 2)
      assert.lengthOf(world.open, 1)
    }))

  it.scoped("one that is closed is replaced for who waits", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const lease = yield* take(pool)
      const waiting = yield* forkTake(pool)
      world.kill(lease.connection)
      yield* lease.release
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Right")
      assert.strictEqual(pool.stats().closed.lost, 1)
    }))

  it.scoped("giving back twice does nothing, even when another has it", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1 })
      const first = yield* take(pool)
      yield* first.release
      const second = yield* take(pool)
      yield* first.release
      assert.strictEqual(pool.stats().used, 1)
      yield* second.release
      assert.strictEqual(pool.stats().idle, 1)
    }))

  it.scoped("invalidation closes the idle now and the used when they come back, and who waits gets new ones", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world)
      const first = yield* take(pool)
      const second = yield* take(pool)
      yield* second.release
      const waiting = yield* Effect.all([forkTake(pool), forkTake(pool)])
      yield* pool.invalidate
      yield* first.release
      yield* settle
      const next = yield* Fiber.join(waiting[0])
      assert(Either.isRight(next))
      assert.isAtLeast(next.right.connection.id, 2)
      assert.isFalse(world.connections[0].open)
      assert.strictEqual(pool.stats().closed.invalidated, 1)
      yield* next.right.release
      assert.strictEqual((yield* Fiber.join(waiting[1]))._tag, "Right")
    }))

  it.scoped("one that is held for too long is reported once, with the place that took it", () => {
    const messages: Array<string> = []
    return Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, heldThreshold: "5 seconds" })
      const lease = yield* take(pool).pipe(Effect.withSpan("inner"), Effect.withSpan("outer"))
      yield* TestClock.adjust("4.9 seconds")
      assert.lengthOf(messages, 0)
      yield* TestClock.adjust("60 seconds")
      assert.lengthOf(messages, 1)
      assert.match(messages[0], /pool memory has been held for 5000 ms by fiber #\d+ in span "inner" of "outer"/)
      yield* lease.release
      yield* take(pool).pipe(
        Effect.withSpan("served"),
        Effect.withParentSpan(Tracer.externalSpan({ spanId: "0123456789abcdef", traceId: "0123456789abcdef" }))
      )
      yield* TestClock.adjust("5 seconds")
      assert.lengthOf(messages, 2)
      assert.match(messages[1], / in span "served"$/)
      yield* TestClock.adjust("60 seconds")
      assert.lengthOf(messages, 2)
    }).pipe(Effect.provide(collect(messages)))
  })

  it.scoped("one that is held on purpose is not reported, however long, and its next borrower is", () => {
    const messages: Array<string> = []
    return Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, heldThreshold: "5 seconds" })
      const lease = yield* take(pool)
      leakDetectionExempt.add(lease)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(messages, [])
      yield* lease.release
      yield* take(pool).pipe(Effect.withSpan("next"))
      yield* TestClock.adjust("5 seconds")
      assert.lengthOf(messages, 1)
      assert.include(messages[0], "in span \"next\"")
    }).pipe(Effect.provide(collect(messages)))
  })
})

describe("shutdown", () => {
  it.scoped("refuses new work, fails who waits, and waits for what is in use", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world)
      const lease = yield* take(pool)
      const other = yield* take(pool)
      const waiting = yield* forkTake(pool)
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* settle
      for (const refusal of [Effect.flatten(Fiber.join(waiting)), take(pool), pool.warm]) {
        assert.strictEqual((yield* Effect.flip<unknown, DatabaseError, Scope.Scope>(refusal))._tag, "DatabaseClosed")
      }
      yield* lease.release
      other.connection.status = "dirty"
      assert.strictEqual((yield* Fiber.poll(shutdown))._tag, "None")
      yield* other.release
      yield* Fiber.join(shutdown)
      assert.lengthOf(world.open, 0)
      assert.strictEqual(pool.stats().closed.shutdown, 2)
      yield* pool.shutdown
    }))

  it.scoped("destroys what is still in use when its limit is over, whatever else is due before", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 3, shutdownTimeout: "10 seconds", heldThreshold: "60 seconds" })
      yield* take(pool)
      yield* TestClock.adjust("2 seconds")
      yield* take(pool)
      yield* TestClock.adjust("55 seconds")
      const late = yield* take(pool)
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("9.9 seconds")
      assert.strictEqual((yield* Fiber.poll(shutdown))._tag, "None")
      yield* TestClock.adjust("0.1 seconds")
      yield* Fiber.join(shutdown)
      assert.lengthOf(world.open, 0)
      yield* late.release
      assert.strictEqual(pool.stats().used, 0)
      assert.strictEqual(closed(pool.stats()), 3)
    }))

  it.scoped("is not put off by being asked for again", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { shutdownTimeout: "10 seconds" })
      yield* take(pool)
      const first = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("5 seconds")
      const second = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(Fiber.zip(first, second))
      assert.lengthOf(world.open, 0)
    }))

  it.scoped("interrupts attempts to connect, and gives up those that cannot be", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const scope = yield* Scope.make()
      const pool = yield* Scope.extend(makePool(world), scope)
      world.connecting = Effect.never
      const hanging = yield* forkTake(pool)
      world.connecting = Effect.uninterruptible(Effect.sleep("15 seconds"))
      yield* forkTake(pool)
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(shutdown)
      yield* TestClock.adjust("10 seconds")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(hanging))._tag, "Left")
      assert.strictEqual(world.attempts, 2)
      assert.lengthOf(world.open, 0)
      assert.strictEqual(pool.stats().created, 0)
      assert.strictEqual(closed(pool.stats()), 0)
    }))

  it.scoped("destroys a connection that comes when it was given up", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, {
        // Nothing of it can be interrupted.
        connect: (onLost) => Effect.zipRight(Effect.sleep("15 seconds"), world.connect(onLost, (attempt) => attempt))
      })
      const waiting = yield* forkTake(pool)
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(shutdown)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Left")
      assert.lengthOf(world.connections, 1)
      assert.lengthOf(world.open, 0)
      assert.strictEqual(pool.stats().created, 0)
    }))

  it.scoped("tells who warms it that it is closed", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      world.connecting = Effect.never
      const pool = yield* makePool(world)
      const warming = yield* Effect.fork(Effect.flip(pool.warm))
      yield* settle
      yield* pool.shutdown
      assert.strictEqual((yield* Fiber.join(warming))._tag, "DatabaseClosed")
      assert.strictEqual(pool.stats().connectFailures, 0)
    }))

  it.scoped("destroys once what says goodbye for too long", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      let destroyed = 0
      const pool = yield* makePool(world, {
        size: 1,
        shutdownTimeout: "0.5 seconds",
        destroy: (connection) => {
          destroyed++
          world.destroy(connection)
        }
      })
      yield* pool.warm
      world.closing = Effect.sleep("1 second")
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("0.5 seconds")
      yield* Fiber.join(shutdown)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(destroyed, 1)
      assert.strictEqual(closed(pool.stats()), 1)
    }))

  it.scoped("counts once what ends after it was given up", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const pool = yield* makePool(world, { size: 1, shutdownTimeout: "0.5 seconds" })
      yield* pool.warm
      world.pinging = Effect.sleep("1 second")
      yield* TestClock.adjust("2 seconds")
      const waiting = yield* forkTake(pool)
      const shutdown = yield* Effect.fork(pool.shutdown)
      yield* TestClock.adjust("0.5 seconds")
      yield* Fiber.join(shutdown)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Left")
      assert.isFalse(world.connections[0].open)
      assert.strictEqual(closed(pool.stats()), 1)
      assert.strictEqual(pool.stats().idle, 0)
    }))

  it.scoped("a pool that was made in an uninterruptible region ends all the same", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      const scope = yield* Scope.make()
      const pool = yield* Effect.uninterruptible(Scope.extend(makePool(world), scope))
      world.connecting = Effect.never
      const waiting = yield* forkTake(pool)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Left")
      assert.strictEqual(world.attempts, 1)
    }))
})

describe("figures", () => {
  it.scoped("add up, and are what the metrics say", () =>
    Effect.gen(function*() {
      const world = new FakeServer()
      world.connecting = Effect.sleep("100 millis")
      const pool = yield* makePool(world, {
        name: "measured",
        size: 2,
        maxOverflow: 1,
        timeout: "1 second",
        idleTimeout: 0
      })
      const taking = yield* forkTake(pool)
      yield* TestClock.adjust("100 millis")
      const lease = yield* Fiber.join(taking)
      assert(Either.isRight(lease))
      const others = yield* Effect.fork(Effect.all([take(pool), take(pool)], { concurrency: "unbounded" }))
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(others)
      const waiting = yield* forkTake(pool)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(waiting)
      yield* lease.right.release
      yield* settle
      const { closed: by, useTime, waitTime, ...stats } = pool.stats()
      assert.strictEqual(waitTime.count, 3)
      assert.approximately(waitTime.p50, 0.1, 0.005)
      assert.strictEqual(useTime.count, 1)
      assert.approximately(useTime.p99, 1.1, 0.055)
      assert.deepStrictEqual(stats, {
        name: "measured",
        maximum: 3,
        size: 2,
        overflow: 1,
        idle: 0,
        used: 2,
        waiting: 0,
        created: 3,
        connectFailures: 0,
        timeouts: 1,
        checkouts: 3,
        waitMillis: 300,
        useMillis: 1_100
      })
      assert.deepStrictEqual(by, {
        overflow: 1,
        idle: 0,
        lifetime: 0,
        lost: 0,
        unusable: 0,
        invalidated: 0,
        shutdown: 0
      })
      const ofPool = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) =>
        metric.pipe(
          Metric.tagged("db.client.connection.pool.name", "measured"),
          Metric.tagged("db.system.name", "postgresql")
        )
      const read = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) => Metric.value(ofPool(metric))
      const state = (name: string) =>
        Metric.value(Metric.tagged(ofPool(Telemetry.connectionCount), "db.client.connection.state", name))
      assert.strictEqual((yield* state("idle")).count, 0)
      assert.strictEqual((yield* state("used")).count, 2)
      assert.strictEqual((yield* read(Telemetry.connectionMax)).count, 3)
      assert.strictEqual((yield* read(Telemetry.connectionIdleMax)).count, 2)
      assert.strictEqual((yield* read(Telemetry.connectionIdleMin)).count, 2)
      assert.strictEqual((yield* read(Telemetry.connectionPendingRequests)).count, 0)
      assert.strictEqual((yield* read(Telemetry.connectionTimeouts)).count, 1)
      const created = yield* read(Telemetry.connectionCreateTime)
      assert.strictEqual(created.count, 3)
      assert.closeTo(created.sum, 0.3, 1e-9)
      assert.closeTo((yield* read(Telemetry.connectionWaitTime)).sum, 0.3, 1e-9)
      assert.closeTo((yield* read(Telemetry.connectionUseTime)).sum, 1.1, 1e-9)
    }))
})

describe("interruption", () => {
  it.live("thousands of interruptions, at every step, lose no connection", () =>
    Effect.scoped(Effect.gen(function*() {
      const seed = Date.now() % 1_000_000
      let state = seed
      const random = (below: number): number => {
        state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
        return Math.floor(state / 65_536) % below
      }
      const pauses = () => Effect.repeatN(Effect.yieldNow(), random(4))
      const world = new FakeServer()
      world.connecting = Effect.suspend(() =>
        Effect.zipRight(pauses(), random(10) === 0 ? Effect.fail(refused) : Effect.void)
      )
      world.closing = Effect.suspend(pauses)
      world.resetting = Effect.suspend(pauses)
      const pool = yield* makePool(world, { size: 2, maxOverflow: 2, checkAfterIdle: 0 })
      const held = new Set<number>()
      const borrow = Effect.scoped(Effect.tap(pool.acquire, (connection) => {
        assert.isFalse(held.has(connection.id), `seed ${seed}: lent twice`)
        held.add(connection.id)
        if (random(5) === 0) {
          connection.status = "dirty"
        }
        if (random(20) === 0) {
          world.kill(connection)
        }
        return Effect.ensuring(pauses(), Effect.sync(() => held.delete(connection.id)))
      }))
      yield* Effect.forEach(
        Array.from({ length: 2_000 }),
        () =>
          Effect.gen(function*() {
            const fiber = yield* Effect.fork(borrow)
            yield* Effect.repeatN(Effect.yieldNow(), random(8))
            yield* Fiber.interrupt(fiber)
          }),
        { concurrency: 12 }
      )
      yield* eventually(Effect.sync(() => {
        const { idle, used, waiting } = pool.stats()
        return used === 0 && waiting === 0 && world.open.length === idle
      }))
      const stats = pool.stats()
      assert.strictEqual(stats.created - closed(stats), stats.idle, `seed ${seed}`)
      assert.isAtMost(world.maxOpen, 4, `seed ${seed}`)
      world.connecting = Effect.void
      yield* Effect.all([take(pool), take(pool), take(pool), take(pool)])
      assert.strictEqual(pool.stats().used, 4, `seed ${seed}`)
    })))
})
