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

/** A rig on the server that all tests of a run share, which must not be stopped. */
const shared = Effect.gen(function*() {
  const url = yield* Postgres.freshDatabase
  const mustNotRun = Effect.dieMessage("the shared server must not be stopped")
  return yield* Rig.make({
    url,
    port: 0,
    pid: 0,
    socketDir: "",
    stop: () => mustNotRun,
    kill: mustNotRun,
    pause: mustNotRun,
    resume: mustNotRun,
    start: mustNotRun,
    configure: () => mustNotRun
  })
})

const select = (rig: Rig.Rig) => Postgres.query(rig.url, "SELECT 1 AS n")

/** Starts a query, and waits until the server runs it. */
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
  it("are the same for the same seed, and differ for another", () => {
    assert.deepStrictEqual(take(1), take(1))
    assert.notDeepEqual(take(1), take(2))
    assert.deepStrictEqual(new Set(take(1).map(({ name }) => name)), new Set(Rig.faultNames))
  })

  it("follow the weights", () => {
    const counts = { cut: 0, kill: 0 }
    for (const { position, millis, name } of take(3, { cut: 3, kill: 1 })) {
      counts[name as keyof typeof counts]++
      assert.isTrue(position >= 0 && position < 1 && millis >= 50 && millis <= 1_000)
    }
    assert.strictEqual(counts.cut + counts.kill, 500)
    assert.approximately(counts.kill, 125, 50)
  })
})

