/** Several servers as one database: dead ones, roles that change, and a primary that was replaced. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import { once } from "node:events"
import * as Net from "node:net"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import { maxStarting } from "../src/internal/cluster/connectLimit.js"
import { eventually } from "./support/eventually.js"
import { withName } from "./support/names.js"
import { cluster, freshDatabase, query, server } from "./support/postgres.js"
import { type Decision, proxy } from "./support/proxy.js"

const open = (url: string, options: Partial<Parameters<typeof Database.make>[0]> = {}) =>
  Database.make({ environment: "test", url, hostRecheck: "200 millis", ...options })

/** A pool that opens a connection for each use. */
const keepsNone = { poolMin: 0, poolIdleTimeout: 0, poolSize: 2, poolMaxOverflow: 0 } as const

/** The URL with other hosts. */
const withHosts = (url: string, hosts: ReadonlyArray<string | number>, search = ""): string => {
  const { password, pathname, username } = new URL(url)
  const list = hosts.map((host) => typeof host === "number" ? `127.0.0.1:${host}` : host).join(",")
  return `postgres://${username}:${password}@${list}${pathname}${search}`
}

const portOf = (url: string): number => Number(new URL(url).port)

/** The port of the server that a session runs on. */
const serverOf = (database: Database.Service) =>
  Effect.map(
    database.session(database.sql<{ readonly port: number }>`SELECT inet_server_port() AS port`),
    ([{ port }]) => port
  )

/** Uses that many connections at once. */
const spread = (database: Database.Service, count: number) =>
  Effect.forEach(Array.from({ length: count }), () => database.session(database.sql`SELECT pg_sleep(0.3)`), {
    concurrency: "unbounded"
  })

/** The state of a server, by its port. */
const stateOf = (database: Database.Service, port: number) =>
  Effect.map(database.report, ({ servers }) => servers.find((each) => each.port === port)?.state)

/** Accepts connections at an address, and says nothing. */
const silentAt = (address: string, port: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      let accepted = 0
      const listener = Net.createServer((socket) => {
        accepted++
        sockets.add(socket.resume().on("error", () => undefined))
      })
      listener.listen(port, address)
      await once(listener, "listening")
      return { listener, sockets, accepted: () => accepted }
    }),
    ({ listener, sockets }) =>
      Effect.sync(() => {
        listener.close()
        sockets.forEach((socket) => socket.destroy())
      })
  )

