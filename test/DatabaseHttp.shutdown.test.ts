/** The graceful shutdown of an HTTP server. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import * as Https from "node:https"
import * as Net from "node:net"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import { live, logged } from "./internal/session/harness.js"
import { eventually } from "./support/eventually.js"
import { type Answer, portOf, send } from "./support/http.js"
import { connectError } from "./support/tcp.js"
import { certificates } from "./support/tls.js"

/** A database, and an application on a server over it until `stop` is run. */
const start = (options: DatabaseHttp.ShutdownOptions) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(Database.layerFrom({ url: ":memory:", environment: "test" }))
    const db = Context.get(context, Database.Database)
    yield* db.sql`CREATE TABLE item (n INTEGER NOT NULL)`
    const released = yield* Deferred.make<void>()
    const started = { count: 0 }
    const insert = db.sql`INSERT INTO item (n) VALUES (1)`
    const start = Effect.sync(() => {
      started.count++
    })
    const rest = Effect.zipRight(start, Deferred.await(released))
    const chunks = Stream.concat(
      Stream.make(new Uint8Array(10)),
      Stream.drain(Stream.fromEffect(Effect.zipRight(insert, rest)))
    )
    const app = HttpRouter.empty.pipe(
      HttpRouter.get("/", HttpServerResponse.text("ok")),
      HttpRouter.get("/start", Effect.zipRight(start, HttpServerResponse.text("ok"))),
      HttpRouter.get("/select", Effect.zipRight(Effect.orDie(db.sql`SELECT 1`), HttpServerResponse.text("ok"))),
      HttpRouter.get(
        "/wait",
        Effect.zipRight(db.session(Effect.zipRight(insert, rest)), HttpServerResponse.text("ok"))
      ),
      HttpRouter.get("/stream", Effect.sync(() => HttpServerResponse.stream(db.sessionStream(chunks)))),
      HttpRouter.get(
        "/broken",
        Effect.sync(() =>
          HttpServerResponse.stream(Stream.concat(Stream.make(new Uint8Array(10)), Stream.fail("broken")))
        )
      ),
      HttpRouter.get(
        "/socket",
        Effect.gen(function*() {
          const socket = yield* Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ upgrade }) => upgrade)
          yield* start
          yield* socket.runRaw(() => undefined)
          return HttpServerResponse.empty()
        })
      ),
      HttpRouter.concat(DatabaseHttp.healthRoutes)
    )
    const scope = yield* Scope.make()
    const layer = DatabaseHttp.layerServer(
      () => Http.createServer(),
      (server) => NodeHttpServer.layer(server, { port: 0, host: "127.0.0.1" }),
      options
    )
    const server = yield* Scope.extend(Effect.provide(Layer.build(layer), context), scope)
    yield* HttpServer.serveEffect(app).pipe(Effect.provide(Context.merge(context, server)), Scope.extend(scope))
    yield* Effect.addFinalizer(() => Deferred.succeed(released, undefined))
    const port = portOf(Context.get(server, HttpServer.HttpServer))
    return {
      db,
      port,
      started,
      release: Deferred.succeed(released, undefined),
      stop: Scope.close(scope, Exit.void),
      items: Effect.map(db.sql`SELECT n FROM item`, (rows) => rows.length)
    }
  })

/** Whether nothing listens on the port. */
const isRefused = (port: number) => Effect.map(connectError(port), (code) => code === "ECONNREFUSED")

const status = (port: number, path: string) => Effect.map(send(port, "GET", path), (answer: Answer) => answer.status)

/** The connection of a web socket that says nothing. */
const webSocket = (port: number) =>
  Effect.async<Net.Socket>((resume) => {
    const headers = {
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
      "sec-websocket-version": "13"
    }
    const request = Http.get({ host: "127.0.0.1", port, path: "/socket", headers })
    request.on("upgrade", (_, socket) => {
      socket.resume()
      resume(Effect.succeed(socket))
    })
  })

/** The code of a failed request, and of what has caused it. */
const codeOf = (error: unknown): unknown => {
  const { cause, code } = error as { readonly cause?: { readonly code?: unknown }; readonly code?: unknown }
  return cause?.code ?? code ?? error
}

/** Sends requests one after the other until one fails; gives the number of answers, and the failure's code. */
const load = async (request: () => Promise<number>): Promise<readonly [number, unknown]> => {
  for (let answers = 0;; answers++) {
    try {
      assert.strictEqual(await request(), 200)
    } catch (error) {
      return [answers, codeOf(error)]
    }
  }
}

