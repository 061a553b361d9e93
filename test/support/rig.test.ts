import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"
import { blocked } from "./blocked.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import * as Postgres from "./postgres.js"
import { random } from "./random.js"
import * as Rig from "./rig.js"

const every: Rig.Weights = Object.fromEntries(Rig.faultNames.map((name) => [name, 1]))

const take = (seed: number, weights = every) => {
  const next = Rig.faults(random(seed), weights, 1_000)
  return Array.from({ length: 500 }, next)
}

/** On the run's shared server: it must not be ended. */
const shared = Effect.gen(function*() {
  const url = yield* Postgres.freshDatabase
  const never = Effect.dieMessage("The shared server is not to be ended")
  return yield* Rig.make({
    url,
    port: 0,
    pid: 0,
    socketDir: "",
    stop: () => never,
    kill: never,
    pause: never,
    resume: never,
    start: never
  })
})

const select = (rig: Rig.Rig) => Postgres.query(rig.url, "SELECT 1 AS n")

/** A query that runs, until it is struck. */
const running = (rig: Rig.Rig, sql: string) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(Effect.exit(Postgres.query(rig.url, sql)))
    yield* eventually(Effect.map(connections(rig.server.url), ({ active }) => active === 1))
    return fiber
  })

const causeOf = (exit: Exit.Exit<unknown, unknown>): string => {
  assert(Exit.isFailure(exit))
  return String(exit.cause)
}

const live = (name: string, body: () => Effect.Effect<void, never, Scope.Scope>) => it.scopedLive(name, body)

describe("faults", () => {
  it("are the same for the same seed, and for no other", () => {
    assert.deepStrictEqual(take(1), take(1))
    assert.notDeepEqual(take(1), take(2))
    assert.deepStrictEqual(new Set(take(1).map(({ name }) => name)), new Set(Rig.faultNames))
  })

  it("are those that are asked for, as often", () => {
    const counts = { cut: 0, kill: 0 }
    for (const { at, millis, name } of take(3, { cut: 3, kill: 1 })) {
      counts[name as keyof typeof counts]++
      assert.isTrue(at >= 0 && at < 1 && millis >= 50 && millis <= 1_000)
    }
    assert.strictEqual(counts.cut + counts.kill, 500)
    assert.approximately(counts.kill, 125, 50)
  })
})

