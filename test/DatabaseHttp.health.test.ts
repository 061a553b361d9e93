import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpServer from "@effect/platform/HttpServer"
import * as OpenApi from "@effect/platform/OpenApi"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import * as Migrations from "../src/Migrations.js"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { node, portOf, send, serve } from "./support/http.js"
import { freshDatabase } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

const Api = HttpApi.make("api").add(DatabaseHttp.HealthApi)

const forms = {
  healthRoutes: serve(DatabaseHttp.healthRoutes),
  HealthApi: Effect.map(
    Layer.build(
      HttpApiBuilder.serve().pipe(
        Layer.provide(HttpApiBuilder.api(Api)),
        Layer.provide(DatabaseHttp.healthLayer(Api)),
        Layer.provideMerge(node),
        Layer.orDie
      )
    ),
    (context) => portOf(Context.get(context, HttpServer.HttpServer))
  )
}

const probe = (port: number, name: "live" | "ready" | "startup") =>
  Effect.map(send(port, "GET", `/health/${name}`), ({ body, headers, status }) => {
    assert.strictEqual(headers["cache-control"], "no-store")
    assert.strictEqual(headers["content-type"], "application/json")
    return { status, said: JSON.parse(body) }
  })

const record = { "0001_one": "CREATE TABLE one (id INTEGER PRIMARY KEY)", "0002_two": "CREATE TABLE two (id INTEGER)" }

const decode = Schema.decodeUnknownSync(DatabaseHttp.Readiness)

for (const [form, served] of Object.entries(forms)) {
  Dialects.forEachDialect((name, layer, dialect) =>
    describe(`the probes of ${form}, ${name}`, () => {
      it.scopedLive("answer 200 with the report where the database answers", () =>
        Effect.gen(function*() {
          const port = yield* served
          assert.deepStrictEqual(yield* probe(port, "live"), { status: 200, said: { status: "live" } })
          for (const kind of ["ready", "startup"] as const) {
            const { said, status } = yield* probe(port, kind)
            assert.strictEqual(status, 200)
            const { database, migrations, status: word } = decode(said)
            assert.strictEqual(word, "ready")
            assert.isTrue(database.healthy)
            assert.strictEqual(database.dialect, dialect.dialect)
            assert.isAtLeast(database.latencyMillis, 0)
            assert.strictEqual(database.pool.waiting, 0)
            assert.isUndefined(migrations)
          }
          const head = yield* send(port, "HEAD", "/health/ready")
          assert.deepStrictEqual([head.status, head.body, head.headers["cache-control"]], [200, "", "no-store"])
          assert.strictEqual((yield* send(port, "POST", "/health/ready")).status, 404)
        }).pipe(Effect.provide(layer)))

      it.scopedLive("are not ready while a migration is pending or edited, and started once they were ready", () =>
        Effect.gen(function*() {
          const migrations = yield* Layer.build(Migrations.layerStatus({ loader: Migrations.fromRecord(record) }))
          const port = yield* Effect.provide(served, migrations)
          const pending = yield* probe(port, "ready")
          assert.strictEqual(pending.status, 503)
          assert.deepStrictEqual(decode(pending.said).migrations?.pending, [
            { id: 1, name: "one" },
            { id: 2, name: "two" }
          ])
          assert.strictEqual(pending.said.status, "unavailable")
          assert.isTrue(pending.said.database.healthy)
          assert.strictEqual((yield* probe(port, "startup")).status, 503)
          assert.strictEqual((yield* probe(port, "live")).status, 200)

          yield* Migrations.run({ loader: Migrations.fromRecord(record) })
          assert.strictEqual((yield* probe(port, "ready")).status, 200)
          assert.strictEqual((yield* probe(port, "startup")).status, 200)

          const { "0002_two": two } = record
          const edited = yield* Layer.build(
            Migrations.layerStatus({
              loader: Migrations.fromRecord({ "0001_one": "CREATE TABLE other (id INTEGER)", "0002_two": two })
            })
          )
          const other = yield* Effect.provide(served, edited)
          const wrong = yield* probe(other, "ready")
          assert.strictEqual(wrong.status, 503)
          assert.deepStrictEqual(decode(wrong.said).migrations?.problems, [{ id: 1, name: "one", problem: "edited" }])
          assert.strictEqual((yield* probe(other, "startup")).status, 200)
        }).pipe(Effect.provide(layer)))
    })
  )
}

describe("the probes", () => {
  it("are described by OpenAPI", () => {
    const { paths } = OpenApi.fromApi(Api)
    assert.hasAllKeys(paths, ["/health/live", "/health/ready", "/health/startup"])
    assert.hasAllKeys(paths["/health/ready"].get?.responses, ["200", "400", "503"])
  })

  it.scopedLive("say that the database is gone, and no secret", () =>
    Effect.gen(function*() {
      const through = yield* proxy(yield* freshDatabase)
      const url = new URL(through.url)
      const database = yield* Database.make({ url: url.toString(), environment: "test", healthTimeout: "500 millis" })
      const provided = Effect.provideService(Database.Database, database)
      const port = yield* provided(serve(DatabaseHttp.healthRoutes))
      assert.strictEqual((yield* probe(port, "startup")).status, 200)
      yield* through.refuse
      yield* through.cutAll
      const { said, status } = yield* probe(port, "ready")
      assert.strictEqual(status, 503)
      assert.isFalse(said.database.healthy)
      assert.strictEqual(said.database.lastError.tag, "ConnectionFailed")
      assert.hasAllKeys(said.database.lastError, ["tag", "message"])
      assert.notInclude(JSON.stringify(said), url.password === "" ? "password" : url.password)
      assert.strictEqual((yield* probe(port, "live")).status, 200)
      assert.strictEqual((yield* probe(port, "startup")).status, 200)
      yield* through.silence
      yield* through.accept
      assert.strictEqual((yield* probe(port, "ready")).status, 503)
      yield* through.unsilence
      yield* eventually(Effect.map(probe(port, "ready"), ({ status }) => status === 200))
    }))

  for (const poolTimeout of ["30 seconds", "100 millis"] as const) {
    it.scopedLive(
      `are ready while slow sessions hold every connection, if the migrations were known before (${poolTimeout})`,
      () =>
        Effect.gen(function*() {
          const database = yield* Database.make({
            url: yield* freshDatabase,
            environment: "test",
            poolSize: 1,
            poolMaxOverflow: 0,
            poolTimeout
          })
          const provided = Effect.provideService(Database.Database, database)
          const options = { loader: Migrations.fromRecord(record) }
          yield* provided(Migrations.run(options))
          const portOf = Effect.flatMap(
            Layer.build(Migrations.layerStatus(options)),
            (migrations) => Effect.provide(serve(DatabaseHttp.healthRoutes), migrations)
          )
          const knows = yield* provided(portOf)
          const knowsNot = yield* provided(portOf)
          assert.strictEqual((yield* probe(knows, "ready")).status, 200)
          yield* database.acquireSession()
          const [known, unknown] = yield* Effect.all([probe(knows, "ready"), probe(knowsNot, "ready")], {
            concurrency: 2
          })
          assert.strictEqual(known.status, 200)
          assert.strictEqual(unknown.status, 503)
          assert.match(unknown.said.migrations.error, /not known( after|: PoolTimeout: )/)
          assert.isTrue(unknown.said.database.healthy)
        })
    )
  }
})
