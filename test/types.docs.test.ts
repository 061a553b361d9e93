/** The tables of docs/types.md hold on a PostgreSQL server and in a SQLite file. */
import type * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as SqlSchema from "@effect/sql/SqlSchema"
import { assert, describe, it } from "@effect/vitest"
import * as BigDecimal from "effect/BigDecimal"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Esbuild from "esbuild"
import * as Fs from "node:fs"
import * as Vm from "node:vm"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import * as DatabaseTypes from "../src/DatabaseTypes.js"
import { make, postgres, sqliteFile } from "./support/dialects.js"
import { freshDatabase, query } from "./support/postgres.js"

const page = Fs.readFileSync(new URL("../docs/types.md", import.meta.url), "utf8")

/** The rows of the table below a heading, without the table's head. */
const tableOf = (heading: string): ReadonlyArray<ReadonlyArray<string>> => {
  const section = page.slice(page.indexOf(`\n## ${heading}\n`))
  const table = /\n(\|[^]*?\|)\n\n/.exec(section)![1]
  return table.split("\n").slice(2).map((row) => row.split("|").slice(1, -1).map((cell) => cell.trim()))
}

/** What a cell has in its code span. */
const code = (cell: string): string => /^`(.*)`$/.exec(cell)?.[1] ?? assert.fail(`no code: ${cell}`)

/** The value of an expression of JavaScript. */
const evaluate = (cell: string): unknown =>
  Vm.compileFunction(`return (${code(cell)})`, ["BigDecimal", "DateTime"])(BigDecimal, DateTime)

/** Without the class of `pg`'s intervals. */
const plain = (value: unknown): unknown =>
  value !== null && Object.prototype.toString.call(value) === "[object Object]" ? { ...value as object } : value

const live = (
  name: string,
  test: () => Effect.Effect<void, unknown, Effect.Effect.Context<typeof freshDatabase>>
) => it.scopedLive(name, test, 60_000)

const openPostgres = Effect.gen(function*() {
  const url = yield* freshDatabase
  yield* query(
    url,
    `CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
     CREATE TYPE pair AS (a int, b text); CREATE TYPE floatrange AS RANGE (subtype = float8)`
  )
  const { sql } = yield* Database.make({ environment: "test", url })
  return sql as PgClient.PgClient
})

interface Task {
  readonly id: number
  readonly done: boolean
  readonly due: Date
}

/** What the page's example exports. */
interface Tasks {
  readonly insertTask: (task: Task) => Effect.Effect<void, unknown, SqlClient.SqlClient>
  readonly dueTasks: (now: Date) => Effect.Effect<ReadonlyArray<Task>, unknown, SqlClient.SqlClient>
}

