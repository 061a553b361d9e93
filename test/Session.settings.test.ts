/** Settings and roles of sessions, and their defaults: what row level security needs. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Database from "../src/Database.js"
import { type DatabaseError, fromSqlError } from "../src/DatabaseError.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import * as Session from "../src/Session.js"
import * as TestDatabase from "../src/TestDatabase.js"
import * as Dialects from "./support/dialects.js"
import { node, portOf, send, serve } from "./support/http.js"
import { isInstalled, pgbouncer } from "./support/pgbouncer.js"
import { freshDatabase, query } from "./support/postgres.js"

/** A role that every server has, and that may do nothing by itself. */
const role = "pg_signal_backend"

const tables = `
  CREATE TABLE invoice (id int, tenant text NOT NULL DEFAULT current_setting('app.tenant'));
  ALTER TABLE invoice ENABLE ROW LEVEL SECURITY;
  CREATE POLICY tenants ON invoice USING (tenant = current_setting('app.tenant'));
  GRANT SELECT, INSERT, UPDATE, DELETE ON invoice TO ${role};
`

const state = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.map(
    sql<{ readonly tenant: string; readonly role: string }>`
      SELECT coalesce(current_setting('app.tenant', true), '') AS tenant, current_user::text AS role`,
    ([row]) => row
  ))

const settings = (tenant: string) => ({ settings: { "app.tenant": tenant } })

const tagOf = <A, R>(effect: Effect.Effect<A, DatabaseError | { readonly _tag: "SqlError" }, R>) =>
  Effect.map(Effect.flip(effect), (error) => error._tag)

const postgres = (options: Parameters<typeof Dialects.layer>[1] = {}) =>
  Dialects.layer(Dialects.postgres, { poolSize: 1, poolMaxOverflow: 0, ...options })

const superuser = Effect.map(state, (row) => row.role)

