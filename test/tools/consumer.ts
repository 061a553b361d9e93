/**
 * An application with the package installed: imports the barrel and each module, and runs one session on SQLite.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import assert from "node:assert"
import * as Sqlayer from "sqlayer"
import * as Database from "sqlayer/Database"

const program = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE greeting (text TEXT NOT NULL)`
  yield* sql`INSERT INTO greeting ${sql.insert({ text: "hello" })}`
  return yield* sql<{ readonly text: string }>`SELECT text FROM greeting`
}).pipe(
  Database.session(),
  Effect.provide(Database.layer)
)

process.env.APP_ENV = "test"
assert.deepStrictEqual(await Effect.runPromise(program), [{ text: "hello" }])

for (const [name, module] of Object.entries(Sqlayer)) {
  assert.strictEqual(await import(`sqlayer/${name}`), module)
}
console.log(`${Object.keys(Sqlayer).length} modules can be imported: ${Object.keys(Sqlayer).join(", ")}`)
