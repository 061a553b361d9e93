import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import * as Migrations from "../src/Migrations.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { nodeArguments } from "./support/bundledProgram.js"
import { connections } from "./support/observe.js"
import { query, url } from "./support/postgres.js"

const migrations = {
  loader: Migrations.fromRecord({ "1_items": "CREATE TABLE items (n INTEGER PRIMARY KEY)" })
}

const numbers = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => Effect.map(sql<{ n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))
)
const insert = (n: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO items (n) VALUES (${n})`)

describe("TestDatabase.layer", () => {
  const layer = TestDatabase.layer({ migrations })

  it.effect("is migrated, and another database each time it is built", () =>
    Effect.gen(function*() {
      for (const _ of [1, 2]) {
        yield* Effect.provide(
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* numbers, [])
            yield* Database.session(insert(1))
            assert.deepStrictEqual(yield* numbers, [1])
          }),
          layer
        )
      }
    }))

  it.layer(layer)("with it.layer", (it) => {
    it.effect("is one database for the tests of the layer", () => Effect.asVoid(Database.session(insert(1))))
    it.effect("so it has what the test before left", () =>
      Effect.map(numbers, (found) => assert.deepStrictEqual(found, [1])))
  })

  it.effect("fails where a migration does", () =>
    Effect.gen(function*() {
      const broken = TestDatabase.layer({ migrations: { loader: Migrations.fromRecord({ "1_broken": "CREATE" }) } })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(broken)))
      assert.strictEqual(error._tag, "MigrationError")
      assert.include(error.message, "1_broken")
    }))
})

describe("TestDatabase.layerPostgres", () => {
  /** Every test has a server database of its own to begin with, so its templates are its own too. */
  const server = Effect.acquireRelease(
    Effect.gen(function*() {
      const name = `sqlayer_templates_${process.pid}_${Math.random().toString(36).slice(2)}`
      yield* query(url(), `CREATE DATABASE ${name}`)
      const parsed = new URL(url())
      parsed.pathname = `/${name}`
      return parsed.toString()
    }),
    (server) =>
      Effect.gen(function*() {
        for (const name of yield* ours(server)) {
          yield* query(url(), `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
        }
        yield* query(url(), `DROP DATABASE ${new URL(server).pathname.slice(1)} WITH (FORCE)`)
      })
  )
  const prefixOf = (server: string) =>
    Effect.map(
      query(server, "SELECT left(encode(sha256(current_database()::text::bytea), 'hex'), 8) AS hash"),
      ([row]) => `sqlayer_test_${row.hash}_`
    )
  const ours = (server: string): Effect.Effect<ReadonlyArray<string>> =>
    Effect.flatMap(prefixOf(server), (prefix) =>
      Effect.map(
        query(url(), "SELECT datname FROM pg_database WHERE starts_with(datname, $1) ORDER BY datname", [prefix]),
        (rows) => rows.map(({ datname }) => datname)
      ))
  const templates = (server: string) =>
    Effect.map(ours(server), (names) => names.filter((name) => name.includes("_t_")))
  const clones = (server: string) => Effect.map(ours(server), (names) => names.filter((name) => name.includes("_c_")))
  const currentDatabase = Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => Effect.map(sql<{ name: string }>`SELECT current_database() AS name`, ([{ name }]) => name)
  )

  it.scopedLive("is migrated, a database of its own each time, and dropped in the end", () =>
    Effect.gen(function*() {
      const postgres = TestDatabase.layerPostgres({ url: yield* server, migrations })
      const names: Array<string> = []
      for (const _ of [1, 2]) {
        yield* Effect.provide(
          Effect.gen(function*() {
            names.push(yield* currentDatabase)
            assert.deepStrictEqual(yield* numbers, [])
            yield* Database.session(insert(1))
          }),
          postgres
        )
      }
      assert.notStrictEqual(names[0], names[1])
      const left = yield* query(url(), "SELECT 1 FROM pg_database WHERE datname = ANY ($1)", [names])
      assert.lengthOf(left, 0)
    }))

  it.scopedLive("is copied from one template, on which no connection stays", () =>
    Effect.gen(function*() {
      const at = yield* server
      const postgres = TestDatabase.layerPostgres({ url: at, migrations })
      yield* Effect.provide(numbers, postgres)
      const [template, ...more] = yield* templates(at)
      assert.lengthOf(more, 0)
      const [{ oid }] = yield* query(url(), "SELECT oid::text FROM pg_database WHERE datname = $1", [template])
      assert.strictEqual((yield* connections(url(), { database: template })).total, 0)
      yield* Effect.provide(numbers, postgres)
      assert.deepStrictEqual(yield* templates(at), [template])
      const [still] = yield* query(url(), "SELECT oid::text FROM pg_database WHERE datname = $1", [template])
      assert.strictEqual(still.oid, oid)
    }))

  it.scopedLive("makes the template anew when the migrations change", () =>
    Effect.gen(function*() {
      const at = yield* server
      yield* Effect.provide(numbers, TestDatabase.layerPostgres({ url: at, migrations }))
      const before = yield* templates(at)
      const changed = {
        loader: Migrations.fromRecord({ "1_items": "CREATE TABLE items (n INTEGER PRIMARY KEY, note TEXT)" })
      }
      const notes = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT note FROM items`)
      assert.deepStrictEqual(
        yield* Effect.provide(notes, TestDatabase.layerPostgres({ url: at, migrations: changed })),
        []
      )
      const after = yield* templates(at)
      assert.lengthOf(after, 1)
      assert.notDeepEqual(after, before)
    }))

  it.scopedLive("has no template for Effects, unless what they make is named", () =>
    Effect.gen(function*() {
      const at = yield* server
      let runs = 0
      const effects = {
        loader: Migrations.fromRecord({
          "1_items": Effect.gen(function*() {
            runs++
            const sql = yield* SqlClient.SqlClient
            yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
          })
        })
      }
      yield* Effect.provide(numbers, TestDatabase.layerPostgres({ url: at, migrations: effects }))
      yield* Effect.provide(numbers, TestDatabase.layerPostgres({ url: at, migrations: effects }))
      assert.strictEqual(runs, 2)
      assert.deepStrictEqual(yield* templates(at), [])
      for (const template of ["first", "first", "second"]) {
        yield* Effect.provide(numbers, TestDatabase.layerPostgres({ url: at, migrations: effects, template }))
      }
      assert.strictEqual(runs, 4)
      assert.lengthOf(yield* templates(at), 1)
    }))

  it.scopedLive("makes one template for all who ask at once", () =>
    Effect.gen(function*() {
      const at = yield* server
      let runs = 0
      const effects = {
        loader: Migrations.fromRecord({
          "1_items": Effect.gen(function*() {
            runs++
            const sql = yield* SqlClient.SqlClient
            yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
          })
        })
      }
      const postgres = TestDatabase.layerPostgres({ url: at, migrations: effects, template: "once" })
      const found = yield* Effect.all(
        Array.from({ length: 6 }, () => Effect.provide(currentDatabase, Layer.fresh(postgres))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(found).size, 6)
      assert.strictEqual(runs, 1)
    }))

  it.scopedLive("a migration that fails leaves no template, and the next one starts anew", () =>
    Effect.gen(function*() {
      const at = yield* server
      let works = false
      const effects = {
        loader: Migrations.fromRecord({
          "1_items": Effect.gen(function*() {
            const sql = yield* SqlClient.SqlClient
            yield* works ? sql`CREATE TABLE items (n INTEGER PRIMARY KEY)` : sql`CREATE`
          })
        })
      }
      const postgres = TestDatabase.layerPostgres({ url: at, migrations: effects, template: "broken" })
      const error = yield* Effect.flip(Effect.provide(numbers, postgres))
      assert.strictEqual(error._tag, "MigrationError")
      assert.deepStrictEqual(yield* clones(at), [])
      works = true
      assert.deepStrictEqual(yield* Effect.provide(numbers, postgres), [])
    }))

  it.scopedLive("drops what a crashed run left, and nothing that is in use", () =>
    Effect.gen(function*() {
      const at = yield* server
      const prefix = yield* prefixOf(at)
      yield* query(url(), `CREATE DATABASE ${prefix}c_leftover`)
      const postgres = TestDatabase.layerPostgres({ url: at, migrations })
      yield* Effect.provide(
        Effect.gen(function*() {
          const own = yield* currentDatabase
          assert.deepStrictEqual(yield* clones(at), [own])
          yield* Effect.provide(numbers, Layer.fresh(postgres))
          assert.deepStrictEqual(yield* clones(at), [own])
          assert.deepStrictEqual(yield* numbers, [])
        }),
        postgres
      )
    }))

  it.scopedLive("finds its server in the environment: TEST_DATABASE_URL, or else DATABASE_URL", () =>
    Effect.gen(function*() {
      const at = yield* server
      const environment = (entries: ReadonlyArray<readonly [string, string]>) =>
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map(entries)))
      const ask = Effect.suspend(() => Effect.provide(currentDatabase, TestDatabase.layerPostgres()))
      const shown = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        Effect.map(Effect.sandbox(effect).pipe(Effect.flip), (cause) => Cause.pretty(cause))
      const prefix = yield* prefixOf(at)
      const nowhere = "postgres://localhost:1/nowhere"
      assert.include(yield* environment([["TEST_DATABASE_URL", at], ["DATABASE_URL", nowhere]])(ask), prefix)
      assert.include(yield* environment([["DATABASE_URL", at]])(ask), prefix)
      assert.include(yield* environment([["TEST_DATABASE_URL", " "], ["DATABASE_URL", at]])(ask), prefix)
      const expected = "the URL of a database of a PostgreSQL server, with a user who may create databases"
      const cases: ReadonlyArray<readonly [TEST_DATABASE_URL: string | undefined, DATABASE_URL?: string]> = [
        [undefined],
        ["", ""],
        ["mysql://app:hunter2@localhost/ledger"],
        ["hunter2"],
        ["sqlite:///some.db", at],
        [undefined, ":memory:"],
        ["postgres://app:hunter2@localhost:port/ledger"],
        ["postgres://app:hunter2@127.0.0.1:1/ledger"]
      ]
      for (const [test, other] of cases) {
        const variables = { TEST_DATABASE_URL: test, DATABASE_URL: other }
        const message = yield* shown(
          environment(Object.entries(variables).flatMap(([name, value]) => value === undefined ? [] : [[name, value]]))(
            ask
          )
        )
        assert.include(message, expected)
        assert.include(message, test === undefined && other !== undefined ? "DATABASE_URL has" : "TEST_DATABASE_URL")
        assert.notInclude(message, "hunter2")
      }
      const wrong = Effect.provide(
        currentDatabase,
        TestDatabase.layerPostgres({ url: "postgres://127.0.0.1:1/ledger" })
      )
      assert.include(yield* shown(wrong), `url has to be ${expected}`)
      assert.include(
        yield* shown(environment([["DATABASE_URL", "sqlite:///some.db"]])(ask)),
        "not a PostgreSQL server"
      )
    }))

  it.scopedLive("one template is made by several processes that ask at once", () =>
    Effect.gen(function*() {
      const at = yield* server
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-template-"))),
        (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
      )
      const log = Path.join(directory, "runs")
      const program = nodeArguments(new URL("support/cloneOnce.ts", import.meta.url))
      const run = Effect.promise(() => {
        return new Promise<string>((resolve, reject) => {
          execFile(
            process.execPath,
            [...program, at, log],
            (error, stdout, stderr) => error === null ? resolve(stdout.trim()) : reject(new Error(stderr))
          )
        })
      })
      const names = yield* Effect.all([run, run, run], { concurrency: "unbounded" })
      assert.strictEqual(new Set(names).size, 3)
      assert.strictEqual(Fs.readFileSync(log, "utf8"), "migrated\n")
      assert.deepStrictEqual(yield* clones(at), [])
    }), 240_000)
})

describe("layers", () => {
  it.effect("SQLite's is gone with its scope", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(TestDatabase.layer({ migrations }), scope)
      const database = Context.get(context, Database.Database)
      assert.isTrue(yield* database.health)
      yield* Scope.close(scope, Effect.runSync(Effect.exit(Effect.void)))
      assert.isFalse(yield* database.health)
    }))
})
