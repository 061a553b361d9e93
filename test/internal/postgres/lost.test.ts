import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { Connection } from "../../../src/internal/driver.js"
import { connect } from "../../../src/internal/postgres/connect.js"
import { makeSetup } from "../../../src/internal/postgres/setup.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { type Decision, proxy } from "../../support/proxy.js"
import { connected, executing, promptly, rows, settings, target } from "./harness.js"

const failure = <A>(effect: Effect.Effect<A, any>): Effect.Effect<DatabaseError> =>
  Effect.map(
    Effect.flip(effect),
    (error) => error._tag === "SqlError" ? fromSqlError(error) : error as DatabaseError
  ) as Effect.Effect<DatabaseError>

/** A connection through a proxy to a new database. */
const proxied = Effect.gen(function*() {
  const database = yield* freshDatabase
  const between = yield* proxy(database)
  const { connection: c, losses } = yield* connected(between.url)
  yield* c.executeRaw("CREATE TABLE kept (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)", [])
  const kept = Effect.map(query(database, "SELECT count(*)::int AS n FROM kept"), (r) => r[0].n as number)
  return { database, between, c, losses, kept }
})

const insertOne = (c: Connection) => Effect.zipRight(c.begin({}), rows(c, "INSERT INTO kept VALUES (1)"))

const lostOnce = (losses: Array<DatabaseError>) =>
  Effect.gen(function*() {
    yield* eventually(Effect.sync(() => losses.length > 0))
    assert.strictEqual(losses.length, 1)
    assert.strictEqual(losses[0]._tag, "ConnectionLost")
  })

