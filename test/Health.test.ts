/**
 * The health check: the truth, in time, whatever the database does.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"
import * as Database from "../src/Database.js"
import { assertHoldsNot } from "./internal/renderings.js"
import { dialects, make, sqliteFile } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase, query, server } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

/** What a busy machine may add to a timeout, in milliseconds. */
const tolerance = 60_000

/** A timeout that is not reached on a busy machine, for databases that answer. */
const longTimeout = { healthTimeout: "30 seconds" } as const

/** The answer, and what it took in milliseconds. */
const timed = (database: Database.Service) =>
  Effect.map(Effect.timed(database.health), ([elapsed, healthy]) => ({ healthy, millis: Duration.toMillis(elapsed) }))

const assertHealthy = (database: Database.Service) => Effect.map(database.health, (healthy) => assert.isTrue(healthy))

/** Asserts that it gives false when its timeout (default: 2 seconds) is over, and not when the server answers or drops. */
const assertUnhealthy = (database: Database.Service, timeout = 2_000) =>
  Effect.map(timed(database), ({ healthy, millis }) => {
    assert.isFalse(healthy)
    assert.isBelow(millis, timeout + tolerance)
  })

/** Sessions that hold their connections until the scope closes. */
const occupy = (database: Database.Service, count: number) =>
  Effect.forEach(
    Array.from({ length: count }),
    () => Effect.tap(database.acquireSession(), (session) => session.run(database.sql`SELECT 1`)),
    { concurrency: "unbounded" }
  )

