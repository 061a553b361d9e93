import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { once } from "node:events"
import * as Net from "node:net"
import * as Socket from "../../../../src/internal/postgres/transport/socket.js"
import { eventually } from "../../../support/eventually.js"
import { withName } from "../../../support/names.js"
import { freshDatabase, url } from "../../../support/postgres.js"
import { relay } from "../../../support/relay.js"
import { freePort } from "../../../support/serverProcess.js"
import { connected, connection, rows, target } from "../harness.js"

const name = "several.example"

const withAddresses = (addresses: ReadonlyArray<string>) => withName(name, addresses)

/** A server that accepts and says nothing. */
const listener = (host: string, port: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      const server = Net.createServer((socket) => {
        sockets.add(socket)
        socket.on("error", () => undefined)
        socket.on("close", () => sockets.delete(socket))
        socket.resume()
      })
      server.listen(port, host)
      await once(server, "listening")
      return { server, sockets }
    }),
    ({ server, sockets }) =>
      Effect.sync(() => {
        server.close()
        sockets.forEach((socket) => socket.destroy())
      })
  )

interface Opened {
  readonly address: string | undefined
  readonly failure: Socket.OpenFailure | undefined
  readonly millis: number
}

const open = (port: number, timeout: number): Effect.Effect<Opened> =>
  Effect.async((resume) => {
    const startedAt = performance.now()
    const end = (address: string | undefined, failure: Socket.OpenFailure | undefined) =>
      resume(Effect.succeed({ address, failure, millis: performance.now() - startedAt }))
    const giveUp = Socket.open(
      {
        host: name,
        port,
        encryption: "plain",
        tls: () => ({}),
        timeout,
        background: false
      },
      (socket) => {
        const { remoteAddress } = socket
        socket.destroy()
        end(remoteAddress, undefined)
      },
      (failure) => end(undefined, failure)
    )
    return Effect.sync(giveUp)
  })

describe("postgres sockets to a name with several addresses", () => {
  it("the families take turns, beginning with that of the first address", () => {
    const addresses = (...list: ReadonlyArray<string>) =>
      list.map((address) => ({ address, family: Net.isIP(address) }))
    assert.deepStrictEqual(
      Socket.interleaveFamilies(addresses("::1", "::2", "::3", "127.0.0.1", "127.0.0.2")),
      ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]
    )
    assert.deepStrictEqual(Socket.interleaveFamilies(addresses("127.0.0.1", "::1")), ["127.0.0.1", "::1"])
    assert.deepStrictEqual(Socket.interleaveFamilies(addresses("127.0.0.1")), ["127.0.0.1"])
  })

  it.live("one that refuses is followed by the next at once", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = yield* Effect.promise(freePort)
      yield* listener("127.0.0.1", port)
      yield* withAddresses(["127.0.0.2", "127.0.0.1"])
      for (let i = 0; i < 20; i++) {
        assert.strictEqual((yield* open(port, 60_000)).address, "127.0.0.1")
      }
    })))

  for (const order of [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]]) {
    it.live(
      `an unreachable one does not keep a server from being reached that accepts after a second: ${order.join(", ")}`,
      () =>
        Effect.scoped(Effect.gen(function*() {
          const database = yield* freshDatabase
          const port = yield* Effect.promise(freePort)
          const { host, port: targetPort } = target(database).hosts[0]
          const to = { host, port: targetPort }
          const dead = yield* relay({ host: "127.0.0.2", port }, to)
          const slow = yield* relay({ host: "127.0.0.1", port }, to)
          yield* withAddresses(order)
          yield* dead.blackhole
          yield* slow.blackhole
          const startedAt = performance.now()
          const connecting = yield* Effect.fork(Effect.scoped(Effect.flatMap(
            connection(database, { target: { hosts: [{ host: name, port }] } }),
            (c) => rows(c, "SELECT 1 AS one")
          )))
          yield* Effect.sleep("600 millis")
          yield* slow.accept
          assert.deepStrictEqual(yield* Fiber.join(connecting), [{ one: 1 }])
          assert.isAbove(performance.now() - startedAt, 600)
        })),
      240_000
    )
  }

  it.live(
    "if all fail, the error names each address and what became of it",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const port = yield* Effect.promise(freePort)
        const silent = yield* relay({ host: "127.0.0.3", port }, { host: "127.0.0.1", port })
        yield* silent.blackhole
        yield* withAddresses(["127.0.0.1", "127.0.0.2"])
        const refused = yield* Effect.flip(connected(url(), { target: { hosts: [{ host: name, port }] } }))
        assert.strictEqual(refused._tag, "ConnectionFailed")
        assert.include(refused.message, `${name}:${port}`)
        for (const address of ["127.0.0.1", "127.0.0.2"]) {
          assert.include(refused.message, `connection refused (connect ECONNREFUSED ${address}:${port})`)
        }
        yield* withAddresses(["127.0.0.3", "127.0.0.1"])
        const { failure, millis } = yield* open(port, 1_500)
        assert.isAtLeast(millis, 1_450)
        assert.strictEqual(failure?.stage, "timeout")
        assert(failure?.cause instanceof AggregateError)
        assert.deepStrictEqual(
          failure.cause.errors.map((error: Error) => error.message),
          [`connect ETIMEDOUT 127.0.0.3:${port}`, `connect ECONNREFUSED 127.0.0.1:${port}`]
        )
      })),
    240_000
  )

  it.live("giving up at any moment leaves no socket behind", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = yield* Effect.promise(freePort)
      const silent = yield* relay({ host: "127.0.0.2", port }, { host: "127.0.0.1", port })
      yield* silent.blackhole
      const { sockets } = yield* listener("127.0.0.1", port)
      yield* withAddresses(["127.0.0.2", "127.0.0.1"])
      const handles = () => process.getActiveResourcesInfo().filter((type) => /TCPSOCKET|TCPConnect/i.test(type)).length
      yield* eventually(Effect.sync(() => sockets.size === 0))
      const before = handles()
      for (let i = 0; i < 60; i++) {
        const fiber = yield* Effect.fork(open(port, 60_000))
        yield* Effect.sleep(i < 40 ? i * 8 : 245 + i % 10)
        yield* Fiber.interrupt(fiber)
      }
      yield* eventually(Effect.sync(() => sockets.size === 0 && handles() <= before))
    })), 240_000)
})
