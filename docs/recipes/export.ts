/**
 * A table of any size as a CSV download, in constant memory.
 */
import { HttpRouter, HttpServerResponse } from "@effect/platform"
import { SqlClient } from "@effect/sql"
import { Chunk, Effect, Option, Schema, Stream } from "effect"
import { Database, DatabaseHttp, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_reading": `
      CREATE TABLE reading (id integer PRIMARY KEY, sensor text NOT NULL, value double precision NOT NULL);
      CREATE INDEX reading_sensor ON reading (sensor, id)`
  })
}

/**
 * Waits for the first chunk before it responds, so that a query that fails is answered with 503 or 500, and not with a
 * 200 without a body. The rest is read as fast as the client takes it. If the client disconnects, the scope of the
 * request closes, which ends the query and returns its connection.
 */
export const download = <E>(file: string, csv: Stream.Stream<Uint8Array, E>) =>
  Effect.gen(function*() {
    const pull = yield* Stream.toPull(csv)
    const first = yield* Effect.catchAll(
      pull,
      Option.match({ onNone: () => Effect.succeed(Chunk.empty<Uint8Array>()), onSome: Effect.fail })
    )
    return HttpServerResponse.stream(
      Stream.concat(Stream.fromChunk(first), Stream.fromPull(Effect.succeed(pull))),
      { contentType: "text/csv", headers: { "content-disposition": `attachment; filename="${file}"` } }
    )
  })

const readings = (sensor: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const database = yield* Database.Database
    const query = sql`SELECT id, value FROM reading WHERE sensor = ${sensor} ORDER BY id`
    return database.copyTo(query, { format: "csv", header: true })
  })

/**
 * Without `DatabaseHttp.middleware`: its session ends before the body is sent, so it would read the body into memory.
 */
export const app = HttpRouter.empty.pipe(
  HttpRouter.get(
    "/readings/:sensor",
    Effect.gen(function*() {
      const { sensor } = yield* HttpRouter.schemaPathParams(Schema.Struct({ sensor: Schema.String }))
      return yield* download("readings.csv", yield* readings(sensor))
    })
  ),
  HttpRouter.use(DatabaseHttp.problems)
)
