/** What a borrower leaves on a connection, and how it is removed: counted in round trips. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { fromSqlError } from "../../../src/DatabaseError.js"
import type { Connection } from "../../../src/internal/driver.js"
import { freshDatabase, query, url } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { connected, connection, executing, type Overrides, rows } from "./harness.js"

const failure = <A>(effect: Effect.Effect<A, SqlError>) => Effect.map(Effect.flip(effect), fromSqlError)

/** A connection whose round trips are counted by the ends of the server's answers. */
const counted = (overrides: Overrides = {}) =>
  Effect.gen(function*() {
    const database = yield* freshDatabase
    yield* query(database, "CREATE TABLE items (id int PRIMARY KEY)")
    const between = yield* proxy(database)
    const { connection: c, losses } = yield* connected(between.url, overrides)
    let trips = 0
    let sent = ""
    yield* between.onServerData((chunk) => {
      trips += chunk.toString("latin1").split("Z\0\0\0\x05").length - 1
      return "pass"
    })
    yield* between.onClientData((chunk) => {
      sent += chunk.toString("latin1")
      return "pass"
    })
    const during = <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.suspend(() => {
        const before = trips
        sent = ""
        return Effect.map(Effect.exit(effect), () => ({ trips: trips - before, cleans: sent.includes("RESET ALL") }))
      })
    return { c, database, during, losses }
  })

const tenant = (c: Connection) =>
  Effect.map(rows(c, "SELECT coalesce(current_setting('app.tenant', true), '') AS tenant"), ([row]) => row)

const leave = (c: Connection) => rows(c, "SELECT set_config('app.tenant', $1, false)", ["someone"])

const none = { tenant: "" }

describe("cleaning", () => {
  it.scopedLive("travels with the next borrower's first statement, outside and inside of a transaction", () =>
    Effect.gen(function*() {
      const { c, during } = yield* counted()
      const first: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        tenant(c),
        Effect.zipRight(c.begin({ isolation: "serializable", readOnly: true, deferrable: true }), tenant(c)),
        Effect.zipRight(c.begin({ settings: { "app.other": "x" } }), rows(c, "INSERT INTO items VALUES (1)")),
        Stream.runDrain(c.executeStream("SELECT 1", [], undefined)),
        failure(rows(c, "SELECT 1/0")),
        c.ping
      ]
      for (const effect of first) {
        yield* leave(c)
        assert.strictEqual(c.status(), "dirty")
        const clean = yield* during(effect)
        yield* c.rollback
        assert.isFalse(clean.cleans)
        assert.isTrue(c.resetLater())
        assert.deepStrictEqual(yield* during(effect), { trips: clean.trips, cleans: true })
        yield* c.rollback
        assert.deepStrictEqual(yield* during(tenant(c)), { trips: 1, cleans: false })
        assert.deepStrictEqual(yield* tenant(c), none)
        assert.strictEqual(c.status(), "idle")
      }
    }))

  it.scopedLive("is not undone by what follows it", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      yield* leave(c)
      c.resetLater()
      yield* failure(rows(c, "SELECT 1/0"))
      assert.deepStrictEqual(yield* tenant(c), none)
      yield* leave(c)
      c.resetLater()
      yield* c.begin({})
      assert.deepStrictEqual(yield* tenant(c), none)
      yield* c.rollback
      assert.deepStrictEqual(yield* tenant(c), none)
      yield* leave(c)
      c.resetLater()
      yield* c.begin({})
      yield* failure(rows(c, "INSERT INTO items VALUES ('x')"))
      yield* c.rollback
      assert.deepStrictEqual(yield* tenant(c), none)
    }))

  it.scopedLive("is done again after what the next borrower leaves with the statement that it travels with", () =>
    Effect.gen(function*() {
      const { c } = yield* counted()
      yield* leave(c)
      c.resetLater()
      yield* rows(c, "SELECT set_config('app.tenant', 'next', false)")
      assert.deepStrictEqual(yield* tenant(c), { tenant: "next" })
      assert.strictEqual(c.status(), "dirty")
      yield* c.reset
      assert.strictEqual(c.status(), "idle")
      assert.deepStrictEqual(yield* tenant(c), none)
    }))

  it.scopedLive("keeps prepared statements, and the settings of the start-up", () =>
    Effect.gen(function*() {
      const { c } = yield* counted({ target: { serverOptions: "-c app.tenant=default" } })
      const names = rows(c, "SELECT name FROM pg_prepared_statements ORDER BY name")
      for (let i = 0; i < 3; i++) {
        yield* rows(c, "SELECT id FROM items WHERE id = $1", [i])
      }
      const before = yield* names
      assert.isNotEmpty(before)
      yield* leave(c)
      yield* c.reset
      assert.deepStrictEqual(yield* tenant(c), { tenant: "default" })
      assert.includeDeepMembers([...(yield* names)], [...before])
    }))

  it.scopedLive("that fails ends the connection, and the statement does not run", () =>
    Effect.gen(function*() {
      const { c, database, losses } = yield* counted()
      yield* rows(c, "CREATE TEMP TABLE locked (id int)")
      const [{ schema }] = yield* query(
        database,
        "SELECT relnamespace::regnamespace::text AS schema FROM pg_class WHERE relname = 'locked'"
      )
      const other = yield* connection(database)
      yield* other.begin({})
      yield* rows(other, `LOCK TABLE ${schema}.locked`)
      c.resetLater()
      const waiting = yield* Effect.fork(failure(rows(c, "INSERT INTO items VALUES (7)")))
      yield* executing(database, c)
      yield* query(database, `SELECT pg_cancel_backend(${c.id})`)
      const error = yield* waiting.await
      assert(error._tag === "Success")
      assert.strictEqual(error.value._tag, "ConnectionLost")
      assert.include(error.value.message, "could not be cleaned")
      assert.strictEqual(c.status(), "closed")
      assert.lengthOf(losses, 1)
      assert.deepStrictEqual(yield* query(database, "SELECT id FROM items"), [])
    }))

  it.scopedLive("what ends with its transaction leaves nothing", () =>
    Effect.gen(function*() {
      const c = yield* connection(url())
      const texts = [
        "SET LOCAL work_mem = '5MB'",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT set_config('app.tenant', $1, true)",
        "SELECT pg_advisory_xact_lock(1)",
        "DECLARE something CURSOR FOR SELECT 1"
      ]
      for (const text of texts) {
        yield* c.begin({})
        yield* rows(c, text, text.includes("$1") ? ["someone"] : [])
        yield* c.commit
        assert.strictEqual(c.status(), "idle", text)
      }
    }))

  it.scopedLive("always is after whatever a borrower did, and after nothing if it did nothing", () =>
    Effect.gen(function*() {
      const c = yield* connection(url(), { settings: { reset: "always" } })
      yield* c.ping
      yield* c.begin({})
      yield* c.rollback
      assert.strictEqual(c.status(), "idle")
      yield* rows(c, "SELECT 1")
      assert.strictEqual(c.status(), "dirty")
      yield* c.reset
      assert.strictEqual(c.status(), "idle")
    }))
})
