/** Rows of one statement whose keys are not alike. */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { forEachDialect } from "../../support/dialects.js"

type Row = Record<string, unknown>

forEachDialect((name, layer) => {
  describe(`rows on ${name}`, () => {
    const withTable = Effect.tap(
      SqlClient.SqlClient,
      (sql) => sql`CREATE TABLE things (id int PRIMARY KEY, name text DEFAULT 'unnamed', size int)`
    )

    const filler = (count: number): Array<Row> =>
      Array.from({ length: count }, (_, i) => ({ id: 1_000 + i, name: "x" }))

    const cases: ReadonlyArray<readonly [string, Array<Row>, number, string]> = [
      ["another key", [{ id: 1, name: "one" }, { id: 2, name: "two", size: 2 }], 2, "size"],
      ["a missing key", [{ id: 1, name: "one" }, { id: 2 }], 2, "name"],
      ["another key instead", [{ id: 1, name: "one" }, { id: 2, size: 2 }], 2, "size"],
      ["another key among many", [...filler(599), { id: 1, name: "one", size: 2 }], 600, "size"],
      ["a missing key among many", [...filler(599), { id: 1 }, ...filler(1)], 600, "name"]
    ]

    for (const [title, rows, row, key] of cases) {
      it.live(`are refused where one has ${title}, and nothing is written`, () =>
        Effect.gen(function*() {
          const sql = yield* withTable
          const statements = [
            sql`INSERT INTO things ${sql.insert(rows)}`,
            sql`INSERT INTO things ${sql.insert(rows).returning("id")}`,
            sql`UPDATE things SET name = data.name FROM ${sql.updateValues(rows, "data")}
              WHERE things.id = data.id`
          ]
          for (const statement of statements) {
            for (const effect of [statement, statement.raw, statement.values, statement.withoutTransform]) {
              const error = fromSqlError(yield* Effect.flip(effect as Effect.Effect<unknown, any>))
              assert.strictEqual(error._tag, "InvalidStatement")
              assert.include(error.message, `row ${row}`)
              assert.include(error.message, `"${key}"`)
            }
          }
          assert.deepStrictEqual(yield* sql`SELECT id FROM things`, [])
        }).pipe(Effect.provide(layer)))
    }

    it.live("may have their keys in another order, and keys without a value", () =>
      Effect.gen(function*() {
        const sql = yield* withTable
        yield* sql`INSERT INTO things ${
          sql.insert([{ id: 1, name: "one" }, { name: "two", id: 2 }, { id: 3, name: "three", size: undefined }])
        }`
        assert.deepStrictEqual(yield* sql`SELECT id, name FROM things ORDER BY id`, [
          { id: 1, name: "one" },
          { id: 2, name: "two" },
          { id: 3, name: "three" }
        ])
      }).pipe(Effect.provide(layer)))
  })
})
