import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { Connection } from "../../../src/internal/driver.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { connected, connection, rows } from "./harness.js"

/** Waits until the connection's statement is seen to run. */
const running = (database: string, c: Connection) =>
  eventually(
    Effect.map(
      query(database, `SELECT 1 FROM pg_stat_activity WHERE pid = ${c.id} AND state = 'active'`),
      (r) => r.length === 1
    )
  )

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const before = performance.now()
    return Effect.map(effect, () => performance.now() - before)
  })

/** A generator of numbers in [0, 1) that a seed repeats. */
const generator = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

describe("postgres interruption", () => {
  it.live("stops a running statement on the server, promptly, and keeps the connection", () =>
    Effect.scoped(Effect.gen(function*() {
      const { connection: c, losses } = yield* connected(url())
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* running(url(), c)
      const took = yield* timed(Fiber.interrupt(fiber))
      assert.isBelow(took, 900)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
      assert.strictEqual(c.status(), "idle")
      assert.deepStrictEqual(
        yield* query(url(), `SELECT state FROM pg_stat_activity WHERE pid = ${c.id}`),
        [{ state: "idle" }]
      )
      assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      assert.deepStrictEqual(losses, [])
    })))

  it.live("stops a statement that waits for a lock, and its transaction can be rolled back", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const holder = yield* connection(database)
      const c = yield* connection(database)
      yield* holder.executeRaw("CREATE TABLE held (id int)", [])
      yield* holder.begin({})
      yield* rows(holder, "LOCK TABLE held")
      yield* c.begin({})
      const fiber = yield* Effect.fork(rows(c, "SELECT * FROM held"))
      yield* running(database, c)
      assert.isBelow(yield* timed(Fiber.interrupt(fiber)), 900)
      assert.strictEqual(c.status(), "aborted")
      yield* c.rollback
      assert.strictEqual(c.status(), "idle")
    })))

  it.live("drops a statement that waits its turn without a trace", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const c = yield* connection(database)
      yield* c.executeRaw("CREATE TABLE traces (id int)", [])
      const first = yield* Effect.fork(rows(c, "SELECT pg_sleep(0.3), 1 AS a"))
      const second = yield* Effect.fork(rows(c, "INSERT INTO traces VALUES (1)"))
      const third = yield* Effect.fork(rows(c, "INSERT INTO traces VALUES (2) RETURNING id"))
      yield* running(database, c)
      yield* Fiber.interrupt(second)
      assert.strictEqual((yield* Fiber.join(first))[0].a, 1)
      assert.deepStrictEqual(yield* Fiber.join(third), [{ id: 2 }])
      assert.deepStrictEqual(yield* rows(c, "SELECT id FROM traces"), [{ id: 2 }])
    })))

  it.live("holds back the statements behind until the cancelled one is over", () =>
    Effect.scoped(Effect.gen(function*() {
      const c = yield* connection(url())
      const first = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* running(url(), c)
      const second = yield* Effect.fork(rows(c, "SELECT 2 AS a"))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(first)
      assert.deepStrictEqual(yield* Fiber.join(second), [{ a: 2 }])
    })))

  it.live("asks once more after a cancelled statement, so that the signal has arrived", () =>
    Effect.scoped(Effect.gen(function*() {
      const between = yield* proxy(url())
      const c = yield* connection(between.url)
      const answers: Array<string> = []
      yield* between.onServerData((chunk) => {
        answers.push(chunk.includes("57014") ? "cancelled" : chunk.includes("I\0\0\0\x04Z") ? "empty" : "other")
        return "pass"
      })
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* running(url(), c)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(answers.filter((each) => each !== "other"), ["cancelled", "empty"])
    })))

  it.live("needs no place among the server's connections", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server({ maxConnections: 5, config: { superuser_reserved_connections: "0" } })
      const all = yield* Effect.all(Array.from({ length: 5 }, () => connection(own.url)), { concurrency: 1 })
      const refused = yield* Effect.flip(connection(own.url))
      assert.strictEqual(refused._tag, "ConnectionFailed")
      assert.isTrue(refused._tag === "ConnectionFailed" && refused.transient)
      const [c, observer] = all as [Connection, Connection]
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* eventually(
        Effect.map(
          Effect.orDie(rows(observer, `SELECT 1 FROM pg_stat_activity WHERE pid = ${c.id} AND state = 'active'`)),
          (r) => r.length === 1
        )
      )
      assert.isBelow(yield* timed(Fiber.interrupt(fiber)), 900)
      assert.strictEqual(c.status(), "idle")
    })))

  it.live("works over a Unix socket", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const c = yield* connection(own.url, { target: { hosts: [{ host: own.socketDir, port: own.port }] } })
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* running(own.url, c)
      assert.isBelow(yield* timed(Fiber.interrupt(fiber)), 900)
      assert.strictEqual(c.status(), "idle")
      assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
    })))

  it.live("a server that is stopped costs the connection, not the time", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const { connection: c, losses } = yield* connected(own.url)
      const other = yield* connection(own.url)
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(30)"))
      yield* running(own.url, c)
      yield* Effect.acquireRelease(own.pause, () => own.resume)
      assert.isBelow(yield* timed(Fiber.interrupt(fiber)), 1_500)
      assert.strictEqual(c.status(), "closed")
      assert.deepStrictEqual(losses, [])
      // What is no user's statement is not cancelled, and is as bounded.
      const ping = yield* Effect.fork(other.ping)
      yield* Effect.yieldNow()
      assert.isBelow(yield* timed(Fiber.interrupt(ping)), 1_500)
      assert.strictEqual(other.status(), "closed")
    })))

  it.live("an interrupted commit that is answered leaves the connection well", () =>
    Effect.scoped(Effect.gen(function*() {
      const c = yield* connection(url())
      for (let i = 0; i < 50; i++) {
        yield* c.begin({})
        const fiber = yield* Effect.fork(c.commit)
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(c.status(), "idle")
      }
      assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
    })))

  it.live("never hits a later statement, whenever it comes", () =>
    Effect.scoped(Effect.gen(function*() {
      const seed = Date.now() % 1_000_000_000
      const random = generator(seed)
      const counts = { interrupted: 0, completed: 0 }
      const worker = (c: Connection) =>
        Effect.gen(function*() {
          for (let i = 0; i < 500; i++) {
            const inside = random() < 0.3
            if (inside) {
              yield* c.begin({})
            }
            const length = random() * 3
            const params = random() < 0.5 ? [length / 1000] : []
            const fiber = yield* Effect.fork(
              rows(c, params.length === 1 ? "SELECT pg_sleep($1)" : `SELECT pg_sleep(${length / 1000})`, params)
            )
            const delay = random() * 4
            yield* delay < 0.3 ? Effect.yieldNow() : Effect.sleep(Duration.millis(delay))
            const behind = random() < 0.3
              ? yield* Effect.fork(Effect.either(rows(c, "SELECT $1::int AS n", [i])))
              : undefined
            const exit = yield* Fiber.interrupt(fiber)
            counts[Exit.isSuccess(exit) ? "completed" : "interrupted"] += 1
            assert.isTrue(Exit.isSuccess(exit) || Exit.isInterrupted(exit), `seed ${seed}: ${String(exit)}`)
            assert.notStrictEqual(c.status(), "closed", `seed ${seed}`)
            if (behind !== undefined) {
              const result = yield* Fiber.join(behind)
              if (!inside) {
                assert.deepStrictEqual(result._tag === "Right" ? result.right : result.left, [{ n: i }], `seed ${seed}`)
              }
            }
            if (inside) {
              yield* c.rollback
            }
            assert.deepStrictEqual(yield* rows(c, "SELECT $1::int AS n, pg_sleep(0.0002)::text AS s", [i]), [{
              n: i,
              s: ""
            }])
            assert.strictEqual(c.status(), "idle", `seed ${seed}`)
          }
        })
      const all = yield* Effect.all(Array.from({ length: 6 }, () => connection(url())))
      yield* Effect.forEach(all, worker, { concurrency: "unbounded", discard: true })
      assert.isAbove(counts.interrupted, 300, `seed ${seed}`)
      assert.isAbove(counts.completed, 300, `seed ${seed}`)
    })), 120_000)
})
