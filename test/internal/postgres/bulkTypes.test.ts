/** Many rows with columns of types that are not among the server's own, or that are lists. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Database from "../../../src/Database.js"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { freshDatabase, query } from "../../support/postgres.js"

const open = Effect.gen(function*() {
  const url = yield* freshDatabase
  yield* query(
    url,
    `CREATE SCHEMA "my types";
     CREATE TYPE mood AS ENUM ('calm', 'wild', 'it''s "odd", {so}');
     CREATE TYPE "my types"."Mood" AS ENUM ('calm', 'wild');
     CREATE DOMAIN positive AS int CHECK (VALUE > 0);
     CREATE DOMAIN tags AS text[] CHECK (cardinality(VALUE) < 4);
     CREATE TYPE pair AS (a int, b text);
     CREATE TABLE odd (
       id int PRIMARY KEY, mood mood, other "my types"."Mood", plus positive, span int4range, spans int4multirange,
       pair pair, place point, area box, list int[], names text[], moods mood[], tags tags, grid int[][],
       others "my types"."Mood"[], days date[], doc jsonb
     )`
  )
  const context = yield* Layer.build(Database.layerFrom({ environment: "test", url }))
  return { sql: Context.get(context, SqlClient.SqlClient), pg: Context.get(context, PgClient.PgClient), url }
})

const moods = ["calm", "wild", "it's \"odd\", {so}"]

const row = (i: number, pg: PgClient.PgClient) => ({
  id: i,
  mood: i % 5 === 0 ? null : moods[i % 3],
  other: moods[i % 2],
  plus: i + 1,
  span: `[${i},${i + 3})`,
  spans: `{[${i},${i + 1}),[${i + 5},${i + 6})}`,
  pair: `(${i},"a, ""b""")`,
  place: `(${i},2)`,
  area: `(${i + 1},2),(${i},1)`,
  list: i % 7 === 0 ? null : [i, -i, 0],
  names: i % 3 === 0 ? [] : ["", "NULL", "a\"b\\c", "{x,y}", `name ${i}`],
  moods: [moods[i % 3], moods[2]],
  tags: ["one", `two ${i}`],
  grid: [[1, 2], [3, i]],
  others: [moods[i % 2]],
  days: [new Date(2024, 0, 1 + (i % 28))],
  doc: pg.json([i, { list: [null, "{}"] }])
})

const rows = (from: number, count: number, pg: PgClient.PgClient) =>
  Array.from({ length: count }, (_, i) => row(from + i, pg))

describe("many rows with columns of other types", () => {
  it.scopedLive("are what few rows are, and have no limit of parameters", () =>
    Effect.gen(function*() {
      const { pg, sql, url } = yield* open
      yield* sql`INSERT INTO odd ${sql.insert(rows(0, 10_000, pg))}`
      yield* query(url, "CREATE TABLE few (LIKE odd)")
      for (let from = 0; from < 200; from += 20) {
        yield* sql`INSERT INTO few ${sql.insert(rows(from, 20, pg))}`
      }
      const [{ n }] = yield* query(url, "SELECT count(*)::int AS n FROM odd")
      assert.strictEqual(n, 10_000)
      const unlike = yield* query(
        url,
        "SELECT f.id FROM few f LEFT JOIN odd o ON o.id = f.id WHERE o::text IS DISTINCT FROM f::text"
      )
      assert.deepStrictEqual(unlike, [])
      const [last] = yield* sql<any>`SELECT list, names, moods, doc FROM odd WHERE id = 9999`
      assert.deepStrictEqual({ ...last }, {
        list: [9_999, -9_999, 0],
        names: [],
        moods: [moods[0], moods[2]],
        doc: [9_999, { list: [null, "{}"] }]
      })
    }), 240_000)

  it.scopedLive("fail as few rows do", () =>
    Effect.gen(function*() {
      const { pg, sql } = yield* open
      const valid = rows(0, 600, pg)
      for (
        const [wrong, tag] of [
          [{ mood: "secret-value" }, "InvalidData"],
          [{ plus: -5 }, "CheckViolation"],
          [{ span: "secret-value" }, "InvalidData"],
          [{ list: ["secret-value"] }, "InvalidData"],
          [{ tags: ["1", "2", "3", "4"] }, "CheckViolation"]
        ] as const
      ) {
        for (const count of [10, 600]) {
          const given = [...valid.slice(0, count), { ...row(9_000, pg), ...wrong }]
          const error = fromSqlError(yield* Effect.flip(sql`INSERT INTO odd ${sql.insert(given as any)}`))
          assert.strictEqual(error._tag, tag, `${count}: ${error.message}`)
          assert.notInclude(error.message, "secret-value")
        }
      }
    }))

  it.scopedLive("of extensions, of domains and of the server's own types are what few rows are, or fail as they do", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* open
      yield* query(
        url,
        `CREATE EXTENSION citext; CREATE EXTENSION hstore;
         CREATE DOMAIN short AS varchar(3); CREATE DOMAIN shorter AS short CHECK (VALUE <> ''); CREATE DOMAIN shorts AS varchar(3)[];
         CREATE DOMAIN letters AS char(4); CREATE DOMAIN bits AS bit(3); CREATE DOMAIN some_bits AS varbit(3);
         CREATE DOMAIN amount AS numeric(5, 2); CREATE DOMAIN moment AS timestamptz(0); CREATE DOMAIN flag AS boolean;
         CREATE DOMAIN bytes AS bytea; CREATE DOMAIN big AS int8; CREATE DOMAIN doc AS jsonb; CREATE DOMAIN feeling AS mood;
         CREATE DOMAIN name_given AS text NOT NULL; CREATE DOMAIN two AS pair; CREATE TYPE person AS (age int, code varchar(3));
         CREATE TYPE floats AS RANGE (subtype = float8)`
      )
      const cases: ReadonlyArray<readonly [type: string, ...values: ReadonlyArray<unknown>]> = [
        ["citext", "Abc", "", null],
        ["citext[]", ["A", "b"], []],
        ["hstore", "a=>1,b=>NULL", "\"x y\"=>\"q\\\"\""],
        ["hstore[]", ["a=>1", "b=>2"]],
        ["short", "abc", "abcd", "abc  ", null],
        ["shorter", "abc", "abcd", ""],
        ["shorts", ["abc"], ["abcd"]],
        ["short[]", ["abc"], ["abcd"]],
        ["letters", "ab", "abcde"],
        ["bits", "101", "1011", "10"],
        ["some_bits", "101", "1011"],
        ["amount", "1.235", 12_345.5],
        ["moment", "2024-05-06 07:08:09.623456+02", new Date(0)],
        ["flag", true, "yes", "what"],
        ["bytes", Buffer.from([0, 1, 255]), "\\x00ff"],
        ["big", 9_007_199_254_740_993n, "9223372036854775808"],
        ["doc", "{\"a\": [1, null]}", "null"],
        ["feeling", "calm", "sad"],
        ["name_given", "a", null],
        ["two", "(1,a)", "(one,a)"],
        ["person", "(1,abc)", "(1,abcd)", "(,)"],
        ["person[]", ["(1,abc)"], ["(1,abcd)"]],
        ["floats", "[1.5,2.5]"],
        ["varchar(3)", "abc", "abcd"],
        ["char(4)[]", ["ab"], ["abcde"]],
        ["bit(3)[]", ["101"], ["1011"]],
        ["numeric(5, 2)[]", ["1.235"]],
        ["box[]", ["(2,2),(1,1)"]],
        ["tstzrange[]", ["[2024-01-01 00:00+00,2024-02-01 00:00+00)"]]
      ]
      yield* query(url, cases.map(([type], i) => `CREATE TABLE kind_${i} (id int, v ${type})`).join("; "))
      for (const [i, [type, ...values]] of cases.entries()) {
        const table = `kind_${i}`
        for (const v of values) {
          const inserted = (count: number) =>
            Effect.gen(function*() {
              const given = Array.from({ length: count }, (_, id) => ({ id, v: v as string }))
              const result = yield* Effect.either(sql`INSERT INTO ${sql(table)} ${sql.insert(given)}`)
              const rows = yield* sql.unsafe(
                `WITH deleted AS (DELETE FROM ${table} RETURNING v) SELECT DISTINCT v::text FROM deleted`
              )
              return result._tag === "Left" ? fromSqlError(result.left).code : rows
            })
          assert.deepStrictEqual(yield* inserted(500), yield* inserted(2), `${type}: ${String(v)}`)
        }
      }
    }))

  it.scopedLive("of many columns have no limit either", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* open
      const names = Array.from({ length: 700 }, (_, i) => `c${i}`)
      yield* query(url, `CREATE TABLE wide (${names.map((name) => `${name} int`).join(", ")})`)
      const wide = Array.from({ length: 100 }, (_, i) => Object.fromEntries(names.map((name, j) => [name, i * j])))
      yield* sql`INSERT INTO wide ${sql.insert(wide)}`
      assert.deepStrictEqual(yield* sql`SELECT count(*)::int AS n, max(c699) AS m FROM wide`, [{ n: 100, m: 99 * 699 }])
    }))
})

describe("updateValues", () => {
  for (const count of [1, 2, 20, 600, 20_000]) {
    it.scopedLive(`compares numbers with numbers: ${count} rows`, () =>
      Effect.gen(function*() {
        const { sql, url } = yield* open
        yield* query(
          url,
          `CREATE TABLE numbers (id int PRIMARY KEY, big bigint, part numeric, real float8, flag boolean, name text);
           INSERT INTO numbers SELECT i FROM generate_series(0, ${count}) AS i`
        )
        const given = Array.from({ length: count }, (_, id) => ({
          id,
          big: id % 3 === 1 ? null : 3_000_000_000 + id,
          part: id + 0.5,
          real: id / 3,
          flag: id % 2 === 0,
          name: id % 4 === 1 ? null : `it's "${id}", {x}`
        }))
        yield* sql`UPDATE numbers SET big = data.big, part = data.part, real = data.real, flag = data.flag, name = data.name
          FROM ${sql.updateValues(given, "data")} WHERE numbers.id = data.id`
        const found = yield* sql<any>`SELECT id, big::float8 AS big, part::float8 AS part, real, flag, name FROM numbers
          WHERE id < ${count} ORDER BY id`
        assert.deepStrictEqual(found.map((each) => Object.assign({}, each)), given)
      }), 240_000)
  }

  it.scopedLive("takes values that are no constants as before, with RETURNING", () =>
    Effect.gen(function*() {
      const { sql } = yield* open
      const returned = yield* sql`WITH t(id, name) AS (VALUES (1, 'one'), (2, 'two'))
        SELECT t.id, data.name FROM ${sql.updateValues([{ id: 1, name: "first" }, { id: 2, name: "second" }], "data")}
        JOIN t ON t.id = data.id ORDER BY t.id`
      assert.deepStrictEqual(returned, [{ id: 1, name: "first" }, { id: 2, name: "second" }])
    }))
})