describe("postgres connection lost", () => {
  it.live("an interruption is prompt also when the server falls silent, and closes the connection", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, database, losses } = yield* proxied
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(600)"))
      const waiting = yield* Effect.fork(failure(rows(c, "SELECT 1")))
      yield* executing(database, c)
      yield* between.silence
      yield* promptly(Fiber.interrupt(fiber))
      assert.strictEqual(c.status(), "closed")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "ConnectionLost")
      assert.deepStrictEqual(losses, [])
    })))

  it.live("a cancel request that comes late still ends the statement on the server", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, database } = yield* proxied
      const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(600)"))
      const runs = Effect.map(
        query(database, `SELECT 1 FROM pg_stat_activity WHERE pid = ${c.id} AND state = 'active'`),
        (r) => r.length === 1
      )
      yield* eventually(runs)
      yield* between.delay(700)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(c.status(), "closed")
      yield* eventually(Effect.map(runs, (active) => !active))
    })))

  for (const how of ["cut", "reset"] as const) {
    it.live(`${how} in the middle of a row`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { between, c, losses } = yield* proxied
        yield* between.onServerData((chunk): Decision => ({ forward: chunk.subarray(0, chunk.length - 20), then: how }))
        const waiting = yield* Effect.fork(failure(rows(c, "SELECT 'waits'")))
        const error = yield* failure(rows(c, "SELECT repeat('x', $1::int) AS t", [1000]))
        assert.strictEqual(error._tag, "ConnectionLost")
        assert.strictEqual(error.statement, "SELECT repeat('x', $1::int) AS t")
        assert.strictEqual((yield* Fiber.join(waiting))._tag, "ConnectionLost")
        assert.strictEqual(c.status(), "closed")
        yield* lostOnce(losses)
        assert.strictEqual((yield* failure(c.ping))._tag, "ConnectionLost")
      })))

    it.live(`${how} while idle`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { between, c, losses } = yield* proxied
        yield* how === "cut" ? between.cutAll : between.resetAll
        yield* lostOnce(losses)
        assert.strictEqual(c.status(), "closed")
        assert.strictEqual((yield* failure(c.commit))._tag, "ConnectionLost")
      })))
  }

  it.live("cut in a stream", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, losses } = yield* proxied
      const error = yield* failure(
        c.executeStream("SELECT generate_series(1, 100000) AS n", [], undefined).pipe(
          Stream.runForEach((row) => row.n === 5_000 ? between.cutAll : Effect.void)
        )
      )
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.strictEqual(c.status(), "closed")
      yield* lostOnce(losses)
    })))

  it.live("cut before COMMIT arrives: unknown, and not committed", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, kept, losses } = yield* proxied
      yield* insertOne(c)
      yield* between.onClientData((chunk) => chunk.includes("COMMIT") ? "cut" : "pass")
      const error = yield* failure(c.commit)
      assert.strictEqual(error._tag, "CommitOutcomeUnknown")
      assert.strictEqual(yield* kept, 0)
      yield* lostOnce(losses)
    })))

  it.live("cut after COMMIT was done: unknown, and committed", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, kept } = yield* proxied
      yield* insertOne(c)
      yield* between.onServerData((chunk) => chunk.includes("COMMIT") ? "cut" : "pass")
      const error = yield* failure(c.commit)
      assert.strictEqual(error._tag, "CommitOutcomeUnknown")
      assert.strictEqual(yield* kept, 1)
    })))

  it.live("cut right after the server rejected COMMIT: its error", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      yield* insertOne(c)
      yield* rows(c, "INSERT INTO kept VALUES (1)")
      // The error alone, without the ReadyForQuery behind it.
      yield* between.onServerData((chunk): Decision =>
        chunk.includes("23505") ? { forward: chunk.subarray(0, 1 + chunk.readUInt32BE(1)), then: "cut" } : "pass"
      )
      assert.strictEqual((yield* failure(c.commit))._tag, "UniqueViolation")
      assert.strictEqual(c.status(), "closed")
    })))

  it.live("a commit that is never answered is bounded by destroy", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      yield* insertOne(c)
      yield* between.silence
      const commit = yield* Effect.fork(failure(c.commit))
      yield* Effect.sleep("50 millis")
      c.destroy()
      assert.strictEqual((yield* Fiber.join(commit))._tag, "CommitOutcomeUnknown")
    })))

  it.live("a connection lost before COMMIT was sent is ConnectionLost", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, kept } = yield* proxied
      yield* insertOne(c)
      const slow = yield* Effect.fork(failure(rows(c, "SELECT pg_sleep(600)")))
      const commit = yield* Effect.fork(failure(c.commit))
      yield* Effect.sleep("50 millis")
      yield* between.cutAll
      assert.strictEqual((yield* Fiber.join(slow))._tag, "ConnectionLost")
      assert.strictEqual((yield* Fiber.join(commit))._tag, "ConnectionLost")
      assert.strictEqual(yield* kept, 0)
    })))

  it.live("an administrator's termination, idle and in a statement", () =>
    Effect.scoped(Effect.gen(function*() {
      const idle = yield* connected(url())
      yield* query(url(), `SELECT pg_terminate_backend(${idle.connection.id})`)
      yield* lostOnce(idle.losses)
      assert.strictEqual(idle.losses[0].code, "57P01")
      assert.strictEqual(idle.connection.status(), "closed")
      const busy = yield* connected(url())
      const fiber = yield* Effect.fork(failure(rows(busy.connection, "SELECT pg_sleep(600)")))
      yield* executing(url(), busy.connection)
      yield* query(url(), `SELECT pg_terminate_backend(${busy.connection.id})`)
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.strictEqual(error.code, "57P01")
      yield* lostOnce(busy.losses)
      assert.strictEqual(busy.losses[0].code, "57P01")
    })))

  it.live("after idle_in_transaction_session_timeout the next statement is a StatementTimeout", () =>
    Effect.scoped(Effect.gen(function*() {
      const { connection: c, losses } = yield* connected(url(), {
        settings: { idleInTransactionTimeout: Duration.millis(50) }
      })
      yield* c.begin({})
      yield* rows(c, "SELECT 1")
      yield* eventually(Effect.sync(() => losses.length === 1))
      const error = yield* failure(rows(c, "SELECT 1"))
      assert.strictEqual(error._tag, "StatementTimeout")
      assert.strictEqual(error.code, "25P03")
      assert.strictEqual(c.status(), "closed")
      yield* c.rollback
    })))

  it.live("a server that crashes or shuts down", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const first = yield* connected(own.url)
      const fiber = yield* Effect.fork(failure(rows(first.connection, "SELECT pg_sleep(600)")))
      yield* executing(own.url, first.connection)
      yield* own.kill
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "ConnectionLost")
      yield* lostOnce(first.losses)
      yield* own.start
      const second = yield* connected(own.url)
      yield* own.stop("fast")
      yield* lostOnce(second.losses)
      assert.strictEqual(second.losses[0].code, "57P01")
    })))

  it.live("an invalid message closes the connection and does not end the process", () =>
    Effect.scoped(Effect.gen(function*() {
      const garbage: ReadonlyArray<readonly [name: string, bytes: Buffer]> = [
        ["an unknown message", Buffer.from("!\0\0\0\x04")],
        ["an unknown authentication", Buffer.from("R\0\0\0\x08\0\0\0\x63")],
        ["a row out of bounds", Buffer.from("D\0\0\0\x06\x7f\xff")],
        ["an unexpected ReadyForQuery", Buffer.from("Z\0\0\0\x05IZ\0\0\0\x05I")],
        ["an unexpected row", Buffer.from("Z\0\0\0\x05ID\0\0\0\x06\0\0")]
      ]
      for (const [name, bytes] of garbage) {
        const { between, c, losses } = yield* proxied
        yield* between.onServerData(() => bytes)
        const result = yield* Effect.either(rows(c, "SELECT 1"))
        yield* eventually(Effect.sync(() => c.status() === "closed"))
        assert.strictEqual(losses.length, 1, name)
        if (result._tag === "Left") {
          assert.strictEqual(fromSqlError(result.left)._tag, "ConnectionLost", name)
        }
      }
    })))

  it.live("onLost is called at once when the connection is lost already", () =>
    Effect.scoped(Effect.gen(function*() {
      const c = yield* Effect.uninterruptibleMask((restore) => connect(makeSetup(settings, target(url())), restore))
      yield* query(url(), `SELECT pg_terminate_backend(${c.id})`)
      yield* eventually(Effect.sync(() => c.status() === "closed"))
      const losses: Array<DatabaseError> = []
      c.onLost((error) => losses.push(error))
      yield* lostOnce(losses)
    })))

  it.live("a late error of a destroyed connection is ignored", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, losses } = yield* proxied
      const fiber = yield* Effect.fork(failure(rows(c, "SELECT pg_sleep(600)")))
      yield* Effect.yieldNow()
      c.destroy()
      yield* between.resetAll
      yield* Fiber.join(fiber)
      yield* Effect.sleep("50 millis")
      assert.deepStrictEqual(losses, [])
    })))

  it.live("close is bounded when the server is silent", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      yield* between.silence
      yield* promptly(c.close)
      assert.strictEqual(c.status(), "closed")
    })))
})
