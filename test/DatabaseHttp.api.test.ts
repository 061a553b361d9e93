import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiClient from "@effect/platform/HttpApiClient"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as OpenApi from "@effect/platform/OpenApi"
import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Net from "node:net"
import * as Database from "../src/Database.js"
import type * as DatabaseError from "../src/DatabaseError.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import { make } from "../src/internal/makeError.js"
import * as Session from "../src/Session.js"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { node, portOf, send } from "./support/http.js"

class Missing extends Schema.TaggedError<Missing>()("Missing", {}, HttpApiSchema.annotations({ status: 404 })) {}

class Taken extends Schema.TaggedError<Taken>()("Taken", {}, HttpApiSchema.annotations({ status: 409 })) {}

const Item = Schema.Struct({ id: Schema.Int, name: Schema.String })
const Inserted = Schema.Struct({ session: Schema.String })

const items = HttpApiGroup.make("items")
  .add(HttpApiEndpoint.post("insert", "/items").setPayload(Item).addSuccess(Inserted, { status: 201 }))
  .add(HttpApiEndpoint.post("missing", "/missing").addError(Missing))
  .add(HttpApiEndpoint.post("taken", "/taken").addError(Taken))
  .add(HttpApiEndpoint.post("orphan", "/orphan"))
  .add(HttpApiEndpoint.post("teapot", "/teapot"))
  .add(HttpApiEndpoint.post("unencodable", "/unencodable").addSuccess(Schema.Struct({ n: Schema.Positive })))
  .add(HttpApiEndpoint.post("hang", "/hang"))
  .add(HttpApiEndpoint.get("write", "/write"))
  .add(HttpApiEndpoint.post("fail", "/fail/:tag").setPath(Schema.Struct({ tag: Schema.String })))
  .addError(DatabaseHttp.errors)

const plain = HttpApiGroup.make("plain").add(HttpApiEndpoint.post("insert", "/plain"))

const Api = HttpApi.make("api").add(items).add(plain).addError(DatabaseHttp.errors)

class Hanging extends Context.Tag("Hanging")<Hanging, Deferred.Deferred<void>>() {}

const insert = (id: number, parent: number | null = null) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`INSERT INTO item ${sql.insert({ id, name: `item ${id}`, parent })}`
  })

type Needs = Database.Database | SqlClient.SqlClient | Hanging

/** The answers, with sessions around those of the first group or around all. */
const handlersOf = (sessions: ReturnType<typeof DatabaseHttp.sessions>) => {
  const Items = HttpApiBuilder.group(Api, "items", (handlers) => {
    const all = handlers
      .handle("insert", ({ payload }) =>
        Effect.zipRight(
          insert(payload.id),
          Effect.map(Effect.serviceOption(Session.Session), (session) => ({
            session: session._tag === "Some" ? session.value.name : "none"
          }))
        ))
      .handle("missing", () => Effect.zipRight(insert(1), Effect.fail(new Missing())))
      .handle("taken", () => Effect.zipRight(insert(1), Effect.fail(new Taken())))
      .handle("orphan", () => insert(1, 77))
      .handle("teapot", () => Effect.as(insert(1), HttpServerResponse.empty({ status: 418 })))
      .handle("unencodable", () => Effect.as(insert(1), { n: -1 }))
      .handle("hang", () =>
        Effect.gen(function*() {
          yield* insert(1)
          yield* Deferred.succeed(yield* Hanging, undefined)
          return yield* Effect.never
        }))
      .handle("write", () => insert(1))
      .handle("fail", ({ path }) =>
        Effect.fail(
          path.tag === "SqlError"
            ? new SqlError({ cause: new Error("no"), message: "no" })
            : path.tag === "Endless"
            ? new DatabaseHttp.EndlessResponse({ reason: "no" })
            : make(path.tag as DatabaseError.DatabaseError["_tag"], {
              dialect: "postgres",
              code: "23505",
              reason: "the reason of it",
              detail: "the detail",
              hint: undefined,
              schema: undefined,
              table: "the_table",
              column: undefined,
              constraint: "the_constraint",
              statement: "SELECT the_statement",
              cause: undefined
            })
        ))
    return sessions(all)
  })
  const Plain = HttpApiBuilder.group(Api, "plain", (handlers) => handlers.handle("insert", () => insert(9)))
  return [Items, Plain] as const
}

