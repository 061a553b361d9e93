import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import { assert, describe, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { afterEach, vi } from "vitest"
import { command } from "../../../src/internal/cli/commands.js"
import * as Output from "../../../src/internal/cli/output.js"
import { freePort } from "../../support/cluster.js"
import { dialects } from "../../support/dialects.js"
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
        assert.match(plain.err, /^failed: .*2_b/)
      }))
  })
}

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
