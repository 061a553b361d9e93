import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { Connection } from "../../../src/internal/driver.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { connected, connection, executing, promptly, rows, untilKept } from "./harness.js"

const endless = "SELECT pg_sleep(600)"

/** A generator of numbers in [0, 1) that a seed repeats. */
const generator = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

describe("postgres cancellation", () => {
  it.live("stops a running statement on the server, promptly, and keeps the connection", () =>
    untilKept(Effect.gen(function*() {
      const { connection: c, losses } = yield* connected(url())
      const fiber = yield* Effect.fork(rows(c, endless))
      yield* executing(url(), c)
      assert.isTrue(Exit.isInterrupted(yield* promptly(Fiber.interrupt(fiber))))
      assert.deepStrictEqual(losses, [])
      if (c.status() !== "closed") {
        assert.strictEqual(c.status(), "idle")
        assert.deepStrictEqual(
          yield* query(url(), `SELECT state FROM pg_stat_activity WHERE pid = ${c.id}`),
          [{ state: "idle" }]
        )
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      }
      return c
    })))

  it.live("stops a statement that waits for a lock, and its transaction can be rolled back", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const holder = yield* connection(database)
      yield* holder.executeRaw("CREATE TABLE locked (id int)", [])
      yield* holder.begin({})
      yield* rows(holder, "LOCK TABLE locked")
      yield* untilKept(Effect.gen(function*() {
        const c = yield* connection(database)
        yield* c.begin({})
        const fiber = yield* Effect.fork(rows(c, "SELECT * FROM locked"))
        yield* executing(database, c)
        yield* promptly(Fiber.interrupt(fiber))
        if (c.status() !== "closed") {
          assert.strictEqual(c.status(), "aborted")
          yield* c.rollback
          assert.strictEqual(c.status(), "idle")
        }
        return c
      }))
    })))

  it.live("a queued statement is removed without effect", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const holder = yield* connection(database)
      yield* rows(holder, "SELECT pg_advisory_lock(1)")
      const c = yield* connection(database)
      yield* c.executeRaw("CREATE TABLE items (id int)", [])
      const first = yield* Effect.fork(rows(c, "SELECT pg_advisory_lock(1), 1 AS a"))
      const second = yield* Effect.fork(rows(c, "INSERT INTO items VALUES (1)"))
      const third = yield* Effect.fork(rows(c, "INSERT INTO items VALUES (2) RETURNING id"))
      yield* executing(database, c)
      yield* Fiber.interrupt(second)
      yield* rows(holder, "SELECT pg_advisory_unlock(1)")
      assert.strictEqual((yield* Fiber.join(first))[0].a, 1)
      assert.deepStrictEqual(yield* Fiber.join(third), [{ id: 2 }])
      assert.deepStrictEqual(yield* rows(c, "SELECT id FROM items"), [{ id: 2 }])
    })))

  it.live("statements behind a canceled one are executed when the cancellation is complete", () =>
    untilKept(Effect.gen(function*() {
      const c = yield* connection(url())
      const first = yield* Effect.fork(rows(c, endless))
      yield* executing(url(), c)
      const second = yield* Effect.fork(Effect.exit(rows(c, "SELECT 2 AS a")))
      yield* Effect.yieldNow()
      yield* promptly(Fiber.interrupt(first))
      const exit = yield* Fiber.join(second)
      if (c.status() !== "closed") {
        assert.deepStrictEqual(exit, Exit.succeed([{ a: 2 }]))
      }
      return c
    })))

  it.live("asks once more after a cancelled statement, so that the signal has arrived", () =>
    Effect.scoped(Effect.gen(function*() {
      const between = yield* proxy(url())
      const responses: Array<string> = []
      yield* between.onServerData((chunk) => {
        responses.push(chunk.includes("57014") ? "canceled" : chunk.includes("I\0\0\0\x04Z") ? "empty" : "other")
        return "pass"
      })
      yield* untilKept(Effect.gen(function*() {
        const c = yield* connection(between.url)
        const fiber = yield* Effect.fork(rows(c, endless))
        yield* executing(url(), c)
        responses.length = 0
        yield* promptly(Fiber.interrupt(fiber))
        if (c.status() !== "closed") {
          assert.deepStrictEqual(responses.filter((response) => response !== "other"), ["canceled", "empty"])
        }
        return c
      }))
    })))

  it.live("a cancel request needs none of the server's connections", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server({ maxConnections: 5, config: { superuser_reserved_connections: "0" } })
      const [observer] = yield* Effect.all(Array.from({ length: 4 }, () => connection(own.url)), { concurrency: 1 })
      yield* untilKept(Effect.gen(function*() {
        // The server may not have noticed yet that the connection of the attempt before is closed.
        const c = yield* Effect.retry(connection(own.url), { while: (error) => error.code === "53300" })
        const refused = yield* Effect.flip(connection(own.url))
        assert.isTrue(refused._tag === "ConnectionFailed" && refused.transient)
        const fiber = yield* Effect.fork(rows(c, endless))
        yield* eventually(
          Effect.map(
            Effect.orDie(rows(observer, `SELECT 1 FROM pg_stat_activity WHERE pid = ${c.id} AND state = 'active'`)),
            (r) => r.length === 1
          )
        )
        yield* promptly(Fiber.interrupt(fiber))
        if (c.status() !== "closed") {
          assert.strictEqual(c.status(), "idle")
        }
        return c
      }))
    })))

  it.live("works over a Unix socket", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      yield* untilKept(Effect.gen(function*() {
        const c = yield* connection(own.url, { target: { hosts: [{ host: own.socketDir, port: own.port }] } })
        const fiber = yield* Effect.fork(rows(c, endless))
        yield* executing(own.url, c)
        yield* promptly(Fiber.interrupt(fiber))
        if (c.status() !== "closed") {
          assert.strictEqual(c.status(), "idle")
          assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
        }
        return c
      }))
    })))

  it.live("a server that does not respond costs the connection and not the time", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const { connection: c, losses } = yield* connected(own.url)
      const other = yield* connection(own.url)
      const fiber = yield* Effect.fork(rows(c, endless))
      yield* executing(own.url, c)
      yield* Effect.acquireRelease(own.pause, () => own.resume)
      yield* promptly(Fiber.interrupt(fiber))
      assert.strictEqual(c.status(), "closed")
      assert.deepStrictEqual(losses, [])
      // No cancel request is sent for the driver's own commands, and their interruption is bounded too.
      const ping = yield* Effect.fork(other.ping)
      yield* Effect.yieldNow()
      yield* promptly(Fiber.interrupt(ping))
      assert.strictEqual(other.status(), "closed")
    })))

  it.live("an interrupted commit that is answered in time keeps the connection", () =>
    Effect.scoped(Effect.gen(function*() {
      for (let i = 0; i < 50; i++) {
        yield* untilKept(Effect.gen(function*() {
          const c = yield* connection(url())
          yield* c.begin({})
          yield* rows(c, "SELECT 1")
          const fiber = yield* Effect.fork(c.commit)
          yield* Effect.yieldNow()
          yield* promptly(Fiber.interrupt(fiber))
          if (c.status() !== "closed") {
            assert.strictEqual(c.status(), "idle")
            assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
          }
          return c
        }))
      }
    })))

  it.live("never hits a later statement, whenever it comes", () =>
    Effect.scoped(Effect.gen(function*() {
      const seed = Date.now() % 1_000_000_000
      const random = generator(seed)
      const counts = { interrupted: 0, completed: 0 }
      const iteration = (c: Connection, i: number) =>
        Effect.gen(function*() {
          const inTransaction = random() < 0.3
          if (inTransaction) {
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
          if (c.status() === "closed") {
            return
          }
          if (behind !== undefined) {
            const result = yield* Fiber.join(behind)
            if (!inTransaction) {
              assert.deepStrictEqual(result._tag === "Right" ? result.right : result.left, [{ n: i }], `seed ${seed}`)
            }
          }
          if (inTransaction) {
            yield* c.rollback
          }
          assert.deepStrictEqual(yield* rows(c, "SELECT $1::int AS n, pg_sleep(0.0002)::text AS s", [i]), [{
            n: i,
            s: ""
          }])
          assert.strictEqual(c.status(), "idle", `seed ${seed}`)
        })
      const worker = Effect.gen(function*() {
        let c = yield* connection(url())
        for (let i = 0; i < 500; i++) {
          yield* iteration(c, i)
          // On a busy machine a cancellation may take longer than its timeout.
          c = c.status() === "closed" ? yield* connection(url()) : c
        }
      })
      yield* Effect.all(Array.from({ length: 6 }, () => worker), { concurrency: "unbounded", discard: true })
      assert.isAbove(counts.interrupted, 0, `seed ${seed}`)
      assert.isAbove(counts.completed, 0, `seed ${seed}`)
    })), 240_000)
})
