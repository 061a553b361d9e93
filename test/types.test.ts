/** What values become on the way to a database and back. */
import type * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as BigDecimal from "effect/BigDecimal"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { spawnSync } from "node:child_process"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../src/DatabaseError.js"
import * as DatabaseTypes from "../src/DatabaseTypes.js"
import * as Migrations from "../src/Migrations.js"
import { assertHoldsNot } from "./internal/renderings.js"
import { nodeArguments } from "./support/bundledProgram.js"
import { forEachDialect } from "./support/dialects.js"
import { isInstalled, pgbouncer } from "./support/pgbouncer.js"
import { freshDatabase, query } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

interface Opened {
  readonly database: Database.Service
  readonly sql: PgClient.PgClient
  /** That of the database itself. */
  readonly url: string
  /** How often a catalog was asked for types. */
  readonly lookups: () => number
}

const opened = (
  options: Omit<DatabaseConfig.Options, "url"> = {},
  between: (url: string) => Effect.Effect<string, never, Effect.Effect.Context<typeof freshDatabase>> = Effect.succeed
): Effect.Effect<Opened, unknown, Effect.Effect.Context<typeof freshDatabase>> =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    const proxied = yield* proxy(yield* between(url))
    let lookups = 0
    yield* proxied.onClientData((chunk) => {
      lookups += chunk.toString("latin1").split("WITH RECURSIVE types AS").length - 1
      return "pass"
    })
    const database = yield* Database.make({ environment: "test", poolSize: 2, ...options, url: proxied.url })
    return { database, sql: database.sql as PgClient.PgClient, url, lookups: () => lookups }
  })

/** In CI it is not skipped: there, PgBouncer is installed. */
const ci = process.env.CI !== undefined

const live = (name: string, test: () => Effect.Effect<void, unknown, Effect.Effect.Context<typeof freshDatabase>>) =>
  it.scopedLive(name, test, 60_000)

/** All that JSON has, and what could be taken for something else. */
const jsonValues: ReadonlyArray<unknown> = [
  [],
  [[]],
  [1, "two", null, { three: [3] }],
  ["a", "b"],
  [{ a: 1 }, { a: 2 }],
  {},
  { a: { b: [] } },
  "",
  "null",
  "{}",
  "[]",
  "text",
  "\"quoted\" \\ 'single' é 😀",
  0,
  -1.5,
  1e300,
  true,
  false,
  null
]

