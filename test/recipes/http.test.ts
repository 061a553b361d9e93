/** The recipes for HTTP servers: tenants, idempotent requests, downloads, soft retries. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { type IncomingMessage, request as startRequest } from "node:http"
import { Database, Migrations, TestDatabase } from "sqlayer"
import * as Export from "../../docs/recipes/export.js"
import * as Idempotency from "../../docs/recipes/idempotency.js"
import * as Retries from "../../docs/recipes/retries.js"
import * as Tenants from "../../docs/recipes/tenants.js"
import { eventually } from "../support/eventually.js"
import { send, serve } from "../support/http.js"
import { freshDatabase, query } from "../support/postgres.js"
import { proxy } from "../support/proxy.js"
import { onBoth } from "./databases.js"

/** The two roles of the recipe exist while the tests run. Roles belong to the server, not to one database. */
const roles = Effect.flatMap(freshDatabase, (url) =>
  Effect.acquireRelease(
    query(url, "CREATE ROLE invoicing_tenant NOLOGIN").pipe(
      Effect.zipRight(query(url, "CREATE ROLE invoicing LOGIN NOINHERIT PASSWORD 'secret'")),
      Effect.zipRight(query(url, "GRANT invoicing_tenant TO invoicing")),
      Effect.as(url)
    ),
    () =>
      Effect.zipRight(
        query(url, "DROP OWNED BY invoicing, invoicing_tenant"),
        query(url, "DROP ROLE invoicing, invoicing_tenant")
      )
  ))

/** The application's database: migrated by its owner, and opened by a user that owns nothing. One connection serves all. */
const tenants = Layer.unwrapScoped(Effect.gen(function*() {
  const url = yield* roles
  yield* Migrations.run({ ...Tenants.migrations, progress: () => Effect.void }).pipe(
    Effect.provide(Database.layerFrom({ environment: "test", url }))
  )
  yield* query(
    url,
    "INSERT INTO api_key (hash, tenant) VALUES (sha256('key of a'), 'a'), (sha256('key of b'), 'b')"
  )
  const application = new URL(url)
  application.username = "invoicing"
  application.password = "secret"
  return Database.layerFrom({ environment: "test", url: String(application), poolSize: 1, poolMaxOverflow: 0 })
}))

describe("tenants", () => {
  it.layer(tenants, { timeout: "2 minutes" })((it) => {
    it.scoped("have their own rows and no others, though they share a connection", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const port = yield* serve(Tenants.app)
        const as = (key: string) => (method: string, path: string) =>
          send(port, method, path, { headers: { "x-api-key": key } })
        const [a, b, nobody] = [as("key of a"), as("key of b"), as("key of c")]
        assert.strictEqual((yield* a("POST", "/invoices/100")).status, 201)
        assert.strictEqual((yield* b("POST", "/invoices/200")).status, 201)
        yield* Tenants.billing("a", 101)
        const answers = yield* Effect.all(
          Array.from({ length: 12 }, (_, n) => [a, b, nobody][n % 3]("GET", "/invoices")),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          answers.slice(0, 3).map(({ body, status }) => [status, body]),
          [
            [200, "[{\"id\":1,\"cents\":100},{\"id\":3,\"cents\":101}]"],
            [200, "[{\"id\":2,\"cents\":200}]"],
            [401, ""]
          ]
        )
        for (const [n, { body, status }] of answers.entries()) {
          assert.deepStrictEqual({ body, status }, { body: answers[n % 3].body, status: answers[n % 3].status })
        }

        // Streams and copies are of the session's tenant too, and what belongs to another one can be neither moved nor taken.
        const inSession = Database.session(Tenants.sessionOf("b"))
        const streamed = inSession(Stream.runCollect(sql<{ readonly cents: number }>`SELECT cents FROM invoice`.stream))
        assert.deepStrictEqual(Chunk.toArray(yield* streamed), [{ cents: 200 }])
        const stream = Stream.flatMap(Stream.range(1, 2), () =>
          sql<{ readonly cents: number }>`SELECT cents FROM invoice`.stream)
        assert.deepStrictEqual(
          Chunk.toArray(yield* Stream.runCollect(Database.sessionStream(stream, Tenants.sessionOf("b")))),
          [{ cents: 200 }, { cents: 200 }]
        )
        const copied = inSession(Stream.mkString(Stream.decodeText(Database.copyTo("SELECT cents FROM invoice"))))
        assert.strictEqual(yield* copied, "200\n")
        assert.deepStrictEqual(yield* inSession(sql`UPDATE invoice SET cents = 0 WHERE id = 1 RETURNING id`), [])
        const moved = yield* Effect.flip(inSession(sql`UPDATE invoice SET tenant = 'a'`))
        assert.strictEqual(moved._tag, "InsufficientPrivilege")

        // Forgetting the session, the role or the tenant is an error, and no row.
        const forgotten: ReadonlyArray<
          Effect.Effect<unknown, { readonly message: string }, Database.Database | SqlClient.SqlClient>
        > = [
          Tenants.invoices,
          sql`SELECT * FROM invoice`.stream.pipe(Stream.runCollect),
          Database.session(Tenants.invoices),
          Database.session(Tenants.invoices, { settings: { "app.tenant": "a" } })
        ]
        for (const statement of forgotten) {
          const error = yield* Effect.flip(statement)
          assert.include(error.message, "permission denied")
        }
        assert.deepStrictEqual(yield* Tenants.invoices.pipe(Database.session({ role: "invoicing_tenant" })), [])
        yield* Effect.flip(Tenants.bill(1).pipe(Database.session({ role: "invoicing_tenant" })))
      }))
  })
})

