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

/** `problems` answers an error that another attempt may not meet with 503 and Retry-After. */
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

const delayOf = ({ headers }: HttpClientResponse.HttpClientResponse) => {
  const seconds = Number(headers["retry-after"] ?? 1)
  return Duration.seconds(seconds > 0 && seconds <= 60 ? seconds : 1)
}

/** Whether a request can be sent again although the first attempt may have been carried out. */
const isRepeatable = ({ headers, method }: HttpClientRequest.HttpClientRequest) =>
  (method !== "POST" && method !== "PATCH") || "idempotency-key" in headers

/**
 * Repeats up to four times, after one to two times the server's delay, so that clients do not come back all at once.
 */
const retryAfter = Schedule.identity<HttpClientResponse.HttpClientResponse>().pipe(
  Schedule.whileOutput((response) => response.status === 503),
  Schedule.addDelay(delayOf),
  Schedule.jitteredWith({ min: 1, max: 2 }),
  Schedule.zipLeft(Schedule.recurs(4))
)

/** A client that sends a request again after a 503, and returns the 503 if the last attempt gets one too. */
export const retrying = <E, R>(client: HttpClient.HttpClient.With<E, R>) =>
  HttpClient.transform(client, (attempt, request) =>
    isRepeatable(request)
      ? Effect.repeat(attempt, retryAfter)
      : attempt)
