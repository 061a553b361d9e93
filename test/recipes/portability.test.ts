/** The statements of docs/portability.md, each on both databases. */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { Database, type DatabaseError, Migrations, Session, TestDatabase } from "sqlayer"
import { onBoth, postgres } from "./databases.js"

const page = Fs.readFileSync(new URL("../../docs/portability.md", import.meta.url), "utf8")

/** The contents of the code spans of a section's table, row by row. */
const tableOf = (heading: string): ReadonlyArray<ReadonlyArray<string>> =>
  page.split(`\n## ${heading}\n`)[1].split("\n## ")[0].split("\n")
    .filter((line) => line.startsWith("| ") && line.includes("`"))
    .map((line) =>
      Array.from(line.replaceAll("\\|", "\u0000").matchAll(/`([^`]+)`/g), ([, code]) => code.replaceAll("\u0000", "|"))
    )

const migrations = {
  loader: Migrations.fromRecord({ "0001_tables": /```sql\n([^]+?)```/.exec(page)![1] })
}

/** Runs a statement, and takes back what it has done. Gives the values of its rows, or the error's tag. */
const resultOf = (text: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql.unsafe<object>(text)
    yield* Session.rollbackOnly
    return rows.map((row): unknown => Object.values(row))
  }).pipe(
    Database.session(),
    Effect.catchAll((error: DatabaseError.DatabaseError) => Effect.succeed(error._tag))
  )

const parsed = (result: string): unknown => result.startsWith("[") ? JSON.parse(result) : result

onBoth("the statements of the page", { migrations }, (database) => {
  it.effect("have the results that it says", () =>
    Effect.gen(function*() {
      const { dialect } = yield* Database.Database
      const column = dialect === "postgres" ? 1 : 2
      const same = tableOf("Statements that are the same on both")
      const differing = tableOf("The same text, another result")
      assert.isAbove(same.length, 15)
      assert.isAbove(differing.length, 7)
      const expected = [
        ...same.map(([text, result]) => [text, parsed(result)] as const),
        ...differing.map((cells) => [cells[0], parsed(cells[column])] as const)
      ]
      const actual = yield* Effect.forEach(expected, ([text]) =>
        Effect.map(resultOf(text), (rows) => [text, rows] as const))
      assert.deepStrictEqual(actual, expected)
      assert.deepStrictEqual(
        differing.filter(([, one, other]) =>
          one === other
        ),
        []
      )
    }).pipe(Effect.provide(database)))
})

it.effect("what is said differently has the same result", () =>
  Effect.gen(function*() {
    const pairs = tableOf("Said differently").filter((cells) => cells.length === 2)
    assert.isAbove(pairs.length, 3)
    const results = (column: number) => Effect.forEach(pairs, (cells) => resultOf(cells[column]))
    const onPostgres = yield* Effect.provide(results(0), postgres({ migrations }))
    const onSqlite = yield* Effect.provide(results(1), TestDatabase.layer({ migrations }))
    assert.deepStrictEqual(onPostgres, onSqlite)
    assert.isTrue(onPostgres.every((rows) => Array.isArray(rows) && rows.length > 0))
  }))
