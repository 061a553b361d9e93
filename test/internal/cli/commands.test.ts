import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import { assert, describe, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Fs from "node:fs"
import { afterEach, vi } from "vitest"
import * as Database from "../../../src/Database.js"
import { command } from "../../../src/internal/cli/commands.js"
import * as Output from "../../../src/internal/cli/output.js"
import { dialects } from "../../support/dialects.js"
import { freePort } from "../../support/serverProcess.js"
import { directory } from "./process.js"

interface Answer {
  readonly ok: boolean
  readonly out: string
  readonly err: string
}

/** The command line within this process. What it answers with is the same; its exit status is told apart by `ok`. */
const sqlayer = (args: ReadonlyArray<string>, environment: Readonly<Record<string, string>>): Effect.Effect<Answer> =>
  Effect.gen(function*() {
    vi.unstubAllEnvs()
    for (const [name, value] of Object.entries({ APP_ENV: "development", DATABASE_URL: "", ...environment })) {
      vi.stubEnv(name, value)
    }
    const out: Array<string> = []
    const err: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    const exit = yield* Command.run(command, { name: "sqlayer", version: "1.2.3" })(["node", "sqlayer", ...args]).pipe(
      Output.withPlainConsole,
      Effect.provide(Layer.mergeAll(NodeContext.layer, CliConfig.layer({ showBuiltIns: false }), Output.logger)),
      Console.withConsole({
        ...console,
        log: (...values) => Effect.sync(() => out.push(values.join(" "))),
        error: (...values) => Effect.sync(() => err.push(values.join(" ")))
      }),
      Effect.exit
    )
    return { ok: Exit.isSuccess(exit), out: out.join("\n"), err: err.join("\n") }
  })

afterEach(() => {
  vi.unstubAllEnvs()
})

for (const dialect of dialects) {
  describe(`the commands on ${dialect.name}`, () => {
    it.scopedLive("migrate, and check what is left to do", () =>
      Effect.gen(function*() {
        const DATABASE_URL = yield* dialect.url
        const migrations = yield* directory({
          "0001_a.sql": "CREATE TABLE a (id integer)",
          "0002_b.sql": "CREATE TABLE b (id integer)"
        })
        const first = yield* sqlayer(["migrate", "--migrations", migrations], { DATABASE_URL })
        assert.deepStrictEqual([first.ok, first.out, first.err], [true, "applied 2 migrations", ""])
        const again = yield* sqlayer(["migrate", "--json"], { DATABASE_URL, DATABASE_MIGRATIONS: migrations })
        const kept = dialect.name !== "sqlite :memory:"
        assert.strictEqual(again.ok, true)
        assert.strictEqual(JSON.parse(again.out).applied.length, kept ? 0 : 2)
        const plain = yield* sqlayer(["check", "--migrations", migrations], { DATABASE_URL })
        assert.strictEqual(plain.ok, kept, plain.out)
        assert.match(plain.out, /^reachable +yes/m)
        assert.match(plain.out, kept ? /^ok$/m : /^problem +.*pending/m)
        const json = yield* sqlayer(["check", "--json", "--instances", "3"], { DATABASE_URL })
        const report = JSON.parse(json.out)
        assert.deepStrictEqual([json.ok, report.ok, report.reachable, report.pool.instances], [true, true, true, 3])
      }))

    it.scopedLive("say which migration failed, and keep those before it", () =>
      Effect.gen(function*() {
        const DATABASE_URL = yield* dialect.url
        const migrations = yield* directory({ "0001_a.sql": "CREATE TABLE a (id integer)", "0002_b.sql": "nonsense" })
        const json = yield* sqlayer(["migrate", "--json", "--migrations", migrations], { DATABASE_URL })
        const { applied, error, ok } = JSON.parse(json.out)
        assert.deepStrictEqual([json.ok, ok, error.tag], [false, false, "MigrationError"])
        assert.deepStrictEqual(applied.map(({ name }: { readonly name: string }) => name), ["a"])
        const plain = yield* sqlayer(["migrate", "--migrations", migrations], { DATABASE_URL })
        assert.strictEqual(plain.ok, false)
        assert.match(plain.err, /^failed: .*0002_b/)
      }))
  })
}

for (const dialect of dialects.filter(({ name }) => name !== "sqlite :memory:")) {
  describe(`the commands of migrate on ${dialect.name}`, () => {
    it.scopedLive("tell what would run, run it, list it, take it back and record it", () =>
      Effect.gen(function*() {
        const DATABASE_URL = yield* dialect.url
        const DATABASE_MIGRATIONS = yield* directory({
          "0001_a.sql": "CREATE TABLE a (id integer)",
          "0002_b.sql": "CREATE TABLE b (id integer);\nINSERT INTO a\n  VALUES (1);",
          "0002_b.down.sql": "DROP TABLE b"
        })
        const migrate = (args: ReadonlyArray<string>, environment = {}) =>
          sqlayer(["migrate", ...args], { DATABASE_URL, DATABASE_MIGRATIONS, ...environment })
        const planned = yield* migrate(["--dry-run"])
        assert.isTrue(planned.ok, planned.err)
        assert.match(
          planned.out,
          /^0001_a\n {2}line 1: CREATE TABLE a \(id integer\)\n0002_b\n[^]*line 2: INSERT INTO a\n {6}VALUES \(1\)\n[^]*2 migrations would be applied/
        )
        const plannedJson = JSON.parse((yield* migrate(["--dry-run", "--json"])).out)
        assert.deepStrictEqual(plannedJson.pending.map(({ label }: { readonly label: string }) => label), [
          "0001_a",
          "0002_b"
        ])

        const recorded = yield* migrate(["baseline", "1"])
        assert.deepStrictEqual([recorded.ok, recorded.out], [true, "recorded 1 migration as applied: 0001_a"])
        const half = yield* migrate(["status"])
        assert.isTrue(half.ok)
        assert.match(half.out, /^applied {2}0001_a {2}20\S+Z\npending {2}0002_b\n1 applied, 1 pending$/)

        const failing = yield* migrate([])
        assert.isFalse(failing.ok)
        assert.match(failing.err, /^failed: migration 0002_b failed on line 2: /)
        const { sql } = yield* Database.make({ environment: "test", url: DATABASE_URL })
        yield* sql`CREATE TABLE a (id integer)`
        assert.isTrue((yield* migrate([])).ok)
        const refused = yield* migrate(["down"], { APP_ENV: "production" })
        assert.isFalse(refused.ok)
        assert.match(
          refused.err,
          /^failed: this is production, and 0002_b would be taken back.*--production --confirm 0002_b/
        )
        const allowed = yield* migrate(["down", "--production", "--confirm", "0002_b"], { APP_ENV: "production" })
        assert.deepStrictEqual([allowed.ok, allowed.out], [true, "took back 1 migration"], allowed.err)
        const none = yield* migrate(["down", "--json"])
        assert.isFalse(none.ok)
        assert.match(JSON.parse(none.out).error.message, /^migration 0001_a cannot be taken back/)
        const status = JSON.parse((yield* migrate(["status", "--json"])).out)
        assert.deepStrictEqual(
          [status.applied.map(({ label }: { readonly label: string }) => label), status.pending],
          [["0001_a"], [{ id: 2, name: "b", label: "0002_b" }]]
        )

        Fs.writeFileSync(
          `${DATABASE_MIGRATIONS}/0003_half.sql`,
          "-- sqlayer: transaction: none\nCREATE TABLE half (id integer);\nSELECT nothing"
        )
        assert.isFalse((yield* migrate([])).ok)
        const unfinished = yield* migrate(["status"])
        assert.isFalse(unfinished.ok)
        assert.match(unfinished.out, /^problem {2}migration 0003_half is unfinished: .*--as rolled-back 3/m)
        const resolved = yield* migrate(["resolve", "--as", "applied", "3"])
        assert.deepStrictEqual([resolved.ok, resolved.out], [true, "migration 0003_half is applied"])
        assert.deepStrictEqual((yield* migrate([])).out, "nothing is pending")
      }))
  })
}

describe("the command migrate new", () => {
  it.scopedLive("creates a file with the next number, written as the others are", () =>
    Effect.gen(function*() {
      const path = `${yield* directory({})}/migrations`
      const create = (name: string) => sqlayer(["migrate", "new", name], { DATABASE_MIGRATIONS: path })
      const first = yield* create("create account")
      assert.deepStrictEqual([first.ok, first.out], [true, `${path}/0001_create_account.sql`])
      assert.strictEqual(Fs.readFileSync(first.out, "utf8"), "-- create account\n")
      Fs.writeFileSync(`${path}/099_x.sqlite.sql`, "")
      assert.strictEqual((yield* create("y")).out, `${path}/100_y.sql`)
      Fs.writeFileSync(`${path}/20260102030405_t.sql`, "")
      assert.match((yield* create("z")).out, /\/20\d{12}_z\.sql$/)
      for (const name of ["../x", "a.sql", " "]) {
        const { err, ok } = yield* create(name)
        assert.isFalse(ok)
        assert.match(err, /is not the name of a migration: a name such as create_account is accepted$/)
      }
    }))
})

describe("the commands", () => {
  it.live("name everything that is wrong with the environment", () =>
    Effect.gen(function*() {
      const environment = { DATABASE_POOL_SIZE: "many", DATABASE_URL: "postgres://app:hunter2@h:x/db" }
      for (const name of ["check", "migrate"]) {
        const plain = yield* sqlayer([name], environment)
        assert.strictEqual(plain.ok, false)
        assert.match(plain.err, /not valid:\n {2}- DATABASE_POOL_SIZE: .*\n {2}- DATABASE_URL: /)
        const json = yield* sqlayer([name, "--json"], environment)
        assert.strictEqual(json.ok, false)
        assert.strictEqual(JSON.parse(json.out).problems.length, 2)
        assert.notInclude(plain.err + json.out, "hunter2")
      }
    }))

  it.live("say why a database cannot be reached", () =>
    Effect.gen(function*() {
      const DATABASE_URL = `postgres://app:hunter2@127.0.0.1:${yield* Effect.promise(() => freePort())}/ledger`
      const check = yield* sqlayer(["check"], { DATABASE_URL })
      assert.strictEqual(check.ok, false)
      assert.match(check.out, /^reachable +no/m)
      assert.match(check.out, /^problem +.*ECONNREFUSED/m)
      const migrate = yield* sqlayer(["migrate", "--json"], { DATABASE_URL })
      assert.deepStrictEqual([migrate.ok, JSON.parse(migrate.out).error.tag], [false, "ConnectionFailed"])
      assert.notInclude(check.out + migrate.out, "hunter2")
    }))

  it.live("do nothing with options that are not valid", () =>
    Effect.gen(function*() {
      const { err, ok, out } = yield* sqlayer(["check", "--instances", "0"], { DATABASE_URL: ":memory:" })
      assert.strictEqual(ok, false)
      assert.include(out + err, "--instances must be at least 1")
    }))
})