describe("docs/types.md", () => {
  const types = tableOf("What PostgreSQL's types become")

  live(
    "says what the values of PostgreSQL's types become, and whether they can be sent back",
    () =>
      Effect.gen(function*() {
        const sql = yield* openPostgres
        assert.isAbove(types.length, 80)
        for (const [typeCell, textCell, valueCell, back] of types) {
          const type = code(typeCell)
          const text = code(textCell)
          const expected = evaluate(valueCell)
          const [row] = yield* sql.unsafe<{ readonly a: unknown }>(`SELECT $1::text::${type} AS a`, [text])
          assert.deepStrictEqual(plain(row.a), expected, type)
          const compare = (value: unknown) =>
            sql<{ readonly same: boolean; readonly value: unknown }>`
            SELECT ${value}::${sql.literal(type)} AS value,
                   (${value}::${sql.literal(type)})::text = (${text}::text::${sql.literal(type)})::text AS same`
          if (back.startsWith("yes")) {
            assert.isTrue((yield* compare(row.a))[0].same, type)
          } else if (back.startsWith("with [`pg.json`]")) {
            assert.deepStrictEqual((yield* compare(sql.json(row.a)))[0].value, expected, type)
          } else {
            assert.match(back, /^no: send its text$/)
            assert.strictEqual(fromSqlError(yield* Effect.flip(compare(row.a)))._tag, "InvalidData", type)
            assert.isTrue((yield* compare(text))[0].same, type)
          }
        }
      })
  )

  live(
    "lists every type that PostgreSQL has, apart from those that no value can be made of",
    () =>
      Effect.gen(function*() {
        const sql = yield* openPostgres
        const listed = types.map(([type]) => code(type))
        assert.deepStrictEqual(
          yield* sql`SELECT format_type(oid, NULL) AS name FROM pg_type
          WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
            AND typarray <> 0 AND typname <> 'gtsvector'
            AND oid <> ALL (SELECT name::regtype::oid FROM unnest(${listed}::text[]) AS name)`,
          []
        )
      })
  )

  live("says what the values of SQLite's types become", () =>
    Effect.gen(function*() {
      const { sql } = yield* make(sqliteFile)
      const rows = tableOf("What SQLite's types become")
      assert.isAbove(rows.length, 8)
      for (const [expression, type, value] of rows) {
        assert.deepStrictEqual(
          yield* sql.unsafe(`SELECT ${code(expression)} AS a, typeof(${code(expression)}) AS type`),
          [{ a: evaluate(value), type: code(type) }]
        )
      }
      assert.deepStrictEqual(yield* sql`SELECT typeof(${Number.NaN}) AS type`, [{ type: "null" }])
      const error = fromSqlError(yield* Effect.flip(sql`SELECT 9007199254740993 AS a`))
      assert.deepStrictEqual([error._tag, error.column], ["InvalidData", "a"])
    }))

  live("says what can be a parameter", () =>
    Effect.gen(function*() {
      const pg = yield* openPostgres
      const { sql } = yield* make(sqliteFile)
      const typeOf = (value: unknown): string => {
        switch (typeof value) {
          case "number":
            return "float8"
          case "bigint":
            return "int8"
          case "boolean":
            return "bool"
          case "object":
            return value instanceof Uint8Array
              ? "bytea"
              : value instanceof Date || DateTime.isDateTime(value)
              ? "timestamptz"
              : BigDecimal.isBigDecimal(value)
              ? "numeric"
              : Array.isArray(value)
              ? "int[]"
              : "jsonb"
          default:
            return "text"
        }
      }
      const rows = tableOf("What can be a parameter")
      assert.isAbove(rows.length, 10)
      for (const [expression, onPostgres, onSqlite] of rows) {
        const value = evaluate(expression)
        const checks = [
          [onPostgres, pg.unsafe(`SELECT $1::${typeOf(value)} AS a`, [value])],
          [onSqlite, sql`SELECT ${value} AS a`]
        ] as const
        for (const [cell, statement] of checks) {
          const outcome = yield* Effect.either(statement)
          const tag = outcome._tag === "Left" ? fromSqlError(outcome.left)._tag : "accepted"
          assert.strictEqual(tag, cell.startsWith("refused") ? "InvalidData" : "accepted", `${expression}: ${cell}`)
        }
      }
    }))

  live("lists values that are the same on both", () =>
    Effect.gen(function*() {
      const options = { types: { date: DatabaseTypes.text, timestamptz: DatabaseTypes.microseconds } }
      const databases = [[1, yield* make(postgres, options)], [2, yield* make(sqliteFile, options)]] as const
      const rows = tableOf("Types that are the same on both")
      assert.isAbove(rows.length, 6)
      for (const [i, cells] of rows.entries()) {
        const value = evaluate(cells[3])
        for (const [column, { sql }] of databases) {
          const table = sql(`values_${i}`)
          yield* sql`CREATE TABLE ${table} (a ${sql.literal(/`(\w[\w ]*)`/.exec(cells[column])![1])})`
          yield* sql`INSERT INTO ${table} ${sql.insert({ a: value })}`
          assert.deepStrictEqual(yield* sql`SELECT a FROM ${table}`, [{ a: value }], cells[0])
        }
      }
      const time = DateTime.unsafeMake("2024-05-06T07:08:09.123Z")
      for (const [column, { sql }] of databases) {
        yield* sql`CREATE TABLE times (a ${sql.literal(column === 1 ? "timestamptz" : "TEXT")})`
        yield* sql`INSERT INTO times ${sql.insert({ a: yield* Schema.encode(Schema.DateTimeUtc)(time) })}`
        const [{ a }] = yield* sql<{ readonly a: string }>`SELECT a FROM times`
        assert.isTrue(DateTime.Equivalence(yield* Schema.decode(Schema.DateTimeUtc)(a), time))
      }
    }))

  live(
    "has schemas that read the booleans and times of both, which are sent the same way",
    () =>
      Effect.gen(function*() {
        const source = [...page.matchAll(/```ts\n([^]*?)```/g)].find(([, text]) => text.includes("const Bool = "))![1]
        const { code } = yield* Effect.promise(() => Esbuild.transform(source, { loader: "ts", format: "cjs" }))
        const module = { exports: {} as Record<string, unknown> }
        Vm.compileFunction(code, ["require", "module"])(
          (name: string) => name === "effect" ? { Effect, Schema } : { SqlClient, SqlSchema },
          module
        )
        const { dueTasks, insertTask } = module.exports as unknown as Tasks
        for (const [i, dialect] of [postgres, sqliteFile].entries()) {
          const { copyFrom, sql } = yield* make(dialect)
          const statement = [...page.matchAll(/\/\/ (CREATE TABLE tasks .*?) {2,}on /g)][i][1]
          yield* sql.unsafe(statement.replace(/ *$/, ""))
          const provided = Effect.provideService(SqlClient.SqlClient, sql)
          const due = new Date("2024-05-06T07:08:09.123Z")
          const later = new Date("2024-05-06T07:08:09.124Z")
          yield* provided(insertTask({ id: 1, done: false, due }))
          yield* sql`INSERT INTO tasks ${sql.insert([{ id: 2, done: true, due }, { id: 3, done: false, due: later }])}`
          yield* copyFrom("tasks", ["id", "done", "due"])(Stream.make({ id: 4, done: false, due }, [5, true, due]))
          yield* sql`UPDATE tasks SET ${sql.update({ id: 6, done: false, due }, ["id"])} WHERE id = 5`
          assert.deepStrictEqual(
            yield* provided(dueTasks(due)),
            [1, 4, 5].map((id) => ({ id, done: false, due })),
            dialect.name
          )
          assert.deepStrictEqual(
            yield* sql`SELECT id FROM tasks WHERE ${sql.in("due", [due])} AND ${sql.in("done", [true])}`,
            [{ id: 2 }]
          )
          assert.deepStrictEqual(
            yield* sql`SELECT id FROM tasks WHERE ${sql.and([sql`done = ${true}`, sql`due = ${due}`])}`,
            [{ id: 2 }]
          )
          const invalid = sql`SELECT ${new Date(Number.NaN)} AS a`
          assert.strictEqual(fromSqlError(yield* Effect.flip(invalid))._tag, "InvalidData", dialect.name)
        }
      })
  )
})
