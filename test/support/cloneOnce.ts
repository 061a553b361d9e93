/** Clones a test database in a process of its own, and prints its name: `cloneOnce.ts <server's URL> <log>`. */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Migrations from "../../src/Migrations.js"
import * as TestDatabase from "../../src/TestDatabase.js"

const [, , url, log] = process.argv

const migrations = {
  loader: Migrations.fromRecord({
    "1_items": Effect.gen(function*() {
      Fs.appendFileSync(log, "migrated\n")
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
    })
  })
}

const name = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`SELECT n FROM items`
  const [row] = yield* sql<{ name: string }>`SELECT current_database() AS name`
  return row.name
}).pipe(Effect.provide(TestDatabase.layerPostgres({ url, migrations, template: "one" })))

process.stdout.write(await Effect.runPromise(name))
