/** Prepared statements whose parameters or columns had other types when they were prepared. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type * as Session from "../../../src/Session.js"
import { isInstalled, pgbouncer } from "../../support/pgbouncer.js"
import { freshDatabase, query } from "../../support/postgres.js"

interface Change {
  readonly name: string
  readonly setup: string
  readonly change: string
  readonly statement: string
  readonly before: unknown
  readonly after: unknown
  /** The first column of the first row that the statement returns with `after`. */
  readonly result: unknown
}

const uuid = "7a3b0a1e-9d36-4e6d-8f52-0a1b2c3d4e5f"

const changes: ReadonlyArray<Change> = [
  {
    name: "int becomes bigint",
    setup: "CREATE TABLE t (n int)",
    change: "ALTER TABLE t ALTER n TYPE bigint",
    statement: "INSERT INTO t VALUES ($1) RETURNING n::text",
    before: 1,
    after: 3_000_000_000,
    result: "3000000000"
  },
  {
    name: "int becomes text, and is given a text",
    setup: "CREATE TABLE t (n int)",
    change: "ALTER TABLE t ALTER n TYPE text USING n::text",
    statement: "INSERT INTO t VALUES ($1) RETURNING n",
    before: 1,
    after: "one",
    result: "one"
  },
  {
    name: "int becomes text, and is compared",
    setup: "CREATE TABLE t (n int); INSERT INTO t VALUES (5)",
    change: "ALTER TABLE t ALTER n TYPE text USING n::text",
    statement: "SELECT 'found' AS found FROM t WHERE n = $1",
    before: 1,
    after: "5",
    result: "found"
  },
  {
    name: "int becomes uuid",
    setup: "CREATE TABLE t (n int)",
    change: "ALTER TABLE t ALTER n TYPE uuid USING NULL",
    statement: "INSERT INTO t VALUES ($1) RETURNING n",
    before: 1,
    after: uuid,
    result: uuid
  },
  {
    name: "smallint becomes numeric",
    setup: "CREATE TABLE t (n smallint)",
    change: "ALTER TABLE t ALTER n TYPE numeric(12, 4)",
    statement: "INSERT INTO t VALUES ($1) RETURNING n::text",
    before: 1,
    after: "1.2345",
    result: "1.2345"
  },
  {
    name: "numeric gets another scale",
    setup: "CREATE TABLE t (n numeric(6, 2))",
    change: "ALTER TABLE t ALTER n TYPE numeric(14, 6)",
    statement: "INSERT INTO t VALUES ($1) RETURNING n",
    before: "1.5",
    after: "123456.123456",
    result: "123456.123456"
  },
  {
    name: "an enum is dropped and made anew",
    setup: "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (n mood)",
    change: "ALTER TABLE t ALTER n TYPE text; DROP TYPE mood; CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); " +
      "ALTER TABLE t ALTER n TYPE mood USING n::mood",
    statement: "INSERT INTO t VALUES ($1) RETURNING n",
    before: "ok",
    after: "happy",
    result: "happy"
  },
  {
    name: "a domain is dropped and made anew",
    setup: "CREATE DOMAIN d AS int CHECK (VALUE > 0); CREATE TABLE t (n d)",
    change: "DROP TABLE t; DROP DOMAIN d; CREATE DOMAIN d AS bigint; CREATE TABLE t (n d)",
    statement: "INSERT INTO t VALUES ($1) RETURNING n::text",
    before: 1,
    after: -3_000_000_000,
    result: "-3000000000"
  },
  {
    name: "a domain loses its constraint",
    setup: "CREATE DOMAIN d AS int CHECK (VALUE > 0); CREATE TABLE t (n d)",
    change: "ALTER DOMAIN d DROP CONSTRAINT d_check",
    statement: "INSERT INTO t VALUES ($1) RETURNING n::text",
    before: 1,
    after: -1,
    result: "-1"
  },
  {
    name: "the result gets another column",
    setup: "CREATE TABLE t (n int); INSERT INTO t VALUES (1)",
    change: "ALTER TABLE t ADD m text",
    statement: "SELECT * FROM t WHERE n = $1",
    before: 1,
    after: 1,
    result: 1
  },
  {
    name: "the result loses a column",
    setup: "CREATE TABLE t (n int, m text); INSERT INTO t VALUES (1, 'one')",
    change: "ALTER TABLE t DROP n; ALTER TABLE t ADD k int DEFAULT 1",
    statement: "SELECT * FROM t WHERE $1::int = 1",
    before: 1,
    after: 1,
    result: "one"
  },
  {
    name: "the columns of the result change places",
    setup: "CREATE TABLE t (n int, m text); INSERT INTO t VALUES (1, 'one')",
    change: "DROP TABLE t; CREATE TABLE t (m text, n int); INSERT INTO t VALUES ('one', 1)",
    statement: "SELECT * FROM t WHERE n = $1",
    before: 1,
    after: 1,
    result: "one"
  },
  {
    name: "a column of the result gets another type",
    setup: "CREATE TABLE t (n int, m text); INSERT INTO t VALUES (1, '7')",
    change: "ALTER TABLE t ALTER m TYPE int USING m::int",
    statement: "SELECT m, n FROM t WHERE n = $1",
    before: 1,
    after: 1,
    result: 7
  },
  {
    name: "an enum that is compared is dropped and made anew",
    setup: "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (n mood); INSERT INTO t VALUES ('ok')",
    change: "DROP TABLE t; DROP TYPE mood; CREATE TYPE mood AS ENUM ('ok', 'happy'); CREATE TABLE t (n mood); " +
      "INSERT INTO t VALUES ('ok')",
    statement: "SELECT n FROM t WHERE n = $1",
    before: "ok",
    after: "ok",
    result: "ok"
  },
  {
    name: "a list of an enum that was made anew",
    setup: "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (n mood[])",
    change: "DROP TABLE t; DROP TYPE mood; CREATE TYPE mood AS ENUM ('ok', 'happy'); CREATE TABLE t (n mood[])",
    statement: "INSERT INTO t VALUES ($1) RETURNING n[1]",
    before: ["ok"],
    after: ["happy"],
    result: "happy"
  },
  {
    name: "a function is replaced by one of other types",
    setup: "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT $1'",
    change: "DROP FUNCTION f(int); CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS 'SELECT $1 || ''!'''",
    statement: "SELECT f($1) AS v",
    before: 1,
    after: "one",
    result: "one!"
  },
  {
    name: "a view is replaced by one of other types",
    setup: "CREATE TABLE t (n int, s text); INSERT INTO t VALUES (1, 'one'); CREATE VIEW v AS SELECT n FROM t",
    change: "DROP VIEW v; CREATE VIEW v AS SELECT s AS n FROM t",
    statement: "SELECT n FROM v WHERE n = $1",
    before: 1,
    after: "one",
    result: "one"
  }
]

