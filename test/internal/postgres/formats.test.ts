/** The formats that the type parsers rely on: DateStyle, IntervalStyle, extra_float_digits and client_encoding. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import { isInstalled, pgbouncer } from "../../support/pgbouncer.js"
import { freshDatabase, query } from "../../support/postgres.js"

const values = `SELECT date '2024-05-06' AS day, timestamp '2024-05-06 07:08:09.123' AS local,
  timestamptz '2024-05-06 07:08:09+02' AS moment, ARRAY[date '2024-05-06'] AS days,
  ARRAY[timestamptz '2024-05-06 07:08:09+02'] AS moments, interval '1 year 2 mons -3 days 04:05:06.7' AS span,
  0.1::float8 + 0.2::float8 AS sum, ARRAY[0.1::float8 + 0.2::float8] AS sums`

const read = (sql: Database.Service["sql"]) =>
  Effect.map(sql.unsafe<any>(values), ([{ day, days, local, moment, moments, span, sum, sums }]) => {
    assert.strictEqual(moment.toISOString(), "2024-05-06T05:08:09.000Z")
    assert.deepStrictEqual(moments, [moment])
    assert.deepStrictEqual([day, days], [new Date(2024, 4, 6), [new Date(2024, 4, 6)]])
    assert.strictEqual(local.getTime(), new Date(2024, 4, 6, 7, 8, 9, 123).getTime())
    assert.deepStrictEqual(
      { ...span },
      { years: 1, months: 2, days: -3, hours: 4, minutes: 5, seconds: 6, milliseconds: 700 }
    )
    assert.deepStrictEqual([sum, sums], [0.30000000000000004, [0.30000000000000004]])
  })

const open = (url: string, options: DatabaseConfig.Options = {}) =>
  Effect.map(
    Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0, ...options }),
    (database) => ({ database, sql: database.sql })
  )

const failureOf = <A>(effect: Effect.Effect<A, DatabaseError | SqlError>) =>
  Effect.map(Effect.flip(effect), (error): DatabaseError => error._tag === "SqlError" ? fromSqlError(error) : error)

const unusual = (style: string) => ({
  DateStyle: style,
  IntervalStyle: "sql_standard",
  extra_float_digits: "0",
  client_encoding: "LATIN1"
})

const styles = ["German", "SQL, DMY", "SQL, MDY", "Postgres, DMY"]

describe("the formats that type parsers rely on", () => {
  for (const style of styles) {
    it.scopedLive(`are asked for where the database has others: ${style}`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const name = new URL(url).pathname.slice(1)
        for (const [setting, value] of Object.entries(unusual(style))) {
          yield* query(url, `ALTER DATABASE ${name} SET ${setting} = '${value}'`)
        }
        const { database, sql } = yield* open(url)
        yield* read(sql)
        yield* database.session(read(sql))
        yield* sql`CREATE TABLE texts (t text)`
        yield* sql`INSERT INTO texts VALUES (${"Käse für 3 €, 雪"})`
        assert.deepStrictEqual(yield* sql`SELECT t FROM texts`, [{ t: "Käse für 3 €, 雪" }])
      }))

    it.scopedLive(`are asked for where the parameter options of the URL asks for others: ${style}`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const settings = Object.entries(unusual(style.split(",")[0]))
        const options = settings.map(([name, value]) => `-c ${name}=${value}`).join(" ")
        const { sql } = yield* open(`${url}?options=${encodeURIComponent(options)}`)
        yield* read(sql)
      }))
  }

  it.scopedLive.skipIf(!isInstalled)(
    "are asked for through PgBouncer, which takes some of them only",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const name = new URL(url).pathname.slice(1)
        yield* query(url, `ALTER DATABASE ${name} SET DateStyle = 'German'`)
        yield* query(url, `ALTER DATABASE ${name} SET IntervalStyle = 'iso_8601'`)
        const { database, sql } = yield* open(yield* pgbouncer(url, "transaction", 2))
        yield* database.session(read(sql))
        yield* database.session(read(sql))
        // Outside of a session nothing sets IntervalStyle. It is never read as something else.
        assert.deepStrictEqual(
          yield* sql<{ readonly day: Date }>`SELECT date '2024-05-06' AS day`,
          [{ day: new Date(2024, 4, 6) }]
        )
        const error = yield* Effect.either(sql`SELECT interval '1 day' AS span`)
        assert.isTrue(error._tag === "Left" && fromSqlError(error.left)._tag === "InvalidData")
      })
  )
})

describe("a session that sets other formats", () => {
  const cases = [
    ["SET DateStyle = 'German'", "SELECT date '2024-05-06' AS d", "d", "date"],
    ["SET LOCAL DateStyle = 'SQL, DMY'", "SELECT timestamptz '2024-05-06 07:08:09+02' AS d", "d", "timestamptz"],
    ["SET DateStyle = 'Postgres'", "SELECT timestamp '2024-05-06 07:08:09' AS d", "d", "timestamp"],
    ["SELECT set_config('DateStyle', 'German', false)", "SELECT ARRAY[date '2024-05-06'] AS d", "d", ""],
    ["SET IntervalStyle = sql_standard", "SELECT interval '1 year 2 mons' AS i", "i", "interval"],
    ["SET IntervalStyle = iso_8601", "SELECT interval '3 days 04:05' AS i", "i", "interval"],
    ["SET LOCAL IntervalStyle = postgres_verbose", "SELECT interval '-1 days' AS i", "i", "interval"]
  ] as const

  for (const [set, select, column, type] of cases) {
    it.scopedLive(`gets InvalidData that names column and type, and never null: ${set}; ${select}`, () =>
      Effect.gen(function*() {
        const { database, sql } = yield* open(yield* freshDatabase)
        const error = yield* failureOf(database.session(Effect.zipRight(sql.unsafe(set), sql.unsafe(select))))
        assert.strictEqual(error._tag, "InvalidData")
        assert.strictEqual(error.column, column)
        assert.include(error.message, `"${column}"`)
        assert.include(error.message, type)
        assert.include(
          (yield* failureOf(database.session(Effect.zipRight(sql.unsafe(set), sql.unsafe(select).values)))).message,
          `"${column}"`
        )
        // The next session has the formats again.
        yield* database.session(read(sql))
        yield* read(sql)
      }))
  }

  const encodings = [
    "SET client_encoding = 'LATIN1'",
    "SET LOCAL client_encoding = 'WIN1252'",
    "SET NAMES 'LATIN9'",
    "SELECT set_config('client_encoding', 'SQL_ASCII', false)"
  ]

  for (const set of encodings) {
    it.scopedLive(`stores and reads no mangled text: ${set}`, () =>
      Effect.gen(function*() {
        const text = "Käse für 3 €"
        const { database, sql } = yield* open(yield* freshDatabase)
        yield* sql`CREATE TABLE texts (t text)`
        const insert = sql`INSERT INTO texts VALUES (${text}) RETURNING t`
        const error = yield* failureOf(database.session(Effect.zipRight(sql.unsafe(set), insert)))
        assert.strictEqual(error._tag, "InvalidStatement")
        assert.include(error.message, "client_encoding")
        // It can be set back, and is after the session.
        const restored = Effect.zipRight(sql.unsafe(set), sql`SET client_encoding TO 'UTF8'`)
        assert.deepStrictEqual(yield* database.session(Effect.zipRight(restored, insert)), [{ t: text }])
        yield* sql.unsafe(set)
        assert.deepStrictEqual(yield* insert, [{ t: text }])
        assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS n FROM texts WHERE t = ${text}`, [{ n: 2 }])
        assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS n FROM texts`, [{ n: 2 }])
      }))
  }

  it.scopedLive("a setting of the transaction that the server reports makes no connection dirty", () =>
    Effect.gen(function*() {
      const { database, sql } = yield* open(yield* freshDatabase)
      const statement = Effect.zipRight(sql`SET LOCAL TimeZone = 'Asia/Tokyo'`, sql`SELECT 1 AS one`)
      yield* Effect.forEach([1, 2, 3, 4], () => database.session(statement))
      // A reset would be one of its own, and would forget it.
      const [{ n }] = yield* sql<{ readonly n: number }>`SELECT count(*)::int AS n FROM pg_prepared_statements
        WHERE statement = 'SELECT 1 AS one'`
      assert.strictEqual(n, 1)
    }))
})
