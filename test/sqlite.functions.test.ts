/**
 * SQL functions of the application on SQLite, whose code runs where the statements run.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { fromSqlError } from "../src/DatabaseError.js"
import { directory } from "./internal/sqlite/support.js"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

const source = `
import { isMainThread } from "node:worker_threads"
export const isMain = () => isMainThread
export const double = (n) => n * 2
export const glue = (...parts) => parts.map(String).join("-")
export const echo = (value) => value
export const kinds = (...values) => values.map((value) =>
  value === null ? "null" : Buffer.isBuffer(value) ? "Buffer" : typeof value).join()
export const fail = (value) => { throw new Error("cannot take " + value + " of " + typeof value) }
export const failOddly = () => { throw "a text" }
export const later = async () => 1
export const anObject = () => ({})
export const huge = () => 2n ** 63n
export const time = () => new Date(0)
export const total = { start: 0, step: (sum, n) => sum + n, inverse: (sum, n) => sum - n, result: (sum) => sum }
export const longest = { start: () => [], step: (all, text) => { all.push(text) }, result: (all) => all.sort((a, b) =>
  b.length - a.length)[0] ?? null }
export const failing = { step: (state, n) => { if (n === 3) throw new RangeError("three"); return n } }
export const notOne = 7
`

const names = ["isMain", "double", "echo", "fail", "failOddly", "later", "anObject", "huge", "time"] as const

describe.each(Object.keys(kinds) as Array<keyof typeof kinds>)("%s", (kind) => {
  const open = (functions?: (module: string) => DatabaseConfig.Options["functions"]) =>
    Effect.gen(function*() {
      const folder = yield* directory
      const module = Path.join(folder, "functions.mjs")
      Fs.writeFileSync(module, source)
      return yield* Database.make({
        environment: "test",
        connectTimeout: "1 minute",
        ...kinds[kind](Path.join(folder, "test.db")),
        functions: functions?.(module) ?? {
          ...Object.fromEntries(names.map((name) => [name, { module }])),
          fold: { module: pathToFileURL(module), export: "double", deterministic: true },
          glue: { module: pathToFileURL(module).href, arity: "any" },
          kinds: { module, arity: 5 },
          total: { module, aggregate: true },
          longest: { module, aggregate: true, arity: 1 },
          failing: { module, aggregate: true }
        }
      })
    })

  it.scopedLive("functions are called where the statements run, on every connection, also after it was reset", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      assert.deepStrictEqual(yield* sql`SELECT isMain() AS a, double(21) AS b, glue('a', 1, NULL) AS c`, [
        { a: kind === "a file" ? 0 : 1, b: 42, c: "a-1-null" }
      ])
      const reading = session(sql`SELECT double(1) AS a, isMain() AS main`, { readOnly: true })
      assert.deepStrictEqual(yield* reading, [{ a: 2, main: kind === "a file" ? 0 : 1 }])
      yield* session(sql`CREATE TEMP TABLE x (a)`)
      assert.deepStrictEqual(yield* session(sql`SELECT double(2) AS a`), [{ a: 4 }])
      // An index and a generated column need one that is deterministic.
      yield* sql`CREATE TABLE t (a INTEGER, b GENERATED ALWAYS AS (fold(a)))`
      yield* sql`CREATE INDEX i ON t (fold(a))`
      yield* sql`INSERT INTO t (a) VALUES (1), (2), (3)`
      assert.deepStrictEqual(yield* sql`SELECT b FROM t WHERE fold(a) = 4`, [{ b: 4 }])
      const error = fromSqlError(yield* Effect.flip(sql`CREATE INDEX j ON t (double(a))`))
      assert.strictEqual(error._tag, "InvalidStatement")
      assert.strictEqual(fromSqlError(yield* Effect.flip(sql`SELECT double(1, 2)`))._tag, "InvalidStatement")
    }))

  it.scopedLive("values are passed and returned exactly", () =>
    Effect.gen(function*() {
      const { sql } = yield* open()
      assert.deepStrictEqual(
        yield* sql`SELECT kinds(1, 1.5, 'a', x'00', NULL) AS a, kinds(9007199254740993, 9e15, 9e18, '', 0) AS b`,
        [{ a: "number,number,string,Buffer,null", b: "bigint,number,number,string,number" }]
      )
      const big = 9007199254740993n
      assert.deepStrictEqual(
        yield* sql`SELECT CAST(echo(${big}) AS TEXT) AS a, echo('é') AS b, echo(x'0001') AS c, echo(NULL) AS d,
          echo(1.5) AS e, time() AS f, typeof(echo(${2n ** 60n})) AS g`,
        [{
          a: String(big),
          b: "é",
          c: Buffer.from([0, 1]),
          d: null,
          e: 1.5,
          f: "1970-01-01T00:00:00.000Z",
          g: "integer"
        }]
      )
    }))

  it.scopedLive("aggregates", () =>
    Effect.gen(function*() {
      const { sql } = yield* open()
      yield* sql`CREATE TABLE t (a INTEGER, b TEXT)`
      assert.deepStrictEqual(yield* sql`SELECT total(a) AS total, longest(b) AS longest FROM t`, [
        { total: 0, longest: null }
      ])
      yield* sql`INSERT INTO t VALUES (1, 'x'), (2, 'xxx'), (4, 'xx')`
      assert.deepStrictEqual(yield* sql`SELECT total(a) AS total, longest(b) AS longest FROM t`, [
        { total: 7, longest: "xxx" }
      ])
      assert.deepStrictEqual(
        yield* sql`SELECT total(a) OVER (ORDER BY a ROWS 1 PRECEDING) AS total FROM t`,
        [{ total: 1 }, { total: 3 }, { total: 6 }]
      )
      const error = fromSqlError(yield* Effect.flip(sql`SELECT failing(value) FROM json_each('[1,2,3]')`))
      assert.strictEqual(error._tag, "InvalidStatement")
      assert.include(error.message, "the function failing has thrown: three")
    }))

  it.scopedLive("what a function throws is the statement's typed error, without the values, and nothing is written", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      yield* sql`CREATE TABLE t (a TEXT)`
      yield* sql`INSERT INTO t VALUES ('a secret of a row')`
      const statements = [
        sql`INSERT INTO t SELECT fail(${"my secret parameter"})`,
        sql`INSERT INTO t SELECT fail(a) FROM t`,
        sql`UPDATE t SET a = fail(a) RETURNING a`
      ]
      for (const statement of statements) {
        const error = fromSqlError(yield* Effect.flip(statement))
        assert.strictEqual(error._tag, "InvalidStatement")
        assert.include(error.message, "the function fail has thrown: cannot take *** of string")
        assert.notInclude(JSON.stringify(error), "secret ")
        assert.strictEqual((yield* Effect.flip(session(statement)))._tag, "InvalidStatement")
      }
      assert.include(fromSqlError(yield* Effect.flip(sql`SELECT failOddly()`)).message, "has thrown: a text")
      for (const name of ["later", "anObject", "huge"]) {
        const error = fromSqlError(yield* Effect.flip(sql.unsafe(`SELECT ${name}()`)))
        assert.strictEqual(error._tag, "InvalidData", name)
        assert.include(error.message, name === "later" ? "functions are synchronous" : "SQLite cannot store")
      }
      assert.deepStrictEqual(yield* sql`SELECT count(*) AS count FROM t`, [{ count: 1 }])
    }))

  it.scopedLive("a module that cannot be loaded is a ConnectionFailed that names it", () =>
    Effect.gen(function*() {
      const broken = Path.join(yield* directory, "broken.mjs")
      Fs.writeFileSync(broken, "throw new Error('it is broken')")
      const failures: ReadonlyArray<readonly [(module: string) => DatabaseConfig.Options["functions"], RegExp]> = [
        [() => ({ f: { module: "/missing/functions.js" } }), /the function f .*\/missing\/functions\.js/],
        [() => ({ f: { module: broken } }), /broken\.mjs: it is broken/],
        [(module) => ({ f: { module } }), /its export f is not a function/],
        [(module) => ({ notOne: { module } }), /its export notOne is not a function/],
        [
          (module) => ({ double: { module, aggregate: true } }),
          /its export double is not an object with a function step/
        ],
        [(module) => ({ total: { module } }), /its export total is not a function/]
      ]
      for (const [functions, message] of failures) {
        const error = yield* Effect.flip(open(functions))
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.match(error.message, message)
      }
    }))

  it.scopedLive("a wrong shape is refused with the options", () =>
    Effect.gen(function*() {
      const module = "/functions.js"
      const wrong: ReadonlyArray<readonly [unknown, RegExp]> = [
        [[], /functions by name/],
        ["f", /functions by name/],
        [{ f: "module" }, /f: an object with the field module/],
        [{ f: {} }, /f: module is the path/],
        [{ f: { module: new URL("https://example.com/f.js") } }, /f: module is the path/],
        [{ "a b": { module } }, /a b: a name of letters/],
        [{ f: { module, arity: -1 } }, /f: arity/],
        [{ f: { module, arity: 1.5 } }, /f: arity/],
        [{ f: { module, deterministic: "yes" } }, /f: deterministic and aggregate/],
        [{ f: { module, export: "" } }, /f: export/],
        [{ f: { module, determinstic: true } }, /f: no field determinstic/]
      ]
      for (const [functions, message] of wrong) {
        const error = yield* Effect.flip(open(() => functions as DatabaseConfig.Options["functions"]))
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.match(error.message, message)
      }
    }))
})
