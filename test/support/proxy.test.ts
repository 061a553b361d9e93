import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { once } from "node:events"
import * as Net from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { blocked } from "./blocked.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import * as Postgres from "./postgres.js"
import { type Decision, proxy } from "./proxy.js"

/** A server that echoes every chunk, and records what it receives and how connections end. */
const echo = Effect.acquireRelease(
  Effect.promise(async () => {
    const sockets = new Set<Net.Socket>()
    const received: Array<string> = []
    const ends: Array<string> = []
    const server = Net.createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket)
      socket.on("data", (chunk) => {
        received.push(chunk.toString())
        socket.write(chunk)
      })
      socket.on("end", () => {
        ends.push("end")
        socket.end()
      })
      socket.on("error", (error: NodeJS.ErrnoException) => ends.push(String(error.code)))
    })
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    const { port } = server.address() as Net.AddressInfo
    return { host: "127.0.0.1", port, received, ends, sockets, server }
  }),
  ({ server, sockets }) =>
    Effect.sync(() => {
      server.close()
      for (const socket of sockets) {
        socket.destroy()
      }
    })
)

/** A client that records what it receives and how its connection ends. */
const client = (port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const socket = Net.connect({ port, host: "127.0.0.1", allowHalfOpen: true })
      const client = { socket, received: "", end: "" }
      socket.on("data", (chunk) => {
        client.received += chunk.toString()
      })
      socket.on("end", () => {
        client.end = "end"
      })
      socket.on("error", (error: NodeJS.ErrnoException) => {
        client.end = String(error.code)
      })
      return client
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const until = (condition: () => boolean) => eventually(Effect.sync(condition))

const pause = (millis: number) => Effect.promise(() => sleep(millis))

describe("proxy", () => {
  it.scoped("passes bytes both ways, and a half-closed connection", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      const large = "x".repeat(3_000_000)
      one.socket.end(large)
      yield* until(() => one.end === "end")
      assert.strictEqual(one.received.length, large.length)
      assert.deepStrictEqual(server.ends, ["end"])
      yield* until(() => proxied.connections().length === 0)
    }))

  it.scoped("applies backpressure to a side that writes faster than the other reads", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      yield* until(() => server.sockets.size === 1)
      for (const socket of server.sockets) {
        socket.pause()
      }
      let taken = 0
      for (let megabyte = 0; megabyte < 100; megabyte++) {
        one.socket.write(Buffer.alloc(1 << 20), () => taken++)
      }
      yield* pause(1000)
      assert.isBelow(taken, 50)
      for (const socket of server.sockets) {
        socket.resume()
      }
      yield* until(() => taken === 100)
    }))

  it.scoped("closes and resets both sides", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const [one, two] = [yield* client(proxied.port), yield* client(proxied.port)]
      yield* until(() => server.sockets.size === 2)
      assert.deepStrictEqual(proxied.connections().map(({ id }) => id), [1, 2])
      yield* proxied.cutAll
      yield* until(() => one.end === "end" && two.end === "end" && server.ends.length === 2)
      assert.deepStrictEqual(server.ends, ["end", "end"])
      const three = yield* client(proxied.port)
      yield* until(() => server.sockets.size === 3)
      yield* proxied.resetAll
      yield* until(() => three.end === "ECONNRESET" && server.ends.length === 3)
      assert.strictEqual(server.ends[2], "ECONNRESET")
      yield* until(() => proxied.connections().length === 0)
    }))

  it.scoped("forwards a reset", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      one.socket.write("a")
      yield* until(() => one.received === "a")
      for (const socket of server.sockets) {
        socket.resetAndDestroy()
      }
      yield* until(() => one.end === "ECONNRESET")
      assert.strictEqual(one.received, "a")
    }))

  it.scoped("goes silent, and forwards afterwards what was sent meanwhile", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      one.socket.write("a")
      yield* until(() => one.received === "a")
      yield* proxied.silence
      one.socket.write("b")
      const two = yield* client(proxied.port)
      yield* until(() => !two.socket.connecting)
      two.socket.end("c")
      yield* pause(300)
      assert.deepStrictEqual(server.received, ["a"])
      assert.deepStrictEqual([one.received, one.end, two.received, two.end], ["a", "", "", ""])
      assert.strictEqual(proxied.connections().length, 2)
      yield* proxied.unsilence
      yield* until(() => one.received === "ab" && two.received === "c" && two.end === "end")
      assert.deepStrictEqual(server.ends, ["end"])
    }))

  it.scoped("does not forward a close while it is silent", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      yield* until(() => server.sockets.size === 1)
      yield* proxied.silence
      for (const socket of server.sockets) {
        socket.resetAndDestroy()
      }
      yield* pause(300)
      assert.strictEqual(one.end, "")
      yield* proxied.unsilence
      yield* until(() => one.end === "ECONNRESET")
    }))

  it.scoped("refuses new connections, keeps the open ones, and accepts again on the same port", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      yield* until(() => server.sockets.size === 1)
      yield* proxied.refuse
      yield* proxied.refuse
      const two = yield* client(proxied.port)
      yield* until(() => two.end === "ECONNREFUSED")
      one.socket.write("a")
      yield* until(() => one.received === "a")
      yield* proxied.accept
      yield* proxied.accept
      const three = yield* client(proxied.port)
      three.socket.write("b")
      yield* until(() => three.received === "b")
    }))

  it.scoped("refuses a client whose target refuses", () =>
    Effect.gen(function*() {
      const free = yield* proxy("postgres://127.0.0.1:1/")
      const one = yield* client(free.port)
      yield* until(() => one.end === "ECONNRESET")
      yield* until(() => free.connections().length === 0)
    }))

  it.scoped("delays in each direction, and keeps the order when the delay is lifted", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      yield* until(() => server.sockets.size === 1)
      yield* proxied.delay(200)
      const start = performance.now()
      one.socket.write("a")
      yield* pause(50)
      yield* proxied.delay(0)
      one.socket.write("b")
      yield* until(() => server.received.join("") === "ab")
      assert.isAtLeast(performance.now() - start, 190)
      yield* proxied.delay(100)
      one.received = ""
      const secondStart = performance.now()
      one.socket.end("c")
      yield* until(() => one.received === "c" && one.end === "end")
      assert.isAtLeast(performance.now() - secondStart, 190)
    }))

  it.scoped("throttles", () =>
    Effect.gen(function*() {
      const server = yield* echo
      const proxied = yield* proxy(server)
      const one = yield* client(proxied.port)
      yield* proxied.throttle(100_000)
      const start = performance.now()
      one.socket.write("x".repeat(20_000))
      yield* until(() => one.received.length === 20_000)
      assert.isAtLeast(performance.now() - start, 390)
    }))

  const both = ["client", "server"] as const

  for (const side of both) {
    const decide = (proxied: Effect.Effect.Success<ReturnType<typeof proxy>>, decision: (chunk: Buffer) => Decision) =>
      side === "client" ? proxied.onClientData(decision) : proxied.onServerData(decision)

    it.scoped(`drops and replaces what the ${side} sends`, () =>
      Effect.gen(function*() {
        const server = yield* echo
        const proxied = yield* proxy(server)
        const one = yield* client(proxied.port)
        yield* decide(
          proxied,
          (chunk) => chunk.toString() === "a" ? "drop" : Buffer.from(chunk.toString().toUpperCase())
        )
        one.socket.write("a")
        yield* pause(100)
        one.socket.write("b")
        yield* until(() => one.received === "B")
        assert.deepStrictEqual(server.received, side === "client" ? ["B"] : ["a", "b"])
        yield* side === "client" ? proxied.onClientData(undefined) : proxied.onServerData(undefined)
        one.socket.write("c")
        yield* until(() => one.received === "Bc")
      }))

    it.scoped(`cuts, resets or goes silent when the ${side} sends something`, () =>
      Effect.gen(function*() {
        for (const decision of ["cut", "reset", "silence"] as const) {
          const server = yield* echo
          const proxied = yield* proxy(server)
          const one = yield* client(proxied.port)
          one.socket.write("a")
          yield* until(() => one.received === "a")
          yield* decide(proxied, () => decision)
          one.socket.write("b")
          if (decision === "silence") {
            yield* pause(200)
            assert.deepStrictEqual([one.received, one.end, ...server.ends], ["a", ""])
          } else {
            const end = decision === "cut" ? "end" : "ECONNRESET"
            yield* until(() => one.end === end && server.ends.length === 1)
            assert.deepStrictEqual([one.received, ...server.ends], ["a", end])
          }
          assert.deepStrictEqual(server.received, side === "client" ? ["a"] : ["a", "b"])
        }
      }))

    it.scoped(`cuts, resets or goes silent in the middle of what the ${side} sends`, () =>
      Effect.gen(function*() {
        for (const decision of ["cut", "reset", "silence"] as const) {
          const server = yield* echo
          const proxied = yield* proxy(server)
          const one = yield* client(proxied.port)
          yield* decide(proxied, (chunk) => ({ forward: chunk.subarray(0, 2), then: decision }))
          one.socket.write("abcd")
          if (side === "client") {
            yield* until(() => server.received[0] === "ab")
          } else {
            yield* until(() => one.received === "ab")
          }
          if (decision === "silence") {
            one.socket.write("efgh")
            yield* pause(200)
            assert.deepStrictEqual([one.end, ...server.ends], [""])
          } else {
            yield* until(() => one.end !== "" && server.ends.length === 1)
          }
          assert.strictEqual(server.received.join(""), side === "client" ? "ab" : "abcd")
        }
      }))
  }
})

