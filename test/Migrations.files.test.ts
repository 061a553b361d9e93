import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import * as Migrations from "../src/Migrations.js"
import { directory, run as runProcess } from "./internal/cli/process.js"
import { dialects, forEachDialect } from "./support/dialects.js"

vi.setConfig({ testTimeout: 240_000 })

// They stand where no package is found by its name.
const [effect, client] = ["effect/dist/esm/Effect.js", "@effect/sql/dist/esm/SqlClient.js"].map((module) =>
  new URL(`../node_modules/${module}`, import.meta.url).href
)

const inserting = (owner: string, type = "") => `
import * as Effect from ${JSON.stringify(effect)}
import * as SqlClient from ${JSON.stringify(client)}
const owner${type} = ${JSON.stringify(owner)}
export default Effect.flatMap(SqlClient.SqlClient, (sql) => sql\`INSERT INTO account (owner) VALUES (\${owner})\`)
`

const account = "CREATE TABLE account (owner text NOT NULL)"

const ids = (migrations: ReadonlyArray<Migrations.Migration>) => migrations.map(({ id }) => id)

const refusal = (files: Readonly<Record<string, string>>) =>
  Effect.gen(function*() {
    const path = yield* directory(files)
    const error = yield* Effect.flip(Migrations.fromDirectory(path))
    return { kind: "kind" in error && error.kind, message: error.message.replaceAll(`${path}${Path.sep}`, "") }
  }).pipe(Effect.scoped)

forEachDialect((name, layer) => {
  describe(`Migrations in files, on ${name}`, () => {
    it.live("are SQL and JavaScript, side by side with what is none", () =>
      Effect.gen(function*() {
        const path = yield* directory({
          "0003_bob.mjs": inserting("bob"),
          "0001_account.sql": account,
          "0002_ada.sql": "INSERT INTO account VALUES ('ada');\n",
          "0003_bob.mjs.map": "{}",
          "0003_bob.d.mts": "export {}",
          "_schema.sql": "not SQL",
          ".hidden.sql": "not SQL",
          "README.md": "# Migrations"
        })
        Fs.mkdirSync(Path.join(path, "helpers"))
        for (const place of [path, pathToFileURL(path)]) {
          const options = { loader: Migrations.fromDirectory(place) }
          const expected = place === path ? [1, 2, 3] : []
          assert.deepStrictEqual(ids(yield* Migrations.run(options)), expected)
        }
        const { sql } = yield* Database.Database
        assert.deepStrictEqual(yield* sql`SELECT owner FROM account ORDER BY owner`.values, [["ada"], ["bob"]])
      }).pipe(Effect.scoped, Effect.provide(layer)))

    it.live("are known to be edited by their bytes, but not where they were compiled in between", () =>
      Effect.gen(function*() {
        const path = yield* directory({ "0001_account.sql": account, "0002_ada.mjs": inserting("ada") })
        const options = { loader: Migrations.fromDirectory(path) }
        const problems = Effect.map(
          Migrations.status(options),
          ({ problems }) => problems.map(({ id, problem }) => [id, problem])
        )
        yield* Migrations.run(options)
        Fs.renameSync(Path.join(path, "0002_ada.mjs"), Path.join(path, "0002_ada.ts"))
        Fs.appendFileSync(Path.join(path, "0002_ada.ts"), "// compiled")
        assert.deepStrictEqual(yield* problems, [])
        Fs.writeFileSync(Path.join(path, "0001_account.sql"), account.replace("TABLE", "TABLE\r\n"))
        Fs.renameSync(Path.join(path, "0002_ada.ts"), Path.join(path, "0002_ada.mjs"))
        assert.deepStrictEqual(yield* problems, [[1, "edited"], [2, "edited"]])
        const error = yield* Effect.flip(Migrations.run(options))
        assert.strictEqual(
          error.message,
          "migration 0001_account was edited after it was applied; migration 0002_ada was edited after it was applied"
        )
      }).pipe(Effect.scoped, Effect.provide(layer)))
  })
})

