import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { currentLsn, type Member, promoteServer } from "./cluster.js"
import { blueGreen, cluster, query } from "./postgres.js"
import { proxy } from "./proxy.js"
import type { Server } from "./server.js"

const insert = (server: Server, n: number) => query(server.url, "INSERT INTO numbers VALUES ($1)", [n])

const numbers = (server: Server) =>
  Effect.map(
    query(server.url, "SELECT coalesce(array_agg(n ORDER BY n), '{}') AS numbers FROM numbers"),
    ([{ numbers }]) => numbers
  )

const systemIdentifier = (server: Server) =>
  Effect.map(query(server.url, "SELECT system_identifier::text AS id FROM pg_control_system()"), ([{ id }]) => id)

const timeline = (server: Server) =>
  Effect.map(
    query(server.url, "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline"),
    ([{ timeline }]) => timeline
  )

const names = (members: ReadonlyArray<Member>) => members.map(({ name }) => name)

describe("cluster", () => {
  it.scopedLive(
    "loses nothing by a crash, a promotion, a switchover and a primary that was frozen",
    () =>
      Effect.gen(function*() {
        const own = yield* cluster({ synchronous: true })
        const [first, second, third] = own.members
        yield* query(first.url, "CREATE TABLE numbers (n int)")
        yield* insert(first, 1)
        yield* Effect.forEach(own.standbys(), (standby) => own.replayed(standby))
        assert.deepStrictEqual(yield* numbers(third), [1])

        yield* first.kill
        yield* own.promote()
        assert.strictEqual(own.primary(), second)
        assert.strictEqual(yield* timeline(second), 2)
        yield* insert(second, 2)
        yield* own.restore
        assert.deepStrictEqual(names(own.standbys()), ["server1", "server3"])

        yield* insert(second, 3)
        yield* own.switchover(first)
        assert.strictEqual(own.primary(), first)
        yield* insert(first, 4)

        yield* first.pause
        yield* own.promote()
        assert.strictEqual(own.primary() === first, false)
        yield* first.resume
        // It does not know that another one was promoted.
        assert.deepStrictEqual(yield* query(first.url, "SELECT pg_is_in_recovery() AS standby"), [{ standby: false }])
        yield* insert(own.primary(), 5)
        yield* own.restore
        for (const standby of own.standbys()) {
          yield* own.replayed(standby)
          assert.deepStrictEqual(yield* numbers(standby), [1, 2, 3, 4, 5])
        }
        assert.strictEqual(own.standbys().length, 2)
      }),
    120_000
  )

  it.scopedLive("has standbys that lag, stop replaying, or make a commit wait", () =>
    Effect.gen(function*() {
      const own = yield* cluster({ synchronous: true })
      const primary = own.primary()
      const [second, third] = own.standbys()
      yield* own.createDatabase("shop")
      assert.deepStrictEqual(
        yield* query(third.url, "SELECT count(*)::int AS n FROM pg_database WHERE datname = 'shop'"),
        [{ n: 1 }]
      )
      yield* query(primary.url, "CREATE TABLE numbers (n int)")
      yield* own.replayed(third)

      yield* own.pauseReplay(third)
      yield* insert(primary, 1)
      yield* own.replayed(second)
      assert.deepStrictEqual(yield* numbers(second), [1])
      assert.deepStrictEqual(yield* numbers(third), [])
      yield* own.resumeReplay(third)
      yield* own.replayed(third)
      assert.deepStrictEqual(yield* numbers(third), [1])

      yield* own.lag(third, 3_600_000)
      yield* insert(primary, 2)
      const lsn = yield* currentLsn(primary)
      yield* own.replayed(second)
      assert.deepStrictEqual(yield* numbers(third), [1])
      yield* own.lag(third, 0)
      yield* own.replayed(third, lsn)
      assert.deepStrictEqual(yield* numbers(third), [1, 2])

      yield* second.pause
      const waiting = yield* Effect.fork(insert(primary, 3))
      const waits = query(primary.url, "SELECT count(*)::int AS n FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
      while ((yield* waits)[0].n === 0) {
        yield* Effect.sleep("20 millis")
      }
      yield* second.resume
      yield* waiting
    }), 120_000)

  it.scopedLive("makes cold copies that go by the same identifier and timeline", () =>
    Effect.gen(function*() {
      const own = yield* cluster({ standbys: 0 })
      const primary = own.primary()
      yield* query(primary.url, "CREATE TABLE numbers (n int)")
      yield* primary.stop("fast")
      const copies = [yield* own.coldCopy(primary), yield* own.coldCopy(primary)]
      const address = yield* proxy(copies[0].url)
      for (const [index, copy] of copies.entries()) {
        yield* address.retarget(copy.url)
        yield* promoteServer(copy)
        yield* query(address.url, "INSERT INTO numbers VALUES ($1)", [index])
        assert.deepStrictEqual(yield* numbers(copy), [index])
        assert.strictEqual(yield* timeline(copy), 2)
      }
      assert.strictEqual(yield* systemIdentifier(copies[0]), yield* systemIdentifier(copies[1]))
    }), 120_000)

  it.scopedLive("joins two clusters by logical replication", () =>
    Effect.gen(function*() {
      const { blue, disconnect, green, replicated } = yield* blueGreen({ schema: "CREATE TABLE numbers (n int)" })
      yield* insert(blue, 1)
      yield* replicated
      assert.deepStrictEqual(yield* numbers(green), [1])
      assert.notStrictEqual(yield* systemIdentifier(blue), yield* systemIdentifier(green))
      assert.strictEqual(yield* timeline(blue), yield* timeline(green))
      yield* disconnect
      yield* insert(blue, 2)
      yield* insert(green, 3)
      assert.deepStrictEqual(yield* numbers(green), [1, 3])
    }), 120_000)
})