const forms: Readonly<Record<"around a group" | "around an HttpApi", Layer.Layer<HttpApi.Api, never, Needs>>> = {
  "around a group": HttpApiBuilder.api(Api).pipe(Layer.provide(handlersOf(DatabaseHttp.sessions()))),
  "around an HttpApi": HttpApiBuilder.api(Api).pipe(
    Layer.provide(handlersOf((handlers) => handlers as never)),
    Layer.provideMerge(HttpApiBuilder.middleware(Api, (app) => DatabaseHttp.middleware()(app), { withContext: true }))
  )
}

const served = (api: Layer.Layer<HttpApi.Api, never, Needs>, more: Layer.Layer<never> = Layer.empty) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE item (
      id INTEGER PRIMARY KEY,
      name TEXT NOT NULL UNIQUE,
      parent INTEGER REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED
    )`
    const context = yield* Layer.build(
      HttpApiBuilder.serve().pipe(Layer.provide(more), Layer.provide(api), Layer.provideMerge(node))
    )
    return portOf(Context.get(context, HttpServer.HttpServer))
  })

const ids = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly id: number }>`SELECT id FROM item ORDER BY id`
  return rows.map(({ id }) => id)
})

const idle = Effect.map(Database.poolStats, ({ used, waiting }) => used === 0 && waiting === 0)

const json = (value: unknown) => ({ body: JSON.stringify(value), headers: { "content-type": "application/json" } })

Dialects.forEachDialect((name, layer) => {
  for (const [form, api] of Object.entries(forms)) {
    describe(`a session a request, ${form}, ${name}`, () => {
      it.scopedLive("commits what succeeds, and rolls back everything else", () =>
        Effect.gen(function*() {
          const port = yield* served(api)
          const statusOf = (method: string, path: string) =>
            Effect.map(send(port, method, path), ({ status }) => status)
          const inserted = yield* send(port, "POST", "/items", json({ id: 5, name: "x" }))
          assert.strictEqual(inserted.status, 201)
          assert.deepStrictEqual(
            JSON.parse(inserted.body),
            { session: form === "around a group" ? "POST /items" : "POST" }
          )
          assert.deepStrictEqual(yield* ids, [5])
          assert.strictEqual(yield* statusOf("POST", "/missing"), 404)
          assert.strictEqual(yield* statusOf("POST", "/taken"), 409)
          assert.strictEqual(yield* statusOf("POST", "/teapot"), 418)
          assert.isAtLeast(yield* statusOf("POST", "/unencodable"), 400)
          assert.strictEqual(yield* statusOf("GET", "/write"), 500)
          assert.strictEqual(yield* statusOf("POST", "/nowhere"), 404)
          assert.deepStrictEqual(yield* ids, [5])
          assert.isTrue(yield* idle)
        }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))

      it.scopedLive("a commit that fails is answered with its problem", () =>
        Effect.gen(function*() {
          const port = yield* served(api)
          const answer = yield* send(port, "POST", "/orphan")
          assert.strictEqual(answer.status, 409)
          assert.strictEqual(answer.headers["content-type"], "application/problem+json")
          assert.strictEqual(JSON.parse(answer.body).type, "urn:sqlayer:problem:ForeignKeyViolation")
          assert.deepStrictEqual(yield* ids, [])
        }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))

      it.scopedLive("rolls back when the client goes away", () =>
        Effect.gen(function*() {
          const port = yield* served(api)
          const socket = Net.connect(port, "127.0.0.1")
          socket.on("error", () => {})
          socket.write("POST /hang HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
          yield* Deferred.await(yield* Hanging)
          socket.destroy()
          yield* eventually(idle)
          assert.deepStrictEqual(yield* ids, [])
        }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))

      it.scopedLive("answers malformed requests clearly, and loses nothing", () =>
        Effect.gen(function*() {
          const port = yield* served(api)
          const wrong = yield* send(port, "POST", "/items", json({ id: "x" }))
          assert.strictEqual(wrong.status, 400)
          assert.include(wrong.body, "HttpApiDecodeError")
          assert.isTrue(yield* idle)
          assert.strictEqual((yield* send(port, "POST", "/items", json({ id: 1, name: "x" }))).status, 201)
        }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))
    })
  }

  describe(`a group's sessions, ${name}`, () => {
    it.scopedLive("begin when the request has arrived", () =>
      Effect.gen(function*() {
        const port = yield* served(forms["around a group"])
        const { checkouts } = yield* Database.poolStats
        const body = JSON.stringify({ id: 1, name: "x" })
        const socket = Net.connect(port, "127.0.0.1")
        socket.write(
          "POST /items HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" +
            `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body.slice(0, 5)}`
        )
        // Another request that came later is done by then.
        assert.strictEqual((yield* send(port, "POST", "/missing")).status, 404)
        assert.strictEqual((yield* Database.poolStats).checkouts, checkouts + 1)
        assert.isTrue(yield* idle)
        const answered = Effect.async<string>((resume) => {
          socket.once("data", (data) => resume(Effect.succeed(data.toString())))
        })
        socket.write(body.slice(5))
        assert.match(yield* answered, /^HTTP\/1.1 201 /)
        assert.deepStrictEqual(yield* ids, [1])
      }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))

    it.scopedLive("leave other groups alone, and each handler has one", () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const see = Effect.flatMap(Session.Session, ({ name }) => Effect.sync(() => seen.push(name)))
        const group = HttpApiGroup.make("group")
          .add(HttpApiEndpoint.post("first", "/first"))
          .add(HttpApiEndpoint.post("second", "/second"))
          .add(HttpApiEndpoint.post("third", "/third"))
          .addError(DatabaseHttp.errors)
        const api = HttpApi.make("nearest").add(group)
        const live = HttpApiBuilder.group(api, "group", (handlers) =>
          handlers
            .handle("first", () => Effect.asVoid(see))
            .pipe(DatabaseHttp.sessions({ name: "nearest", isolation: "serializable" }))
            .handle("second", () => Effect.asVoid(see))
            .pipe(DatabaseHttp.sessions())
            .handle("third", () =>
              Effect.map(Effect.serviceOption(Session.Session), (session) => {
                seen.push(session._tag)
              })))
        const port = yield* served(HttpApiBuilder.api(api).pipe(Layer.provide(live)))
        for (const path of ["/first", "/second", "/third"]) {
          assert.strictEqual((yield* send(port, "POST", path)).status, 204)
        }
        assert.deepStrictEqual(seen, ["nearest", "POST /second", "None"])
      }).pipe(Effect.provide(layer), Effect.provideServiceEffect(Hanging, Deferred.make<void>())))
  })
})

