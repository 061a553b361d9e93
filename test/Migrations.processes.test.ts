import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import * as Migrations from "../src/Migrations.js"
import { directory, type Ended, run, start } from "./internal/cli/process.js"
import { dialects } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

// Processes take their time to start where others compete for it.
vi.setConfig({ testTimeout: 240_000 })

const answerOf = ({ stderr, stdout }: Ended) => {
  assert.notStrictEqual(stdout, "", stderr)
  return JSON.parse(stdout) as {
    readonly ok: boolean
    readonly applied: ReadonlyArray<{ readonly id: number; readonly name: string; readonly millis: number }>
    readonly error: { readonly tag: string; readonly message: string } | null
  }
}

// The migrations stand where no package is found by its name.
const [effect, client] = ["effect/dist/esm/Effect.js", "@effect/sql/dist/esm/SqlClient.js"].map((module) =>
  new URL(`../node_modules/${module}`, import.meta.url).href
)

const counting = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000000)"

const slow = { postgres: "SELECT pg_sleep(60)", sqlite: `${counting} SELECT i FROM n` }

/** The same without a place where it could be told to stop. */
const unstoppable = { postgres: slow.postgres, sqlite: `${counting} SELECT count(*) FROM n` }

// A database in memory has no second process.
for (const { dialect, name, url: freshUrl } of dialects.filter(({ name }) => name !== "sqlite :memory:")) {
  describe(`Processes that migrate one database of ${name}`, () => {
    it.live("apply each migration once, however many start at the same time", () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const migrations = yield* directory(Object.fromEntries([
          ["0001_count.sql", "CREATE TABLE times (migration integer)"],
          ...[2, 3, 4, 5, 6, 7, 8].map((n) => [`000${n}_step.sql`, `INSERT INTO times VALUES (${n})`])
        ]))
        const ended = yield* Effect.forEach(
          [1, 2, 3, 4],
          () => run(["migrate", "--json", "--migrations", migrations], { DATABASE_URL: url }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(ended.map(({ code }) => code), [0, 0, 0, 0], ended.map(({ stderr }) => stderr).join())
        const ids = ended.flatMap((each) => answerOf(each).applied.map(({ id }) => id))
        assert.deepStrictEqual(ids.sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8])
        const database = yield* Database.make({ environment: "test", url })
        assert.deepStrictEqual(
          yield* database.sql`SELECT migration FROM times ORDER BY 1`.values,
          [[2], [3], [4], [5], [6], [7], [8]]
        )
      }).pipe(Effect.scoped))

    it.live("leave no lock and nothing half done when they are killed", () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const migrations = yield* directory({
          "0001_first.sql": "CREATE TABLE first (id integer)",
          "0002_half.sql": `CREATE TABLE half (id integer); ${unstoppable[dialect]}`
        })
        const environment = { DATABASE_URL: url, DATABASE_MIGRATIONS: migrations }
        const database = yield* Database.make({ environment: "test", url, lockTimeout: "100 millis" })
        const status = Effect.provideService(
          Migrations.status({ loader: Migrations.fromDirectory(migrations) }),
          Database.Database,
          database
        )
        const first = yield* start(["migrate"], environment)
        yield* eventually(Effect.map(status, ({ applied }) => applied.length === 1), { timeout: "25 seconds" })
        yield* Effect.sleep("300 millis")
        yield* first.signal("SIGKILL")
        yield* first.ended
        assert.deepStrictEqual((yield* status).pending, [{ id: 2, name: "half" }])
        const again = yield* Effect.flip(
          Effect.provideService(
            Migrations.run({
              loader: Migrations.fromRecord({
                "0001_first": Effect.void,
                "0002_half": "CREATE TABLE half (id integer); SELECT nothing"
              }),
              lockTimeout: "20 seconds"
            }),
            Database.Database,
            database
          )
        )
        // It got as far as the statement that is wrong, so the table was not there and nobody held the lock.
        assert.match(again.message, /^migration 0002_half failed on line 1: InvalidStatement: /)
      }).pipe(Effect.scoped))

    it.live("leave a marker when they are killed in a migration that has committed by itself", () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const migrations = yield* directory({
          "0001_first.sql": "CREATE TABLE first (id integer)",
          "0002_half.mjs": `
import * as Effect from ${JSON.stringify(effect)}
import * as SqlClient from ${JSON.stringify(client)}
export default Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.all([sql\`CREATE TABLE half (id integer)\`, sql\`COMMIT\`, Effect.never]))`
        })
        const environment = { DATABASE_URL: url, DATABASE_MIGRATIONS: migrations }
        const database = yield* Database.make({ environment: "test", url })
        const status = Effect.provideService(
          Migrations.status({ loader: Migrations.fromDirectory(migrations) }),
          Database.Database,
          database
        )
        const first = yield* start(["migrate"], environment)
        yield* eventually(Effect.map(status, ({ problems }) => problems.length === 1), { timeout: "25 seconds" })
        yield* first.signal("SIGKILL")
        yield* first.ended
        const { applied, pending, problems } = yield* status
        assert.deepStrictEqual([applied.map(({ id }) => id), pending], [[1], []])
        assert.deepStrictEqual(problems.map(({ id, problem }) => [id, problem]), [[2, "unfinished"]])
        const again = yield* run(["migrate", "--json"], environment)
        assert.strictEqual(again.code, 1)
        assert.match(answerOf(again).error?.message ?? "", /^migration 0002_half is unfinished: /)
      }).pipe(Effect.scoped))

    it.live("leave the state before, or a named one, when they are killed in the middle of what has options", () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const statements = (texts: ReadonlyArray<string>) => `
import * as Effect from ${JSON.stringify(effect)}
import * as SqlClient from ${JSON.stringify(client)}
const all = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.zipRight(Effect.forEach(${JSON.stringify(texts)}, (text) => sql.unsafe(text)), Effect.sync(() => {
    process.stderr.write("reached\\n")
  })))
`
        const stopping = (texts: ReadonlyArray<string>, options: string) =>
          `${statements(texts)}export default { up: Effect.zipRight(all, Effect.never), ${options} }`
        const path = yield* directory({
          "0001_tables.sql": `CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (parent integer REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)`,
          "0001_tables.down.mjs": `${statements(["DROP TABLE child"])}export default Effect.zipRight(all, Effect.never)`
        })
        const environment = { DATABASE_URL: url, DATABASE_MIGRATIONS: path }
        const database = yield* Database.make({ environment: "test", url })
        const options = () => ({ loader: Migrations.fromDirectory(path), progress: () => Effect.void })
        const migrate = Effect.suspend(() =>
          Effect.provideService(Migrations.run(options()), Database.Database, database)
        )
        const status = Effect.suspend(() =>
          Effect.provideService(Migrations.status(options()), Database.Database, database)
        )
        const killed = (args: ReadonlyArray<string>) =>
          Effect.gen(function*() {
            const process = yield* start(args, environment)
            yield* eventually(Effect.map(process.stderr, (text) => text.includes("reached")), { timeout: "1 minute" })
            yield* process.signal("SIGKILL")
            yield* process.ended
          })
        const content = database.sql`SELECT c.parent, p.id FROM child c JOIN parent p ON p.id = c.parent`.values
        yield* migrate

        // Taken back: the state before.
        yield* killed(["migrate", "down"])
        assert.deepStrictEqual(yield* content, [[1, 1]])
        assert.deepStrictEqual((yield* status).applied.map(({ id }) => id), [1])

        // Rebuilt: the state before.
        const rebuild = ["ALTER TABLE child RENAME TO old", "CREATE TABLE child (parent integer)"]
        Fs.writeFileSync(Path.join(path, "0002_rebuild.mjs"), stopping(rebuild, "rebuild: true"))
        yield* killed(["migrate"])
        assert.deepStrictEqual(yield* content, [[1, 1]])
        assert.deepStrictEqual((yield* status).pending.map(({ id }) => id), [2])
        Fs.rmSync(Path.join(path, "0002_rebuild.mjs"))

        // Without a transaction: unfinished, for every later run, until it is marked.
        const insert = ["INSERT INTO parent VALUES (2)"]
        Fs.writeFileSync(Path.join(path, "0003_none.mjs"), stopping(insert, "transaction: \"none\""))
        yield* killed(["migrate"])
        assert.deepStrictEqual(yield* database.sql`SELECT id FROM parent ORDER BY id`.values, [[1], [2]])
        assert.deepStrictEqual((yield* status).problems.map(({ id, problem }) => [id, problem]), [[3, "unfinished"]])
        const again = yield* Effect.flip(migrate)
        assert.match(again.message, /^migration 0003_none is unfinished: it runs without a .*--as rolled-back 3/)
        yield* Effect.provideService(Migrations.resolve(options(), 3, "applied"), Database.Database, database)
        assert.deepStrictEqual((yield* status).problems, [])
      }).pipe(Effect.scoped))

    it.live("roll back and say so when they are interrupted", () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const migrations = yield* directory({
          "0001_first.sql": "CREATE TABLE first (id integer)",
          "0002_half.sql": `CREATE TABLE half (id integer); ${slow[dialect]}`
        })
        const database = yield* Database.make({ environment: "test", url })
        const status = Effect.provideService(
          Migrations.status({ loader: Migrations.fromDirectory(migrations) }),
          Database.Database,
          database
        )
        const first = yield* start(["migrate", "--json", "--migrations", migrations], { DATABASE_URL: url })
        yield* eventually(Effect.map(status, ({ applied }) => applied.length === 1), { timeout: "25 seconds" })
        yield* Effect.sleep("300 millis")
        yield* first.signal("SIGINT")
        const ended = yield* first.ended
        assert.strictEqual(ended.code, 130)
        const answer = answerOf(ended)
        assert.deepStrictEqual(answer.applied.map(({ id }) => id), [1])
        assert.deepInclude(answer, {
          ok: false,
          error: { tag: "Interrupted", message: "interrupted: what was under way is rolled back" }
        })
        assert.deepStrictEqual((yield* status).pending, [{ id: 2, name: "half" }])
      }).pipe(Effect.scoped))
  })
}