describe("pg.json", () => {
  live("gives every JSON value back as it was", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened()
      yield* sql`CREATE TABLE documents (id int, a jsonb, b json)`
      for (const [id, value] of jsonValues.entries()) {
        const expected = [{ a: value, b: value, isNull: false }]
        const columns = sql`a, b, a IS NULL OR b IS NULL AS "isNull"`
        assert.deepStrictEqual(
          yield* sql`INSERT INTO documents ${
            sql.insert({ id, a: sql.json(value), b: sql.json(value) })
          } RETURNING ${columns}`,
          expected
        )
        assert.deepStrictEqual(
          yield* sql`INSERT INTO documents VALUES (${id}, ${sql.json(value)}, ${sql.json(value)}) RETURNING ${columns}`,
          expected
        )
        yield* sql`UPDATE documents SET ${sql.update({ a: sql.json(value), b: sql.json(value) })} WHERE id = ${id}`
        assert.deepStrictEqual(yield* sql`SELECT ${columns} FROM documents WHERE id = ${id} LIMIT 1`, expected)
        assert.deepStrictEqual(yield* sql`SELECT ${sql.json(value)}::jsonb AS a`, [{ a: value }])
        const streamed = yield* Stream.runCollect(sql`SELECT ${sql.json(value)}::jsonb AS a`.stream)
        assert.deepStrictEqual([...streamed], [{ a: value }])
      }
    }))

  live("gives the values of many rows back as they were", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened()
      yield* sql`CREATE TABLE documents (id int, a jsonb)`
      const rows = Array.from({ length: 600 }, (_, id) => ({ id, a: jsonValues[id % jsonValues.length] }))
      yield* sql`INSERT INTO documents ${sql.insert(rows.map(({ a, id }) => ({ id, a: sql.json(a) })))}`
      assert.deepStrictEqual([...(yield* sql`SELECT id, a FROM documents ORDER BY id`)], rows)
    }))

  live("keeps JSON null and SQL NULL apart", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened()
      const rows = yield* sql`SELECT ${sql.json(null)}::jsonb IS NULL AS json, ${null}::jsonb IS NULL AS sql,
        ${sql.json(undefined)}::jsonb IS NULL AS absent, jsonb_typeof(${sql.json(null)}::jsonb) AS type`
      assert.deepStrictEqual(rows, [{ json: false, sql: true, absent: true, type: "null" }])
    }))

  live("transforms the keys of its values if names are transformed, and nothing else", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened({ transformQueryNames: (name) => name.toUpperCase() })
      const value = [{ key: "value", list: ["x"] }]
      assert.deepStrictEqual(yield* sql`SELECT ${sql.json(value)}::jsonb AS a`, [{
        a: [{ KEY: "value", LIST: ["x"] }]
      }])
      assert.deepStrictEqual(yield* sql`SELECT ${sql.json("text")}::jsonb AS a`, [{ a: "text" }])
      const mixed = [null, 1, "text", [{ key: [null] }], { key: 1 }]
      assert.deepStrictEqual(yield* sql`SELECT ${sql.json(mixed)}::jsonb AS a`, [
        { a: [null, 1, "text", [{ KEY: [null] }], { KEY: 1 }] }
      ])
      assert.deepStrictEqual(yield* sql`SELECT ${sql.json(value)}::jsonb AS a`.withoutTransform, [{ a: value }])
    }))

  live(
    "gives every JSON value back as it was if names are transformed in both directions",
    () =>
      Effect.gen(function*() {
        const { sql } = yield* opened({
          transformQueryNames: (name) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
          transformResultNames: (name) =>
            name.replaceAll(/(?<=[a-z])_([a-z])/g, (_, letter: string) => letter.toUpperCase())
        })
        const values = [...jsonValues, [null, { aB: [null, { cD: 1 }] }, "aB"], [{ aB: 1 }, 2, "x", null], [[{
          aB: 1
        }]]]
        for (const value of [...values, JSON.parse(`{"__proto__": {"aB": 1}, "constructor": 2}`)]) {
          assert.deepStrictEqual(yield* sql`SELECT ${sql.json(value)}::jsonb AS the_value`, [{ theValue: value }])
        }
        assert.deepStrictEqual(yield* sql`SELECT ARRAY[NULL, 'a'] AS the_value`, [{ theValue: [null, "a"] }])
      })
  )

  live("refuses what is no JSON, without a value in the error", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened()
      const canary = "c4nary-json-77"
      const circular: { self?: unknown } = {}
      circular.self = circular
      for (
        const value of [() => canary, Symbol(canary), 10n, circular, {
          toJSON: () => {
            throw new Error(canary)
          }
        }]
      ) {
        const error = fromSqlError(yield* Effect.flip(sql`SELECT ${sql.json(value)}::jsonb`))
        assert.strictEqual(error._tag, "InvalidData")
        assertHoldsNot(error, canary)
      }
    }))
})

const typesSql = `CREATE EXTENSION IF NOT EXISTS citext;
  CREATE SCHEMA app;
  CREATE TYPE mood AS ENUM ('sad', 'so "so", {ok}', 'NULL', '');
  CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
  CREATE DOMAIN pair AS int[];
  CREATE TYPE point2 AS (x int, y text);
  CREATE TYPE "Quoted" AS ENUM ('x');
  CREATE TYPE floatrange AS RANGE (subtype = float8)`

/** The text of an array, and what it is. */
const arrays: ReadonlyArray<readonly [type: string, text: string, value: unknown]> = [
  ["mood[]", "{sad,\"so \\\"so\\\", {ok}\",NULL,\"NULL\",\"\"}", ["sad", "so \"so\", {ok}", null, "NULL", ""]],
  ["mood[]", "{{sad},{sad}}", [["sad"], ["sad"]]],
  ["mood[]", "{}", []],
  ["mood[]", "[-1:0]={sad,sad}", ["sad", "sad"]],
  ["app.positive[]", "{1,2}", [1, 2]],
  ["pair[]", "{\"{1,2}\",\"{3}\"}", [[1, 2], [3]]],
  ["pair", "{1,2}", [1, 2]],
  ["citext[]", "{A,b}", ["A", "b"]],
  ["name[]", "{a,\"b c\"}", ["a", "b c"]],
  ["\"char\"[]", "{a,b}", ["a", "b"]],
  ["int4range[]", "{\"[1,5)\",empty}", ["[1,5)", "empty"]],
  ["int8multirange[]", "{\"{[1,5)}\"}", ["{[1,5)}"]],
  ["floatrange[]", "{\"[1,2]\"}", ["[1,2]"]],
  ["bit(3)[]", "{101,011}", ["101", "011"]],
  ["varbit[]", "{1,01}", ["1", "01"]],
  ["numeric[]", "{1.10,12345678901234567890.123456789,NaN}", ["1.10", "12345678901234567890.123456789", "NaN"]],
  ["point2[]", "{\"(1,\\\"a b\\\")\"}", ["(1,\"a b\")"]],
  ["xml[]", "{<a/>}", ["<a/>"]],
  ["box[]", "{(1,1),(0,0);(3,3),(2,2)}", ["(1,1),(0,0)", "(3,3),(2,2)"]],
  ["tsvector[]", "{'a':1}", ["'a':1"]],
  ["regtype[]", "{integer}", ["integer"]],
  ["information_schema.sql_identifier[]", "{a}", ["a"]],
  ["int8[]", "{9007199254740993}", ["9007199254740993"]],
  ["jsonb[]", "{\"{\\\"a\\\": [1]}\",NULL}", [{ a: [1] }, null]],
  ["bool[]", "{t,f}", [true, false]]
]