/** A database of one connection, in which the statement is prepared, and the change is made by someone else. */
const changed = (
  { before, change, setup, statement }: Change,
  options: DatabaseConfig.Options = {},
  pooled?: (url: string) => Effect.Effect<string, never, Effect.Effect.Context<typeof freshDatabase>>
) =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(url, setup)
    const database = yield* Database.make({
      environment: "test",
      url: pooled === undefined ? url : yield* pooled(url),
      poolSize: 1,
      poolMaxOverflow: 0,
      ...options
    })
    const run = (value: unknown) =>
      Effect.map(database.sql.unsafe(statement, [value as string]).values, (rows) => rows[0]?.[0])
    yield* run(before)
    yield* run(before)
    yield* run(before)
    yield* query(url, change)
    return { database, run, url }
  })

const tagOf = <A>(effect: Effect.Effect<A, DatabaseError | SqlError>) =>
  Effect.map(
    Effect.either(effect),
    (result) =>
      Either.isRight(result)
        ? "success"
        : result.left._tag === "SqlError"
        ? fromSqlError(result.left)._tag
        : result.left._tag
  )

const retried: Session.Options = { retry: true }

describe("a statement that was prepared before a change", () => {
  for (const each of changes) {
    describe(`when ${each.name}`, () => {
      it.scopedLive("outside of a session runs as if it had not been prepared", () =>
        Effect.gen(function*() {
          const { run } = yield* changed(each)
          assert.strictEqual(yield* run(each.after), each.result)
          assert.strictEqual(yield* run(each.after), each.result)
        }))

      it.scopedLive("in a session is repeated with it", () =>
        Effect.gen(function*() {
          const { database, run } = yield* changed(each)
          let attempts = 0
          const session = Effect.zipRight(Effect.sync(() => attempts++), run(each.after))
          assert.strictEqual(yield* database.session(session, retried), each.result)
          assert.isAtMost(attempts, 2)
        }))

      it.scopedLive("in a session that is not repeated is a SerializationFailure, and never the next time", () =>
        Effect.gen(function*() {
          const { database, run } = yield* changed(each)
          assert.include(["success", "SerializationFailure"], yield* tagOf(database.session(run(each.after))))
          assert.strictEqual(yield* database.session(run(each.after)), each.result)
        }))

      it.scopedLive("in a nested session, beside siblings, is repeated with the outermost", () =>
        Effect.gen(function*() {
          const { database, run } = yield* changed(each)
          const { sql } = database
          const session = Effect.gen(function*() {
            yield* sql`SELECT 1`
            const results = yield* database.session(
              Effect.all([sql`SELECT 2 AS two`, run(each.after), sql`SELECT 3 AS three`], { concurrency: "unbounded" })
            )
            return results[1]
          })
          assert.strictEqual(yield* database.session(session, retried), each.result)
        }))
    })
  }

  /** Makes all changes in one database, one after the other, and runs each statement afterwards. */
  const changedInTurn = <R>(
    options: DatabaseConfig.Options,
    runs: (
      database: Database.Service,
      each: Change
    ) => ReadonlyArray<Effect.Effect<ReadonlyArray<unknown>, DatabaseError | SqlError, R>>,
    pooled: (url: string) => ReturnType<typeof pgbouncer> = Effect.succeed
  ) =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const database = yield* Database.make({
        environment: "test",
        url: yield* pooled(url),
        poolSize: 1,
        poolMaxOverflow: 0,
        ...options
      })
      for (const each of changes) {
        yield* query(url, each.setup)
        const prepared = database.sql.unsafe(each.statement, [each.before as string])
        yield* Effect.all([prepared, prepared, prepared])
        yield* query(url, each.change)
        for (const [i, run] of runs(database, each).entries()) {
          assert.strictEqual((yield* run)[0], each.result, `${each.name}, ${i}`)
        }
        yield* query(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
      }
    })

  const firsts = (rows: Iterable<object>) => Array.from(rows, (row) => Object.values(row)[0] as unknown)

  /** In a session, outside of it, and outside after the session. */
  const everywhere = (database: Database.Service, each: Change) => {
    const run = Effect.map(database.sql.unsafe(each.statement, [each.after as string]), firsts)
    return [run, database.session(run), run]
  }

  it.scopedLive("is streamed without a plan of its own", () =>
    changedInTurn({}, (database, each) => {
      const stream = database.sql.unsafe<object>(each.statement, [each.after as string]).stream
      const run = Effect.map(Stream.runCollect(stream), firsts)
      return [run, database.session(run), Effect.map(Stream.runCollect(database.sessionStream(stream)), firsts)]
    }))

  it.scopedLive("does not matter with preparing off", () => changedInTurn({ preparedStatements: "off" }, everywhere))

  it.scopedLive.skipIf(!isInstalled)(
    "does not matter behind PgBouncer",
    () => changedInTurn({}, everywhere, (url) => pgbouncer(url, "transaction", 2))
  )

  it.scopedLive.skipIf(!isInstalled)(
    "runs behind a PgBouncer that keeps sessions as if it had not been prepared",
    () =>
      changedInTurn({ preparedStatements: "on" }, (database, each) => {
        const run = Effect.map(database.sql.unsafe(each.statement, [each.after as string]), firsts)
        return [run, database.session(run, retried)]
      }, (url) => pgbouncer(url, "session", 2))
  )

  it.scopedLive("and changed by the session itself is prepared anew at once", () =>
    Effect.gen(function*() {
      const [each] = changes
      const { database, run } = yield* changed({ ...each, change: "SELECT 1" })
      const value = yield* database.session(
        Effect.zipRight(database.sql.unsafe(each.change), run(each.after))
      )
      assert.strictEqual(value, each.result)
    }))

  it.scopedLive("keeps the precision and the time of its parameters, if this database has made the change", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { sql } = yield* Database.make({ environment: "test", url, poolSize: 2, poolMaxOverflow: 0 })
      yield* sql`CREATE TABLE t (f float4, d date)`
      const insert = sql`INSERT INTO t VALUES (${"0.1234567890123"}, ${"2024-05-06 07:08:09"})`
      yield* Effect.forEach([1, 2, 3], () => insert)
      yield* sql`TRUNCATE t`
      yield* sql`ALTER TABLE t ALTER f TYPE float8, ALTER d TYPE timestamp`
      yield* insert
      const [row] = yield* query(url, "SELECT f::text AS f, d::text AS d FROM t")
      assert.deepStrictEqual(row, { f: "0.1234567890123", d: "2024-05-06 07:08:09" })
    }))
})