describe("proxy in front of PostgreSQL", () => {
  it.scoped("forwards a connection, and rewrites the URL", () =>
    Effect.gen(function*() {
      const url = yield* Postgres.freshDatabase
      const proxied = yield* proxy(url)
      assert.strictEqual(new URL(proxied.url).pathname, new URL(url).pathname)
      assert.strictEqual(new URL(proxied.url).port, String(proxied.port))
      assert.deepStrictEqual(yield* Postgres.query(proxied.url, "SELECT 1 AS n"), [{ n: 1 }])
    }))

  for (const forwarded of [true, false]) {
    it.scoped(`closes the connection ${forwarded ? "after" : "before"} a COMMIT arrives`, () =>
      Effect.gen(function*() {
        const url = yield* Postgres.freshDatabase
        yield* Postgres.query(url, "CREATE TABLE t (n int)")
        const proxied = yield* proxy(url)
        yield* proxied.onClientData((chunk) =>
          !chunk.includes("COMMIT") ? "pass" : forwarded ? { forward: chunk, then: "cut" } : "cut"
        )
        const exit = yield* Effect.exit(Postgres.query(proxied.url, "BEGIN; INSERT INTO t VALUES (1); COMMIT"))
        assert.isTrue(Exit.isFailure(exit))
        yield* eventually(Effect.map(connections(url), ({ total }) => total === 0))
        assert.strictEqual((yield* Postgres.query(url, "SELECT n FROM t")).length, forwarded ? 1 : 0)
      }))
  }

  it.scoped("blocks a query while it is silent", () =>
    Effect.gen(function*() {
      const url = yield* Postgres.freshDatabase
      const proxied = yield* proxy(url)
      const { release, sql } = yield* blocked(url)
      const fiber = yield* Effect.fork(Postgres.query(proxied.url, sql))
      yield* eventually(Effect.map(connections(url), ({ active }) => active === 1))
      yield* proxied.silence
      yield* release
      yield* eventually(Effect.map(connections(url), ({ active }) => active === 0))
      yield* pause(100)
      assert.isTrue((yield* Fiber.poll(fiber))._tag === "None")
      yield* proxied.unsilence
      assert.strictEqual((yield* Fiber.join(fiber))[0].n, 1)
    }))
})
