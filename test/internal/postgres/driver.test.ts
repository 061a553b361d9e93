import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as String from "effect/String"
import * as Util from "node:util"
import { freshDatabase, url } from "../../support/postgres.js"
import { client, connection, driver, rows, target } from "./harness.js"

describe("postgres driver", () => {
  it("has a description without secrets", () => {
    const made = driver("postgres://someone:hunter2secret@db.example:5433/app", {
      settings: { spanAttributes: { "service.name": "x" } },
      target: {
        hosts: [{ host: "db.example", port: 5433 }, { host: "::1", port: 1 }, { host: "/run/postgresql", port: 5432 }]
      }
    })
    assert.strictEqual(made.dialect, "postgres")
    assert.strictEqual(made.description, "db.example:5433/app, [::1]:1/app, /run/postgresql/.s.PGSQL.5432/app")
    assert.deepStrictEqual(made.spanAttributes, [
      ["service.name", "x"],
      ["db.system.name", "postgresql"],
      ["db.namespace", "app"]
    ])
    assert.deepStrictEqual({ size: made.pool.size, maxOverflow: made.pool.maxOverflow }, { size: 5, maxOverflow: 10 })
    assert.notInclude(Util.inspect(made, { depth: null, showHidden: true }), "hunter2secret")
  })

  it("has server attributes for one host, and none for several", () => {
    const serverOf = (...hosts: ReadonlyArray<{ readonly host: string; readonly port: number }>) =>
      driver("postgres://someone@db.example/app", { target: { hosts: hosts as never } }).spanAttributes.filter((
        [key]
      ) => key.startsWith("server."))
    const tcp = { host: "db.example", port: 5433 }
    assert.deepStrictEqual(serverOf(tcp), [["server.address", "db.example"], ["server.port", 5433]])
    assert.deepStrictEqual(serverOf({ host: "/run/postgresql", port: 5432 }), [
      ["server.address", "/run/postgresql/.s.PGSQL.5432"]
    ])
    assert.deepStrictEqual(serverOf(tcp, { host: "db2.example", port: 5433 }), [])
  })

  it.scoped("reports the server's version and role", () =>
    Effect.gen(function*() {
      const c = yield* connection(url())
      const info = yield* driver(url()).serverInfo(c)
      assert.match(info.version, /^\d+/)
      assert.strictEqual(info.role, "primary")
      c.destroy()
      assert.strictEqual((yield* Effect.flip(driver(url()).serverInfo(c)))._tag, "ConnectionLost")
    }))

  it.scoped("extends the client to a PgClient", () =>
    Effect.gen(function*() {
      const database = yield* freshDatabase
      const context = yield* client(database)
      const pg = Context.get(context, PgClient.PgClient)
      assert.strictEqual(Context.get(context, SqlClient.SqlClient), pg)
      assert.strictEqual(pg[PgClient.TypeId], PgClient.TypeId)
      const wanted = target(database)
      assert.strictEqual(pg.config.host, wanted.hosts[0].host)
      assert.strictEqual(pg.config.port, wanted.hosts[0].port)
      assert.strictEqual(pg.config.database, wanted.database)
      assert.strictEqual(pg.config.username, wanted.username)
      assert.strictEqual(pg.config.ssl, false)
      assert.strictEqual(Redacted.value(pg.config.password!), Redacted.value(wanted.password!))
      yield* pg`CREATE TABLE things (id int, data jsonb)`
      yield* pg`INSERT INTO things ${pg.insert([{ id: 1, data: pg.json({ a: [1, "x"] }) }])}`
      assert.deepStrictEqual(yield* pg`SELECT data FROM things WHERE id = ${1}`, [{ data: { a: [1, "x"] } }])
      assert.strictEqual(pg.withoutTransforms().listen, pg.listen)
    }))

  it.scoped("transforms the keys of JSON like names", () =>
    Effect.gen(function*() {
      const database = yield* freshDatabase
      const context = yield* client(database, {
        settings: { transformQueryNames: String.camelToSnake, transformResultNames: String.snakeToCamel }
      })
      const pg = Context.get(context, PgClient.PgClient)
      yield* pg`CREATE TABLE things (some_data jsonb)`
      yield* pg`INSERT INTO things ${pg.insert({ someData: pg.json({ innerName: 1 }) })}`
      const c = yield* connection(database)
      assert.deepStrictEqual(yield* rows(c, "SELECT some_data FROM things"), [{ some_data: { inner_name: 1 } }])
    }))

  it.scoped("quotes identifiers", () =>
    Effect.gen(function*() {
      const { compiler } = driver(url())
      assert.strictEqual(compiler.dialect, "pg")
      const context = yield* client(url())
      const pg = Context.get(context, PgClient.PgClient)
      const [text] = pg`SELECT 1 AS ${pg("a\"b")}`.compile()
      assert.strictEqual(text, "SELECT 1 AS \"a\"\"b\"")
    }))
})
