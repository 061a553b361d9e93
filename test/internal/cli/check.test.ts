import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { vi } from "vitest"
import type { Report } from "../../../src/internal/cli/check.js"
import { dialects, postgres } from "../../support/dialects.js"
import { query, server } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { certificates } from "../../support/tls.js"
import { directory, type Ended, run } from "./process.js"

// Processes take their time to start where others compete for it.
vi.setConfig({ testTimeout: 240_000 })

const reportOf = ({ stdout }: Ended): Report => JSON.parse(stdout)

const escape = "\u001b"

for (const dialect of dialects) {
  describe(`sqlayer check of ${dialect.name}`, () => {
    it.live("answers what an operator asks, for people and for programs", () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        if (dialect.name === "sqlite file") {
          Fs.writeFileSync(new URL(url).pathname.slice(1), "")
        }
        const [plain, json] = yield* Effect.all([
          run(["check"], { DATABASE_URL: url }),
          run(["check", "--json", "--instances", "2"], { DATABASE_URL: url })
        ], { concurrency: 2 })
        assert.strictEqual(plain.code, 0, plain.stdout + plain.stderr)
        assert.notInclude(plain.stdout, escape)
        assert.match(plain.stdout, /^reachable +yes, in \d+ ms$/m)
        assert.match(plain.stdout, /\nok\n$/)
        assert.strictEqual(plain.stderr, "")

        assert.strictEqual(json.code, 0)
        assert.strictEqual(json.stderr, "")
        const report = reportOf(json)
        assert.deepInclude(report, { ok: true, reachable: true, environment: "development", error: null, problems: [] })
        assert.isAtLeast(report.millis, 0)
        assert.strictEqual(report.pool.instances, 2)
        if (dialect.single || dialect.name === "sqlite :memory:") {
          assert.match(report.server!.version, /^SQLite 3\./)
          assert.deepInclude(report.server!, { role: "embedded", user: null, tls: null, connections: null })
          assert.strictEqual(report.pool.fits, null)
        } else {
          assert.match(report.server!.version, /^PostgreSQL \d+/)
          assert.deepInclude(report.server!, { role: "primary", user: new URL(url).username, tls: null })
          assert.deepInclude(report.pool, { size: 5, maxOverflow: 10, needed: 30, fits: true })
          assert.deepInclude(report.server!.connections!, { limit: null })
          assert.isAtLeast(report.server!.connections!.used, 1)
        }
      }).pipe(Effect.scoped))

    it.live("counts what is pending as a problem where a directory is given", () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const migrations = yield* directory({ "0001_a.sql": "CREATE TABLE a (id integer)", "0002_b.js": "not loaded" })
        if (dialect.name === "sqlite file") {
          Fs.writeFileSync(new URL(url).pathname.slice(1), "")
        }
        const pending = yield* run(["check", "--json"], { DATABASE_URL: url, DATABASE_MIGRATIONS: migrations })
        assert.strictEqual(pending.code, 1)
        assert.deepStrictEqual(reportOf(pending).problems, ["2 migrations pending: 0001_a, 0002_b"])
        assert.deepStrictEqual(reportOf(pending).migrations, {
          applied: 0,
          pending: [{ id: 1, name: "a" }, { id: 2, name: "b" }],
          ahead: []
        })
      }).pipe(Effect.scoped))
  })
}