describe("arrays", () => {
  live("of every type are arrays", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* opened()
      yield* query(url, typesSql)
      for (const [type, text, value] of arrays) {
        const statement = sql.unsafe<{ readonly a: unknown; readonly b: number }>(
          `SELECT $1::text::${type} AS a, 1 AS b`,
          [text]
        )
        for (let i = 0; i < 3; i++) {
          assert.deepStrictEqual(yield* statement, [{ a: value, b: 1 }], type)
        }
        assert.deepStrictEqual(yield* statement.values, [[value, 1]], type)
        assert.deepStrictEqual([...(yield* Stream.runCollect(statement.stream))], [{ a: value, b: 1 }], type)
      }
    }))

  live("come as arrays the first time, however the statement is run", () =>
    Effect.gen(function*() {
      const { url } = yield* opened()
      yield* query(url, typesSql)
      const select = "SELECT '{sad,NULL}'::mood[] AS a"
      const ways: ReadonlyArray<(database: Database.Service) => Effect.Effect<unknown, unknown>> = [
        ({ sql }) => sql.unsafe(select),
        ({ sql }) => sql.unsafe(select).unprepared,
        ({ sql }) => Effect.map(sql.unsafe(select).values, ([[a]]) => [{ a }]),
        ({ sql }) => Effect.map(sql.unsafe(select).raw, (result) => (result as { readonly rows: unknown }).rows),
        ({ sql }) => Effect.map(sql.unsafe(`SELECT 1; ${select}`), (results) => results[1]),
        ({ sql }) => Effect.map(Stream.runCollect(sql.unsafe(select).stream), (rows) => [...rows]),
        ({ session, sql }) => session(sql.unsafe(select)),
        ({ session, sql }) => session(Effect.map(Stream.runCollect(sql.unsafe(select).stream), (rows) => [...rows])),
        ({ session, sql }) => session(sql.withTransaction(sql.unsafe(select))),
        ({ sql }) =>
          Effect.scoped(Effect.flatMap(sql.reserve, (reserved) =>
            Effect.map(reserved.executeRaw(select, []), (result) =>
              (result as { readonly rows: unknown }).rows))),
        ({ acquireSession, sql }) =>
          Effect.scoped(Effect.flatMap(acquireSession(), ({ run }) => run(sql.unsafe(select))))
      ]
      for (const [i, way] of ways.entries()) {
        const database = yield* Database.make({ environment: "test", url })
        assert.deepStrictEqual(yield* way(database), [{ a: ["sad", null] }], String(i))
      }
    }))

  live("are asked for once a type, and cost no round trip after that", () =>
    Effect.gen(function*() {
      const { lookups, sql, url } = yield* opened()
      yield* query(url, typesSql)
      for (let i = 0; i < 5; i++) {
        yield* sql`SELECT 'sad'::mood AS a, '{sad}'::mood[] AS b, '{1}'::app.positive[] AS c`
        yield* sql.unsafe(`SELECT 'sad'::mood AS x${i}`)
      }
      assert.strictEqual(lookups(), 1)
      yield* Effect.all(Array.from({ length: 4 }, () => sql`SELECT '{sad}'::mood[] AS a`), { concurrency: 4 })
      assert.strictEqual(lookups(), 1)
      yield* sql`SELECT now() AS a, '{1}'::int[] AS b, '{a}'::name[] AS c, '{1.5}'::numeric[] AS d`
      assert.strictEqual(lookups(), 1)
    }))

  live("of a type that only the session's transaction knows are arrays there", () =>
    Effect.gen(function*() {
      const { database, sql } = yield* opened()
      const outcome = yield* Effect.either(database.session(Effect.gen(function*() {
        yield* sql`CREATE TYPE colour AS ENUM ('red')`
        assert.deepStrictEqual(yield* sql`SELECT '{red}'::colour[] AS a`, [{ a: ["red"] }])
        return yield* Effect.fail("rolled back")
      })))
      assert.deepStrictEqual(outcome, Either.left("rolled back"))
    }))

  live(
    "are arrays although the transaction has failed before the catalog could be asked",
    () =>
      Effect.gen(function*() {
        const { database, sql, url } = yield* opened()
        yield* query(url, typesSql)
        let rows: unknown = undefined
        const outcome = yield* Effect.either(database.session(
          Effect.all([
            Effect.tap(sql`SELECT '{sad}'::mood[] AS a`, (found) => Effect.sync(() => rows = found)),
            sql`SELECT 1 / 0`
          ], { concurrency: 2, mode: "either" })
        ))
        assert.isTrue(Either.isLeft(outcome) && outcome.left._tag === "TransactionAborted")
        assert.deepStrictEqual(rows, [{ a: ["sad"] }])
      })
  )

  live(
    "leave nobody waiting when their statement is interrupted while the catalog is asked",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* query(url, typesSql)
        const proxied = yield* proxy(url)
        const database = yield* Database.make({
          environment: "test",
          poolSize: 1,
          poolMaxOverflow: 0,
          url: proxied.url
        })
        const isAsked = yield* Deferred.make<void>()
        yield* proxied.onClientData((chunk) => {
          if (chunk.includes("WITH RECURSIVE types AS")) {
            Deferred.unsafeDone(isAsked, Effect.void)
            return { forward: chunk.subarray(0, 0), then: "silence" }
          }
          return "pass"
        })
        const fiber = yield* Effect.fork(database.sql`SELECT '{sad}'::mood[] AS a`)
        yield* Deferred.await(isAsked)
        yield* proxied.onClientData(undefined)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* database.sql`SELECT '{sad}'::mood[] AS a`, [{ a: ["sad"] }])
      })
  )

  live(
    "are arrays although the connection is lost before the catalog was asked, or the statement fails",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* query(url, typesSql)
        yield* query(url, "CREATE TABLE faces (moods mood[])")
        const proxied = yield* proxy(url)
        const insert = "INSERT INTO faces VALUES ('{sad}') RETURNING moods AS a"
        const select = "SELECT '{sad}'::mood[] AS a"
        const outcomes: Array<unknown> = []
        for (const isRefused of [false, true]) {
          for (const text of [insert, select]) {
            const database = yield* Database.make({
              environment: "test",
              poolSize: 1,
              poolMaxOverflow: 0,
              url: proxied.url
            })
            let isCut = false
            yield* proxied.onClientData((chunk) => {
              if (isCut || !chunk.includes("WITH RECURSIVE types AS")) {
                return "pass"
              }
              isCut = true
              return { forward: chunk.subarray(0, 0), then: "cut" }
            })
            yield* isRefused ? proxied.refuse : Effect.void
            const outcome = yield* Effect.either(database.sql.unsafe(text))
            yield* proxied.accept
            outcomes.push(outcome._tag === "Right" ? outcome.right : fromSqlError(outcome.left)._tag)
            assert.isTrue(isCut)
          }
        }
        const found = [{ a: ["sad"] }]
        assert.deepStrictEqual(outcomes.slice(0, 3), [found, found, "CommitOutcomeUnknown"])
        assert.include(["ConnectionLost", "ConnectionFailed"], outcomes[3])
        assert.deepStrictEqual(yield* query(url, "SELECT count(*)::int AS n FROM faces"), [{ n: 2 }])
      })
  )

  describe.runIf(ci || isInstalled)("behind a pooler", () => {
    live("are arrays although each transaction has another server connection", () =>
      Effect.gen(function*() {
        const { database, sql, url } = yield* opened({ poolSize: 4 }, (url) => pgbouncer(url, "transaction", 2))
        yield* query(url, typesSql)
        const select = (i: number) => sql.unsafe(`SELECT '{sad,NULL}'::mood[] AS a, '{${i}}'::app.positive[] AS b`)
        const rows = yield* Effect.forEach(
          Array.from({ length: 40 }, (_, i) => i + 1),
          (i): Effect.Effect<ReadonlyArray<object>, unknown> =>
            i % 2 === 0 ? select(i) : database.session(Effect.zipRight(sql`SELECT 1`, select(i))),
          { concurrency: 8 }
        )
        assert.deepStrictEqual(rows.map(([row]) => row), rows.map((_, i) => ({ a: ["sad", null], b: [i + 1] })))
      }))
  })
})

