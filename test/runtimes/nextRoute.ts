/**
 * The route of the Next.js application: it uses the database that DATABASE_URL names, and answers with what it has seen.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Stream from "effect/Stream"
import { Database } from "sqlayer"

export const dynamic = "force-dynamic"

let threads = 0
process.on("worker", () => threads++)

const runtime = ManagedRuntime.make(Database.layer)

const program = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE item (name TEXT PRIMARY KEY)`
  yield* Database.session(sql`INSERT INTO item ${sql.insert([{ name: "one" }, { name: "two" }])}`)
  const failure = yield* Effect.flip(
    Database.session(Effect.zipRight(sql`INSERT INTO item VALUES ('three')`, sql`INSERT INTO item VALUES ('one')`))
  )
  const rows = yield* Stream.runCollect(sql<{ readonly name: string }>`SELECT name FROM item ORDER BY name`.stream)
  yield* sql`DROP TABLE item`
  return {
    healthy: yield* Database.health,
    names: Array.from(rows, ({ name }) => name),
    failure: failure._tag,
    threads
  }
})

export const GET = async (): Promise<Response> => Response.json(await runtime.runPromise(program))