describe("health", () => {
  for (const dialect of dialects) {
    it.scopedLive(`is true where the database answers: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, longTimeout)
        yield* assertHealthy(database)
        assert.isTrue(yield* Effect.provideService(Database.health, Database.Database, database))
        const { idle, used } = yield* database.poolStats
        assert.deepStrictEqual({ idle, used }, { idle: 1, used: 0 })
      }))

    it.scopedLive(`has a report: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, longTimeout)
        const report = yield* Effect.provideService(Database.report, Database.Database, database)
        assert.isTrue(report.healthy)
        assert.strictEqual(report.dialect, dialect.dialect)
        assert.match(report.version ?? "", /^\d+\.\d+/)
        assert.strictEqual(report.role, dialect.dialect === "sqlite" ? "embedded" : "primary")
        assert.isAbove(Duration.toMillis(report.latency), 0)
        assert.isBelow(Duration.toMillis(report.latency), 30_000 + tolerance)
        assert.deepStrictEqual(report.pool, yield* database.poolStats)
        assert.isUndefined(report.lastError)
      }))

    it.scopedLive(`is true while sessions hold every connection, and it waits for none: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, { ...longTimeout, poolSize: 2, poolMaxOverflow: 0 })
        yield* occupy(database, dialect.single ? 1 : 2)
        const waiting = yield* Effect.fork(database.session(database.sql`SELECT 1`))
        yield* eventually(Effect.map(database.poolStats, ({ waiting }) => waiting === 1))
        yield* assertHealthy(database)
        const report = yield* database.report
        assert.isTrue(report.healthy)
        assert.deepInclude(report.pool, { idle: 0, used: dialect.single ? 1 : 2, waiting: 1 })
        assert.isDefined(report.version)
        yield* Fiber.interrupt(waiting)
      }))

    it.scopedLive(`is false from when the database is being closed: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const database = yield* Scope.extend(make(dialect), scope)
        const finish = yield* Deferred.make<void>()
        const began = yield* Deferred.make<void>()
        const session = yield* Effect.fork(
          database.session(Effect.zipRight(Deferred.succeed(began, undefined), Deferred.await(finish)))
        )
        yield* Deferred.await(began)
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* eventually(Effect.map(database.health, (healthy) => !healthy))
        const report = yield* database.report
        assert.isFalse(report.healthy)
        assert.strictEqual(report.lastError?._tag, "DatabaseClosed")
        yield* Deferred.succeed(finish, undefined)
        yield* Fiber.join(session)
        yield* Fiber.join(closing)
        yield* assertUnhealthy(database)
      }))
  }

  it.scopedLive("is true while a session writes to the file", () =>
    Effect.gen(function*() {
      const database = yield* make(sqliteFile, longTimeout)
      const { sql } = database
      yield* sql`CREATE TABLE numbers (n INTEGER)`
      const session = yield* database.acquireSession()
      yield* session.run(sql`INSERT INTO numbers VALUES (1)`)
      yield* assertHealthy(database)
      yield* session.commit
      assert.deepStrictEqual(yield* sql`SELECT n FROM numbers`, [{ n: 1 }])
    }))

  it.scopedLive("is true while a statement keeps the file's only connection busy", () =>
    Effect.gen(function*() {
      const database = yield* make(sqliteFile, longTimeout)
      const { sql } = database
      const endless = sql`
        WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT count(*) FROM numbers`
      const fiber = yield* Effect.fork(Effect.exit(endless))
      yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
      yield* assertHealthy(database)
      yield* Fiber.interrupt(fiber)
    }))

  it.scopedLive("leaves no connection behind", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const database = yield* Database.make({ ...longTimeout, url, poolSize: 1, poolMaxOverflow: 0 })
      const { created } = yield* database.poolStats
      yield* Effect.repeatN(Effect.zipRight(assertHealthy(database), database.report), 4)
      yield* occupy(database, 1)
      yield* Effect.forEach(Array.from({ length: 5 }), () => assertHealthy(database), { concurrency: "unbounded" })
      yield* eventually(Effect.map(connections(url), ({ total }) => total === 1))
      assert.strictEqual((yield* database.poolStats).created, created)
    }))

  it.scopedLive("costs one connection, however many ask at the same time and whoever of them goes away", () =>
    Effect.gen(function*() {
      const network = yield* proxy(yield* freshDatabase)
      const database = yield* Database.make({
        url: network.url,
        poolSize: 1,
        poolMaxOverflow: 0,
        healthTimeout: "5 seconds"
      })
      yield* occupy(database, 1)
      yield* network.silence
      const first = yield* Effect.fork(database.health)
      yield* Effect.yieldNow()
      const others = yield* Effect.fork(Effect.all(Array.from({ length: 50 }, () => database.health), {
        concurrency: "unbounded"
      }))
      yield* eventually(Effect.sync(() => network.connections().length > 1))
      yield* Fiber.interrupt(first)
      assert.lengthOf(network.connections(), 2)
      assert.deepStrictEqual(new Set(yield* Fiber.join(others)), new Set([false]))
      yield* network.unsilence
      yield* eventually(database.health)
    }))

  it.scopedLive("is false for a server that is stopped, and true when it goes on", () =>
    Effect.gen(function*() {
      const own = yield* server()
      const database = yield* Database.make({ url: own.url })
      yield* assertHealthy(database)
      yield* own.pause
      yield* assertUnhealthy(database)
      const report = yield* database.report
      assert.isFalse(report.healthy)
      assert.isUndefined(report.version)
      assert.isUndefined(report.role)
      const { lastError } = report
      assert.isDefined(lastError)
      assert.strictEqual(lastError._tag, "ConnectionFailed")
      assert.include(lastError.message, "did not answer within 2s")
      assertHoldsNot(lastError, new URL(own.url).password)
      yield* own.resume
      yield* eventually(database.health)
      assert.isDefined((yield* database.report).lastError)
    }))

  it.scopedLive("is false for a server that was killed, and true when it is back", () =>
    Effect.gen(function*() {
      const own = yield* server()
      const database = yield* Database.make({ url: own.url })
      yield* assertHealthy(database)
      yield* own.kill
      yield* assertUnhealthy(database)
      yield* own.start
      yield* eventually(database.health)
      assert.deepStrictEqual(yield* database.sql`SELECT 1 AS one`, [{ one: 1 }])
    }))

  it.scopedLive("is false when the network is silent, and true when it is back", () =>
    Effect.gen(function*() {
      const network = yield* proxy(yield* freshDatabase)
      const database = yield* Database.make({ url: network.url, healthTimeout: "1 second" })
      yield* assertHealthy(database)
      yield* network.silence
      yield* assertUnhealthy(database, 1_000)
      yield* network.unsilence
      yield* eventually(database.health)
    }))

  it.scopedLive("is true although the connections that are idle do not answer any more", () =>
    Effect.gen(function*() {
      const network = yield* proxy(yield* freshDatabase)
      const database = yield* Database.make({ url: network.url, healthTimeout: "5 seconds" })
      yield* assertHealthy(database)
      network.connections().forEach((connection) => connection.silence())
      yield* assertHealthy(database)
    }))

  it.scopedLive("takes no longer than healthTimeout, and stops what it began", () =>
    Effect.gen(function*() {
      const accepted = new Set<Net.Socket>()
      let attempts = 0
      const own = yield* server()
      const database = yield* Database.make({
        url: own.url,
        poolSize: 1,
        poolMaxOverflow: 0,
        healthTimeout: "300 millis",
        connectTimeout: "1 minute"
      })
      yield* occupy(database, 1)
      yield* own.stop("immediate")
      // In the server's place, somebody who listens and says nothing.
      const mute = Net.createServer((socket) => {
        attempts++
        accepted.add(socket)
        socket.on("error", () => {})
        socket.on("close", () => accepted.delete(socket))
        socket.resume()
      })
      yield* Effect.acquireRelease(
        Effect.promise(async () => {
          mute.listen(own.port, "127.0.0.1")
          await once(mute, "listening")
        }),
        () => Effect.sync(() => mute.close())
      )
      const { healthy, millis } = yield* timed(database)
      assert.isFalse(healthy)
      assert.isBelow(millis, 300 + tolerance)
      assert.isAtLeast(attempts, 1)
      yield* eventually(Effect.sync(() => accepted.size === 0))
    }))

  it.scopedLive("is true again after its connections were terminated", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const database = yield* Database.make({ ...longTimeout, url })
      yield* query(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() " +
          "AND pid <> pg_backend_pid()"
      )
      yield* assertHealthy(database)
    }))
})
