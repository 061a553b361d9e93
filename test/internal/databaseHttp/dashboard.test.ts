/**
 * The dashboard over HTTP: who is let in, what it says, and that it goes on saying it.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/TestClock"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import { createServer } from "node:http"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import * as Database from "../../../src/Database.js"
import { dashboard } from "../../../src/internal/databaseHttp/dashboard.js"
import type { Data } from "../../../src/internal/databaseHttp/dashboard/data.js"
import { watch } from "../../../src/internal/databaseHttp/dashboard/watch.js"
import { dialects, make, postgres, sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { hostile, load, serve } from "./dashboardApp.js"

const root = fileURLToPath(new URL("../../..", import.meta.url))

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

const request = (url: string, init: RequestInit = {}): Effect.Effect<Answer> =>
  Effect.promise(async () => {
    const response = await fetch(url, { redirect: "manual", ...init })
    return { status: response.status, headers: response.headers, body: await response.text() }
  })

const figures = (address: string, cursor = ""): Effect.Effect<Data> =>
  Effect.map(request(`${address}/admin/database?data=${cursor}`), ({ body, status }) => {
    assert.strictEqual(status, 200)
    return JSON.parse(body)
  })

const everything = ["", "/", "?script", "?style", "?icon", "?data", "?data=x.1", "?nonsense", "/nonsense", "/?data"]
const methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]

const letIn = { guard: Effect.succeed(true) }

const watched = { explains: false, migrations: undefined }

describe("the dashboard's guard", () => {
  for (
    const [what, guard, status, isBroken = false] of [
      ["says no", Effect.succeed(false), 403],
      ["fails", Effect.fail("who goes there"), 403, true],
      ["dies", Effect.die("who goes there"), 403, true],
      ["interrupts itself", Effect.interrupt, 403, true],
      [
        "asks for a password",
        Effect.succeed(HttpServerResponse.empty({ status: 401, headers: { "www-authenticate": "Basic" } })),
        401
      ],
      ["sends elsewhere", Effect.succeed(HttpServerResponse.redirect("/login")), 302]
    ] as const
  ) {
    it.scopedLive(`lets nobody in, whatever is asked for, when it ${what}`, () =>
      Effect.gen(function*() {
        const logged: Array<unknown> = []
        const logger = Logger.replace(Logger.defaultLogger, Logger.make(({ message }) => logged.push(message)))
        const database = yield* make(sqliteFile)
        const address = yield* Effect.provide(serve<string>(database, { guard }), logger)
        for (const method of methods) {
          for (const path of everything) {
            const { body, headers, status: found } = yield* request(`${address}/admin/database${path}`, { method })
            assert.deepStrictEqual([found, body], [status, ""], `${method} ${path}`)
            assert.strictEqual(headers.get("www-authenticate"), status === 401 ? "Basic" : null)
            assert.strictEqual(headers.get("location"), status === 302 ? "/login" : null)
          }
        }
        assert.strictEqual((yield* request(address)).body, "the application")
        assert.lengthOf(logged, isBroken ? methods.length * everything.length : 0)
      }))
  }

  it.scopedLive("is asked anew for each request, and sees it", () =>
    Effect.gen(function*() {
      const database = yield* make(sqliteFile)
      let asked = 0
      const address = yield* serve(database, {
        guard: Effect.sync(() => ++asked % 2 === 1)
      })
      for (let turn = 1; turn <= 6; turn++) {
        const { status } = yield* request(`${address}/admin/database?data`)
        assert.strictEqual(status, turn % 2 === 1 ? 200 : 403)
      }
      assert.strictEqual(asked, 6)
    }))
})

describe("the dashboard's address", () => {
  it.scopedLive("answers with the page and all it needs, each under a strict policy", () =>
    Effect.gen(function*() {
      const address = `${yield* serve(yield* make(sqliteFile), letIn)}/admin/database`
      const types = {
        "": "text/html; charset=utf-8",
        "/": "text/html; charset=utf-8",
        "?from=elsewhere": "text/html; charset=utf-8",
        "?script": "text/javascript; charset=utf-8",
        "?style": "text/css; charset=utf-8",
        "/?style": "text/css; charset=utf-8",
        "?icon": "image/svg+xml",
        "?data": "application/json"
      }
      for (const [path, type] of Object.entries(types)) {
        const { body, headers, status } = yield* request(address + path)
        assert.deepStrictEqual([status, headers.get("content-type")], [200, type], path)
        assert.isNotEmpty(body)
        const policy = headers.get("content-security-policy")?.split("; ") ?? []
        assert.includeMembers(policy, [
          "default-src 'none'",
          "script-src 'self'",
          "frame-ancestors 'none'",
          "base-uri 'none'",
          "form-action 'none'",
          "trusted-types 'none'"
        ])
        assert.notInclude(policy.join(), "unsafe")
        assert.strictEqual(headers.get("x-content-type-options"), "nosniff")
        assert.strictEqual(headers.get("referrer-policy"), "no-referrer")
        assert.strictEqual(headers.get("cache-control"), "no-store")
        assert.strictEqual(headers.get("cross-origin-resource-policy"), "same-origin")
        const head = yield* request(address + path, { method: "HEAD" })
        assert.deepStrictEqual([head.status, head.body, head.headers.get("content-type")], [200, "", type])
      }
    }))

  it.scopedLive("has the same script once the package is built", () =>
    Effect.gen(function*() {
      const out = yield* Effect.acquireRelease(
        Effect.sync(() => {
          Fs.mkdirSync(Path.join(root, "build"), { recursive: true })
          return Fs.mkdtempSync(Path.join(root, "build", "dashboard-"))
        }),
        (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
      )
      const script = Path.join(out, "script.mjs")
      const run = (...args: ReadonlyArray<string>) =>
        Effect.promise(() => promisify(execFile)(process.execPath, args, { cwd: root, encoding: "utf8" }))
      yield* run("test/tools/build.js", Path.join(out, "dist"))
      yield* run(
        "--input-type=module",
        "--eval",
        `import * as HttpApp from "@effect/platform/HttpApp"
         import * as Effect from "effect/Effect"
         import * as Fs from "node:fs"
         import * as Database from "${out}/dist/Database.js"
         import { dashboard } from "${out}/dist/DatabaseHttp.js"
         await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
           const handler = HttpApp.toWebHandler(yield* dashboard({ guard: Effect.succeed(true) }))
           const response = yield* Effect.promise(() => handler(new Request("http://host/?script")))
           Fs.writeFileSync("${script}", yield* Effect.promise(() => response.text()))
         })).pipe(Effect.provide(Database.layerFrom({ url: ":memory:", environment: "test" }))))`
      )
      yield* run("--check", script)
      const built = Fs.readFileSync(script, "utf8")
      const address = yield* serve(yield* make(sqliteFile), letIn)
      const { body } = yield* request(`${address}/admin/database?script`)
      for (const text of [built, body]) {
        assert.notMatch(text, /^(import|export)\b|sourceMappingURL/m)
        assert.deepStrictEqual(text.match(/^(const|class) \w+/gm), body.match(/^(const|class) \w+/gm))
      }
    }), 240_000)

  it.scopedLive("refuses what it does not understand", () =>
    Effect.gen(function*() {
      const address = `${yield* serve(yield* make(sqliteFile), letIn)}/admin/database`
      const posted = yield* request(address, { method: "POST", body: "x" })
      assert.deepStrictEqual([posted.status, posted.headers.get("allow")], [405, "GET, HEAD"])
      assert.strictEqual((yield* request(`${address}s`)).status, 404)
      for (const cursor of ["", "x", ".", "x.y", "%00", `${"9".repeat(400)}.1`, ".-1", "%"]) {
        const { body, status } = yield* request(`${address}?data=${cursor}`)
        assert.deepStrictEqual([status, JSON.parse(body).history.complete], [200, true], cursor)
      }
    }))
})

describe("the dashboard's place", () => {
  it.scopedLive("is in the router of an HttpApi", () =>
    Effect.gen(function*() {
      const api = HttpApi.make("api").add(
        HttpApiGroup.make("group").add(HttpApiEndpoint.get("hello", "/hello").addSuccess(Schema.String))
      )
      const DashboardLive = HttpApiBuilder.Router.use((router) =>
        Effect.flatMap(dashboard(letIn), (app) => router.mountApp("/ops/db", app))
      )
      const context = yield* HttpApiBuilder.serve().pipe(
        Layer.provide(DashboardLive),
        Layer.provide(HttpApiBuilder.api(api)),
        Layer.provide(HttpApiBuilder.group(api, "group", (_) => _.handle("hello", () => Effect.succeed("hello")))),
        Layer.provideMerge(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 })),
        Layer.provide(Database.layerFrom({ url: ":memory:", environment: "test" })),
        Layer.build
      )
      const address = HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
      assert.strictEqual((yield* request(`${address}/hello`)).body, "\"hello\"")
      assert.include((yield* request(`${address}/ops/db`)).body, "<title>Database</title>")
      assert.strictEqual(JSON.parse((yield* request(`${address}/ops/db/?data`)).body).dialect, "sqlite")
    }))

  it.scopedLive("is a route of its own, below others, or behind a handler of web requests", () =>
    Effect.gen(function*() {
      const app = yield* Effect.provideService(dashboard(letIn), Database.Database, yield* make(sqliteFile))
      const router = HttpRouter.empty.pipe(
        HttpRouter.get("/own", app),
        HttpRouter.mount("/far/away", HttpRouter.empty.pipe(HttpRouter.get("/own", app))),
        HttpRouter.mountApp("/whole", app, { includePrefix: true })
      )
      const handler = HttpApp.toWebHandler(router)
      for (const path of ["/own", "/far/away/own", "/whole", "/whole/"]) {
        const page = yield* Effect.promise(async () => (await handler(new Request(`http://host${path}`))).text())
        assert.include(page, "<title>Database</title>", path)
        const data = yield* Effect.promise(async () => (await handler(new Request(`http://host${path}?data`))).json())
        assert.strictEqual((data as Data).dialect, "sqlite")
      }
    }))
})

describe("the dashboard's figures", () => {
  for (const dialect of dialects) {
    it.scopedLive(`tell what happens under load: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, { poolSize: 2, poolMaxOverflow: 0 })
        const address = yield* serve(database, letIn)
        yield* load(database)
        const slow = dialect.single ? /RECURSIVE/ : /pg_sleep/
        // Its statements run on the thread that answers requests, so that nobody sees one run.
        const isQuick = dialect.name === "sqlite :memory:"
        let last = yield* figures(address)
        const seen = new Set<string>()
        yield* eventually(
          Effect.map(figures(address), (data) => {
            last = data
            data.sessions.forEach(({ state }) => seen.add(state))
            return data.errors.UniqueViolation > 1 && data.retried.SerializationFailure > 1
              && data.rolledBack.failure > 1 && data.rolledBack.UniqueViolation > 1
              && data.history.samples.some(({ waiting }) => waiting > 1)
              && data.history.samples.some(({ committed }) => committed > 0)
              && seen.has("waiting") && (isQuick || seen.has("statement"))
              && data.sessions.length > 2 && data.health !== undefined
              && data.statements.some(({ text }) => slow.test(text))
          }),
          { timeout: "20 seconds" }
        )
        assert.strictEqual(last.dialect, dialect.dialect)
        assert.deepInclude(last.health, { healthy: true, role: dialect.single ? "embedded" : "primary" })
        assert.strictEqual(last.sessionCount, last.sessions.length)
        const ages = last.sessions.map(({ age }) => age)
        assert.deepStrictEqual(ages, ages.toSorted((one, other) => other - one))
        // Which one is the slowest depends on what else the machine does.
        const longest = last.statements.map(({ longest }) => longest)
        assert.deepStrictEqual(longest, longest.toSorted((one, other) => other - one))
        const slowest = last.statements.find(({ text }) => slow.test(text))
        assert.includeMembers(slowest?.sessions.map(({ name }) => name) ?? [], ["POST /orders"])
        assert.isTrue(last.statements.some(({ text }) => text.includes(hostile.slice(0, 10))))
        const sample = last.history.samples.findLast(({ use, wait }) => use !== undefined && wait !== undefined)
        assert.isAbove(sample?.wait?.[2] ?? 0, 0)
        assert.isAtLeast(sample?.use?.[2] ?? 0, sample?.use?.[0] ?? 0)
        assert.notInclude(JSON.stringify(last), "secret parameter")
      }), 240_000)
  }

  it.scopedLive("come without a connection from the pool, and no more of them than are of use", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres, { poolSize: 1, poolMaxOverflow: 0 })
      const address = yield* serve(database, letIn)
      const handle = yield* database.acquireSession({ name: "holder" })
      yield* handle.run(database.sql`SELECT 1`)
      const waiting = yield* Effect.fork(
        Effect.forEach(
          Array.from({ length: 150 }, (_, index) => `w${index}${"x".repeat(300)}`),
          (name) => database.session(database.sql`SELECT 1`, { name }),
          { concurrency: "unbounded" }
        )
      )
      yield* eventually(Effect.map(database.poolStats, (stats) => stats.waiting === 150))
      const data = yield* figures(address)
      assert.strictEqual(data.sessionCount, 151)
      assert.lengthOf(data.sessions, 100)
      assert.deepInclude(data.sessions[0], { name: "holder", state: "idle" })
      assert.isTrue(
        data.sessions.slice(1).every(({ id, name, state }) =>
          id !== undefined && state === "waiting" && name.length === 201
        )
      )
      assert.deepInclude(data.pool, { used: 1, waiting: 150 })
      yield* handle.rollback
      yield* Fiber.join(waiting)
    }))

  it.scopedLive("come while the database is silent, refuses, and answers again", () =>
    Effect.gen(function*() {
      const gate = yield* proxy(yield* freshDatabase)
      const database = yield* Database.make({ url: gate.url, environment: "test", healthTimeout: "500 millis" })
      const address = yield* serve(database, letIn)
      const healthy = (expected: boolean) =>
        eventually(
          Effect.map(figures(address), ({ health }) => health?.healthy === expected),
          { timeout: "15 seconds" }
        )
      yield* healthy(true)
      yield* gate.silence
      yield* healthy(false)
      const { health } = yield* figures(address)
      assert.match(health?.error ?? "", /^ConnectionFailed: .*did not answer/)
      yield* gate.refuse
      yield* gate.cutAll
      assert.isFalse((yield* figures(address)).health?.healthy)
      yield* gate.accept
      yield* gate.unsilence
      yield* healthy(true)
    }), 240_000)

  it.scopedLive("come after the database was closed", () =>
    Effect.gen(function*() {
      const address = yield* Effect.flatMap(
        Effect.scoped(make(sqliteFile)),
        (database) => serve(database, letIn)
      )
      const { pool } = yield* figures(address)
      assert.strictEqual(pool.used, 0)
      yield* eventually(Effect.map(figures(address), ({ health }) => health?.healthy === false))
    }))
})

describe("the dashboard's requests", () => {
  it.scopedLive("for figures are left out of the access log", () =>
    Effect.gen(function*() {
      const logged: Array<unknown> = []
      const logger = Logger.replace(
        Logger.defaultLogger,
        Logger.make(({ annotations }) => logged.push(HashMap.unsafeGet(annotations, "http.url")))
      )
      const app = yield* Effect.provideService(dashboard(letIn), Database.Database, yield* make(sqliteFile))
      const server = yield* NodeHttpServer.make(createServer, { host: "127.0.0.1", port: 0 })
      yield* HttpServer.serveEffect(app, HttpMiddleware.logger).pipe(
        Effect.provideService(HttpServer.HttpServer, server),
        Effect.provide(logger)
      )
      const address = HttpServer.formatAddress(server.address)
      for (const path of ["/", "/?data", "/?data=x", "/?script"]) {
        assert.strictEqual((yield* request(address + path)).status, 200)
      }
      assert.deepStrictEqual(logged, ["/", "/?script"])
    }))
})

describe("the dashboard's history", () => {
  it.scoped("is of the last five minutes, and only what is new is told", () =>
    Effect.gen(function*() {
      const database = yield* make(sqliteFile)
      const answer = yield* watch(database, watched)
      yield* TestClock.adjust("9 seconds")
      const first = yield* answer("")
      assert.isTrue(first.history.complete)
      assert.lengthOf(first.history.samples, 10)
      assert.deepStrictEqual((yield* answer(first.history.cursor)).history, {
        cursor: first.history.cursor,
        complete: false,
        samples: []
      })

      yield* database.session(database.sql`SELECT 1`)
      yield* TestClock.adjust("3 seconds")
      const next = yield* answer(first.history.cursor)
      assert.isFalse(next.history.complete)
      assert.deepStrictEqual(next.history.samples.map(({ committed, time }) => [time / 1_000, committed]), [
        [10, 1],
        [11, 1],
        [12, 1]
      ])

      yield* TestClock.adjust("6 minutes")
      const late = yield* answer(next.history.cursor)
      assert.isTrue(late.history.complete)
      assert.lengthOf(late.history.samples, 300)
      assert.strictEqual(late.history.samples[299].time, late.time)
      assert.deepStrictEqual((yield* (yield* watch(database, watched))(late.history.cursor)).history.complete, true)
    }))

  it.scoped("ends with the scope, and health is looked at only for somebody", () =>
    Effect.gen(function*() {
      const database = yield* make(sqliteFile)
      let samples = 0
      let reports = 0
      let reported = 0
      const counted: Database.Service = {
        ...database,
        activity: Effect.zipRight(Effect.sync(() => samples++), database.activity),
        report: Effect.zipRight(
          Effect.sync(() => reports++),
          TestClock.adjust(0).pipe(
            Effect.zipRight(database.report),
            Effect.ensuring(Effect.sync(() => reported++))
          )
        )
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const answer = yield* watch(counted, watched)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual([samples, reports], [61, 0])
        for (let second = 0; second < 20; second++) {
          yield* answer("")
          yield* TestClock.adjust("1 second")
          yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 10)))
          yield* eventually(Effect.sync(() => reported === reports))
        }
        assert.isAtLeast(reports, 2)
        assert.isAtMost(reports, 5)
      }))
      const before = [samples, reports]
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([samples, reports], before)
    }))
})