describe("a server that is dead", () => {
  it.scopedLive("and silent costs nothing after it was seen, and is used again when it answers", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const [first, second] = [yield* proxy(url), yield* proxy(url)]
      yield* first.silence
      const database = yield* open(withHosts(url, [first.port, second.port]), keepsNone)
      yield* serverOf(database)
      yield* eventually(Effect.map(stateOf(database, first.port), (state) => state === "silent"))
      // Its looks and no session: each of these opens a connection, and waits for none of the first server.
      const waited = Effect.zipLeft(Effect.timed(serverOf(database)), database.health)
      // Otherwise each would be as long as the delay of an attempt on the next server.
      yield* eventually(Effect.map(waited, ([duration]) => Duration.toMillis(duration) < 250), { timeout: "1 minute" })
      assert.isTrue(yield* database.health)
      yield* first.unsilence
      yield* eventually(Effect.zipRight(
        serverOf(database),
        Effect.map(stateOf(database, first.port), (state) => state === "up")
      ))
      // In the order of the URL.
      yield* second.refuse
      yield* serverOf(database)
    }))

  it.scopedLive("and refuses is looked at in the background, not by sessions", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const [first, second] = [yield* proxy(url), yield* proxy(url)]
      const database = yield* open(withHosts(url, [first.port, second.port]), { ...keepsNone, hostRecheck: "1 hour" })
      yield* serverOf(database)
      assert.strictEqual(yield* stateOf(database, first.port), "up")
      yield* first.refuse
      yield* serverOf(database)
      assert.strictEqual(yield* stateOf(database, first.port), "down")
      yield* first.accept
      for (let i = 0; i < 5; i++) {
        yield* serverOf(database)
      }
      assert.deepStrictEqual(first.connections(), [])
      assert.strictEqual(yield* stateOf(database, first.port), "down")
    }))

  it.scopedLive("and is the first address of a name does not keep the second from being used", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const silent = yield* silentAt("127.0.0.2", portOf(url))
      yield* withName("pair.example", ["127.0.0.2", "127.0.0.1"])
      const database = yield* open(withHosts(url, [`pair.example:${portOf(url)}`]), {
        ...keepsNone,
        connectTimeout: "10 minutes",
        hostRecheck: "1 hour"
      })
      assert.strictEqual(yield* serverOf(database), portOf(url))
      const { servers } = yield* database.report
      assert.deepStrictEqual(servers.map(({ address, state }) => [address, state]), [
        ["127.0.0.2", "silent"],
        ["127.0.0.1", "up"]
      ])
      const seen = silent.accepted()
      for (let i = 0; i < 5; i++) {
        yield* serverOf(database)
      }
      assert.strictEqual(silent.accepted(), seen)
    }))

  it.scopedLive.each([
    // A server that takes longer than a second to begin a connection is no reason to open more of them at a time.
    { poolSize: 24, delay: 0 },
    { poolSize: 8, delay: 250 }
  ])(
    "and recovers is connected to a few times at a time, whoever waits (%o)",
    ({ delay, poolSize }) =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const between = yield* proxy(url)
        const database = yield* open(between.url, { poolSize, poolMaxOverflow: 0 })
        yield* between.refuse
        yield* between.cutAll
        yield* eventually(Effect.map(database.poolStats, ({ idle, used }) => idle + used === 0))
        const starting = new Set<number>()
        let most = 0
        yield* between.onClientData((_chunk, { id }) => {
          if (!seen.has(id)) {
            seen.add(id)
            starting.add(id)
            most = Math.max(most, starting.size)
          }
          return "pass"
        })
        const seen = new Set<number>()
        yield* between.onServerData((chunk, { id }): Decision => {
          if (chunk.includes(Buffer.from([0x5a, 0, 0, 0, 5]))) {
            starting.delete(id)
          }
          return "pass"
        })
        const users = yield* Effect.fork(spread(database, poolSize))
        yield* eventually(Effect.map(database.poolStats, ({ connectFailures }) => connectFailures > 0))
        yield* between.delay(delay)
        yield* between.accept
        yield* Fiber.join(users)
        assert.isAbove(seen.size, maxStarting)
        assert.isAtMost(most, maxStarting)
      })
  )
})

describe("load_balance_hosts=random", () => {
  it.scopedLive("spreads the connections over the hosts", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const hosts = [yield* proxy(url), yield* proxy(url)]
      const search = "?target_session_attrs=any&load_balance_hosts=random"
      const database = yield* open(withHosts(url, hosts.map(({ port }) => port), search), {
        poolSize: 20,
        poolMaxOverflow: 0,
        hostRecheck: "1 hour"
      })
      // All 20 are on one host once in 500,000 times.
      yield* spread(database, 20)
      for (const host of hosts) {
        assert.isNotEmpty(host.connections())
      }
      const ordered = yield* open(withHosts(url, hosts.map(({ port }) => port), "?load_balance_hosts=disable"), {
        hostRecheck: "1 hour"
      })
      const before = hosts[1].connections().length
      yield* spread(ordered, 5)
      // Of attempts and looks that took long, nothing is left.
      yield* eventually(Effect.sync(() => hosts[1].connections().length === before))
    }))
})

describe("a server that refuses to write", () => {
  it.scopedLive("is left, with all connections to it, unless the session has asked for that", () =>
    Effect.gen(function*() {
      const only = yield* server()
      const database = yield* open(only.url, { poolSize: 4, poolMaxOverflow: 0 })
      const { sql } = database
      yield* sql`CREATE TABLE written (n int)`
      yield* spread(database, 4)
      const closed = Effect.map(database.poolStats, ({ closed }) => closed.lost + closed.unusable)
      const fails = (effect: Effect.Effect<unknown, unknown>) =>
        Effect.map(Effect.flip(effect), (error) => error as DatabaseError.DatabaseError)
      const write = sql`INSERT INTO written VALUES (1)`
      for (
        const asked of [
          yield* fails(database.session(write, { readOnly: true })),
          yield* fails(database.session(Effect.zipRight(sql`SET TRANSACTION READ ONLY`, write))),
          yield* fails(
            database.session(Effect.zipRight(sql`SELECT set_config('transaction_read_only', 'on', true)`, write))
          )
        ]
      ) {
        assert.strictEqual(asked._tag, "ReadOnlyViolation")
        assert.isFalse(DatabaseError.isRetryable(asked))
      }
      assert.strictEqual(yield* closed, 0)

      yield* query(only.url, "ALTER SYSTEM SET default_transaction_read_only = on")
      yield* query(only.url, "SELECT pg_reload_conf()")
      yield* eventually(
        Effect.map(
          query(only.url, "SHOW default_transaction_read_only"),
          ([row]) => row.default_transaction_read_only === "on"
        )
      )
      const demoted = yield* fails(database.session(write))
      assert.strictEqual(demoted._tag, "ReadOnlyViolation")
      assert.isTrue(DatabaseError.isRetryable(demoted))
      yield* eventually(Effect.map(closed, (count) => count === 4))
    }))
})

