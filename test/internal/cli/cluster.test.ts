/** What `sqlayer check` shows of a cluster, and warns of. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import type { Report } from "../../../src/internal/cli/check.js"
import { examineCluster } from "../../../src/internal/cli/cluster.js"
import { driverOf } from "../../../src/internal/database/driverOf.js"
import { engineServer } from "../../support/engine.js"
import { cluster, freshDatabase } from "../../support/postgres.js"
import { run } from "./process.js"

const settings = (options: DatabaseConfig.Options): DatabaseConfig.Settings =>
  Either.getOrThrow(DatabaseConfig.resolve({ environment: "test", ...options }))

describe("sqlayer check of a cluster", () => {
  it.scopedLive("shows each server, and warns of commits that wait for no standby", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 2 })
      const primary = servers.primary()
      const [standby, other] = servers.standbys()
      const readers = servers.standbys().map(({ port }) => `127.0.0.1:${port}`).join(",")
      const readerUrl = servers.url.replace(/@[^/]+/, `@${readers}`)
      const found = yield* examineCluster(
        settings({ url: servers.url, readerUrl, poolSize: 3, poolMaxOverflow: 2, readerPoolSize: 4 }),
        2
      )
      const by = (port: number) => found.servers.find((server) => server.port === port)!
      assert.strictEqual(found.servers.length, 3)
      assert.deepInclude(by(primary.port), {
        reachable: true,
        role: "writer",
        timeline: 1,
        lagMillis: null,
        standbys: 2,
        synchronous: false,
        needed: 10,
        fits: true
      })
      assert.deepInclude(by(standby.port), { reachable: true, role: "standby", timeline: 1, standbys: 0, needed: 22 })
      assert.isNumber(by(standby.port).lagMillis)
      assert.deepStrictEqual(found.problems, [])
      assert.strictEqual(found.warnings.length, 1)
      assert.include(found.warnings[0], `127.0.0.1:${primary.port} commits without waiting`)

      const many = yield* examineCluster(settings({ url: servers.url, poolSize: 10, poolMaxOverflow: 0 }), 1_000)
      assert.strictEqual(many.problems.length, 3)
      for (const problem of many.problems) {
        assert.include(problem, "may need 10000")
      }

      yield* primary.kill
      yield* other.kill
      const json = yield* run(["check", "--json"], { DATABASE_URL: servers.url, DATABASE_CONNECT_TIMEOUT: "5" })
      assert.strictEqual(json.code, 1)
      const report: Report = JSON.parse(json.stdout)
      assert.deepStrictEqual(
        report.servers.map(({ port, reachable, role }) => [port, reachable, role]),
        servers.members.map((member) => [member.port, member === standby, member === standby ? "standby" : "unknown"])
      )
      assert.include(report.problems, `127.0.0.1:${primary.port} does not answer`)
      assert.include(report.problems, "none of the servers can be written to")
    }), 240_000)

  it.scopedLive("does not warn where commits wait for a standby", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 1, synchronous: true })
      const found = yield* examineCluster(settings({ url: servers.url }), 1)
      assert.deepStrictEqual(found.warnings, [])
      assert.isTrue(found.servers.some(({ role, synchronous }) => role === "writer" && synchronous === true))
    }))

  for (const [shift, direction] of [["1 hour", "ahead of"], ["-1 hour", "behind"]]) {
    it.scopedLive(`warns of a clock that is ${direction} ours`, () =>
      Effect.gen(function*() {
        const server = yield* engineServer({
          parameters: {},
          treatments: [[
            /clock_timestamp\(\)/,
            (statement) =>
              statement.replaceAll("pg_catalog.clock_timestamp()", `(clock_timestamp() + interval '${shift}')`)
          ]]
        })
        const { servers, warnings } = yield* examineCluster(settings({ url: server.url, sslMode: "disable" }), 1)
        assert.strictEqual(warnings.length, 1)
        assert.include(warnings[0], direction)
        assert.closeTo(Math.abs(servers[0].clockMillis!), 3_600_000, 60_000)
        const plain = yield* examineCluster(settings({ url: yield* freshDatabase, sslMode: "disable" }), 1)
        assert.deepStrictEqual(plain.warnings, [])
      }))
  }

  it.effect("finds no server of a SQLite file", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* examineCluster(settings({ url: ":memory:" }), 1), {
        servers: [],
        problems: [],
        warnings: []
      })
    }))

  describe("in production, of connections that are not encrypted", () => {
    const production = (options: DatabaseConfig.Options) => settings({ environment: "production", ...options })

    /** As if each connection without TLS led over a network. */
    const overNetwork: typeof driverOf = (settings) =>
      Effect.map(driverOf(settings), (driver) => ({
        ...driver,
        connect: (onLost, restore) =>
          Effect.map(driver.connect(onLost, restore), (connection) => {
            const { target } = settings
            const isExposed = target._tag === "postgres" && target.sslMode === "disable"
            return Object.defineProperty(connection, "isExposed", { value: isExposed })
          })
      }))

    it.scopedLive("says so, for writers and readers, and not where it leads over a network with TLS", () =>
      Effect.gen(function*() {
        const url = new URL(yield* freshDatabase)
        const at = (parameter: string) => `${url.href}?${parameter}`
        const found = yield* examineCluster(production({ url: at("sslmode=disable") }), 1, overNetwork)
        assert.strictEqual(found.problems.length, 1)
        assert.match(
          found.problems[0],
          new RegExp(`^the connections to 127.0.0.1:${url.port} are not encrypted and .*SSLMODE`)
        )
        assert.isTrue(found.servers[0].exposed)

        const reader = production({ url: at("sslmode=prefer"), readerUrl: at("sslmode=disable") })
        const reading = yield* examineCluster(reader, 1, overNetwork)
        assert.deepStrictEqual(reading.problems, found.problems)
        assert.strictEqual(reading.servers.length, 1)

        for (const environment of ["development", "test"] as const) {
          const other = yield* examineCluster(settings({ environment, url: at("sslmode=disable") }), 1, overNetwork)
          assert.deepStrictEqual(other.problems, [])
        }
        const encrypted = yield* examineCluster(production({ url: at("sslmode=prefer") }), 1, overNetwork)
        assert.deepStrictEqual(encrypted.problems, [])
        // On loopback.
        const local = yield* examineCluster(production({ url: at("sslmode=disable") }), 1)
        assert.deepStrictEqual([local.problems, local.servers[0].exposed], [[], false])
      }))

    it.scopedLive("warns where a pooler does not encrypt", () =>
      Effect.gen(function*() {
        const at = (address: string) =>
          Effect.gen(function*() {
            const server = yield* engineServer({
              parameters: {},
              treatments: [[
                /inet_client_addr/,
                (statement) => statement.replace("pg_catalog.inet_client_addr()", `'${address}'::inet`)
              ]]
            })
            return yield* examineCluster(production({ url: server.url, sslMode: "disable" }), 1)
          })
        const [far, near] = [yield* at("203.0.113.7"), yield* at("127.0.0.2")]
        assert.strictEqual(far.warnings.length, 1)
        assert.include(far.warnings[0], "from 203.0.113.7, without encryption")
        assert.deepStrictEqual([far.problems, near.problems, near.warnings], [[], [], []])
      }))
  })
})