const sendPayment = (port: number, key: string, cents: number) =>
  send(port, "POST", "/payments", {
    body: JSON.stringify({ cents }),
    headers: { "content-type": "application/json", "idempotency-key": key, "x-client": "shop" }
  })

const payments = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => sql<{ readonly cents: number }>`SELECT cents FROM payment`
)

onBoth("idempotent requests", { migrations: Idempotency.migrations }, (database) => {
  it.scopedLive("are done once, also when they arrive together", () =>
    Effect.gen(function*() {
      const port = yield* serve(Idempotency.app)
      const key = crypto.randomUUID()
      const answers = yield* Effect.all(Array.from({ length: 8 }, () => sendPayment(port, key, 100)), {
        concurrency: 8
      })
      const [first] = answers
      assert.strictEqual(first.status, 201)
      assert.deepStrictEqual(new Set(answers.map(({ body }) => body)), new Set([first.body]))
      assert.strictEqual((yield* sendPayment(port, key, 200)).status, 422)
      assert.strictEqual((yield* sendPayment(port, "no key", 200)).status, 400)
      assert.deepStrictEqual(yield* payments, [{ cents: 100 }])
      assert.strictEqual((yield* sendPayment(port, crypto.randomUUID(), 200)).status, 201)
      assert.deepStrictEqual(yield* payments, [{ cents: 100 }, { cents: 200 }])
      // A key that is forgotten can be used again.
      const sql = yield* SqlClient.SqlClient
      yield* sql`UPDATE request SET at = 0 WHERE key = ${key}`
      yield* Idempotency.deleteOldRequests
      assert.strictEqual((yield* sendPayment(port, key, 300)).status, 201)
    }).pipe(Effect.provide(database)))
})

describe("idempotent requests, when answers are lost", () => {
  it.scopedLive("are done once", () =>
    Effect.gen(function*() {
      const network = yield* proxy(yield* freshDatabase)
      const database = Database.layerFrom({ environment: "test", url: network.url })
      yield* Effect.gen(function*() {
        yield* Migrations.run({ ...Idempotency.migrations, progress: () => Effect.void })
        const port = yield* serve(Idempotency.app)
        // The first COMMIT does not arrive; the answer to the second one does not.
        let commits = 0
        yield* network.onClientData((chunk) => {
          if (!/COMMIT(?!TED)/.test(chunk.toString("latin1"))) {
            return "pass"
          }
          commits++
          return commits === 1 ? "cut" : commits === 2 ? { forward: chunk, then: "silence" } : "pass"
        })
        yield* network.onServerData((chunk, connection) => {
          if (commits === 2 && chunk.includes("COMMIT\0")) {
            connection.cut()
            return "drop"
          }
          return "pass"
        })
        const answer = yield* Effect.timeout(sendPayment(port, crypto.randomUUID(), 100), "1 minute")
        assert.strictEqual(answer.status, 201)
        assert.isAtLeast(commits, 2)
        assert.deepStrictEqual(yield* payments, [{ cents: 100 }])
      }).pipe(Effect.provide(database))
    }))
})