forEachDialect((name, layer, { dialect }) =>
  describe(`text that is no text (${name})`, () => {
    it.scopedLive("is refused, and never stored as something else", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE notes (id int, body text)`
        const malformed = ["\ud800", "\udc00", "a\ud83d", "\ude00b", "😀\ud83d", `é${"x".repeat(10_000)}\udfff`]
        const refused = dialect === "postgres" ? [...malformed, "a\0b", "\0"] : malformed
        for (const text of refused) {
          const inserts = [
            sql`INSERT INTO notes VALUES (1, ${text})`,
            sql`INSERT INTO notes ${sql.insert({ id: 1, body: text })}`,
            sql`INSERT INTO notes ${sql.insert(Array.from({ length: 600 }, (_, id) => ({ id, body: text })))}`,
            sql`SELECT 1 AS a WHERE ${text} = 'x'`.stream.pipe(Stream.runDrain)
          ]
          for (const insert of inserts) {
            const error = fromSqlError(yield* Effect.flip(insert))
            assert.strictEqual(error._tag, "InvalidData")
            assert.notInclude(error.message, text)
          }
        }
        for (const text of malformed) {
          const error = fromSqlError(yield* Effect.flip(sql.unsafe(`INSERT INTO notes VALUES (1, '${text}')`)))
          assert.strictEqual(error._tag, "InvalidData")
        }
        assert.deepStrictEqual(yield* sql`SELECT * FROM notes`, [])
        const texts = [
          "",
          "😀",
          "\u{10ffff}",
          "\ufffd",
          "\ufeff",
          "e\u0301",
          ...(dialect === "postgres" ? [] : ["a\0b"])
        ]
        for (const text of texts) {
          assert.deepStrictEqual(
            yield* sql`INSERT INTO notes VALUES (1, ${text}) RETURNING body`,
            [{ body: text }]
          )
        }
      }).pipe(Effect.provide(layer)), 240_000)

    it.scopedLive("that is refused in a session leaves the session as it was", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE notes (body text)`
        yield* Database.session(Effect.gen(function*() {
          yield* sql`INSERT INTO notes VALUES ('kept')`
          yield* Effect.ignore(sql`INSERT INTO notes VALUES (${"\ud800"})`)
        }))
        assert.deepStrictEqual(yield* sql`SELECT body FROM notes`, [{ body: "kept" }])
      }).pipe(Effect.provide(layer)), 240_000)
  })
)