describe("the rig", () => {
  for (const name of ["cut", "reset", "cutAll", "resetAll", "terminate"] as const) {
    live(`${name} fails a running query`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        const fiber = yield* running(rig, "SELECT pg_sleep(60)")
        yield* rig.inject({ name, millis: 100, position: 0 })
        causeOf(yield* Fiber.join(fiber))
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }))
  }

  live("cancel ends a statement", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const fiber = yield* running(rig, "SELECT pg_sleep(60)")
      yield* rig.inject({ name: "cancel", millis: 100, position: 0 })
      assert.include(causeOf(yield* Fiber.join(fiber)), "canceling statement")
    }))

  live("silence blocks one connection, and closes it in the end", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const { release, sql } = yield* blocked(rig.server.url)
      const fiber = yield* running(rig, sql)
      const injected = yield* Effect.fork(rig.inject({ name: "silence", millis: 3_000, position: 0 }))
      yield* Effect.yieldNow()
      yield* release
      yield* eventually(Effect.map(connections(rig.server.url), ({ active }) => active === 0))
      assert.isTrue((yield* Fiber.poll(fiber))._tag === "None")
      assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      yield* Fiber.join(injected)
      causeOf(yield* Fiber.join(fiber))
    }))

  for (const [name, position] of [["silenceAll", 0], ["delay", 0.99], ["throttle", 0]] as const) {
    live(`${name} delays everything for a while`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        const injected = yield* Effect.fork(rig.inject({ name, millis: 1_500, position }))
        yield* Effect.sleep("50 millis")
        const [slow] = yield* Effect.timed(select(rig))
        assert.isAtLeast(Duration.toMillis(slow), 150)
        yield* Fiber.join(injected)
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }))
  }

  live("refuse rejects new connections, and keeps the open ones", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      const { release, sql } = yield* blocked(rig.server.url)
      const fiber = yield* running(rig, sql)
      const injected = yield* Effect.fork(rig.inject({ name: "refuse", millis: 2_000, position: 0 }))
      yield* Effect.sleep("50 millis")
      assert.include(causeOf(yield* Effect.exit(select(rig))), "ECONNREFUSED")
      yield* release
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      yield* Fiber.join(injected)
      assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
    }))

  for (const [name, expectedRows] of [["loseCommit", 0], ["loseCommitResponse", 1]] as const) {
    live(`${name} affects one COMMIT`, () =>
      Effect.gen(function*() {
        const rig = yield* shared
        yield* Postgres.query(rig.server.url, "CREATE TABLE t (n int)")
        const insert = Postgres.query(rig.url, "BEGIN; INSERT INTO t VALUES (1); COMMIT")
        for (const position of [0.2, 0.7]) {
          const injected = yield* Effect.fork(rig.inject({ name, millis: 5_000, position }))
          yield* Effect.sleep("50 millis")
          causeOf(yield* Effect.exit(insert))
          yield* Fiber.join(injected)
          yield* eventually(Effect.map(connections(rig.server.url), ({ total }) => total === 0))
          assert.strictEqual((yield* Postgres.query(rig.server.url, "SELECT n FROM t")).length, expectedRows)
          yield* Postgres.query(rig.server.url, "TRUNCATE t")
        }
        yield* insert
        assert.strictEqual((yield* Postgres.query(rig.server.url, "SELECT n FROM t")).length, 1)
      }))
  }

  live("stops waiting for a message after its timeout", () =>
    Effect.gen(function*() {
      const rig = yield* shared
      for (const name of ["loseCommit", "loseCommitResponse", "cutRequest", "cutResponse", "silenceRequest"] as const) {
        yield* rig.inject({ name, millis: 50, position: 0 })
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

  for (const side of ["Request", "Response"] as const) {
    for (const how of ["cut", "reset", "silence"] as const) {
      live(`${how}${side} acts in the middle of a message`, () =>
        Effect.gen(function*() {
          const server = yield* echo
          const { port } = server.address() as Net.AddressInfo
          const { inject, proxy } = yield* Rig.make({
            ...(yield* shared).server,
            url: `postgres://127.0.0.1:${port}/`
          })
          // Two ReadyForQuery messages: the bytes that arrive must end within one of them.
          const messages = Buffer.from("Z\0\0\0\x05IZ\0\0\0\x05I", "latin1")
          for (const position of [0, 0.2, 0.44, 0.5, 0.8, 0.999]) {
            const name = `${how}${side}` as const
            const millis = how === "silence" ? 500 : 20_000
            const injected = yield* Effect.fork(inject({ name, millis, position }))
            yield* Effect.sleep("20 millis")
            const received: Array<number> = []
            const end = yield* Effect.async<string>((resume) => {
              const socket = Net.connect({ host: "127.0.0.1", port: proxy.port })
              let error = "end"
              socket.on("data", (chunk) => received.push(...chunk))
              socket.on("error", (failure: NodeJS.ErrnoException) => {
                error = String(failure.code)
              })
              socket.on("close", () => resume(Effect.succeed(error)))
              socket.write(messages)
            })
            yield* Fiber.join(injected)
            // Node may report a reset that arrives with data as an end.
            assert.include(how === "reset" ? ["ECONNRESET", "end"] : ["end"], end)
            // Bytes sent after the cut are lost, and the last bytes sent before it may be.
            if (side === "Response") {
              assert.isTrue(
                received.length > 0 && received.length !== 6 && received.length < 12,
                `${received.length} bytes`
              )
            } else {
              assert.isBelow(received.length, 12)
            }
          }
        }))
    }
  }

  it.scopedLive(
    "stops the server in each way, starts it again, and reports the recovery",
    () =>
      Effect.gen(function*() {
        const own = yield* Postgres.server()
        let recoveries = 0
        const rig = yield* Rig.make(own, Effect.sync(() => recoveries++))
        for (const name of ["pause", "smart", "fast", "immediate", "kill"] as const) {
          const { release, sql } = yield* blocked(own.url)
          const client = yield* running(rig, sql)
          const previousPid = own.pid
          yield* rig.inject({ name, millis: 200, position: 0 })
          yield* release
          assert.strictEqual(Exit.isSuccess(yield* Fiber.join(client)), name === "pause", name)
          assert.strictEqual(own.pid === previousPid, name === "pause", name)
          assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
        }
        assert.strictEqual(recoveries, 5)
      }),
    240_000
  )

  it.scopedLive("ends its fault when it is interrupted", () =>
    Effect.gen(function*() {
      const own = yield* Postgres.server()
      const rig = yield* Rig.make(own)
      const injected: Array<Rig.Fault> = []
      for (const seed of [1, 2, 3]) {
        const injection = Rig.injectRandomly(rig, random(seed), {
          weights: every,
          maxMillis: 300,
          maxPause: 30,
          onFault: (fault) => injected.push(fault)
        })
        const fiber = yield* Effect.fork(injection)
        const enough = injected.length + 3
        yield* eventually(Effect.sync(() => injected.length >= enough))
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* select(rig), [{ n: 1 }])
      }
    }), 240_000)
})
