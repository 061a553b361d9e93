import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Model from "@effect/sql/Model"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { IncomingMessage } from "node:http"
import * as Net from "node:net"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import * as Session from "../src/Session.js"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { send, serve } from "./support/http.js"
import { freshDatabase, query } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

const setup = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE item (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED
  )`
  return sql
})

const names = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly name: string }>`SELECT name FROM item ORDER BY id`
  return rows.map(({ name }) => name)
})

const insert = (name: string, parent?: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`INSERT INTO item ${sql.insert({ id: (yield* names).length + 1, name, parent: parent ?? null })}`
  })

class Item extends Model.Class<Item>("Item")({ id: Schema.Number, name: Schema.String }) {}

const ok = HttpServerResponse.text("ok")

const idle = Effect.map(Database.poolStats, ({ used, waiting }) => used === 0 && waiting === 0)

const routed = <E, R>(router: HttpRouter.HttpRouter<E, R>) =>
  router.pipe(HttpRouter.use(DatabaseHttp.middleware()), HttpRouter.use(DatabaseHttp.problems))

/** Sends the head of a request by hand, and gives what goes away without a word. */
const connect = (port: number, head: string) =>
  Effect.acquireRelease(
    Effect.async<Net.Socket>((resume) => {
      const socket = Net.connect(port, "127.0.0.1", () => {
        socket.write(head)
        resume(Effect.succeed(socket))
      })
      socket.on("error", () => {})
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

const post = (path: string) => `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n`

Dialects.forEachDialect((name, layer, dialect) =>
  describe(`a session a request, ${name}`, () => {
    it.scopedLive("commits what succeeded before the client is answered", () =>
      Effect.gen(function*() {
        yield* setup
        const port = yield* serve(routed(HttpRouter.empty.pipe(HttpRouter.post("/", Effect.as(insert("a"), ok)))))
        const answer = yield* send(port, "POST", "/")
        assert.deepStrictEqual([answer.status, answer.body], [200, "ok"])
        assert.deepStrictEqual(yield* names, ["a"])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("rolls back a failure, a defect, and a status of 400 and above", () =>
      Effect.gen(function*() {
        yield* setup
        const port = yield* serve(
          routed(HttpRouter.empty.pipe(
            HttpRouter.post(
              "/failure",
              Effect.zipRight(insert("a"), Effect.fail(HttpServerResponse.empty({ status: 404 })))
            ),
            HttpRouter.post("/defect", Effect.zipRight(insert("b"), Effect.dieMessage("no"))),
            HttpRouter.post(
              "/status/:status",
              Effect.gen(function*() {
                yield* insert("c")
                const { status } = yield* HttpRouter.params
                return HttpServerResponse.text("said", { status: Number(status) })
              })
            ),
            HttpRouter.post("/only", Effect.zipRight(insert("d"), Effect.as(Session.rollbackOnly, ok)))
          ))
        )
        assert.strictEqual((yield* send(port, "POST", "/failure")).status, 404)
        assert.strictEqual((yield* send(port, "POST", "/defect")).status, 500)
        const refused = yield* send(port, "POST", "/status/400")
        assert.deepStrictEqual([refused.status, refused.body], [400, "said"])
        assert.strictEqual((yield* send(port, "POST", "/status/503")).status, 503)
        assert.strictEqual((yield* send(port, "POST", "/only")).status, 200)
        assert.deepStrictEqual(yield* names, [])
        assert.strictEqual((yield* send(port, "POST", "/status/399")).status, 399)
        assert.deepStrictEqual(yield* names, ["c"])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("a commit that fails is an error, never a success", () =>
      Effect.gen(function*() {
        yield* setup
        const port = yield* serve(
          routed(HttpRouter.empty.pipe(HttpRouter.post("/", Effect.as(insert("orphan", 77), ok))))
        )
        const answer = yield* send(port, "POST", "/")
        assert.strictEqual(answer.status, 409)
        assert.strictEqual(JSON.parse(answer.body).type, "urn:sqlayer:problem:ForeignKeyViolation")
        assert.deepStrictEqual(yield* names, [])
        assert.isTrue(yield* idle)
      }).pipe(Effect.provide(layer)))

    it.scopedLive("an error that the handler swallowed does not become a success", () =>
      Effect.gen(function*() {
        yield* setup
        yield* insert("a")
        const port = yield* serve(
          routed(HttpRouter.empty.pipe(
            HttpRouter.post("/", Effect.zipRight(Effect.ignore(insert("a")), Effect.as(insert("b"), ok)))
          ))
        )
        const answer = yield* send(port, "POST", "/")
        assert.deepStrictEqual([answer.status, yield* names], [500, ["a"]])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("an error of the database that became a defect is answered as the failure that it was", () =>
      Effect.gen(function*() {
        const sql = yield* setup
        yield* insert("a")
        const repository = yield* Model.makeRepository(Item, { tableName: "item", spanPrefix: "Item", idColumn: "id" })
        const port = yield* serve(
          routed(HttpRouter.empty.pipe(
            HttpRouter.post(
              "/repository",
              Effect.as(repository.insertVoid(Item.insert.make({ id: 2, name: "a" })), ok)
            ),
            HttpRouter.post("/die", Effect.as(Effect.orDie(sql`INSERT INTO item (id, name) VALUES (3, 'a')`), ok)),
            HttpRouter.post("/other", Effect.die(new Error("no")))
          ))
        )
        for (const path of ["/repository", "/die"]) {
          const answer = yield* send(port, "POST", path)
          assert.strictEqual(answer.status, 409)
          assert.strictEqual(JSON.parse(answer.body).type, "urn:sqlayer:problem:UniqueViolation")
        }
        assert.strictEqual((yield* send(port, "POST", "/other")).status, 500)
        assert.deepStrictEqual(yield* names, ["a"])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("GET and HEAD are read-only unless told otherwise", () =>
      Effect.gen(function*() {
        yield* setup
        const write = Effect.as(insert("a"), ok)
        const port = yield* serve(
          HttpRouter.empty.pipe(
            HttpRouter.get("/read", DatabaseHttp.middleware()(write)),
            HttpRouter.get("/write", DatabaseHttp.middleware({ readOnly: false })(write)),
            HttpRouter.post("/read", DatabaseHttp.middleware({ readOnly: true })(write)),
            HttpRouter.use(DatabaseHttp.problems)
          )
        )
        for (const [method, path] of [["GET", "/read"], ["HEAD", "/read"], ["POST", "/read"]]) {
          assert.strictEqual((yield* send(port, method, path)).status, 500)
        }
        assert.deepStrictEqual(yield* names, [])
        const head = yield* send(port, "HEAD", "/write")
        assert.deepStrictEqual([head.status, head.body], [200, ""])
        assert.deepStrictEqual(yield* names, ["a"])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("rolls back when the client goes away, and the connection is back", () =>
      Effect.gen(function*() {
        yield* setup
        const inserted = yield* Deferred.make<void>()
        const app = routed(HttpRouter.empty.pipe(
          HttpRouter.post(
            "/",
            Effect.gen(function*() {
              yield* insert("a")
              yield* Deferred.succeed(inserted, undefined)
              return yield* Effect.never
            })
          )
        ))
        const port = yield* serve(app)
        const socket = yield* connect(port, post("/"))
        yield* Deferred.await(inserted)
        socket.destroy()
        yield* eventually(idle)
        assert.deepStrictEqual(yield* names, [])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("around a whole application: the same, also while a client waits for a connection", () =>
      Effect.gen(function*() {
        yield* setup
        const inserted = yield* Deferred.make<void>()
        const router = HttpRouter.empty.pipe(
          HttpRouter.post(
            "/wait",
            Effect.zipRight(insert("a"), Effect.zipRight(Deferred.succeed(inserted, undefined), Effect.never))
          ),
          HttpRouter.post("/quick", Effect.as(insert("b"), ok))
        )
        const port = yield* serve(DatabaseHttp.problems(DatabaseHttp.middleware()(router)))
        const first = yield* connect(port, post("/wait"))
        yield* Deferred.await(inserted)
        const second = yield* connect(port, post("/quick"))
        yield* eventually(Effect.map(Database.poolStats, ({ used, waiting }) => used === 1 && waiting === 1))
        second.destroy()
        yield* eventually(Effect.map(Database.poolStats, ({ used, waiting }) => used === 1 && waiting === 0))
        first.destroy()
        yield* eventually(idle)
        assert.deepStrictEqual(yield* names, [])
        assert.strictEqual((yield* send(port, "POST", "/quick")).status, 200)
        assert.strictEqual((yield* send(port, "POST", "/none")).status, 404)
        assert.deepStrictEqual(yield* names, ["b"])
      }).pipe(
        Effect.provide(
          dialect.dialect === "postgres" ? Dialects.layer(dialect, { poolSize: 1, poolMaxOverflow: 0 }) : layer
        )
      ))

    for (const [form, expected] of [["an application", []], ["an uninterruptible route", ["a"]]] as const) {
      it.scopedLive(`${form} whose client goes away is not interrupted, and ${expected.length} rows stay`, () =>
        Effect.gen(function*() {
          yield* setup
          const inserted = yield* Deferred.make<void>()
          const handler = Effect.gen(function*() {
            yield* insert("a")
            yield* Deferred.succeed(inserted, undefined)
            const { source } = yield* HttpServerRequest.HttpServerRequest
            yield* Effect.async<void>((resume) => {
              ;(source as IncomingMessage).socket.once("close", () => resume(Effect.void))
            })
            return ok
          })
          const answered = DatabaseHttp.middleware()(handler)
          const port = yield* form === "an application"
            ? serve(answered)
            : serve(HttpRouter.empty.pipe(HttpRouter.post("/", answered, { uninterruptible: true })))
          const socket = yield* connect(port, post("/"))
          yield* Deferred.await(inserted)
          socket.destroy()
          yield* eventually(idle)
          assert.deepStrictEqual(yield* names, [...expected])
        }).pipe(Effect.provide(layer)))
    }

    it.scopedLive("finishes a streamed body inside of the session", () =>
      Effect.gen(function*() {
        const sql = yield* setup
        yield* sql`INSERT INTO item (id, name) VALUES (1, 'a'), (2, 'b')`
        const rows = sql<{ readonly name: string }>`SELECT name FROM item ORDER BY id`.stream.pipe(
          Stream.map(({ name }) => `${name}\n`),
          Stream.encodeText
        )
        const bad = Stream.unwrap(Effect.as(insert("f"), sql`SELECT * FROM nowhere`.stream)).pipe(
          Stream.map(() => new Uint8Array()),
          Stream.provideService(SqlClient.SqlClient, sql)
        )
        const many = Stream.repeatValue(new Uint8Array(1000))
        const port = yield* serve(
          routed(HttpRouter.empty.pipe(
            HttpRouter.post(
              "/rows",
              Effect.as(insert("c"), HttpServerResponse.stream(rows, { contentType: "text/csv" }))
            ),
            HttpRouter.post("/bad", Effect.succeed(HttpServerResponse.stream(bad))),
            HttpRouter.post("/dies", Effect.as(insert("d"), HttpServerResponse.stream(Stream.fail("no")))),
            HttpRouter.get(
              "/sse",
              Effect.succeed(HttpServerResponse.stream(Stream.never, { contentType: "text/event-stream" }))
            ),
            HttpRouter.post(
              "/many",
              DatabaseHttp.middleware({ bodyLimit: 5_000 })(Effect.as(insert("e"), HttpServerResponse.stream(many)))
            )
          ))
        )
        const answer = yield* send(port, "POST", "/rows")
        assert.deepStrictEqual(
          [answer.status, answer.body, answer.headers["content-type"], answer.headers["content-length"]],
          [200, "a\nb\nc\n", "text/csv", "6"]
        )
        for (const [method, path] of [["POST", "/bad"], ["POST", "/dies"], ["GET", "/sse"], ["POST", "/many"]]) {
          assert.strictEqual((yield* send(port, method, path)).status, 500, path)
        }
        assert.deepStrictEqual(yield* names, ["a", "b", "c"])
        assert.isTrue(yield* idle)
      }).pipe(Effect.provide(layer)))

    it.scopedLive("refuses a web socket, and says why; what only asks for one is answered as anything else", () =>
      Effect.gen(function*() {
        yield* setup
        const seen: Array<unknown> = []
        const request = HttpServerRequest.HttpServerRequest
        const upgrades = Effect.flatMap(request, ({ upgrade }) => upgrade)
        const modified = Effect.flatMap(request, (request) => request.modify({ url: "/x" }).modify({}).upgrade)
        const port = yield* serve(HttpRouter.empty.pipe(
          HttpRouter.get("/upgrades", Effect.as(Effect.zipRight(insert("a"), upgrades), ok)),
          HttpRouter.get("/modified", Effect.as(Effect.zipRight(insert("b"), modified), ok)),
          HttpRouter.get(
            "/plain",
            Effect.zipRight(
              insert("c"),
              Effect.map(request, ({ method, url }) => HttpServerResponse.text(`${method} ${url}`))
            )
          ),
          DatabaseHttp.middleware({ readOnly: false }),
          Effect.tapError((error) => Effect.sync(() => seen.push(error)))
        ))
        const asked = (path: string) =>
          Effect.gen(function*() {
            const socket = yield* connect(
              port,
              `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n` +
                "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            let text = ""
            yield* Effect.async<void>((resume) => {
              socket.on("data", (data) => (text += data.toString()))
              socket.once("end", () => resume(Effect.void))
            })
            return text
          })
        assert.match(yield* asked("/upgrades"), /^HTTP\/1.1 500 /)
        assert.match(yield* asked("/modified"), /^HTTP\/1.1 500 /)
        assert.strictEqual(seen.length, 2)
        for (const error of seen) {
          assert.instanceOf(error, DatabaseHttp.EndlessResponse)
          assert.match((error as Error).message, /web socket/)
        }
        const answer = yield* asked("/plain")
        assert.match(answer, /^HTTP\/1.1 200 /)
        assert.include(answer, "GET /plain")
        assert.deepStrictEqual(yield* names, ["c"])
        assert.isTrue(yield* idle)
      }).pipe(Effect.provide(layer)))

    it.scopedLive("keeps what the handler sets for the response, with a timeout as without", () =>
      Effect.gen(function*() {
        yield* setup
        const handler = Effect.as(
          HttpApp.appendPreResponseHandler((_, response) =>
            Effect.succeed(HttpServerResponse.setHeader(response, "x-set", "yes"))
          ),
          ok
        )
        const port = yield* serve(HttpRouter.empty.pipe(
          HttpRouter.get("/", DatabaseHttp.middleware()(handler)),
          HttpRouter.get("/limited", DatabaseHttp.middleware({ timeout: "5 seconds" })(handler)),
          HttpRouter.post(
            "/slow",
            DatabaseHttp.middleware({ timeout: "50 millis" })(Effect.zipRight(insert("a"), Effect.never))
          ),
          HttpRouter.use(DatabaseHttp.problems)
        ))
        assert.strictEqual((yield* send(port, "GET", "/")).headers["x-set"], "yes")
        assert.strictEqual((yield* send(port, "GET", "/limited")).headers["x-set"], "yes")
        assert.strictEqual((yield* send(port, "POST", "/slow")).status, 504)
        assert.deepStrictEqual(yield* names, [])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("names the session by method and route, and nested ones are savepoints of it", () =>
      Effect.gen(function*() {
        yield* setup
        const nested = Effect.zipRight(
          Database.session(insert("a")),
          Effect.ignore(Database.session(Effect.zipRight(insert("b"), Effect.fail("no"))))
        )
        const port = yield* serve(
          HttpRouter.empty.pipe(
            HttpRouter.post(
              "/items/:id",
              Effect.zipRight(nested, Effect.map(Session.Session, ({ name }) => HttpServerResponse.text(name)))
            ),
            HttpRouter.prefixAll("/v1"),
            routed
          )
        )
        const answer = yield* send(port, "POST", "/v1/items/7?token=secret")
        assert.strictEqual(answer.body, "POST /v1/items/:id")
        assert.deepStrictEqual(yield* names, ["a"])
      }).pipe(Effect.provide(layer)))

    it.scopedLive("takes its connection with the first statement: slow requests on a pool of one overlap", () =>
      Effect.gen(function*() {
        const database = yield* Dialects.make(dialect, { poolSize: 1, poolMaxOverflow: 0 })
        const context = Context.add(database.context, Database.Database, database)
        yield* Effect.provide(setup, context)
        let inside = 0
        let most = 0
        const slow = Effect.gen(function*() {
          most = Math.max(most, ++inside)
          yield* Effect.sleep("1 second")
          inside--
          const { id } = yield* HttpRouter.params
          const { sql } = database
          yield* sql`INSERT INTO item (id, name) VALUES (${Number(id)}, ${String(id)})`
          return ok
        })
        const port = yield* Effect.provide(
          serve(routed(HttpRouter.empty.pipe(HttpRouter.post("/:id", slow)))),
          context
        )
        const answers = yield* Effect.forEach([1, 2, 3, 4], (id) => send(port, "POST", `/${id}`), { concurrency: 4 })
        assert.deepStrictEqual(answers.map(({ status }) => status), [200, 200, 200, 200])
        assert.strictEqual(most, 4)
        assert.lengthOf(yield* Effect.provide(names, context), 4)
      }))

    it.scopedLive("clients that send their bodies slowly hold no connection, and no other writer up", () =>
      Effect.gen(function*() {
        const database = yield* Dialects.make(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "20 seconds" })
        const context = Context.add(database.context, Database.Database, database)
        yield* Effect.provide(setup, context)
        const { sql } = database
        const create = Effect.gen(function*() {
          const name = yield* Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ text }) => text)
          yield* sql`INSERT INTO item (id, name) VALUES (${name.charCodeAt(0)}, ${name})`
          return ok
        })
        const port = yield* Effect.provide(
          serve(routed(HttpRouter.empty.pipe(HttpRouter.post("/", create)))),
          context
        )
        const head = "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
        const slow = yield* Effect.all([connect(port, `${head}a`), connect(port, `${head}b`)])
        const open = Effect.map(database.activity, ({ sessions }) => sessions.length)
        yield* eventually(Effect.map(open, (count) => count === 2))
        assert.strictEqual((yield* send(port, "POST", "/", { body: "c" })).status, 200)
        assert.strictEqual((yield* database.poolStats).used, 0)
        slow[0].write("1")
        slow[1].write("2")
        yield* eventually(Effect.map(open, (count) => count === 0))
        assert.deepStrictEqual(yield* Effect.provide(names, context), ["a1", "b2", "c"])
      }))

    it.scopedLive("answers what runs no statement while the pool is exhausted", () =>
      Effect.gen(function*() {
        const options = {
          poolSize: 1,
          poolMaxOverflow: 0,
          poolTimeout: "100 millis",
          lockTimeout: "100 millis"
        } as const
        const database = yield* Dialects.make(dialect, options)
        const context = Context.add(database.context, Database.Database, database)
        yield* Effect.provide(setup, context)
        const port = yield* Effect.provide(
          serve(routed(HttpRouter.empty.pipe(
            HttpRouter.options("/", HttpServerResponse.empty({ status: 204 })),
            HttpRouter.get("/cached", HttpServerResponse.empty({ status: 304 })),
            HttpRouter.post("/secret", HttpServerResponse.empty({ status: 401 })),
            HttpRouter.post("/", Effect.as(insert("a"), ok))
          ))),
          context
        )
        const held = yield* database.acquireSession()
        yield* held.run(database.sql`INSERT INTO item (id, name) VALUES (9, 'held')`)
        const { created, used, waiting } = yield* database.poolStats
        assert.strictEqual((yield* send(port, "OPTIONS", "/")).status, 204)
        assert.strictEqual((yield* send(port, "GET", "/cached")).status, 304)
        assert.strictEqual((yield* send(port, "POST", "/secret")).status, 401)
        assert.deepInclude(yield* database.poolStats, { created, used, waiting })
        const busy = yield* send(port, "POST", "/")
        assert.deepStrictEqual([busy.status, busy.headers["retry-after"]], [503, "1"])
      }))

    it.scopedLive("hundreds of requests at once leave no connection behind", () =>
      Effect.gen(function*() {
        const sql = yield* setup
        const app = routed(HttpRouter.empty.pipe(
          HttpRouter.post(
            "/:id",
            Effect.gen(function*() {
              const id = Number((yield* HttpRouter.params).id)
              yield* sql`INSERT INTO item (id, name) VALUES (${id}, ${String(id)})`
              return HttpServerResponse.empty({ status: id % 2 === 0 ? 201 : 418 })
            })
          )
        ))
        const port = yield* serve(app)
        const answers = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, index) => index),
          (index) =>
            index % 10 === 9
              ? Effect.scoped(
                Effect.flatMap(connect(port, post(`/${index}`)), (socket) =>
                  Effect.as(
                    Effect.sync(() => socket.destroy()),
                    0
                  ))
              )
              : Effect.map(send(port, "POST", `/${index}`), ({ status }) => status),
          { concurrency: 100 }
        )
        yield* eventually(idle)
        assert.strictEqual(answers.filter((status) => status === 201).length, 100)
        assert.strictEqual((yield* names).length, 100)
      }).pipe(Effect.provide(layer)))
  })
)

describe("a session a request, with the commit in flight", () => {
  const app = (hooks: Array<string>) =>
    routed(HttpRouter.empty.pipe(
      HttpRouter.post(
        "/",
        Effect.zipRight(
          insert("a"),
          Effect.as(Session.afterCommit(Effect.sync(() => hooks.push("afterCommit"))), ok)
        )
      )
    ))

  const through = Effect.gen(function*() {
    const url = yield* freshDatabase
    const between = yield* proxy(url)
    const database = yield* Database.make({ url: between.url, environment: "test" })
    const context = Context.add(database.context, Database.Database, database)
    yield* Effect.provide(setup, context)
    return { between, context, rows: query(url, "SELECT name FROM item") }
  })

  const isCommit = (chunk: Buffer) => chunk.includes("COMMIT")

  it.scopedLive("the response is not sent before the commit is answered", () =>
    Effect.gen(function*() {
      const { between, context, rows } = yield* through
      const events: Array<string> = []
      const port = yield* Effect.provide(serve(app(events)), context)
      yield* between.onClientData((chunk) => {
        if (isCommit(chunk)) {
          events.push("COMMIT")
        }
        return "pass"
      })
      yield* between.onServerData((chunk) => {
        if (isCommit(chunk)) {
          events.push("committed")
        }
        return "pass"
      })
      yield* between.delay(30)
      events.push(String((yield* send(port, "POST", "/")).status))
      assert.deepStrictEqual(events, ["COMMIT", "committed", "afterCommit", "200"])
      assert.deepStrictEqual(yield* rows, [{ name: "a" }])
    }))

  it.scopedLive("a connection that breaks before the commit is answered is never a success", () =>
    Effect.gen(function*() {
      const { between, context, rows } = yield* through
      const hooks: Array<string> = []
      const port = yield* Effect.provide(serve(app(hooks)), context)
      yield* between.onClientData((chunk) => isCommit(chunk) ? "cut" : "pass")
      const answer = yield* send(port, "POST", "/")
      assert.strictEqual(answer.status, 500)
      assert.strictEqual(JSON.parse(answer.body).type, "urn:sqlayer:problem:CommitOutcomeUnknown")
      assert.deepStrictEqual(hooks, [])
      assert.deepStrictEqual(yield* rows, [])
    }))

  it.scopedLive("a client that goes away then leaves no lie behind, and no connection", () =>
    Effect.gen(function*() {
      const { between, context, rows } = yield* through
      const hooks: Array<string> = []
      const port = yield* Effect.provide(serve(app(hooks)), context)
      const sent = yield* Deferred.make<void>()
      yield* between.onClientData((chunk) => {
        if (!isCommit(chunk)) {
          return "pass"
        }
        Deferred.unsafeDone(sent, Effect.void)
        return { forward: chunk, then: "silence" }
      })
      const socket = yield* connect(port, post("/"))
      yield* Deferred.await(sent)
      socket.destroy()
      yield* between.onClientData(undefined)
      yield* eventually(Effect.provide(idle, context))
      assert.deepStrictEqual(yield* rows, [{ name: "a" }])
      assert.deepStrictEqual(hooks, [])
    }))
})