describe("sqlayer check", () => {
  it.live("says why there is no answer, and no password", () =>
    Effect.gen(function*() {
      const url = yield* postgres.url
      const silent = yield* proxy(url)
      yield* silent.silence
      const closed = yield* proxy(url)
      yield* closed.refuse
      yield* query(url, "CREATE ROLE check_secret LOGIN PASSWORD 'right'")
      yield* Effect.addFinalizer(() => query(url, "DROP ROLE check_secret"))
      const wrong = new URL(url)
      wrong.username = "check_secret"
      wrong.password = "hunter2"
      const [silence, refusal, authentication, absence, unknown] = yield* Effect.all([
        run(["check", "--json"], { DATABASE_URL: silent.url, DATABASE_CONNECT_TIMEOUT: "1", APP_ENV: "production" }),
        run(["check"], { DATABASE_URL: closed.url, APP_ENV: "production" }),
        run(["check", "--json"], { DATABASE_URL: wrong.toString() }),
        run(["check", "--json"], { DATABASE_URL: "sqlite:////nowhere/at/all.db" }),
        run(["check", "--json"], { DATABASE_URL: `${url}_not` })
      ], { concurrency: 2 })
      assert.deepStrictEqual(
        [silence, refusal, authentication, absence, unknown].map(({ code }) => code),
        [1, 1, 1, 1, 1]
      )
      // Production retries for 30 seconds; a check makes one attempt.
      assert.isBelow(reportOf(silence).millis, 30_000)
      assert.match(reportOf(silence).error!.message, /^could not connect to .*(no answer|within|timeout|longer)/)
      assert.match(refusal.stdout, /^problem +could not connect to .*connection refused/m)
      assert.strictEqual(refusal.stderr, "")
      assert.strictEqual(reportOf(absence).problems[0].slice(0, 33), "/nowhere/at/all.db does not exist")
      assert.strictEqual(reportOf(unknown).error!.tag, "ConnectionFailed")
      for (const { stderr, stdout } of [silence, refusal, authentication, absence, unknown]) {
        assert.notInclude(stdout + stderr, "hunter2")
        assert.notInclude(stdout + stderr, "    at ")
      }
      assert.include(reportOf(authentication).database, "check_secret@")
    }).pipe(Effect.scoped))

  it.live("changes nothing in a file, whatever mode it is in", () =>
    Effect.gen(function*() {
      const path = yield* directory({ "empty.db": "" })
      for (const mode of ["delete", "wal"]) {
        const database = new Sqlite(`${path}/${mode}.db`)
        database.pragma(`journal_mode = ${mode}`)
        database.exec("CREATE TABLE a (id INTEGER)")
        database.close()
      }
      const content = () =>
        Object.fromEntries(Fs.readdirSync(path).map((name) => [name, Fs.readFileSync(`${path}/${name}`, "hex")]))
      const before = content()
      assert.hasAllKeys(before, ["empty.db", "delete.db", "wal.db"])
      for (const name of Object.keys(before)) {
        const ended = yield* run(["check"], { DATABASE_URL: `sqlite:///${path}/${name}`, DATABASE_MIGRATIONS: path })
        assert.match(ended.stdout, /^reachable +yes/m)
        assert.strictEqual(ended.code, 0, ended.stdout + ended.stderr)
        assert.deepStrictEqual(content(), before, name)
      }
    }).pipe(Effect.scoped))

  it.live("tells how the connection is encrypted", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const { url } = yield* server({ ssl: made.server })
      const ended = yield* run(["check"], { DATABASE_URL: url, DATABASE_SSLMODE: "require" })
      assert.strictEqual(ended.code, 0)
      assert.match(ended.stdout, /^TLS +TLSv1\.3, TLS_\w+$/m)
    }).pipe(Effect.scoped))

  it.live("says when the pools of all instances do not fit into the server", () =>
    Effect.gen(function*() {
      const url = yield* postgres.url
      const small = new URL(url)
      yield* query(url, "CREATE ROLE check_small LOGIN PASSWORD 'small' CONNECTION LIMIT 20")
      yield* Effect.addFinalizer(() => query(url, "DROP ROLE check_small"))
      small.username = "check_small"
      small.password = "small"
      const [many, limited] = yield* Effect.all([
        run(["check", "--instances", "1000"], { DATABASE_URL: url }),
        run(["check", "--json", "--instances", "2"], { DATABASE_URL: small.toString() })
      ], { concurrency: 2 })
      assert.strictEqual(many.code, 1)
      assert.match(
        many.stdout,
        /^problem +1000 instances may open 15000 connections, and the server has \d+ for this user: /m
      )
      assert.match(many.stdout, /^connections +does not fit into /m)
      assert.strictEqual(limited.code, 1)
      assert.deepInclude(reportOf(limited).server!.connections!, { limit: 20, available: 20 })
      assert.deepInclude(reportOf(limited).pool, { needed: 30, fits: false })
    }).pipe(Effect.scoped))

  it.live("names everything that is wrong with the environment", () =>
    Effect.gen(function*() {
      const wrong = {
        DATABASE_URL: "postgres://ada:hunter2@h:99999/x",
        DATABASE_POOL_SIZE: "none",
        DATABASE_POOL_TIMEOUT: "soon"
      }
      const [plain, json, nothing] = yield* Effect.all([
        run(["check"], wrong),
        run(["migrate", "--json"], wrong),
        run(["check"], { NODE_ENV: "production" })
      ], { concurrency: 2 })
      assert.deepStrictEqual([plain.code, json.code, nothing.code], [1, 1, 1])
      assert.strictEqual(plain.stdout, "")
      for (const variable of Object.keys(wrong)) {
        assert.match(plain.stderr, new RegExp(`^  - ${variable}: expected `, "m"))
      }
      assert.notInclude(plain.stderr + json.stdout, "hunter2")
      assert.notInclude(plain.stderr, "    at ")
      const answer = JSON.parse(json.stdout)
      assert.strictEqual(answer.ok, false)
      assert.lengthOf(answer.problems, 3)
      assert.match(nothing.stderr, /^  - DATABASE_URL: expected a URL .* in production$/m)
      assert.lengthOf(nothing.stderr.trim().split("\n"), 2)
    }))

  it.live("says what it accepts", () =>
    Effect.gen(function*() {
      const [help, version, none, unknown] = yield* Effect.all([
        run(["--help"], {}),
        run(["--version"], {}),
        run(["check", "--instances", "0"], {}),
        run(["drop"], {})
      ], { concurrency: 2 })
      assert.deepStrictEqual([help.code, version.code, none.code, unknown.code], [0, 0, 1, 1])
      assert.include(help.stdout, "migrate")
      assert.notInclude(help.stdout + unknown.stderr, escape)
      const { version: own } = JSON.parse(Fs.readFileSync("package.json", "utf8"))
      assert.strictEqual(version.stdout.trim(), own)
      assert.strictEqual(none.stderr.trim(), "--instances must be at least 1")
      assert.include(unknown.stderr, "'check', 'migrate'")
      assert.notInclude(none.stderr + unknown.stderr, "    at ")
    }))
})
