import * as StockPgClient from "@effect/sql-pg/PgClient"
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Statement from "@effect/sql/Statement"
import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as String from "effect/String"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import * as DatabaseConfig from "../src/DatabaseConfig.js"
import { makeCompiler } from "../src/internal/postgres/compiler.js"
import { Json } from "../src/internal/postgres/types/encode.js"
import * as Postgres from "../src/Postgres.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase } from "./support/postgres.js"

const environment = (variables: { readonly [name: string]: string }) =>
  Layer.setConfigProvider(ConfigProvider.fromMap(new Map(Object.entries({ APP_ENV: "test", ...variables }))))

describe("the layers of PostgreSQL", () => {
  it.scopedLive("provide PgClient by their type, and the database", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const layers: ReadonlyArray<
        Layer.Layer<Database.Database | SqlClient.SqlClient | Postgres.PgClient, unknown>
      > = [
        Postgres.layer.pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Postgres.layerWith({ name: "books" }).pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Postgres.layerWith({ url }).pipe(Layer.provide(environment({ DATABASE_URL: "postgres://no.invalid" }))),
        Postgres.layerConfig({ url: Config.string("LEDGER") }).pipe(Layer.provide(environment({ LEDGER: url }))),
        Postgres.layerFrom({ url }),
        Postgres.layerFrom({ ...Either.getOrThrow(DatabaseConfig.resolve({ url })) }),
        Postgres.layerOf(TestDatabase.sandbox).pipe(Layer.provide(Database.layerFrom({ url }))),
        Postgres.layerOf(TestDatabase.layerPostgres({ url }))
      ]
      for (const layer of layers) {
        yield* Effect.gen(function*() {
          const sql = yield* Postgres.PgClient
          assert.strictEqual(sql, yield* StockPgClient.PgClient)
          const inSession = yield* Database.session(sql`SELECT ${Postgres.json({ a: [1] })}::jsonb AS value`)
          assert.deepStrictEqual(inSession, [{ value: { a: [1] } }])
        }).pipe(Effect.provide(layer))
      }
    }))

  it.scopedLive("share the database of Database.layer", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const context = yield* Layer.build(
        Layer.merge(Database.layer, Postgres.layer).pipe(Layer.provide(environment({ DATABASE_URL: url })))
      )
      yield* Context.get(context, Postgres.PgClient)`SELECT 1`
      assert.strictEqual((yield* connections(url)).total, 1)
    }))

  it.effect("are needed where PgClient is, by the types", () =>
    Effect.gen(function*() {
      const usesPgClient = Effect.provide(Postgres.notify("news", "1"), Database.layerFrom({ url: ":memory:" }))
      // Database.layerFrom may open another database, and does not provide it.
      const missing: [Effect.Effect.Context<typeof usesPgClient>] extends [never] ? "none" : "PgClient" = "PgClient"
      assert.strictEqual(missing, "PgClient")
      const found = Effect.provide(Effect.serviceOption(Postgres.PgClient), Database.layerFrom({ url: ":memory:" }))
      assert.strictEqual((yield* found)._tag, "None")
    }))

  it.scopedLive("listen and notify", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* Effect.gen(function*() {
        const received: Array<string> = []
        const listening = yield* Effect.fork(
          Stream.runForEach(Postgres.listen("news"), (payload) => Effect.sync(() => received.push(payload)))
        )
        yield* eventually(Effect.map(Postgres.notify("news", "1"), () => received.includes("1")))
        yield* Fiber.interrupt(listening)
      }).pipe(Effect.provide(Postgres.layerFrom({ url })))
    }))

  it.scopedLive("refuse another database before it is opened", () =>
    Effect.gen(function*() {
      const file = Path.join(yield* directory, "other.db")
      const url = `sqlite:///${file}`
      const layers: ReadonlyArray<
        Layer.Layer<Database.Database, { readonly _tag?: string; readonly message?: string }>
      > = [
        Postgres.layer.pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Postgres.layerWith({ name: "books" }).pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Postgres.layerFrom({ url }),
        Postgres.layerOf(Database.layerFrom({ url })),
        Postgres.layerOf(TestDatabase.layer())
      ]
      for (const layer of layers) {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.include(error.message ?? "", "is not a PostgreSQL database")
        assert.isFalse(Fs.existsSync(file))
      }
    }))

  it.scopedLive("refuse another database that Database.layer has opened", () =>
    Effect.gen(function*() {
      const both = Database.layer.pipe(
        Layer.flatMap(() => Postgres.layer),
        Layer.provide(environment({ DATABASE_URL: ":memory:" }))
      )
      assert.strictEqual((yield* Effect.flip(Effect.scoped(Layer.build(both))))._tag, "ConnectionFailed")
    }))
})

describe("the compiler", () => {
  const fragments = (compiler: Statement.Compiler) => {
    const sql = Statement.make(Effect.die("does not run"), compiler, [], undefined)
    return [
      sql`SELECT ${sql("some Name")} FROM ${sql("a.b")} WHERE a = ${1} AND ${sql.in("c", [1, 2])}`,
      sql`SELECT ${sql.and(["a", sql`b = ${2}`])} ${sql.csv("ORDER BY", ["x"])}`,
      sql`INSERT INTO t ${sql.insert([{ someName: 1, b: "x" }, { someName: 2, b: null }])}`,
      sql`INSERT INTO t ${sql.insert({ someName: 1 }).returning("*")}`,
      sql`UPDATE t SET ${sql.update({ someName: 1, b: 2 }, ["b"])}`,
      sql`UPDATE t SET b = v.b FROM ${sql.updateValues([{ someName: 1, b: 2 }], "v")} WHERE true`,
      sql`UPDATE t SET b = v.b FROM ${sql.updateValues([{ someName: 1 }], "v").returning("*")} WHERE true`,
      sql`SELECT ${Postgres.json({ someName: { otherName: 1 } })}`
    ]
  }

  it.each([
    ["names as they are", undefined, true],
    ["transformed names", String.camelToSnake, true],
    ["transformed names, and the keys of JSON as they are", String.camelToSnake, false]
  ])("compiles as @effect/sql-pg's does: %s", (_, transform, transformJson) => {
    for (const withoutTransform of [false, true]) {
      const texts = (compiler: Statement.Compiler) =>
        fragments(compiler).map((statement) => {
          const [text, params] = statement.compile(withoutTransform)
          // sqlayer marks a JSON value, to send it as JSON whatever it is.
          return [text, params.map((param) => param instanceof Json ? param.value : param)]
        })
      assert.deepStrictEqual(
        texts(makeCompiler(transform, transformJson)),
        texts(StockPgClient.makeCompiler(transform, transformJson))
      )
    }
  })
})