describe("settings and a role", () => {
  it.live("hold for the transaction, and are gone with it", () =>
    Effect.gen(function*() {
      const user = yield* superuser
      const inside = { tenant: "a'b; \" \\ $1", role }
      const session = Database.session(
        Effect.zip(state, Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SHOW work_mem`)),
        {
          settings: { "app.tenant": inside.tenant, work_mem: "5MB" },
          role
        }
      )
      assert.deepStrictEqual(yield* session, [inside, [{ work_mem: "5MB" }]])
      assert.deepStrictEqual(yield* state, { tenant: "", role: user })
      assert.deepStrictEqual(yield* Database.session(state), { tenant: "", role: user })
      const failed = Database.session(Effect.zipRight(state, Effect.fail("no")), { ...settings("a"), role })
      yield* Effect.flip(failed)
      assert.deepStrictEqual(yield* state, { tenant: "", role: user })
      yield* Effect.scoped(Effect.gen(function*() {
        const handle = yield* Database.acquireSession({ ...settings("b"), role })
        assert.deepStrictEqual(yield* handle.run(state), { tenant: "b", role })
      }))
      assert.deepStrictEqual(yield* state, { tenant: "", role: user })
      const reserved = Effect.gen(function*() {
        const connection = yield* (yield* SqlClient.SqlClient).reserve
        const on = Effect.provideService(SqlClient.TransactionConnection, [connection, -1])
        assert.deepStrictEqual(yield* on(Database.session(state, settings("c"))), { tenant: "c", role: user })
        assert.deepStrictEqual(yield* on(state), { tenant: "", role: user })
      })
      yield* Effect.scoped(reserved)
      assert.strictEqual((yield* Database.poolStats).created, 1)
    }).pipe(Effect.provide(postgres())))

  it.live("that are wrong fail the session, and change nothing", () =>
    Effect.gen(function*() {
      const run = (options: Session.Options) => tagOf(Database.session(state, options))
      assert.strictEqual(yield* run({ settings: { nothing_known: "1" } }), "InvalidStatement")
      assert.strictEqual(yield* run({ settings: { work_mem: "a lot" } }), "InvalidData")
      assert.strictEqual(yield* run({ role: "nobody at all" }), "InvalidData")
      assert.strictEqual(yield* run({ settings: { "app.tenant": "\0" } }), "InvalidData")
      for (
        const invalid of [{ settings: "a" }, { settings: { a: 1 } }, { settings: { a: undefined } }, { role: 1 }, {
          role: ""
        }]
      ) {
        assert.strictEqual(yield* run(invalid as never), "InvalidData")
      }
      const secret = yield* Effect.flip(
        Database.session(state, { settings: { "app.tenant": 1, b: "secret" } as never })
      )
      assert.notInclude(String(secret), "secret")
      // A session without a statement asks for nothing.
      yield* Database.session(Effect.void, { role: "nobody at all" })
      assert.strictEqual((yield* state).tenant, "")
    }).pipe(Effect.provide(postgres())))

  it.live("are those of the outermost session", () =>
    Effect.gen(function*() {
      const user = yield* superuser
      const nested = (options: Session.Options) => Database.session(state, options)
      yield* Database.session(
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* nested({}), { tenant: "a", role })
          assert.deepStrictEqual(yield* nested({ ...settings("a"), role }), { tenant: "a", role })
          assert.deepStrictEqual(yield* nested({ ...settings("a"), propagation: "join" }), { tenant: "a", role })
          for (const propagation of ["nested", "join"] as const) {
            assert.strictEqual(yield* tagOf(nested({ ...settings("b"), propagation })), "InvalidStatement")
            assert.strictEqual(yield* tagOf(nested({ settings: { "app.x": "b" }, propagation })), "InvalidStatement")
            assert.strictEqual(yield* tagOf(nested({ role: user, propagation })), "InvalidStatement")
            assert.strictEqual(
              yield* tagOf(Effect.scoped(Database.acquireSession({ ...settings("b"), propagation }))),
              "InvalidStatement"
            )
          }
          assert.deepStrictEqual(yield* nested({ ...settings("b"), propagation: "new" }), { tenant: "b", role: user })
          assert.deepStrictEqual(yield* state, { tenant: "a", role })
        }),
        { ...settings("a"), role }
      )
    }).pipe(Effect.provide(postgres({ poolSize: 2 }))))

  it.live("are said once for all sessions of an effect or of a program", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const all = Effect.all([
        Database.session(state),
        Database.session(Database.session(state)),
        Database.session(state, { settings: { "app.more": "x" } }),
        Database.session(state, { ...settings("own") }),
        sql.withTransaction(state),
        Database.session(state, { retry: true }),
        Effect.scoped(Effect.flatMap(Database.acquireSession(), ({ run }) => run(state)))
      ])
      const tenants = Effect.map(all, (rows) => rows.map(({ tenant }) => tenant).join(" "))
      assert.strictEqual(yield* tenants, "   own   ")
      const a = Session.withDefaults({ ...settings("a"), retry: true, readOnly: true })
      assert.strictEqual(yield* a(tenants), "a a a own a a a")
      assert.strictEqual(
        yield* Effect.provide(tenants, Layer.succeed(Session.Defaults, settings("b"))),
        "b b b own b b b"
      )
      // They add up, and the inner ones take precedence.
      const both = yield* a(Session.withDefaults({ role })(Database.session(state)))
      assert.deepStrictEqual(both, { tenant: "a", role })
      assert.strictEqual(yield* a(Session.withDefaults(settings("c"))(tenants)), "c c c own c c c")
      // Inside a session, other defaults are other options.
      assert.strictEqual(
        yield* tagOf(a(Database.session(Session.withDefaults(settings("c"))(Database.session(state))))),
        "InvalidStatement"
      )
      assert.strictEqual(
        (yield* a(Database.session(Database.session(state), settings("own")))).tenant,
        "own"
      )
      // Statements outside of sessions have none.
      assert.strictEqual((yield* a(state)).tenant, "")
    }).pipe(Effect.provide(postgres({ poolSize: 2 }))))

  it.live("hold for the sessions of a sandbox, one inside the other", () =>
    Effect.gen(function*() {
      const user = yield* superuser
      const none = { tenant: "", role: user }
      yield* Effect.gen(function*() {
        const a = { ...settings("a"), role }
        assert.deepStrictEqual(yield* Database.session(state, a), { tenant: "a", role })
        assert.deepStrictEqual(yield* state, none)
        yield* Database.session(
          Effect.gen(function*() {
            const b = { ...settings("b"), propagation: "new" as const }
            assert.deepStrictEqual((yield* Database.session(state, b)).tenant, "b")
            assert.deepStrictEqual(yield* state, { tenant: "a", role })
            assert.strictEqual(yield* Effect.flip(Database.session(Effect.zipRight(state, Effect.fail("no")), b)), "no")
            assert.deepStrictEqual(yield* state, { tenant: "a", role })
          }),
          a
        )
        yield* Database.session(
          Effect.gen(function*() {
            yield* Database.session(state, { ...a, propagation: "new" })
            assert.deepStrictEqual(yield* state, none)
          })
        )
      }).pipe(Effect.provide(TestDatabase.sandbox))
      assert.deepStrictEqual(yield* state, none)
    }).pipe(Effect.provide(postgres({ poolSize: 3 }))))
})

describe("settings and a role on SQLite", () => {
  it.each(Dialects.dialects.filter(({ dialect }) => dialect === "sqlite"))(
    "are refused by their type: $name",
    (dialect) =>
      Effect.gen(function*() {
        for (const options of [settings("a"), { role }]) {
          assert.strictEqual(yield* tagOf(Database.session(Effect.void, options)), "InvalidStatement")
          assert.strictEqual(yield* tagOf(Effect.scoped(Database.acquireSession(options))), "InvalidStatement")
          const given = Session.withDefaults(options)
          assert.strictEqual(yield* tagOf(given(Database.session(Effect.void))), "InvalidStatement")
          const sql = yield* SqlClient.SqlClient
          const error = yield* Effect.flip(given(sql.withTransaction(Effect.void)))
          assert.strictEqual(fromSqlError(error)._tag, "InvalidStatement")
        }
        yield* Session.withDefaults({ readOnly: true })(Database.session(Effect.void))
      }).pipe(Effect.provide(Dialects.layer(dialect)), Effect.runPromise)
  )
})

class Unauthorized extends Schema.TaggedError<Unauthorized>()(
  "Unauthorized",
  {},
  HttpApiSchema.annotations({ status: 401 })
) {}

const tenantOf = (request: HttpServerRequest.HttpServerRequest) =>
  request.headers["x-tenant"] === undefined
    ? Effect.fail(new Unauthorized())
    : Effect.succeed({ ...settings(request.headers["x-tenant"]), role })

const add = (id: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO invoice (id) VALUES (${id})`)

const list = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.map(
    sql<{ readonly tenant: string }>`SELECT tenant FROM invoice, pg_sleep(0.001)`,
    (rows) => rows.map(({ tenant }) => tenant)
  ))

const app = HttpRouter.empty.pipe(
  HttpRouter.post(
    "/:id",
    Effect.flatMap(HttpRouter.params, ({ id }) => Effect.as(add(Number(id)), HttpServerResponse.empty()))
  ),
  HttpRouter.get("/", Effect.flatMap(list, (tenants) => HttpServerResponse.json(tenants))),
  HttpRouter.use(DatabaseHttp.middleware(tenantOf)),
  HttpRouter.use(Effect.catchTag("Unauthorized", () => HttpServerResponse.empty({ status: 401 }))),
  HttpRouter.use(DatabaseHttp.problems)
)

const Api = HttpApi.make("api").add(
  HttpApiGroup.make("invoices")
    .add(HttpApiEndpoint.post("add", "/:id").setPath(Schema.Struct({ id: Schema.NumberFromString })))
    .add(HttpApiEndpoint.get("list", "/").addSuccess(Schema.Array(Schema.String)))
    .addError(Unauthorized)
    .addError(DatabaseHttp.errors)
)

const InvoicesLive = HttpApiBuilder.group(Api, "invoices", (handlers) =>
  handlers
    .handle("add", ({ path }) => Effect.asVoid(add(path.id)))
    .handle("list", () => list)
    .pipe(DatabaseHttp.sessions(tenantOf)))

const apiServer = Effect.gen(function*() {
  const context = yield* Layer.build(
    HttpApiBuilder.serve().pipe(
      Layer.provide(HttpApiBuilder.api(Api).pipe(Layer.provide(InvoicesLive))),
      Layer.provideMerge(node)
    )
  )
  return portOf(yield* Effect.provide(HttpServer.HttpServer, context))
})

/** 64 requests at a time, of many tenants, each of which sees its own rows and no others. */
const neverSeeEachOther = (port: number) =>
  Effect.gen(function*() {
    const tenants = Array.from({ length: 8 }, (_, i) => `tenant ${i}`)
    yield* Effect.forEach(
      Array.from({ length: 256 }, (_, i) => i),
      (i) =>
        Effect.gen(function*() {
          const headers = { "x-tenant": tenants[i % tenants.length] }
          const added = yield* send(port, "POST", `/${i}`, { headers })
          assert.isBelow(added.status, 300, added.body)
          const { body, status } = yield* send(port, "GET", "/", { headers })
          assert.strictEqual(status, 200, body)
          const seen: ReadonlyArray<string> = JSON.parse(body)
          assert.isNotEmpty(seen)
          assert.deepStrictEqual(new Set(seen), new Set([headers["x-tenant"]]))
        }),
      { concurrency: 64, discard: true }
    )
    assert.strictEqual((yield* send(port, "GET", "/")).status, 401)
  })

const servers = { "of a router": serve(app), "of an HttpApi": apiServer }

describe("two tenants never see each other's rows", () => {
  for (const [name, server] of Object.entries(servers)) {
    it.scopedLive(`in the requests ${name}`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* query(url, tables)
        yield* Effect.gen(function*() {
          yield* neverSeeEachOther(yield* server)
        }).pipe(Effect.provide(Database.layerFrom({ environment: "test", url, poolSize: 4, poolMaxOverflow: 4 })))
        const counts = yield* query(url, "SELECT count(*)::int AS n FROM invoice GROUP BY tenant")
        assert.deepStrictEqual(counts, Array.from({ length: 8 }, () => ({ n: 32 })))
      }), 240_000)
  }

  for (const mode of ["transaction", "session"] as const) {
    it.scopedLive.skipIf(!isInstalled)(`behind PgBouncer in ${mode} mode`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* query(url, tables)
        const pooled = yield* pgbouncer(url, mode, mode === "session" ? 8 : 3)
        yield* Effect.gen(function*() {
          yield* neverSeeEachOther(yield* serve(app))
        }).pipe(
          Effect.provide(Database.layerFrom({ environment: "test", url: pooled, poolSize: 8, poolMaxOverflow: 0 }))
        )
      }), 240_000)
  }
})
