import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import { describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Path from "node:path"
import { assert } from "vitest"
import { fromSqlError, toSqlError } from "../../../src/DatabaseError.js"
import { connect, directory, driver, file } from "./support.js"

const client = (filename: string) =>
  Effect.gen(function*() {
    const sqlite = driver(filename)
    const connection = yield* connect(sqlite)
    const standard = yield* SqlClient.make({
      acquirer: Effect.mapError(Effect.succeed(connection), toSqlError),
      compiler: sqlite.compiler,
      spanAttributes: sqlite.spanAttributes
    }).pipe(Effect.provide(Reactivity.layer))
    const context = yield* sqlite.extendClient(standard, Effect.succeed(connection), undefined)
    return { connection, context, sqlite, sql: Context.unsafeGet(context, SqliteClient.SqliteClient) }
  })

const databases = { file, memory: Effect.succeed(":memory:") }

describe("client", () => {
  for (const [name, filename] of Object.entries(databases)) {
    it.scopedLive(`is the SqliteClient: ${name}`, () =>
      Effect.gen(function*() {
        const { context, sql } = yield* client(yield* filename)
        assert.strictEqual(Context.unsafeGet(context, SqlClient.SqlClient), sql)
        assert.strictEqual(sql[SqliteClient.TypeId], SqliteClient.TypeId)
        assert.include(sql.config.filename, name === "file" ? "test.db" : ":memory:")
        yield* sql`CREATE TABLE people ${sql.literal("(id INTEGER PRIMARY KEY, name TEXT)")}`
        yield* sql`INSERT INTO people ${sql.insert([{ name: "Ann" }, { name: "Bob" }])}`
        assert.deepStrictEqual(yield* sql`SELECT name FROM people WHERE ${sql.in("id", [2])}`, [{ name: "Bob" }])
        const unprepared = yield* Effect.flip(sql`SELEC`.unprepared)
        assert.strictEqual(fromSqlError(unprepared)._tag, "InvalidStatement")
        assert.deepStrictEqual(yield* sql.unsafe("SELECT 1 AS n").unprepared, [{ n: 1 }])
      }))

    it.scopedLive(`export and backup copy the database: ${name}`, () =>
      Effect.gen(function*() {
        const { sql } = yield* client(yield* filename)
        const copies = yield* directory
        yield* sql`CREATE TABLE t (a)`
        yield* sql`INSERT INTO t VALUES (42)`
        const bytes = yield* sql.export
        assert.strictEqual(Buffer.from(bytes).toString("latin1", 0, 15), "SQLite format 3")
        assert.instanceOf(bytes, Buffer)
        const destination = Path.join(copies, "backup.db")
        const { remainingPages, totalPages } = yield* sql.backup(destination)
        assert.strictEqual(remainingPages, 0)
        assert.isAbove(totalPages, 0)
        const copy = yield* connect(driver(destination))
        assert.deepStrictEqual(yield* copy.execute("SELECT a FROM t", [], undefined), [{ a: 42 }])
        const failed = yield* Effect.flip(sql.backup(Path.join(copies, "missing", "backup.db")))
        assert.include(failed.message, "directory does not exist")
      }))

    it.scopedLive(`a backup can be interrupted: ${name}`, () =>
      Effect.gen(function*() {
        const { connection, sql } = yield* client(yield* filename)
        yield* sql`CREATE TABLE t (a)`
        yield* sql`INSERT INTO t VALUES (zeroblob(60000000))`
        const destination = Path.join(yield* directory, "backup.db")
        const backup = yield* Effect.fork(sql.backup(destination))
        while (!Fs.existsSync(destination)) {
          yield* Effect.sleep(1)
        }
        yield* Fiber.interrupt(backup)
        assert.strictEqual(connection.status(), "idle")
        assert.deepStrictEqual(yield* sql`SELECT length(a) AS n FROM t`, [{ n: 60_000_000 }])
      }))

    it.scopedLive(`extensions: ${name}`, () =>
      Effect.gen(function*() {
        const { connection, sql, sqlite } = yield* client(yield* filename)
        const error = yield* Effect.flip(sql.loadExtension("/nowhere/extension"))
        assert.strictEqual(error._tag, "SqlError")
        const extension = Path.join(
          Path.dirname(createRequire(import.meta.url).resolve("better-sqlite3/package.json")),
          "build/Release/test_extension.node"
        )
        if (!Fs.existsSync(extension)) {
          return
        }
        yield* sql.loadExtension(extension)
        const call = "SELECT testExtensionFunction(1, 2) AS n"
        const rows = yield* sql.unsafe(call)
        assert.strictEqual(rows.length, 1)
        // It stays loaded after a reset, and later connections load it.
        yield* sql`CREATE TEMP TABLE t (a)`
        yield* connection.reset
        assert.deepStrictEqual(yield* sql.unsafe(call), rows)
        const later = yield* connect(sqlite)
        assert.deepStrictEqual(yield* later.execute(call, [], undefined), rows)
      }))
  }

  it.scopedLive("names are transformed", () =>
    Effect.gen(function*() {
      const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
      const sqlite = driver(":memory:", { transformQueryNames: snake, connectTimeout: Duration.seconds(5) })
      const connection = yield* connect(sqlite)
      const sql = yield* SqlClient.make({
        acquirer: Effect.succeed(connection),
        compiler: sqlite.compiler,
        spanAttributes: []
      }).pipe(Effect.provide(Reactivity.layer))
      yield* sql`CREATE TABLE t (first_name TEXT)`
      yield* sql`INSERT INTO t ${sql.insert({ firstName: "Ann" })}`
      assert.deepStrictEqual(yield* sql`SELECT ${sql("firstName")} FROM t`, [{ first_name: "Ann" }])
    }))
})
