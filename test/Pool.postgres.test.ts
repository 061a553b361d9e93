import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Database from "../src/Database.js"
import type { Connection } from "../src/internal/driver.js"
import * as Pool from "../src/Pool.js"
import { driver } from "./internal/postgres/harness.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase, query, server } from "./support/postgres.js"

const makePool = (url: string, options: Partial<Pool.Options<Connection>> = {}) => {
  const { connect, dialect } = driver(url)
  return Pool.make<Connection>({
    name: "real",
    dialect,
    size: 5,
    maxOverflow: 5,
    timeout: "20 seconds",
    recycle: "30 minutes",
    connect,
    status: (connection) => connection.status(),
    ping: (connection) => connection.ping,
    reset: (connection) => connection.reset,
    close: (connection) => connection.close,
    destroy: (connection) => connection.destroy(),
    ...options
  })
}

const ask = (pool: Pool.Pool<Connection>, sql: string) =>
  Effect.scoped(Effect.flatMap(pool.acquire, (connection) => connection.execute(sql, [], undefined)))

const ours = "FROM pg_stat_activity WHERE application_name = 'sqlayer-test' AND datname = current_database()"

/**
 * Ends all of the pool's backends. Terminating only signals them: they are gone when the server lists none, and the pool
 * knows it when it counts none as idle.
 */
const terminateAll = (url: string, pool: Pool.Pool<Connection>) =>
  query(url, `SELECT pg_terminate_backend(pid) ${ours}`).pipe(
    Effect.zipRight(eventually(Effect.map(query(url, `SELECT 1 ${ours}`), (rows) => rows.length === 0))),
    Effect.zipRight(eventually(Effect.sync(() => pool.stats().idle === 0)))
  )

it.live("every idle connection is killed, and the next query succeeds", () =>
  Effect.scoped(Effect.gen(function*() {
    const url = yield* freshDatabase
    const pool = yield* makePool(url)
    yield* Effect.replicateEffect(pool.warm, 5)
    assert.strictEqual(pool.stats().idle, 5)
    for (let round = 0; round < 3; round++) {
      yield* terminateAll(url, pool)
      assert.deepStrictEqual(yield* ask(pool, "SELECT 1 AS one"), [{ one: 1 }])
    }
  })))

it.live("a killed server is noticed before the user is, and its return is used", () =>
  Effect.scoped(Effect.gen(function*() {
    const own = yield* server()
    const pool = yield* makePool(own.url)
    yield* Effect.replicateEffect(pool.warm, 3)
    yield* own.kill
    yield* eventually(Effect.sync(() => pool.stats().idle === 0))
    assert.strictEqual(pool.stats().closed.lost, 3)
    const waiting = yield* Effect.fork(ask(pool, "SELECT 1 AS one"))
    yield* eventually(Effect.sync(() => pool.stats().connectFailures > 0))
    yield* own.start
    assert.deepStrictEqual(yield* Fiber.join(waiting), [{ one: 1 }])
  })))

it.live("what a borrower leaves behind is gone, and the limit is the server's count", () =>
  Effect.scoped(Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(url, "CREATE TABLE left_behind (n int)")
    const pool = yield* makePool(url, { size: 1, maxOverflow: 1, idleTimeout: 0 })
    yield* Effect.scoped(
      Effect.flatMap(
        pool.acquire,
        (connection) =>
          Effect.zipRight(connection.begin({}), connection.execute("INSERT INTO left_behind VALUES (1)", [], undefined))
      )
    )
    assert.deepStrictEqual(yield* ask(pool, "SELECT count(*)::int AS n FROM left_behind"), [{ n: 0 }])
    yield* Effect.forEach(Array.from({ length: 32 }), () => ask(pool, "SELECT pg_sleep(0.005)"), {
      concurrency: "unbounded"
    })
    assert.isAtMost(pool.stats().created, 33)
    yield* eventually(Effect.map(
      query(url, `SELECT count(*)::int AS n ${ours}`),
      ([row]) => row.n === 1
    ))
    assert.strictEqual(pool.stats().idle, 1)
    yield* pool.shutdown
    assert.strictEqual(pool.stats().idle, 0)
  })))

it.live("a burst opens no connection twice, and with no minimum the server has none of an idle database", () =>
  Effect.scoped(Effect.gen(function*() {
    const url = yield* freshDatabase
    const options = { environment: "test", url, poolSize: 2, poolMaxOverflow: 10, poolMin: 0 } as const
    const busy = yield* Database.make({ ...options, poolIdleTimeout: "1 minute" })
    yield* Effect.forEach(
      Array.from({ length: 12 }),
      () => Effect.repeatN(Effect.zipRight(busy.sql`SELECT pg_sleep(0.001)`, Effect.yieldNow()), 20),
      { concurrency: "unbounded", discard: true }
    )
    const { checkouts, created } = yield* busy.poolStats
    assert.isAtLeast(checkouts, 12 * 21)
    assert.isAtMost(created, 12)
    const idle = yield* Database.make({ ...options, applicationName: "idle", poolIdleTimeout: "300 millis" })
    yield* Effect.all(Array.from({ length: 4 }, () => idle.sql`SELECT pg_sleep(0.1)`), { concurrency: "unbounded" })
    yield* eventually(
      Effect.map(connections(url, { applicationName: "idle" }), ({ total }) => total === 0)
    )
    const { closed, idle: left, used } = yield* idle.poolStats
    assert.isAtLeast(closed.idle, 1)
    assert.deepStrictEqual([left, used], [0, 0])
    assert.deepStrictEqual([...(yield* idle.sql`SELECT 1 AS one`)], [{ one: 1 }])
  })))
