import * as StockSqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import type * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import * as DatabaseConfig from "../src/DatabaseConfig.js"
import { fromSqlError } from "../src/DatabaseError.js"
import * as Sqlite from "../src/Sqlite.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { directory, file } from "./internal/sqlite/support.js"

const environment = (variables: { readonly [name: string]: string }) =>
  Layer.setConfigProvider(ConfigProvider.fromMap(new Map(Object.entries({ APP_ENV: "test", ...variables }))))

describe("the layers of SQLite", () => {
  it.scopedLive("provide SqliteClient by their type, and the database", () =>
    Effect.gen(function*() {
      const url = `sqlite:///${yield* file}`
      const layers: ReadonlyArray<
        Layer.Layer<Database.Database | SqlClient.SqlClient | Sqlite.SqliteClient, unknown>
      > = [
        Sqlite.layer.pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Sqlite.layerWith({ name: "books" }).pipe(Layer.provide(environment({ DATABASE_URL: url }))),
        Sqlite.layerWith({ url }).pipe(Layer.provide(environment({ DATABASE_URL: "postgres://no.invalid" }))),
        Sqlite.layerConfig({ url: Config.string("LEDGER") }).pipe(Layer.provide(environment({ LEDGER: url }))),
        Sqlite.layerFrom({ url }),
        Sqlite.layerFrom({ ...Either.getOrThrow(DatabaseConfig.resolve({ url })) }),
        Sqlite.layerOf(TestDatabase.sandbox).pipe(Layer.provide(Database.layerFrom({ url }))),
        Sqlite.layerOf(TestDatabase.layer())
      ]
      for (const layer of layers) {
        yield* Effect.gen(function*() {
          const sql = yield* Sqlite.SqliteClient
          assert.strictEqual(sql, yield* StockSqliteClient.SqliteClient)
          assert.strictEqual(sql[StockSqliteClient.TypeId], StockSqliteClient.TypeId)
          assert.deepStrictEqual(yield* Database.session(sql`SELECT 1 AS a`), [{ a: 1 }])
        }).pipe(Effect.provide(layer))
      }
    }))

  it.scopedLive("copy the database, and load extensions", () =>
    Effect.gen(function*() {
      const copy = Path.join(yield* directory, "copy.db")
      yield* Effect.gen(function*() {
        const sql = yield* Sqlite.SqliteClient
        yield* sql`CREATE TABLE t (a)`
        assert.strictEqual(Buffer.from(yield* Sqlite.export).toString("latin1", 0, 15), "SQLite format 3")
        assert.strictEqual((yield* Sqlite.backup(copy)).remainingPages, 0)
        assert.isTrue(Fs.existsSync(copy))
        const error = fromSqlError(yield* Effect.flip(Sqlite.loadExtension(Path.join(copy, "missing"))))
        assert.strictEqual(error.dialect, "sqlite")
      }).pipe(Effect.provide(Sqlite.layerFrom({ url: ":memory:" })))
    }))

  it.scopedLive("store the bytes of every view, and no others of its buffer", () =>
    Effect.gen(function*() {
      const buffer = Uint8Array.from({ length: 64 }, (_, i) => i).buffer
      const views: ReadonlyArray<ArrayBufferView> = [
        new Uint8Array(buffer, 3, 5),
        Buffer.from(buffer, 7, 2),
        new DataView(buffer, 1, 9),
        new DataView(buffer),
        new Uint8ClampedArray(buffer, 5, 4),
        new Int16Array(buffer, 6, 3),
        new Float64Array(buffer, 16, 2),
        new BigUint64Array(buffer, 8, 1),
        new DataView(buffer, 4, 0)
      ]
      for (const url of [":memory:", `sqlite:///${yield* file}`]) {
        yield* Effect.gen(function*() {
          const sql = yield* Sqlite.SqliteClient
          for (const view of views) {
            const bytes = Buffer.from(view.buffer, view.byteOffset, view.byteLength)
            assert.deepStrictEqual(yield* sql`SELECT ${view} AS bytes`, [{ bytes }])
          }
        }).pipe(Effect.provide(Sqlite.layerFrom({ url })))
      }
    }))

  it.live("refuse another database before it is opened", () =>
    Effect.gen(function*() {
      const url = "postgres://user:hidden@127.0.0.1:1/ledger"
      for (
        const layer of [
          Sqlite.layer.pipe(Layer.provide(environment({ DATABASE_URL: url }))),
          Sqlite.layerWith({ name: "books" }).pipe(Layer.provide(environment({ DATABASE_URL: url }))),
          Sqlite.layerFrom({ url }),
          Sqlite.layerOf(Database.layerFrom({ url }))
        ]
      ) {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.include(error.message, "is not a SQLite database")
        assert.notInclude(error.message, "hidden")
      }
    }))
})