describe("a value that does not fit its type", () => {
  const invalid = ([statement, valid, value]: readonly [string, unknown, unknown], tag: string) =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (n int, m mood, u uuid)")
      const database = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const run = (value: unknown) => database.sql.unsafe(statement, [value as string])
      for (let round = 0; round < 3; round++) {
        yield* Effect.forEach([1, 2, 3], () => run(valid))
        assert.strictEqual(yield* tagOf(run(value)), tag, "outside of a session")
        yield* run(valid)
        assert.strictEqual(yield* tagOf(database.session(run(value))), tag, "in a session")
        yield* run(valid)
        assert.strictEqual(yield* tagOf(database.session(database.session(run(value)))), tag, "in a nested session")
        yield* run(valid)
        let attempts = 0
        const session = Effect.zipRight(Effect.sync(() => attempts++), run(value))
        assert.strictEqual(yield* tagOf(database.session(session, retried)), tag, "repeated")
        assert.strictEqual(attempts, 1)
      }
    })

  for (
    const each of [
      ["INSERT INTO t (n) VALUES ($1)", 1, "one"],
      ["INSERT INTO t (n) VALUES ($1)", 1, 3_000_000_000],
      ["SELECT * FROM t WHERE m = $1", "ok", "never"],
      ["UPDATE t SET n = 1 WHERE u = $1", uuid, "one"]
    ] as const
  ) {
    it.scopedLive(`is InvalidData, prepared or not, and is not repeated: ${each[0]} with ${each[2]}`, () =>
      invalid(each, "InvalidData"))
  }

  it.scopedLive("is InvalidData also where nobody else sees the table", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const database = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const { sql } = database
      const insert = (value: unknown) => sql`INSERT INTO t VALUES (${value as number})`
      const session = Effect.gen(function*() {
        yield* sql`CREATE TABLE t (n int)`
        yield* Effect.forEach([1, 2, 3], insert)
        for (let i = 0; i < 3; i++) {
          assert.strictEqual(yield* tagOf(database.session(insert("one"))), "InvalidData")
          yield* insert(1)
        }
      })
      yield* database.session(session)
    }))

  it.scopedLive("of a column that was dropped is an InvalidStatement", () =>
    Effect.gen(function*() {
      const each = { ...changes[0], change: "ALTER TABLE t RENAME n TO m", statement: "SELECT n FROM t WHERE n = $1" }
      const { database, run } = yield* changed(each)
      assert.strictEqual(yield* tagOf(run(1)), "InvalidStatement")
      assert.strictEqual(yield* tagOf(database.session(run(1), retried)), "InvalidStatement")
    }))
})