describe("a cluster", () => {
  it.scopedLive("is written to at its primary, whichever that is, and never at one that was replaced", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 2 })
      const [first, second, third] = servers.members
      const url = withHosts(servers.members[0].url, [second.port, third.port, first.port])
      const database = yield* open(url, { silence: "1 hour", poolSize: 4, poolMaxOverflow: 4 })
      const { sql } = database
      yield* sql`CREATE TABLE written (n int)`
      assert.strictEqual(yield* serverOf(database), first.port)
      // What the URL asks for is asked for, be it less.
      const any = yield* open(`${url}?target_session_attrs=any`)
      assert.strictEqual(yield* serverOf(any), second.port)
      const reading = yield* open(`${url}?target_session_attrs=standby`)
      assert.strictEqual(yield* serverOf(reading), second.port)

      // The primary falls silent with a session that writes, and with idle connections. They end when the promoted one is
      // seen, long before the silence.
      yield* spread(database, 4)
      yield* first.pause
      const stuck = yield* Effect.fork(Effect.either(database.session(sql`INSERT INTO written VALUES (0)`)))
      yield* servers.promote(second)
      const outcome = yield* Fiber.join(stuck)
      assert.isTrue(outcome._tag === "Left" && DatabaseError.isRetryable(outcome.left), JSON.stringify(outcome))
      const write = database.session(sql`INSERT INTO written VALUES (1)`, { retry: Schedule.recurs(5) })
      yield* eventually(Effect.isSuccess(write))
      assert.strictEqual(yield* serverOf(database), second.port)
      assert.isTrue(yield* database.health)
      // A pool that asked for standbys leaves the promoted one.
      yield* eventually(Effect.map(serverOf(reading), (port) => port === third.port))

      // The former primary wakes up and believes that it still is one.
      yield* first.resume
      const acknowledged: Array<boolean> = []
      for (let i = 0; i < 10; i++) {
        yield* spread(database, 6)
        acknowledged.push(yield* Effect.isSuccess(database.session(sql`INSERT INTO written VALUES (2)`)))
      }
      assert.notInclude(acknowledged, false)
      const count = (at: string, n: number) =>
        Effect.map(query(at, `SELECT count(*)::int AS count FROM written WHERE n = ${n}`), ([row]) => row.count)
      assert.strictEqual(yield* count(second.url, 2), 10)
      assert.strictEqual(yield* count(first.url, 2), 0)
      assert.strictEqual(yield* count(first.url, 0), 0)
      // A process that only ever saw the old timeline of it learns of the new one from the other servers.
      const late = yield* open(withHosts(servers.members[0].url, [second.port, first.port]))
      yield* spread(late, 6)
      assert.strictEqual(yield* serverOf(late), second.port)
    }))

  it.scopedLive("that a pooler stands in front of is asked for its role, whatever the greeting says", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 1 })
      const [first, second] = servers.members
      // A greeting that was kept from another server.
      const stale = yield* proxy(second.url)
      yield* stale.onServerData((chunk): Decision =>
        Buffer.from(chunk.toString("latin1").replace("in_hot_standby\0on", "in_hot_standby\0no"), "latin1")
      )
      const database = yield* open(withHosts(servers.members[0].url, [stale.port, first.port]))
      assert.strictEqual(yield* serverOf(database), first.port)
      const alone = yield* Effect.flip(
        open(withHosts(servers.members[0].url, [stale.port], "?target_session_attrs=read-write"))
      )
      assert.strictEqual(alone._tag, "ConnectionFailed")
      assert.include(alone.message, "standby")
    }))
})
