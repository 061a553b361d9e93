/**
 * An application that checks what it uses of sqlayer, on the database of DATABASE_URL, with nothing but Node's modules
 * beside it: it runs on every runtime. Prints a line for each check, and their number at the end.
 */
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import assert from "node:assert/strict"
import * as Database from "sqlayer/Database"
import * as DatabaseError from "sqlayer/DatabaseError"
import * as DatabaseHttp from "sqlayer/DatabaseHttp"
import * as Migrations from "sqlayer/Migrations"
import * as Session from "sqlayer/Session"

type Check = Effect.Effect<unknown, unknown, Database.Database | SqlClient.SqlClient>

const isSqlite = !process.env.DATABASE_URL!.startsWith("postgres")

const count = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const [{ n }] = yield* sql<{ readonly n: number }>`SELECT CAST(count(*) AS integer) AS n FROM item`
  return n
})

const insert = (name: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO item ${sql.insert({ name, size: 1 })}`)

/** The error of a statement in a session. */
const errorOf = (run: (sql: SqlClient.SqlClient) => Effect.Effect<unknown, SqlError>) =>
  Effect.flatMap(SqlClient.SqlClient, run).pipe(
    Database.session(),
    Effect.flip
  )

/** Everything that shows an error, which must be the same on all runtimes. */
const assertShown = (
  error: DatabaseError.DatabaseError,
  expected: { readonly tag: string; readonly message: RegExp; readonly column?: string }
): void => {
  assert.equal(error._tag, expected.tag)
  assert.match(error.message, expected.message)
  assert.equal(error.column, expected.column)
  assert.equal("column" in error, expected.column !== undefined)
  const json = JSON.parse(JSON.stringify(error))
  assert.equal(json.column, expected.column)
  assert.deepEqual(Object.keys(json).filter((name) => /^(?:line|sourceURL|original|stack)/.test(name)), [])
  const encoded = Schema.encodeSync(DatabaseError.DatabaseError)(error)
  assert.equal("column" in encoded, expected.column !== undefined)
  const decoded = Schema.decodeUnknownSync(DatabaseError.DatabaseError)(JSON.parse(JSON.stringify(encoded)))
  assert.equal(decoded.message, error.message)
  assert.equal(decoded.column, expected.column)
  assert.equal(DatabaseError.toSqlError(error).message, `${expected.tag}: ${error.message}`)
  assert.equal(DatabaseError.fromSqlError(DatabaseError.toSqlError(error)), error)
  assert.ok(Cause.pretty(Cause.fail(error)).includes(error.message))
}

/** Takes long. On SQLite only a statement that returns rows can be canceled. */
const slowSql = isSqlite
  ? "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT i FROM n"
  : "SELECT pg_sleep(60)"

const checks: Readonly<Record<string, Check>> = {
  "a connection that is encrypted, and to which the proof of the password is bound": Effect.scoped(
    Effect.gen(function*() {
      if (!isSqlite) {
        const isEncrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        const sql = yield* SqlClient.SqlClient
        assert.deepEqual(yield* sql.unsafe(isEncrypted), [{ ssl: true }])
        const bound = yield* Database.make({ url: `${process.env.DATABASE_URL}?channel_binding=require` })
        assert.deepEqual(yield* bound.sql.unsafe(isEncrypted), [{ ssl: true }])
      }
    })
  ),
  "a session commits": Effect.gen(function*() {
    const before = yield* count
    yield* Effect.zipRight(insert("committed"), insert("committed too")).pipe(Database.session())
    assert.equal(yield* count, before + 2)
  }),
  "a session that fails rolls back": Effect.gen(function*() {
    const before = yield* count
    const exit = yield* Effect.zipRight(insert("rolled back"), Effect.fail("no" as const)).pipe(
      Database.session(),
      Effect.exit
    )
    assert.deepEqual(exit, Exit.fail("no"))
    assert.equal(yield* count, before)
  }),
  "a nested session rolls back by itself": Effect.gen(function*() {
    const before = yield* count
    yield* Effect.gen(function*() {
      yield* insert("outer")
      yield* Effect.zipRight(insert("inner"), Effect.fail("no" as const)).pipe(Database.session(), Effect.ignore)
    }).pipe(Database.session())
    assert.equal(yield* count, before + 1)
  }),
  "a hook runs after the commit": Effect.gen(function*() {
    let hasRun = false
    yield* Effect.zipRight(insert("hook"), Session.afterCommit(Effect.sync(() => hasRun = true))).pipe(
      Database.session()
    )
    assert.ok(hasRun)
  }),
  "an acquired session is committed explicitly": Effect.gen(function*() {
    const before = yield* count
    yield* Effect.scoped(Effect.gen(function*() {
      const handle = yield* Database.acquireSession()
      yield* handle.run(insert("acquired"))
      yield* handle.commit
    }))
    assert.equal(yield* count, before + 1)
  }),
  "sessions run at once": Effect.gen(function*() {
    const before = yield* count
    yield* Effect.forEach(
      Array.from({ length: 20 }, (_, i) => `at once ${i}`),
      (name) => Effect.zipRight(insert(name), Effect.sleep(5)).pipe(Database.session()),
      { concurrency: "unbounded" }
    )
    assert.equal(yield* count, before + 20)
  }),
  "a unique constraint": Effect.gen(function*() {
    const error = yield* errorOf((sql) => sql`INSERT INTO item ${sql.insert({ name: "first", size: 1 })}`)
    assertShown(
      error,
      isSqlite
        ? { tag: "UniqueViolation", message: /^UNIQUE constraint failed: item\.name \(/, column: "name" }
        : { tag: "UniqueViolation", message: /^duplicate key value .* \(23505, table public\.item\)\. Key / }
    )
  }),
  "a NOT NULL constraint": Effect.gen(function*() {
    const error = yield* errorOf((sql) => sql`INSERT INTO item (name) VALUES ('no size')`)
    assertShown(error, { tag: "NotNullViolation", message: /size/, column: "size" })
  }),
  "a check constraint": Effect.gen(function*() {
    const error = yield* errorOf((sql) => sql`INSERT INTO item ${sql.insert({ name: "small", size: -1 })}`)
    assertShown(error, { tag: "CheckViolation", message: /item_size/ })
    assert.equal(error.constraint, "item_size")
  }),
  "a syntax error": Effect.gen(function*() {
    const error = yield* errorOf((sql) => sql`SELEC 1`)
    assertShown(error, { tag: "InvalidStatement", message: /syntax error/ })
  }),
  "a table that does not exist, outside of a session": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const error = yield* Effect.flip(sql`SELECT * FROM nowhere`)
    assert.match(error.message, /^InvalidStatement: .*nowhere/)
    assertShown(DatabaseError.fromSqlError(error), { tag: "InvalidStatement", message: /nowhere/ })
  }),
  "an integer of SQLite that a number cannot hold": Effect.gen(function*() {
    if (isSqlite) {
      const sql = yield* SqlClient.SqlClient
      const error = yield* Effect.flip(sql`SELECT 9007199254740993 AS a`)
      assertShown(DatabaseError.fromSqlError(error), {
        tag: "InvalidData",
        message: /too large for a number/,
        column: "a"
      })
    }
  }),
  "a stream of a table that does not exist": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const error = yield* Effect.flip(Stream.runDrain(sql`SELECT * FROM nowhere`.stream))
    assertShown(DatabaseError.fromSqlError(error), { tag: "InvalidStatement", message: /nowhere/ })
  }),
  "an error that was swallowed": Effect.gen(function*() {
    const before = yield* count
    const exit = yield* Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* insert("swallowed")
      yield* Effect.ignore(sql`SELECT * FROM nowhere`)
    }).pipe(Database.session(), Effect.either)
    if (exit._tag === "Left") {
      assertShown(exit.left, { tag: "TransactionAborted", message: / \(/ })
      assert.equal(yield* count, before)
    } else {
      assert.ok(isSqlite)
      assert.equal(yield* count, before + 1)
    }
  }),
  "a database that is not there": Effect.gen(function*() {
    const url = isSqlite ? "sqlite:////no/such/directory/a.db" : "postgres://u:p@127.0.0.1:1/d"
    const error = yield* Effect.flip(Effect.scoped(Layer.build(Database.layerFrom({ url, connectRetry: 0 }))))
    assertShown(error, { tag: "ConnectionFailed", message: /^could not / })
  }),
  "a session that takes too long": Effect.gen(function*() {
    const start = Date.now()
    const error = yield* Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(slowSql)).pipe(
      Database.session({ timeout: 200 }),
      Effect.flip
    )
    assertShown(error, { tag: "SessionTimeout", message: /200/ })
    assert.ok(Date.now() - start < 30_000)
    assert.ok((yield* count) > 0)
  }),
  "a statement that is interrupted": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const result = yield* Effect.timeoutOption(sql.unsafe(slowSql), 200)
    assert.equal(result._tag, "None")
    assert.ok((yield* count) > 0)
  }),
  "a stream of many rows": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const rows = sql.unsafe<{ readonly i: number }>(
      isSqlite
        ? "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n"
        : "SELECT i FROM generate_series(1, 5000) AS i"
    ).stream
    const sum = yield* Stream.runFold(rows, 0, (sum, { i }) => sum + i)
    assert.equal(sum, 12_502_500)
    const first = yield* Stream.runCollect(Stream.take(rows, 3))
    assert.deepEqual(Chunk.toReadonlyArray(first).map(({ i }) => i), [1, 2, 3])
  }),
  "values of each kind": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const bytes = new Uint8Array([0, 1, 254, 255])
    const values = { id: 1, t: "ünï\u{1F600}", f: 1.5, b: bytes, big: 2n ** 53n - 1n }
    yield* sql`INSERT INTO kind ${sql.insert(values as Record<string, any>)}`
    const [row] = yield* sql<Record<string, any>>`SELECT * FROM kind`
    assert.equal(row.t, values.t)
    assert.equal(row.f, 1.5)
    assert.deepEqual(new Uint8Array(row.b), bytes)
    assert.equal(BigInt(row.big), values.big)
    const nothing = { ...values, id: 2, t: null, f: null, b: null, big: null }
    yield* sql`INSERT INTO kind ${sql.insert(nothing as Record<string, any>)}`
    const [nulls] = yield* sql<Record<string, any>>`SELECT t, f, b, big FROM kind WHERE id = 2`
    assert.deepEqual(Object.values(nulls), [null, null, null, null])
  }),
  "health, report and figures": Effect.gen(function*() {
    assert.equal(yield* Database.health, true)
    const report = yield* Database.report
    assert.equal(report.dialect, isSqlite ? "sqlite" : "postgres")
    assert.match(report.version ?? "", /^\d+\.\d+/)
    assert.ok((yield* Database.poolStats).idle > 0)
  }),
  "migrations": Effect.gen(function*() {
    const loader = Migrations.fromRecord({
      "0001_a": "CREATE TABLE migrated (id integer PRIMARY KEY)",
      "0002_b": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO migrated VALUES (1)`)
    })
    const options = { loader, progress: () => Effect.void }
    assert.deepEqual((yield* Migrations.run(options)).map(({ id }) => id), [1, 2])
    assert.deepEqual(yield* Migrations.run(options), [])
    const broken = Migrations.fromRecord({
      "0001_a": "CREATE TABLE migrated (id integer PRIMARY KEY)",
      "0002_b": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO migrated VALUES (1)`),
      "0003_c": "SELECT * FROM nowhere"
    })
    const error = yield* Effect.flip(Migrations.run({ ...options, loader: broken }))
    assert.equal(error._tag, "MigrationError")
    assert.match(error.message, /nowhere/)
  }),
  "HTTP: a session for each request, and problems": Effect.gen(function*() {
    const before = yield* count
    const runtime = yield* Effect.runtime<Database.Database | SqlClient.SqlClient>()
    const app = Effect.gen(function*() {
      const { url } = yield* HttpServerRequest.HttpServerRequest
      yield* insert(url)
      if (url === "/twice") {
        yield* insert(url)
      }
      return HttpServerResponse.empty()
    }).pipe(DatabaseHttp.middleware(), DatabaseHttp.problems, Effect.orDie)
    const handler = HttpApp.toWebHandlerRuntime(runtime)(app)
    const handle = async (path: string) => {
      const response = await handler(new Request(`http://localhost${path}`, { method: "POST" }))
      return { status: response.status, body: await response.text() }
    }
    const once = yield* Effect.promise(() => handle("/once"))
    assert.equal(once.status, 204)
    const twice = yield* Effect.promise(() => handle("/twice"))
    assert.equal(twice.status, 409)
    assert.match(twice.body, /UniqueViolation|unique|conflict/i)
    assert.equal(yield* count, before + 1)
  })
}

