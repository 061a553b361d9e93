/**
 * Soft retries: the server tries again where it can, then says when the client may, and the client does so.
 */
import {
  HttpClient,
  type HttpClientRequest,
  type HttpClientResponse,
  HttpRouter,
  HttpServerRequest,
  HttpServerResponse
} from "@effect/platform"
import { SqlClient } from "@effect/sql"
import { Duration, Effect, Schedule, Schema } from "effect"
import { Database, DatabaseHttp, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_stock": "CREATE TABLE stock (item integer PRIMARY KEY, pieces integer NOT NULL)"
  })
}

const setStock = (item: number, pieces: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`
      INSERT INTO stock ${sql.insert({ item, pieces })} ON CONFLICT (item) DO UPDATE SET pieces = excluded.pieces`
  }).pipe(Database.session({ name: "set stock", lockTimeout: "1 second", timeout: "5 seconds", retry: true }))

/** An error that another attempt may not meet again is answered with 503 and Retry-After by `problems`. */
export const app = HttpRouter.empty.pipe(
  HttpRouter.put(
    "/stock/:item",
    Effect.gen(function*() {
      const { item } = yield* HttpRouter.schemaPathParams(Schema.Struct({ item: Schema.NumberFromString }))
      const { pieces } = yield* HttpServerRequest.schemaBodyJson(Schema.Struct({ pieces: Schema.Int }))
      yield* setStock(item, pieces)
      return HttpServerResponse.empty()
    })
  ),
  HttpRouter.use(DatabaseHttp.problems)
)

const secondsToWait = ({ headers }: HttpClientResponse.HttpClientResponse) => {
  const seconds = Number(headers["retry-after"] ?? 1)
  return Duration.seconds(seconds > 0 && seconds <= 60 ? seconds : 1)
}

/** What can be sent again though the first attempt may have been carried out. */
const isRepeatable = ({ headers, method }: HttpClientRequest.HttpClientRequest) =>
  (method !== "POST" && method !== "PATCH") || "idempotency-key" in headers

/** Not earlier than the server says, and up to twice as late, so that clients do not come back all at once. Four times. */
const asTheServerSays = Schedule.identity<HttpClientResponse.HttpClientResponse>().pipe(
  Schedule.whileOutput((response) => response.status === 503),
  Schedule.addDelay(secondsToWait),
  Schedule.jitteredWith({ min: 1, max: 2 }),
  Schedule.zipLeft(Schedule.recurs(4))
)

/** A client that sends a request again after a 503, and in the end gives the 503. */
export const patient = <E, R>(client: HttpClient.HttpClient.With<E, R>) =>
  HttpClient.transform(client, (attempt, request) =>
    isRepeatable(request)
      ? Effect.repeat(attempt, asTheServerSays)
      : attempt)
