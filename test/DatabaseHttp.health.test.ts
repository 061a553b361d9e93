import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpServer from "@effect/platform/HttpServer"
import * as OpenApi from "@effect/platform/OpenApi"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Fs from "node:fs"
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

const servedWith = <E>(migrations: Layer.Layer<Migrations.Migrations, E, Database.Database>) =>
  Effect.flatMap(Layer.build(migrations), (context) => Effect.provide(serve(DatabaseHttp.healthRoutes), context))

/** A database whose migrations are applied, and whose only connection a session holds. */
const exhausted = (dialect: Dialects.Dialect, healthTimeout = Duration.seconds(25)) =>
  Effect.gen(function*() {
    const database = yield* Dialects.make(dialect, { poolSize: 1, poolMaxOverflow: 0, healthTimeout })
    yield* Effect.provideService(
      Migrations.run({ loader: Migrations.fromRecord(record) }),
      Database.Database,
      database
    )
    const session = yield* database.acquireSession()
    yield* session.run(database.sql`INSERT INTO one VALUES (1)`)
    return database
  })

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

  for (const dialect of Dialects.dialects.filter(({ name }) => name !== "sqlite :memory:")) {
    it.scopedLive(`are ready while slow sessions hold every connection from the start: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* exhausted(dialect)
        const provided = Effect.provideService(Database.Database, database)
        const port = yield* provided(servedWith(Migrations.layerStatus({ loader: Migrations.fromRecord(record) })))
        const [duration, probes] = yield* Effect.timed(
          Effect.all(Array.from({ length: 5 }, () => probe(port, "ready")), { concurrency: "unbounded" })
        )
        for (const { said, status } of probes) {
          assert.strictEqual(status, 200)
          assert.strictEqual(said.migrations.applied, 2)
          assert.strictEqual(said.database.pool.idle, 0)
        }
        assert.isBelow(Duration.toMillis(duration), 25_000)
      }))

    it.scopedLive(`see a migration that is pending while slow sessions hold every connection: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* exhausted(dialect)
        const loader = Migrations.fromRecord({ ...record, "0003_three": "CREATE TABLE three (id INTEGER)" })
        const provided = Effect.provideService(Database.Database, database)
        const port = yield* provided(servedWith(Migrations.layerStatus({ loader })))
        const { said, status } = yield* probe(port, "ready")
        assert.strictEqual(status, 503)
        assert.deepStrictEqual(said.migrations.pending, [{ id: 3, name: "three" }])
        assert.isTrue(said.database.healthy)
      }))
  }

  it.scopedLive("say that the migrations are not known where only the held connection has them: sqlite :memory:", () =>
    Effect.gen(function*() {
      const database = yield* exhausted(
        Dialects.dialects.find(({ name }) => name === "sqlite :memory:")!,
        Duration.millis(200)
      )
      const provided = Effect.provideService(Database.Database, database)
      const port = yield* provided(servedWith(Migrations.layerStatus({ loader: Migrations.fromRecord(record) })))
      const { said, status } = yield* probe(port, "ready")
      assert.strictEqual(status, 503)
      assert.isTrue(said.database.healthy)
      assert.match(said.migrations.error, /^the status of the migrations is not known: ConnectionFailed: /)
    }))

  it.scopedLive("ask for the migrations until all are applied, and not after that", () =>
    Effect.gen(function*() {
      const applied = [{ id: 1, name: "one", at: new Date() }]
      const two = { id: 2, name: "two" }
      let asked = 0
      let pending: ReadonlyArray<Migrations.Migration> = [two]
      const service: Migrations.Service = {
        status: Effect.sync(() => {
          asked++
          return { applied, pending, problems: [], ahead: [] }
        })
      }
      const database = yield* Dialects.make(Dialects.sqliteFile)
      const provided = Effect.provideService(Database.Database, database)
      const port = yield* provided(servedWith(Layer.succeed(Migrations.Migrations, service)))
      assert.strictEqual((yield* probe(port, "ready")).status, 503)
      assert.strictEqual((yield* probe(port, "ready")).status, 503)
      assert.strictEqual(asked, 2)
      pending = []
      for (let i = 0; i < 3; i++) {
        assert.strictEqual((yield* probe(port, "ready")).status, 200)
      }
      assert.strictEqual(asked, 3)
      // What is pending now could only be that of another application.
      pending = [two]
      assert.strictEqual((yield* probe(port, "ready")).status, 200)
    }))

  it.scopedLive("say that the file of a SQLite database is gone", () =>
    Effect.gen(function*() {
      const database = yield* Dialects.make(Dialects.sqliteFile)
      const provided = Effect.provideService(Database.Database, database)
      const options = { loader: Migrations.fromRecord(record) }
      const port = yield* provided(servedWith(Migrations.layer(options)))
      assert.strictEqual((yield* probe(port, "ready")).status, 200)
      const [{ file }] = yield* database.sql<
        { file: string }
      >`SELECT file FROM pragma_database_list WHERE name = 'main'`
      Fs.rmSync(file)
      const report = yield* database.report
      assert.isFalse(report.healthy)
      assert.isDefined(report.lastError)
      assert.isFalse(yield* database.health)
      const { said, status } = yield* probe(port, "ready")
      assert.strictEqual(status, 503)
      assert.isFalse(said.database.healthy)
      assert.strictEqual((yield* probe(port, "live")).status, 200)
    }))
})