const prepare = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql.unsafe(
    "CREATE TABLE item (name text PRIMARY KEY, size integer NOT NULL CONSTRAINT item_size CHECK (size >= 0))"
  )
  yield* sql.unsafe(
    isSqlite
      ? "CREATE TABLE kind (id integer, t text, f real, b blob, big integer)"
      : "CREATE TABLE kind (id integer, t text, f float8, b bytea, big int8)"
  )
  yield* insert("first")
})

const main = Effect.gen(function*() {
  yield* prepare
  let failed = 0
  for (const [name, check] of Object.entries(checks)) {
    const exit = yield* Effect.exit(Effect.timeoutFail(check, {
      duration: "60 seconds",
      onTimeout: () => new Error("it takes longer than a minute")
    }))
    if (Exit.isFailure(exit)) {
      failed++
      console.log(`failed: ${name}: ${Cause.pretty(exit.cause)}`)
    } else {
      console.log(`ok: ${name}`)
    }
  }
  console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`)
  return failed
})

const exit = await Effect.runPromiseExit(Effect.provide(main, Database.layer))
if (Exit.isFailure(exit)) {
  console.log(`failed: ${Cause.pretty(exit.cause)}`)
  process.exitCode = 1
} else if (exit.value > 0) {
  process.exitCode = 1
}