const statuses: Readonly<Record<DatabaseError.DatabaseError["_tag"], number>> = {
  UniqueViolation: 409,
  ForeignKeyViolation: 409,
  ExclusionViolation: 409,
  NotNullViolation: 422,
  CheckViolation: 422,
  InvalidData: 422,
  SerializationFailure: 503,
  DeadlockDetected: 503,
  LockTimeout: 503,
  PoolTimeout: 503,
  ConnectionFailed: 503,
  ConnectionLost: 503,
  StatementTimeout: 504,
  SessionTimeout: 504,
  AuthenticationFailed: 500,
  DatabaseClosed: 500,
  StatementCanceled: 500,
  InvalidStatement: 500,
  InsufficientPrivilege: 500,
  ReadOnlyViolation: 500,
  ResourceExhausted: 500,
  DatabaseCorrupt: 500,
  TransactionAborted: 500,
  CommitOutcomeUnknown: 500,
  SessionClosed: 500,
  UnknownDatabaseError: 500
}

describe("errors of the database as answers", () => {
  for (const problems of [true, false]) {
    it.scopedLive(`every error has its status and its document, ${problems ? "with" : "without"} the middleware`, () =>
      Effect.gen(function*() {
        const port = yield* served(
          forms["around a group"],
          problems ? HttpApiBuilder.middleware(DatabaseHttp.problems) : Layer.empty
        )
        for (const [tag, status] of [...Object.entries(statuses), ["SqlError", 500], ["Endless", 500]] as const) {
          const answer = yield* send(port, "POST", `/fail/${tag}`)
          const document = JSON.parse(answer.body)
          assert.strictEqual(answer.status, status, tag)
          assert.strictEqual(answer.headers["content-type"], "application/problem+json")
          assert.hasAllKeys(document, ["type", "title", "status", "detail"])
          assert.strictEqual(document.status, status)
          assert.notMatch(answer.body, /the_|the reason|the detail|23505/)
          if (problems && tag !== "Endless") {
            assert.strictEqual(answer.headers["cache-control"], "no-store")
            assert.strictEqual(answer.headers["retry-after"], status === 503 ? "1" : undefined)
          }
        }
        assert.strictEqual((yield* send(port, "POST", "/missing")).status, 404)
      }).pipe(
        Effect.provide(Dialects.layer(Dialects.sqliteFile)),
        Effect.provideServiceEffect(Hanging, Deferred.make<void>())
      ))
  }

  it.scopedLive("a client gets a Problem, and an endpoint's own errors of the same status stay", () =>
    Effect.gen(function*() {
      const port = yield* served(forms["around a group"])
      const client = yield* HttpApiClient.make(Api, { baseUrl: `http://127.0.0.1:${port}` })
      const orphan = yield* Effect.flip(client.items.orphan())
      assert.instanceOf(orphan, DatabaseHttp.Problem)
      assert.strictEqual(orphan.type, "urn:sqlayer:problem:ForeignKeyViolation")
      assert.match(orphan.message, /^Broken reference: /)
      assert.instanceOf(yield* Effect.flip(client.items.taken()), Taken)
      assert.instanceOf(
        yield* Effect.flip(client.items.fail({ path: { tag: "InvalidStatement" } })),
        DatabaseHttp.Problem
      )
    }).pipe(
      Effect.provide(Dialects.layer(Dialects.sqliteFile)),
      Effect.provide(NodeHttpClient.layer),
      Effect.provideServiceEffect(Hanging, Deferred.make<void>())
    ))

  it("are part of the OpenAPI description", () => {
    const { components, paths } = OpenApi.fromApi(Api)
    const responses = paths["/orphan"].post?.responses ?? {}
    for (const status of [409, 422, 500, 503, 504]) {
      assert.deepStrictEqual(Object.keys(responses[status]?.content ?? {}), ["application/problem+json"])
      assert.isDefined(components.schemas[`DatabaseProblem${status}`])
    }
    assert.include(JSON.stringify(components.schemas.DatabaseProblem409), "urn:sqlayer:problem:UniqueViolation")
    // An endpoint's own error of the same status is described besides.
    assert.include(JSON.stringify(paths["/taken"].post?.responses[409]), "Taken")
  })

  it("toResponse has the same document", () => {
    const response = DatabaseHttp.toResponse(
      make("LockTimeout", {
        dialect: "sqlite",
        code: "SQLITE_BUSY",
        reason: "busy",
        detail: undefined,
        hint: undefined,
        schema: undefined,
        table: undefined,
        column: undefined,
        constraint: undefined,
        statement: undefined,
        cause: undefined
      })
    )
    assert.strictEqual(response.status, 503)
    assert.strictEqual(response.headers["retry-after"], "1")
    assert.strictEqual(response.headers["cache-control"], "no-store")
    assert.strictEqual(response.headers["content-type"], "application/problem+json")
  })
})