describe("the rig", () => {
  for (const name of ["cut", "reset", "cutAll", "resetAll", "terminate"] as const) {
    live(`${name} ends what runs`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        const fiber = yield* running(rig, "SELECT pg_sleep(60)")
        yield* rig.strike({ name, millis: 100, at: 0 })
        causeOf(yield* Fiber.join(fiber))
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }))
  }

  live("cancel ends a statement", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const fiber = yield* running(rig, "SELECT pg_sleep(60)")
      yield* rig.strike({ name: "cancel", millis: 100, at: 0 })
      assert.include(causeOf(yield* Fiber.join(fiber)), "canceling statement")
    }))

  live("silence holds one connection up, and closes it after all", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const { release, sql } = yield* blocked(rig.server.url)
      const fiber = yield* running(rig, sql)
      const struck = yield* Effect.fork(rig.strike({ name: "silence", millis: 3_000, at: 0 }))
      yield* Effect.yieldNow()
      yield* release
      yield* eventually(Effect.map(connections(rig.server.url), ({ active }) => active === 0))
      assert.isTrue((yield* Fiber.poll(fiber))._tag === "None")
      assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      yield* Fiber.join(struck)
      causeOf(yield* Fiber.join(fiber))
    }))

  for (const [name, at] of [["silenceAll", 0], ["delay", 0.99], ["throttle", 0]] as const) {
    live(`${name} holds everything up for a while`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        const struck = yield* Effect.fork(rig.strike({ name, millis: 1_500, at }))
        yield* Effect.sleep("50 millis")
        const [slow] = yield* Effect.timed(select(rig))
        assert.isAtLeast(Duration.toMillis(slow), 150)
        yield* Fiber.join(struck)
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }))
  }

  live("refuse lets nobody in, and those who are in stay", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const { release, sql } = yield* blocked(rig.server.url)
      const fiber = yield* running(rig, sql)
      const struck = yield* Effect.fork(rig.strike({ name: "refuse", millis: 2_000, at: 0 }))
      yield* Effect.sleep("50 millis")
      assert.include(causeOf(yield* Effect.exit(select(rig))), "ECONNREFUSED")
      yield* release
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      yield* Fiber.join(struck)
      assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
    }))

  for (const [name, kept] of [["loseCommit", 0], ["loseCommitted", 1]] as const) {
    live(`${name} does so, to one`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        yield* Postgres.query(rig.server.url, "CREATE TABLE t (n int)")
        const insert = Postgres.query(rig.url, "BEGIN; INSERT INTO t VALUES (1); COMMIT")
        for (const at of [0.2, 0.7]) {
          const struck = yield* Effect.fork(rig.strike({ name, millis: 5_000, at }))
          yield* Effect.sleep("50 millis")
          causeOf(yield* Effect.exit(insert))
          yield* Fiber.join(struck)
          yield* eventually(Effect.map(connections(rig.server.url), ({ total }) => total === 0))
          assert.strictEqual((yield* Postgres.query(rig.server.url, "SELECT n FROM t")).length, kept)
          yield* Postgres.query(rig.server.url, "TRUNCATE t")
        }
        yield* insert
        assert.strictEqual((yield* Postgres.query(rig.server.url, "SELECT n FROM t")).length, 1)
      }))
  }

  live("gives up waiting for a message that does not come", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      for (const name of ["loseCommit", "loseCommitted", "cutRequest", "cutAnswer", "silenceRequest"] as const) {
        yield* rig.strike({ name, millis: 50, at: 0 })
      }
      assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
    }))

  /** Says everything twice. */
  const echo = Effect.acquireRelease(
    Effect.promise(async () => {
      const server = Net.createServer((socket) => {
        socket.on("error", () => {})
        socket.pipe(socket)
      })
      server.listen(0, "127.0.0.1")
      await once(server, "listening")
      return server
    }),
    (server) => Effect.sync(() => server.close())
  )

  for (const side of ["Request", "Answer"] as const) {
    for (const how of ["cut", "reset", "silence"] as const) {
      live(`${how}${side} does so in the middle of a message`, () =>
        Effect.gen(function*() {
          const server = yield* echo
          const { port } = server.address() as Net.AddressInfo
          const { proxy, strike } = yield* Rig.make({
            ...(yield* shared).server,
            url: `postgres://127.0.0.1:${port}/`
          })
          // ReadyForQuery, twice: what comes through is neither none, nor one, nor both.
          const messages = Buffer.from("Z\0\0\0\x05IZ\0\0\0\x05I", "latin1")
          for (const at of [0, 0.2, 0.44, 0.5, 0.8, 0.999]) {
            const name = `${how}${side}` as const
            const millis = how === "silence" ? 500 : 20_000
            const struck = yield* Effect.fork(strike({ name, millis, at }))
            yield* Effect.sleep("20 millis")
            const heard: Array<number> = []
            const end = yield* Effect.async<string>((resume) => {
              const socket = Net.connect({ host: "127.0.0.1", port: proxy.port })
              let error = "end"
              socket.on("data", (chunk) => heard.push(...chunk))
              socket.on("error", (failure: NodeJS.ErrnoException) => {
                error = String(failure.code)
              })
              socket.on("close", () => resume(Effect.succeed(error)))
              socket.write(messages)
            })
            yield* Fiber.join(struck)
            // Node takes a reset that comes with data for an end.
            assert.include(how === "reset" ? ["ECONNRESET", "end"] : ["end"], end)
            // What a side says after the cut is lost, and so may be the last that was said before.
            if (side === "Answer") {
              assert.isTrue(heard.length > 0 && heard.length !== 6 && heard.length < 12, `${heard.length} bytes`)
            } else {
              assert.isBelow(heard.length, 12)
            }
          }
        }))
    }
  }

  it.scopedLive("ends the server in each way, starts it again, and says so", () =>
    Effect.gen(function*() {
      const own = yield* Postgres.server()
      let back = 0
      const rig = yield* Rig.make(own, Effect.sync(() => back++))
      for (const name of ["pause", "smart", "fast", "immediate", "kill"] as const) {
        const { release, sql } = yield* blocked(own.url)
        const client = yield* running(rig, sql)
        const before = own.pid
        yield* rig.strike({ name, millis: 200, at: 0 })
        yield* release
        assert.strictEqual(Exit.isSuccess(yield* Fiber.join(client)), name === "pause", name)
        assert.strictEqual(own.pid === before, name === "pause", name)
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }
      assert.strictEqual(back, 5)
    }), 60_000)

  it.scopedLive("leaves all as it was when a storm is interrupted", () =>
    Effect.gen(function*() {
      const own = yield* Postgres.server()
      const rig = yield* Rig.make(own)
      const struck: Array<Rig.Fault> = []
      for (const seed of [1, 2, 3]) {
        const storm = Rig.storm(rig, random(seed), {
          weights: every,
          longest: 300,
          calm: 30,
          onStrike: (fault) => struck.push(fault)
        })
        const fiber = yield* Effect.fork(storm)
        const enough = struck.length + 3
        yield* eventually(Effect.sync(() => struck.length >= enough))
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }
    }), 90_000)
})