describe("search_path", () => {
  const setters = {
    "SET LOCAL": (sql, path) => sql.unsafe(`SET LOCAL search_path = ${path}`),
    "SET": (sql, path) => sql.unsafe(`SET search_path TO ${path}`),
    "SET SCHEMA": (sql, path) => sql.unsafe(`SET SCHEMA '${path}'`),
    "set_config of the transaction": (sql, path) => sql`SELECT set_config('search_path', ${path}, true)`,
    "set_config of the session": (sql, path) => sql`SELECT set_config('search_path', ${path}, ${false})`
  } satisfies Record<string, (sql: Database.Service["sql"], path: string) => Effect.Effect<unknown, SqlError>>

  const tables = "CREATE SCHEMA one; CREATE SCHEMA two; " +
    "CREATE TABLE one.t (id int, name text); INSERT INTO one.t VALUES (1, 'one'); " +
    `CREATE TABLE two.t (id uuid, extra int, name text); INSERT INTO two.t VALUES ('${uuid}', 2, 'two'); `

  const switching = (
    set: (sql: Database.Service["sql"], path: string) => Effect.Effect<unknown, SqlError>,
    sessions: number
  ) =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(
        url,
        `${tables}CREATE FUNCTION switch_to(path text) RETURNS void LANGUAGE plpgsql AS
         $$ BEGIN EXECUTE 'SET LOCAL search_path = ' || quote_ident(path); END $$`
      )
      const database = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const { sql } = database
      return yield* Effect.forEach(Array.from({ length: sessions }, (_, i) => i), (i) => {
        const path = i % 2 === 0 ? "one" : "two"
        const rows = Effect.zipRight(
          set(sql, path),
          sql<{ readonly name: string }>`SELECT * FROM t WHERE id = ${path === "one" ? 1 : uuid}`
        )
        return tagOf(database.session(Effect.tap(rows, ([{ name }]) => assert.strictEqual(name, path))))
      })
    })

  for (const [name, set] of Object.entries(setters)) {
    it.scopedLive(`that is switched by ${name} between tables of unlike columns makes nothing fail`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* switching(set, 40), Array.from({ length: 40 }, () => "success"))
      }))
  }

  it.scopedLive("that is switched in a way that cannot be seen makes nothing fail after a few times", () =>
    Effect.gen(function*() {
      const tags = yield* switching((sql, path) => sql`SELECT public.switch_to(${path})`, 40)
      assert.deepStrictEqual(tags.slice(10), Array.from({ length: 30 }, () => "success"))
      assert.include(["success", "SerializationFailure"], tags[3])
    }))
})
