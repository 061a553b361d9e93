import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { vi } from "vitest"
import * as Database from "../../../src/Database.js"
import { Engine } from "../../../src/internal/postgres/engine.js"
import { migrations } from "../../../src/internal/postgres/migrations.js"
import * as Migrations from "../../../src/Migrations.js"
import * as Session from "../../../src/Session.js"
import { make, postgres } from "../../support/dialects.js"
import { directory } from "../cli/process.js"

vi.setConfig({ testTimeout: 240_000 })

// As pg_dump 15.18 has written it. Its owner is another one here.
const dump = Fs.readFileSync(new URL("dump.sql", import.meta.url), "utf8").replaceAll(
  "OWNER TO postgres",
  "OWNER TO CURRENT_USER"
)

const migrate = (database: Database.Service, migrations: Parameters<typeof Migrations.fromRecord>[0]) =>
  Effect.provideService(
    Migrations.run({ loader: Migrations.fromRecord(migrations), progress: () => Effect.void }),
    Database.Database,
    database
  )

describe("The output of pg_dump", () => {
  it.live("is a first migration, and what it sets does not reach the next one or the application", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres, { poolSize: 1, poolMaxOverflow: 0 })
      const { sql } = database
      const settings = sql`SELECT current_setting('search_path'), current_setting('row_security'),
  current_setting('check_function_bodies'), current_setting('client_min_messages'), current_setting('xmloption')`.values
      const before = yield* settings
      const path = yield* directory({
        "0001_dump.sql": dump.replaceAll("\n", "\r\n"),
        "0002_more.sql": "INSERT INTO entry (account) VALUES (3)"
      })
      const files = { loader: Migrations.fromDirectory(path), progress: () => Effect.void }
      const applied = yield* Effect.provideService(Migrations.run(files), Database.Database, database)
      assert.deepStrictEqual(applied.map(({ id }) => id), [1, 2])
      assert.deepStrictEqual(yield* settings, before)
      assert.deepStrictEqual(yield* sql`SELECT id, owner, note FROM account ORDER BY id`.values, [
        ["1", "ada", "tab\there"],
        ["2", "bob", "line\nbreak; \\."],
        ["3", "eve", null]
      ])
      assert.deepStrictEqual(
        yield* sql`SELECT id, amount::text, f(1) AS f FROM entry ORDER BY id`.values,
        [[1, "1.50", 1], [2, "-2.00", 1], [3, null, 1]]
      )
    }).pipe(Effect.scoped))

  it.live("leaves nothing on the connection itself, which a pooler may give to another client", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* make(postgres)
      const settings = sql`SELECT current_setting('search_path'), current_setting('work_mem'), current_user`.values
      yield* session(Effect.gen(function*() {
        const before = yield* settings
        const restore = yield* migrations(new Engine()).saveSettings(sql)
        yield* sql`CREATE ROLE dump_owner`
        yield* sql`SELECT set_config('search_path', '', false)`
        yield* sql`SET work_mem = '7MB'`
        yield* sql`SET ROLE dump_owner`
        assert.deepStrictEqual(yield* settings, [["", "7MB", "dump_owner"]])
        yield* restore
        assert.deepStrictEqual(yield* settings, before)
        yield* Session.rollbackOnly
      }))
    }).pipe(Effect.scoped))

  it.live("is refused by its line where it cannot be a migration", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres)
      for (
        const [text, message] of [
          [
            dump.replace("SET xmloption", "\\connect other\nSET xmloption"),
            /line 17: \\connect is a command of psql, and not SQL$/
          ],
          [dump.replace("'UTF8'", "'LATIN1'"), /line 13: the text is sent in UTF-8/],
          [dump.replace("1\tada", "one\tada"), /failed on line 164: InvalidData: /]
        ] as const
      ) {
        const error = yield* Effect.flip(
          migrate(database, { "1_before": "CREATE TABLE b (id integer)", "2_dump": text })
        )
        assert.match(error.message, message)
      }
      assert.deepStrictEqual(yield* database.sql`SELECT to_regclass('account')`.values, [[null]])
    }).pipe(Effect.scoped))
})