const rows = 2_000

const fill = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  sql`
  INSERT INTO reading (id, sensor, value)
  WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ${rows})
  SELECT id, 'north', 0.5 FROM n`)

const hundredMegabytes = Effect.map(SqlClient.SqlClient, (sql) =>
  sql.onDialectOrElse({
    pg: () => "SELECT repeat('x', 100000) FROM generate_series(1, 1000)",
    orElse: () =>
      `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT hex(zeroblob(50000)) FROM n`
  }))

/** A response of which the first bytes have arrived, and no more are read. */
const begun = (port: number) =>
  Effect.async<IncomingMessage>((resume) => {
    const request = startRequest({ host: "127.0.0.1", port, agent: false }, (response) => {
      response.on("error", () => {})
      response.once("data", () => resume(Effect.succeed(response.pause())))
    })
    request.on("error", (error) => resume(Effect.die(error)))
    request.end()
  })

const connectionsInUse = Effect.map(Database.poolStats, ({ used }) => used)

onBoth("a download", { migrations: Export.migrations }, (database) => {
  it.scopedLive("has every row, ends with its client, and fails before it begins", () =>
    Effect.gen(function*() {
      yield* fill
      const port = yield* serve(Export.app)
      const answer = yield* send(port, "GET", "/readings/north")
      assert.strictEqual(answer.status, 200)
      assert.strictEqual(answer.headers["content-type"], "text/csv")
      const lines = answer.body.split("\n")
      assert.deepStrictEqual([lines.length, ...lines.slice(0, 2), lines[rows]], [
        rows + 2,
        "id,value",
        "1,0.5",
        `${rows},0.5`
      ])
      assert.strictEqual((yield* send(port, "GET", "/readings/south")).body, "id,value\n")

      // A client that reads the beginning of 100 MB and leaves.
      const large = (yield* Database.Database).copyTo(yield* hundredMegabytes)
      const largePort = yield* serve(Export.download("large.csv", large))
      const response = yield* begun(largePort)
      assert.strictEqual(yield* connectionsInUse, 1)
      response.destroy()
      yield* eventually(Effect.map(connectionsInUse, (used) => used === 0))

      const sql = yield* SqlClient.SqlClient
      yield* sql`DROP TABLE reading`
      assert.strictEqual((yield* send(port, "GET", "/readings/north")).status, 500)
      assert.strictEqual(yield* connectionsInUse, 0)
    }).pipe(Effect.provide(database)))
})

/** As many failures as the server makes attempts at one request. */
const failures = TestDatabase.faults(
  Array.from({ length: 6 }, (_, n) => ({
    on: "statement",
    nth: n + 1,
    matching: /INSERT INTO "?stock/,
    error: TestDatabase.error("DeadlockDetected")
  }))
)

onBoth("a client", { migrations: Retries.migrations }, (database) => {
  it.scopedLive("sends a request again when the server says so", () =>
    Effect.gen(function*() {
      const port = yield* serve(Retries.app)
      const statuses: Array<number> = []
      const client = Retries.retrying(
        HttpClient.transformResponse(
          yield* HttpClient.HttpClient,
          Effect.tap((response) => {
            statuses.push(response.status)
          })
        )
      )
      const sql = yield* SqlClient.SqlClient
      const put = HttpClientRequest.put(`http://127.0.0.1:${port}/stock/1`).pipe(
        HttpClientRequest.bodyUnsafeJson({ pieces: 7 })
      )
      assert.strictEqual((yield* client.execute(put)).status, 204)
      assert.deepStrictEqual(statuses, [503, 204])
      assert.deepStrictEqual(yield* sql`SELECT pieces FROM stock`, [{ pieces: 7 }])
    }).pipe(
      Effect.provide([
        NodeHttpClient.layer,
        Layer.provide(TestDatabase.sandbox, failures).pipe(Layer.provide(database))
      ])
    ))
})