describe("Migrations.fromDirectory", () => {
  it.live("refuses what looks like a migration and is none", () =>
    Effect.gen(function*() {
      const accepted = "migrations are files called <number>_<name>.sql, .js, .mjs, .cjs, .ts, .mts or .cts " +
        "(0001_create_account.sql)"
      for (const file of ["create_account.sql", "0001-create.sql", "index.ts", "1_a.test.ts", "1_a.txt"]) {
        const error = yield* refusal({ [file]: "" })
        assert.deepInclude(error, { kind: "invalid", message: `${file} is not a migration: ${accepted}` })
      }
      const nested = yield* directory({})
      Fs.mkdirSync(Path.join(nested, "0001_create"))
      const error = yield* Effect.flip(Migrations.fromDirectory(nested))
      assert.strictEqual(error.message, `${Path.join(nested, "0001_create")} is not a migration: ${accepted}`)
    }).pipe(Effect.scoped))

  it.live("names what cannot be read", () =>
    Effect.gen(function*() {
      const missing = yield* Effect.flip(Migrations.fromDirectory("/nowhere/at/all"))
      assert.match(missing.message, /^the directory of the migrations cannot be read: ENOENT: .*'\/nowhere\/at\/all'/)
      const path = yield* directory({})
      Fs.symlinkSync("/nowhere/at/all", Path.join(path, "0007_gone.sql"))
      const gone = yield* Effect.flip(Migrations.fromDirectory(path))
      assert.deepStrictEqual(["kind" in gone && gone.kind, "migration" in gone && gone.migration], [
        "load",
        "0007_gone"
      ])
      assert.include(gone.message, Path.join(path, "0007_gone.sql"))
      const remote = yield* Effect.flip(Migrations.fromDirectory(new URL("http://localhost/migrations")))
      assert.strictEqual(
        remote.message,
        "the directory of the migrations is http://localhost/migrations: a path or a file: URL is accepted"
      )
      const unnamed = yield* Effect.flip(Migrations.fromDirectory(""))
      assert.strictEqual(unnamed.message, "the directory of the migrations has no name")
    }).pipe(Effect.scoped))

  it.live("names what cannot be imported, before anything is applied", () =>
    Effect.gen(function*() {
      const path = yield* directory({
        "0001_account.sql": account,
        "2_broken.mjs": "export default nothing"
      })
      const options = { loader: Migrations.fromDirectory(path) }
      const error = yield* Effect.flip(Migrations.run(options))
      assert.strictEqual(
        error.message,
        `migration 2_broken cannot be loaded from ${Path.join(path, "2_broken.mjs")}: nothing is not defined`
      )
      assert.deepStrictEqual(ids((yield* Migrations.status(options)).pending), [1, 2])
    }).pipe(Effect.scoped, Effect.provide(Database.layerFrom({ environment: "test", url: ":memory:" }))))

  for (const dialect of dialects.filter(({ name }) => name !== "sqlite :memory:")) {
    it.live(`has TypeScript too where a loader for it is registered, on ${dialect.name}`, () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const path = yield* directory({ "0001_account.sql": account, "0002_ada.ts": inserting("ada", ": string") })
        const environment = { DATABASE_URL: url, NODE_OPTIONS: "--import tsx" }
        const ended = yield* runProcess(["migrate", "--migrations", path], environment)
        assert.strictEqual(ended.code, 0, ended.stderr)
        assert.match(
          ended.stdout,
          /^✓ applied migration 0001_account in \d+ ms\n✓ applied migration 0002_ada in \d+ ms\napplied 2 migrations\n$/
        )
        const again = yield* runProcess(["migrate", "--migrations", path], environment)
        assert.strictEqual(again.stdout, "nothing is pending\n")
        const database = yield* Database.make({ environment: "test", url })
        assert.deepStrictEqual(yield* database.sql`SELECT owner FROM account`.values, [["ada"]])
      }).pipe(Effect.scoped))
  }
})
