/**
 * Requests that may be sent again: the answer of the first one is stored with its work.
 */
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { SqlClient } from "@effect/sql"
import { Clock, Duration, Effect, Schema } from "effect"
import { Database, DatabaseHttp, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_commit_records": Migrations.commitRecords,
    "0002_create_request": `
      CREATE TABLE request (
        client text NOT NULL, key text NOT NULL, content text NOT NULL, answer text, at bigint NOT NULL,
        PRIMARY KEY (client, key)
      );
      CREATE INDEX request_at ON request (at)`,
    "0003_create_payment": "CREATE TABLE payment (id text PRIMARY KEY, cents integer NOT NULL)"
  })
}

/** The key was used for another request. */
export class KeyReused extends Schema.TaggedError<KeyReused>()("KeyReused", { key: Schema.String }) {}

/**
 * Does the work once for each key of a client, stores its answer in the same session, and returns that answer from then
 * on. A second request waits in its INSERT until the first one has committed, or does the work if the first one was
 * rolled back.
 *
 * If the answer to a commit is lost, `recorded` finds out whether it was done, and `retry` does the work again if not.
 */
export const once = <A, I, C, CI, E, R>(
  options: {
    readonly client: string
    readonly key: string
    readonly content: C
    readonly Content: Schema.Schema<C, CI>
    readonly Answer: Schema.Schema<A, I>
  },
  work: Effect.Effect<A, E, R>
) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const { client, key } = options
    const content = yield* Effect.orDie(Schema.encode(Schema.parseJson(options.Content))(options.content))
    const Answer = Schema.parseJson(options.Answer)
    const at = yield* Clock.currentTimeMillis
    const first = yield* sql`
      INSERT INTO request ${sql.insert({ client, key, content, at })} ON CONFLICT DO NOTHING RETURNING key`
    if (first.length === 0) {
      const [stored] = yield* sql<{ readonly content: string; readonly answer: string }>`
        SELECT content, answer FROM request WHERE client = ${client} AND key = ${key}`
      return stored.content === content
        ? yield* Effect.orDie(Schema.decode(Answer)(stored.answer))
        : yield* new KeyReused({ key })
    }
    const answer = yield* work
    const stored = yield* Effect.orDie(Schema.encode(Answer)(answer))
    yield* sql`UPDATE request SET answer = ${stored} WHERE client = ${client} AND key = ${key}`
    return answer
  }).pipe(Database.session({ name: "idempotent", isolation: "read committed", commit: "recorded", retry: true }))

/** Deletes requests that are older than a day; their keys may then be used again. To be run once an hour. */
export const deleteOldRequests = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const before = (yield* Clock.currentTimeMillis) - Duration.toMillis("1 day")
  yield* sql`DELETE FROM request WHERE at < ${before}`
}).pipe(Database.session({ name: "delete old requests" }))

const Order = Schema.Struct({ cents: Schema.Int.pipe(Schema.positive()) })
const Receipt = Schema.Struct({ id: Schema.String })

const pay = Effect.gen(function*() {
  const order = yield* HttpServerRequest.schemaBodyJson(Order)
  const headers = yield* HttpServerRequest.schemaHeaders(
    Schema.Struct({ "idempotency-key": Schema.UUID, "x-client": Schema.NonEmptyString })
  )
  const receipt = yield* Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const id = crypto.randomUUID()
    yield* sql`INSERT INTO payment ${sql.insert({ id, cents: order.cents })}`
    return { id }
  }).pipe((work) =>
    once({
      client: headers["x-client"],
      key: headers["idempotency-key"],
      content: order,
      Content: Order,
      Answer: Receipt
    }, work)
  )
  return yield* HttpServerResponse.json(receipt, { status: 201 })
})

/** Without the middleware: the session is the handler's own, so that it can be retried. */
export const app = HttpRouter.empty.pipe(
  HttpRouter.post("/payments", pay),
  HttpRouter.catchTag("KeyReused", () => HttpServerResponse.empty({ status: 422 })),
  HttpRouter.catchTag("ParseError", () => HttpServerResponse.empty({ status: 400 })),
  HttpRouter.use(DatabaseHttp.problems)
)