/** Points in time in the zones of their time, whose offsets have seconds. */
const zones: ReadonlyArray<readonly [zone: string, times: ReadonlyArray<string>]> = [
  ["UTC", ["1880-01-01T12:00:00.000Z", "2024-02-29T23:59:59.999Z"]],
  ["America/New_York", ["1880-01-01T12:00:00.000Z", "1883-11-18T16:59:59.000Z", "2024-07-01T00:00:00.123Z"]],
  ["Europe/Paris", ["1910-06-01T00:00:00.000Z", "1911-03-10T23:50:38.000Z", "0044-03-15T12:00:00.000Z"]],
  ["Europe/Amsterdam", ["1936-12-31T23:40:28.000Z", "1800-01-01T00:00:00.000Z"]],
  ["Africa/Monrovia", ["1971-12-31T00:00:00.000Z"]],
  ["Asia/Kolkata", ["1900-05-05T05:05:05.005Z", "-000043-03-15T12:00:00.000Z"]],
  ["Pacific/Apia", ["1892-07-06T12:00:00.000Z", "+012345-01-01T00:00:00.000Z"]]
]

describe("dates", () => {
  live("are stored exactly, whatever the offset of the process's zone", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const program = new URL("support/dates.ts", import.meta.url)
      const { status, stderr, stdout } = spawnSync(
        process.execPath,
        [...nodeArguments(program), url, JSON.stringify(zones)],
        { encoding: "utf8" }
      )
      assert.strictEqual(status, 0, stderr)
      assert.deepStrictEqual(
        JSON.parse(stdout),
        zones.map(([zone, times]) => [
          zone,
          times.map((time) => {
            const date = new Date(time).toISOString()
            return { epoch: String(new Date(time).getTime() / 1_000), read: date, array: [date], local: date, days: 0 }
          })
        ])
      )
    }))

  live("with microseconds are found by their own value where these are asked for", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened({ types: { timestamptz: DatabaseTypes.microseconds } })
      yield* sql`CREATE TABLE events (at timestamptz, ats timestamptz[])`
      const texts = [
        "2024-05-06 07:08:09.123456+00",
        "2024-05-06 07:08:09.1+02",
        "2024-05-06 07:08:09+00",
        "1883-11-18 12:03:57.000001-04:56:02",
        "0044-03-15 00:00:00.5+00 BC",
        "12345-01-01 00:00:00.25+00",
        "infinity",
        "-infinity"
      ]
      for (const text of texts) {
        yield* sql`INSERT INTO events VALUES (${text}, ARRAY[${text}::timestamptz])`
      }
      const rows = yield* sql<{ readonly at: string; readonly ats: ReadonlyArray<string> }>`SELECT * FROM events`
      assert.deepStrictEqual(rows.slice(0, 4).map(({ at }) => at), [
        "2024-05-06T07:08:09.123456Z",
        "2024-05-06T05:08:09.100000Z",
        "2024-05-06T07:08:09.000000Z",
        "1883-11-18T16:59:59.000001Z"
      ])
      for (const { at, ats } of rows) {
        assert.deepStrictEqual(ats, [at])
        assert.deepStrictEqual(yield* sql`SELECT at, ats FROM events WHERE at = ${at} AND ats = ${ats}`, [{ at, ats }])
      }
    }))
})

