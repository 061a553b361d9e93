/** Downloads that stream from a session of their own, over a real HTTP server. */
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import { forEachDialect, make, postgres } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { send, serve } from "./support/http.js"

const pool = { poolSize: 2, poolMaxOverflow: 0 }

/** Lines of a hundred bytes. */
const lines = (db: Database.Service, count: number) =>
  db.sql<{ readonly n: number }>`
    WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ${count})
    SELECT n FROM counted`.stream.pipe(Stream.map(({ n }) => `${String(n).padStart(99)}\n`))

/** The lines of a download, which is written down. */
const download = (db: Database.Service, count: number) =>
  Stream.concat(
    Stream.drain(Stream.fromEffect(db.sql`INSERT INTO download (size) VALUES (${count})`)),
    lines(db, count)
  ).pipe(Stream.encodeText)

const open = (dialect: Parameters<typeof make>[0]) =>
  Effect.tap(make(dialect, pool), (db) => db.sql`CREATE TABLE download (size INTEGER NOT NULL)`)

const downloads = (db: Database.Service) =>
  Effect.map(db.sql<{ readonly size: number }>`SELECT size FROM download`, (rows) => rows.map(({ size }) => size))

const isIdle = (db: Database.Service) =>
  Effect.map(
    Effect.all([db.activity, db.poolStats]),
    ([{ sessions }, { used, waiting }]) => sessions.length === 0 && used === 0 && waiting === 0
  )

/** Sends a request, and leaves when the first part of the response has arrived. */
const leave = (port: number) =>
  Effect.promise(async () => {
    const controller = new AbortController()
    const response = await fetch(`http://127.0.0.1:${port}/`, { signal: controller.signal })
    const reader = response.body!.getReader()
    const { value } = await reader.read()
    controller.abort()
    await reader.read().catch(() => undefined)
    return value!.length
  })

forEachDialect((name, _, dialect) =>
  describe(`a download on ${name}`, () => {
    it.scopedLive("streams from one session, and commits", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const response = HttpServerResponse.stream(db.sessionStream(download(db, 1_000), { name: "download" }))
        const port = yield* serve(HttpRouter.empty.pipe(HttpRouter.get("/", Effect.succeed(response))))
        const { body } = yield* send(port, "GET", "/")
        assert.strictEqual(body.length, 100_000)
        yield* eventually(isIdle(db))
        assert.deepStrictEqual(yield* downloads(db), [1_000])
        assert.deepStrictEqual((yield* db.activity).rolledBack, {})
      }))

    it.scopedLive("of a client that leaves is rolled back, and leaves no connection behind", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        // More than the buffers between the server and the client hold.
        const response = HttpServerResponse.stream(db.sessionStream(download(db, 200_000)))
        const port = yield* serve(HttpRouter.empty.pipe(HttpRouter.get("/", Effect.succeed(response))))
        const { committed } = yield* db.activity
        const sizes = yield* Effect.forEach([1, 2], () => leave(port), { concurrency: 2 })
        assert.isTrue(sizes.every((size) => size > 0 && size < 10_000_000))
        yield* eventually(isIdle(db))
        assert.deepStrictEqual(yield* downloads(db), [])
        const { committed: after, rolledBack } = yield* db.activity
        assert.strictEqual(after, committed)
        assert.deepStrictEqual(rolledBack, { interrupted: 2 })
      }))

    it.scopedLive("is part of the session of its request, where there is one", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const response = HttpServerResponse.stream(db.sessionStream(download(db, 1_000)))
        const failing = HttpServerResponse.stream(
          db.sessionStream(Stream.concat(download(db, 2_000), Stream.fromEffect(Effect.fail("own"))))
        )
        const port = yield* serve(
          HttpRouter.empty.pipe(
            HttpRouter.post("/", Effect.succeed(response)),
            HttpRouter.post("/failing", Effect.succeed(failing)),
            HttpRouter.use(DatabaseHttp.middleware()),
            HttpRouter.catchAllCause(() => HttpServerResponse.empty({ status: 500 })),
            Effect.provideService(Database.Database, db)
          )
        )
        assert.strictEqual((yield* send(port, "POST", "/")).body.length, 100_000)
        assert.strictEqual((yield* send(port, "POST", "/failing")).status, 500)
        yield* eventually(isIdle(db))
        assert.deepStrictEqual(yield* downloads(db), [1_000])
      }))
  })
)

describe("a download on PostgreSQL", () => {
  it.scopedLive("has its tenant's settings from the first row to the last", () =>
    Effect.gen(function*() {
      const db = yield* make(postgres, pool)
      yield* db.sql`CREATE TABLE invoice (tenant text NOT NULL, n integer NOT NULL)`
      yield* db
        .sql`INSERT INTO invoice SELECT CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, n FROM generate_series(1, 20000) n`
      const query = "SELECT tenant FROM invoice WHERE tenant = current_setting('app.tenant')"
      const port = yield* serve(
        HttpRouter.empty.pipe(
          HttpRouter.get(
            "/:tenant",
            Effect.map(HttpRouter.params, ({ tenant }) =>
              HttpServerResponse.stream(
                db.sessionStream(db.copyTo(query), { readOnly: true, settings: { "app.tenant": tenant! } })
              ))
          )
        )
      )
      const tenants = Array.from({ length: 10 }, (_, i) => i % 2 === 0 ? "a" : "b")
      yield* Effect.forEach(
        tenants,
        (tenant) =>
          Effect.map(send(port, "GET", `/${tenant}`), ({ body }) =>
            assert.strictEqual(body, `${tenant}\n`.repeat(10_000))),
        { concurrency: "unbounded" }
      )
      yield* eventually(isIdle(db))
      assert.strictEqual((yield* db.activity).committed, 10)
    }))
})