describe("the shutdown of a server", () => {
  live("answers every request of clients that keep their connections", () =>
    Effect.gen(function*() {
      const { port, stop } = yield* start({ shutdownTimeout: "1 minute" })
      const agent = new Http.Agent({ keepAlive: true, maxSockets: 4 })
      yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
      const url = `http://127.0.0.1:${port}/select`
      const byAgent = () =>
        new Promise<number>((resolve, reject) => {
          const request = Http.get(url, { agent }, (response) => {
            response.resume()
            response.on("error", reject)
            response.on("end", () => resolve(response.statusCode ?? 0))
          })
          request.on("error", reject)
        })
      const byFetch = async () => {
        const response = await fetch(url)
        await response.text()
        return response.status
      }
      let answers = 0
      const counted = (request: () => Promise<number>) => async () => {
        const status = await request()
        answers++
        return status
      }
      const loads = [byAgent, byFetch].flatMap((request) => Array.from({ length: 4 }, () => load(counted(request))))
      // Connections on which nothing more is sent.
      yield* Effect.promise(() => Promise.all([byFetch(), byFetch(), byAgent()]))
      yield* eventually(Effect.sync(() => answers > 60))
      yield* stop
      const results = yield* Effect.promise(() => Promise.all(loads))
      assert.deepStrictEqual(new Set(results.map(([, code]) => code)), new Set(["ECONNREFUSED"]))
      assert.isTrue(results.every(([answers]) => answers > 0))
    }))

  live("says first that it is not ready, and then finishes the requests that run", () =>
    Effect.gen(function*() {
      const { items, port, release, started, stop } = yield* start({ shutdownDelay: "1 second" })
      assert.strictEqual(yield* status(port, "/health/ready"), 200)
      const running = yield* Effect.fork(Effect.promise(() => fetch(`http://127.0.0.1:${port}/wait`)))
      const streamed = yield* Effect.fork(send(port, "GET", "/stream"))
      yield* eventually(Effect.sync(() => started.count === 1))
      const stopping = yield* Effect.fork(stop)
      // New connections are accepted meanwhile.
      yield* eventually(Effect.map(status(port, "/health/ready"), (status) => status === 503))
      const { body } = yield* send(port, "GET", "/health/ready")
      assert.deepInclude(JSON.parse(body), { status: "unavailable", stopping: true })
      assert.deepStrictEqual([yield* status(port, "/health/live"), yield* status(port, "/")], [200, 200])
      yield* eventually(isRefused(port))
      assert.strictEqual(yield* Fiber.status(stopping).pipe(Effect.map(({ _tag }) => _tag)), "Suspended")
      yield* release
      const answer = yield* Fiber.join(running)
      assert.deepStrictEqual([answer.status, answer.headers.get("connection")], [200, "close"])
      assert.strictEqual((yield* Fiber.join(streamed)).body.length, 10)
      yield* Fiber.join(stopping)
      assert.strictEqual(yield* items, 2)
    }))

  live("interrupts what still runs at its limit, and closes all connections", () =>
    Effect.gen(function*() {
      const lines = yield* logged(Effect.scoped(Effect.gen(function*() {
        const { db, items, port, started, stop } = yield* start({ shutdownTimeout: "200 millis" })
        const waiting = yield* Effect.fork(send(port, "GET", "/wait"))
        yield* eventually(Effect.sync(() => started.count === 1))
        const socket = yield* webSocket(port)
        yield* eventually(Effect.sync(() => started.count === 2))
        // It waits for the connection of the first.
        const streamed = yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/stream`))
        // A connection without a request.
        const silent = yield* Effect.acquireRelease(
          Effect.sync(() => Net.connect(port, "127.0.0.1")),
          (socket) => Effect.sync(() => socket.destroy())
        )
        yield* eventually(Effect.sync(() => !silent.connecting))
        yield* stop
        assert.strictEqual((yield* Fiber.join(waiting)).status, 503)
        const body = yield* Effect.promise(() => streamed.arrayBuffer().then(() => "whole", () => "broken off"))
        assert.strictEqual(body, "broken off")
        yield* eventually(Effect.sync(() => socket.closed && silent.closed))
        yield* eventually(Effect.map(db.activity, ({ sessions }) => sessions.length === 0))
        assert.strictEqual(yield* items, 0)
        assert.deepStrictEqual((yield* db.activity).rolledBack, { interrupted: 2 })
      })))
      const warnings = lines.filter(({ level }) => level === "WARN").map(({ text }) => text)
      assert.lengthOf(warnings, 1)
      assert.match(warnings[0], /^3 requests were still running 200ms after/)
    }))

  live("is not needed for a body that fails to break its connection off", () =>
    Effect.gen(function*() {
      const { port, stop } = yield* start({})
      const broken = yield* Effect.promise(() =>
        fetch(`http://127.0.0.1:${port}/broken`).then((response) => response.text()).then(() => "whole", () =>
          "broken off")
      )
      assert.strictEqual(broken, "broken off")
      assert.strictEqual(yield* status(port, "/"), 200)
      yield* stop
      assert.isTrue(yield* isRefused(port))
    }))

  live("answers the requests of a client that does not wait for responses", () =>
    Effect.gen(function*() {
      const { port, release, started, stop } = yield* start({ shutdownTimeout: "1 minute" })
      const socket = Net.connect(port, "127.0.0.1")
      let received = ""
      socket.on("data", (data) => {
        received += data.toString()
      })
      const stream = "GET /stream HTTP/1.1\r\nhost: a\r\n\r\n"
      socket.write(stream + stream.replace("/stream", "/wait"))
      yield* eventually(Effect.sync(() => started.count === 1))
      const stopping = yield* Effect.fork(stop)
      yield* eventually(isRefused(port))
      // Two before the listener was closed, and one after it.
      socket.write(stream.replace("/stream", "/start"))
      yield* eventually(Effect.sync(() => started.count === 2))
      yield* release
      yield* eventually(Effect.sync(() => socket.closed))
      assert.lengthOf(received.match(/HTTP\/1.1 200/g) ?? [], 3)
      assert.lengthOf(received.match(/connection: close/gi) ?? [], 1)
      yield* Fiber.join(stopping)
    }))

  live("closes connections over TLS whose handshake is not over", () =>
    Effect.gen(function*() {
      const { server: { cert, key } } = yield* certificates()
      const database = yield* Layer.build(Database.layerFrom({ url: ":memory:", environment: "test" }))
      const layer = DatabaseHttp.layerServer(
        () => Https.createServer({ cert, key }),
        (server) => NodeHttpServer.layer(server, { port: 0, host: "127.0.0.1" })
      )
      const get = (port: number) =>
        Effect.async<number>((resume) => {
          const options = {
            host: "127.0.0.1",
            port,
            agent: new Https.Agent({ keepAlive: true }),
            rejectUnauthorized: false
          }
          Https.get(options, (response) => {
            response.resume()
            response.on("end", () => resume(Effect.succeed(response.statusCode ?? 0)))
          })
        })
      const socket = yield* Effect.scoped(Effect.gen(function*() {
        const server = yield* Effect.provide(Layer.build(layer), database)
        yield* Effect.provide(HttpServer.serveEffect(HttpServerResponse.text("ok")), server)
        const port = portOf(Context.get(server, HttpServer.HttpServer))
        const socket = Net.connect(port, "127.0.0.1")
        socket.on("error", () => undefined)
        assert.strictEqual(yield* get(port), 200)
        return socket
      }))
      yield* eventually(Effect.sync(() => socket.closed))
    }))

  live("comes once for several applications, and does not wait where there is none", () =>
    Effect.gen(function*() {
      const layer = DatabaseHttp.layerServer(
        () => Http.createServer(),
        (server) => NodeHttpServer.layer(server, { port: 0, host: "127.0.0.1" }),
        { shutdownTimeout: "1 hour" }
      )
      const database = yield* Layer.build(Database.layerFrom({ url: ":memory:", environment: "test" }))
      const build = Effect.provide(Layer.build(layer), database)
      yield* Effect.scoped(Effect.gen(function*() {
        const server = yield* build
        const serve = Effect.provide(HttpServer.serveEffect(HttpServerResponse.text("ok")), server)
        yield* Effect.all([serve, serve])
      }))
      const socket = yield* Effect.scoped(Effect.gen(function*() {
        const port = portOf(Context.get(yield* build, HttpServer.HttpServer))
        const socket = Net.connect(port, "127.0.0.1")
        // Nothing responds to it.
        socket.on("error", () => undefined)
        yield* Effect.async<void>((resume) => {
          socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n", () => resume(Effect.void))
        })
        return socket
      }))
      yield* eventually(Effect.sync(() => socket.closed))
    }))
})