describe("types", () => {
  live(
    "may be given by SQL's names, PostgreSQL's names and OIDs, and hold for arrays and domains",
    () =>
      Effect.gen(function*() {
        const mark = (prefix: string): DatabaseTypes.Type => ({ parse: (text) => `${prefix}:${text}` })
        const { sql, url } = yield* opened({
          types: {
            bigint: mark("bigint"),
            "timestamp with time zone": { parse: () => "time" },
            "1700": mark("numeric"),
            uuid: mark("uuid"),
            "uuid[]": mark("uuids"),
            mood: mark("mood"),
            "app.positive": mark("positive"),
            citext: mark("citext"),
            point2: mark("point"),
            "CHAR(3)": mark("char"),
            "timestamp (3) without time zone": mark("timestamp"),
            Quoted: mark("quoted")
          }
        })
        yield* query(url, typesSql)
        const id = "00000000-0000-0000-0000-000000000000"
        assert.deepStrictEqual(
          yield* sql`SELECT 1::bigint AS a, '{2}'::bigint[] AS b, now() AS c, ARRAY[now()] AS d, 1.50 AS e, '{1.50}'::numeric[] AS f,
          ${id}::uuid AS g, ARRAY[${id}::uuid] AS h, 'sad'::mood AS i, '{sad}'::mood[] AS j, '{1}'::app.positive[] AS k,
          'x'::citext AS l, '{x}'::citext[] AS m, ROW(1, 'a')::point2 AS n, 1::int AS o, NULL::bigint AS p,
          'x'::char(3) AS q, 'x'::"char" AS r, '2024-05-06 07:08:09'::timestamp AS s, 'x'::"Quoted" AS t`,
          [{
            a: "bigint:1",
            b: ["bigint:2"],
            c: "time",
            d: ["time"],
            e: "numeric:1.50",
            f: ["numeric:1.50"],
            g: `uuid:${id}`,
            h: `uuids:{${id}}`,
            i: "mood:sad",
            j: ["mood:sad"],
            k: ["positive:1"],
            l: "citext:x",
            m: ["citext:x"],
            n: "point:(1,a)",
            o: 1,
            p: null,
            q: "char:x  ",
            r: "x",
            s: "timestamp:2024-05-06 07:08:09",
            t: "quoted:x"
          }]
        )
      })
  )

  live("do not apply to the driver's own statements", () =>
    Effect.gen(function*() {
      const upper: DatabaseTypes.Type = { parse: (text) => `X${text}` }
      const { database, lookups, sql, url } = yield* opened({
        types: {
          name: upper,
          oid: upper,
          "\"char\"": upper,
          char: upper,
          int8: DatabaseTypes.bigInt,
          timestamptz: DatabaseTypes.dateTimeUtc
        }
      })
      yield* query(url, typesSql)
      assert.deepStrictEqual(yield* sql`SELECT '{sad}'::mood[] AS a, '{1}'::app.positive[] AS b`, [{
        a: ["sad"],
        b: [1]
      }])
      assert.strictEqual(lookups(), 1)
      const options = { loader: Migrations.fromRecord({ "1_things": sql`CREATE TABLE things (id int)` }) }
      yield* Effect.provideService(Migrations.run(options), Database.Database, database)
      const { applied } = yield* Effect.provideService(Migrations.status(options), Database.Database, database)
      assert.deepStrictEqual(applied.map(({ name }) => name), ["things"])
      assert.isFalse(Number.isNaN(applied[0].at.getTime()))
    }))

  live("of a database are no other database's", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* opened({ types: { int8: DatabaseTypes.bigInt } })
      const other = yield* Database.make({ environment: "test", url })
      for (let i = 0; i < 3; i++) {
        assert.deepStrictEqual(yield* sql`SELECT 1::int8 AS a`, [{ a: 1n }])
        assert.deepStrictEqual(yield* other.sql`SELECT 1::int8 AS a`, [{ a: "1" }])
      }
    }))

  live("that are ready give BigInt, days, DateTime and BigDecimal, and take them", () =>
    Effect.gen(function*() {
      const { sql } = yield* opened({
        types: {
          bigint: DatabaseTypes.bigInt,
          date: DatabaseTypes.text,
          timestamptz: DatabaseTypes.dateTimeUtc,
          timestamp: DatabaseTypes.dateTimeUtc,
          numeric: DatabaseTypes.bigDecimal
        }
      })
      yield* sql`CREATE TABLE things (a bigint, b date, c timestamptz, d timestamp, e numeric, f bigint[], g numeric[])`
      const things = {
        a: 9223372036854775807n,
        b: "2024-03-31",
        c: DateTime.unsafeMake("1883-11-18T16:59:59.123Z"),
        d: DateTime.unsafeMake("2024-03-31T02:30:00.001Z"),
        e: BigDecimal.unsafeFromString("-12345678901234567890.000000001"),
        f: [1n, -1n],
        g: [BigDecimal.unsafeFromString("0.1"), BigDecimal.unsafeFromString("1e30")]
      }
      yield* sql`INSERT INTO things ${sql.insert(things)}`
      yield* sql`INSERT INTO things VALUES (${things.a}, ${things.b}, ${things.c}, ${things.d}, ${things.e}, ${things.f}, ${things.g})`
      yield* sql`INSERT INTO things ${sql.insert(Array.from({ length: 600 }, () => ({ ...things, f: null, g: null })))}`
      const rows = yield* sql<typeof things>`SELECT * FROM things`
      assert.strictEqual(rows.length, 602)
      for (const row of rows) {
        assert.strictEqual(row.a, things.a)
        assert.strictEqual(row.b, things.b)
        assert.strictEqual(DateTime.toEpochMillis(row.c), DateTime.toEpochMillis(things.c))
        assert.strictEqual(DateTime.toEpochMillis(row.d), DateTime.toEpochMillis(things.d))
        assert.isTrue(BigDecimal.equals(row.e, things.e))
      }
      assert.deepStrictEqual(rows[0].f, things.f)
      assert.isTrue(rows[1].g.every((value, i) => BigDecimal.equals(value, things.g[i])))
      const zoned = DateTime.unsafeMakeZoned("2024-05-06T07:08:09Z", { timeZone: "Asia/Tokyo" })
      assert.deepStrictEqual(
        (yield* sql<{ readonly a: DateTime.Utc }>`SELECT ${zoned}::timestamptz AS a`).map(({ a }) =>
          DateTime.formatIso(a)
        ),
        ["2024-05-06T07:08:09.000Z"]
      )
      for (const text of ["'NaN'::numeric", "'infinity'::timestamptz"]) {
        const error = fromSqlError(yield* Effect.flip(sql.unsafe(`SELECT ${text} AS a`)))
        assert.strictEqual(error._tag, "InvalidData")
      }
    }))

  live(
    "that encode are asked for once a statement, and encode parameters however they are sent",
    () =>
      Effect.gen(function*() {
        const { database, sql, url } = yield* opened({
          types: {
            mood: { parse: (text) => text.toUpperCase(), encode: (value) => String(value).toLowerCase() },
            "app.positive": { encode: (value) => Math.abs(Number(value)) },
            interval: { encode: (value) => `${String(value)} hours` }
          }
        })
        yield* query(url, typesSql)
        yield* query(url, "CREATE TABLE faces (id int, mood mood, moods mood[], n app.positive, t text)")
        const face = { id: 1, mood: "SAD", moods: ["SAD", null], n: -7, t: "SAD" }
        const stored = { id: 1, mood: "SAD", moods: ["SAD", null], n: 7, t: "SAD" }
        const insert = sql`INSERT INTO faces ${sql.insert(face)} RETURNING *`
        for (let i = 0; i < 4; i++) {
          assert.deepStrictEqual(yield* insert, [stored])
          assert.deepStrictEqual(yield* insert.unprepared, [stored])
        }
        assert.deepStrictEqual([...(yield* Stream.runCollect(insert.stream))], [stored])
        assert.deepStrictEqual(yield* database.session(insert), [stored])
        assert.deepStrictEqual(yield* sql`SELECT ${5}::interval = '5 hours' AS a, ${"SAD"}::text AS b`, [{
          a: true,
          b: "SAD"
        }])
        yield* sql`DELETE FROM faces`
        yield* sql`INSERT INTO faces ${sql.insert(Array.from({ length: 600 }, () => ({ ...face, moods: null })))}`
        assert.deepStrictEqual(
          yield* sql`SELECT count(*)::int AS n, sum(n)::int AS sum, min(mood) AS mood FROM faces`,
          [{ n: 600, sum: 4_200, mood: "SAD" }]
        )
      })
  )

  live("take another type of a parameter after its column was altered", () =>
    Effect.gen(function*() {
      const { sql, url } = yield* opened({ types: { int4: { encode: (value) => Number(value) * 2 } } })
      yield* query(url, "CREATE TABLE numbers (n int)")
      const insert = sql`INSERT INTO numbers VALUES (${"x"}) RETURNING n`
      yield* Effect.flip(insert)
      yield* query(url, "ALTER TABLE numbers ALTER n TYPE text")
      assert.deepStrictEqual(yield* insert, [{ n: "x" }])
    }))

  live("that throw fail their statement alone, and leave nobody waiting", () =>
    Effect.gen(function*() {
      const canary = "c4nary-type-88"
      const boom = (): never => {
        throw new Error(canary)
      }
      const { database, sql, url } = yield* opened({
        poolSize: 1,
        poolMaxOverflow: 0,
        types: { int8: { parse: boom }, mood: { parse: boom }, uuid: { encode: boom } }
      })
      yield* query(url, typesSql)
      const statements: ReadonlyArray<Effect.Effect<unknown, SqlError>> = [
        sql`SELECT 1::int8 AS a`,
        sql`SELECT '{1}'::int8[] AS a`,
        sql`SELECT 'sad'::mood AS a`,
        sql`SELECT 'sad'::mood AS a`.values,
        sql`SELECT '{sad}'::mood[] AS a`,
        sql`SELECT 1::int8 AS a FROM generate_series(1, 500)`.stream.pipe(Stream.runDrain),
        sql`SELECT ${"x"}::uuid AS a`,
        sql`SELECT ${"x"}::uuid AS a`.stream.pipe(Stream.runDrain)
      ]
      for (const statement of statements) {
        const runs: ReadonlyArray<Effect.Effect<unknown, SqlError | DatabaseError>> = [
          statement,
          database.session(statement)
        ]
        for (const run of runs) {
          const failure = yield* Effect.flip(run)
          const error = failure instanceof SqlError ? fromSqlError(failure) : failure
          assert.strictEqual(error._tag, "InvalidData")
          assertHoldsNot(error, canary)
          assert.deepStrictEqual(yield* sql`SELECT 1 AS one`, [{ one: 1 }])
        }
      }
      const both = yield* database.session(Effect.all([
        Effect.either(sql`SELECT 1::int8 AS a`),
        sql`SELECT 2 AS b`
      ], { concurrency: 2 }))
      assert.deepStrictEqual(both[1], [{ b: 2 }])
    }))

  live("whose text is in no expected format are an error that names the column", () =>
    Effect.gen(function*() {
      const { database, sql } = yield* opened()
      const values = [
        ["DateStyle", "German", "now()"],
        ["DateStyle", "SQL", "ARRAY[now()]"],
        ["DateStyle", "Postgres", "localtimestamp"],
        ["DateStyle", "German", "current_date"],
        ["IntervalStyle", "iso_8601", "'1 day 2 hours'::interval"],
        ["IntervalStyle", "sql_standard", "ARRAY['1 day 2 hours'::interval]"]
      ] as const
      for (const [setting, style, value] of values) {
        const read = database.session(Effect.zipRight(
          sql.unsafe(`SET LOCAL ${setting} TO ${style}`),
          sql.unsafe(`SELECT 1 AS a, ${value} AS the_column`)
        ))
        const error = yield* Effect.flip(read)
        assert.strictEqual(error._tag, "InvalidData", style)
        assert.include(error.message, "the_column")
      }
      for (const value of ["'294276-12-31'::timestamptz", "'294276-12-31'::timestamp", "'5874897-12-31'::date"]) {
        const error = fromSqlError(yield* Effect.flip(sql.unsafe(`SELECT ${value} AS the_column`)))
        assert.strictEqual(error._tag, "InvalidData", value)
      }
      const [row] = yield* sql<{ readonly a: unknown; readonly b: unknown }>`
        SELECT 'infinity'::timestamptz AS a, '1 year -2 mons +3 days -04:05:06.5'::interval AS b`
      assert.strictEqual(row.a, Infinity)
      assert.include(row.b as object, { months: 10, days: 3, hours: -4, minutes: -5, seconds: -6 })
    }))
})
