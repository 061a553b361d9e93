/** The health check of a cluster: true means that a writer answers, and the report has every server. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import type * as Health from "../src/Health.js"
import { eventually } from "./support/eventually.js"
import { cluster } from "./support/postgres.js"

const rolesOf = (report: Health.Report) =>
  Object.fromEntries(report.servers.map(({ port, role, state }) => [port, `${state} ${role}`]))

describe("health of a cluster", () => {
  it.scopedLive("a standby alone is not healthy, unless it was asked for", () =>
    Effect.gen(function*() {
      const { standbys } = yield* cluster({ standbys: 1 })
      const [{ url }] = standbys()
      const database = yield* Database.make({ url })
      assert.deepStrictEqual(yield* database.sql`SELECT 1 AS one`, [{ one: 1 }])
      assert.isFalse(yield* database.health)
      const report = yield* database.report
      assert.isFalse(report.healthy)
      assert.strictEqual(report.role, "standby")
      assert.strictEqual(report.lastError?._tag, "ReadOnlyViolation")
      assert.include(report.lastError?.message, "is a standby")
      for (const attrs of ["standby", "read-only", "prefer-standby"]) {
        const reading = yield* Database.make({ url: `${url}?target_session_attrs=${attrs}` })
        assert.isTrue(yield* reading.health, attrs)
        assert.isTrue((yield* reading.report).healthy, attrs)
      }
    }))

  it.scopedLive("the report follows a failover, and readiness can be content with readers", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 2 })
      const database = yield* Database.make({
        url: servers.url,
        hostRecheck: "200 millis",
        healthTimeout: "30 seconds"
      })
      const { port } = servers.primary()
      yield* database.sql`SELECT 1`
      yield* eventually(Effect.gen(function*() {
        const report = yield* database.report
        return report.healthy && report.servers.length === 3 &&
          report.servers.every(({ lag, role, state, timeline }) =>
            state === "up" && timeline === 1 && (lag !== undefined) === (role === "standby")
          )
      }))
      const first = yield* database.report
      assert.deepStrictEqual(
        rolesOf(first),
        Object.fromEntries([
          [port, "up writer"],
          ...servers.standbys().map(({ port }) => [port, "up standby"])
        ])
      )
      const writer = first.servers.find((server) => server.port === port)
      assert.strictEqual(writer!.idle + writer!.used, first.pool.idle + first.pool.used)
      assert.isTrue(first.servers.every(({ lag }) => lag === undefined || Duration.isDuration(lag)))

      yield* servers.primary().kill
      const ready = (readers: boolean) =>
        Effect.map(
          Effect.provideService(DatabaseHttp.readinessWith({ readers }), Database.Database, database),
          ({ status }) => status
        )
      yield* eventually(
        Effect.map(database.report, (report) => !report.healthy && rolesOf(report)[port] === "down unknown")
      )
      assert.strictEqual(yield* ready(false), "unavailable")
      assert.strictEqual(yield* ready(true), "ready")

      yield* servers.promote()
      yield* eventually(database.health)
      yield* eventually(
        Effect.map(
          database.report,
          ({ servers }) => servers.some(({ role, timeline }) => role === "writer" && timeline === 2)
        )
      )
    }))
})
