/**
 * The application that is bundled: it uses the database that DATABASE_URL names, and prints what it has seen as JSON.
 */
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import { Database, DatabaseHttp } from "sqlayer"

const warnings: Array<string> = []
const logger = Logger.make(({ logLevel, message }) => {
  if (logLevel.label === "WARN") {
    warnings.push(String(message))
  }
})

let threads = 0
process.on("worker", () => threads++)

const insertTwo = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE item (name TEXT PRIMARY KEY)`
  yield* sql`INSERT INTO item ${sql.insert([{ name: "one" }, { name: "two" }])}`
})

const insertAgain = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`INSERT INTO item (name) VALUES ('three')`
  yield* sql`INSERT INTO item (name) VALUES ('one')`
})

const app = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* insertTwo.pipe(Database.session())
  const failure = yield* Effect.flip(insertAgain.pipe(Database.session()))
  const names = yield* Stream.runCollect(sql<{ readonly name: string }>`SELECT name FROM item ORDER BY name`.stream)
  const page = yield* DatabaseHttp.dashboard({ guard: Effect.succeed(true) })
  const request = HttpServerRequest.fromWeb(new Request("http://127.0.0.1/?script"))
  const response = yield* Effect.provideService(page, HttpServerRequest.HttpServerRequest, request)
  const script = yield* Effect.promise(() => HttpServerResponse.toWeb(response).text())
  const metrics = yield* Effect.either(DatabaseHttp.metricsRoute())
  yield* sql`DROP TABLE item`
  return {
    healthy: yield* Database.health,
    names: Array.from(names, ({ name }) => name),
    failure: failure._tag,
    script: script.includes("requestTimeout"),
    metrics: metrics._tag === "Left" ? metrics.left._tag : "loaded",
    threads,
    warnings
  }
})

void Effect.runPromise(
  app.pipe(Effect.scoped, Effect.provide(Database.layer), Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
).then((seen) => console.log(JSON.stringify(seen)))
