/**
 * One program behaves the same on every dialect.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { assert } from "vitest"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import { onEach, open, quiet, using } from "./internal/clients.js"
import { eventually } from "./support/eventually.js"

const createTables = (sql: SqlClient.SqlClient) =>
  Effect.gen(function*() {
    yield* sql`CREATE TABLE owners (
      id integer PRIMARY KEY,
      email text NOT NULL UNIQUE,
      age integer NOT NULL CONSTRAINT grown_up CHECK (age >= 18)
    )`
    yield* sql`CREATE TABLE pets (
      id integer PRIMARY KEY,
      owner integer NOT NULL REFERENCES owners DEFERRABLE INITIALLY IMMEDIATE
    )`
    yield* sql`CREATE TABLE late (
      id integer PRIMARY KEY,
      owner integer NOT NULL REFERENCES owners DEFERRABLE INITIALLY DEFERRED
    )`
    yield* sql`INSERT INTO owners VALUES (1, 'ann@example.org', 30)`
  })

type Statement = (sql: SqlClient.SqlClient) => Effect.Effect<unknown, unknown>

interface Case {
  readonly what: string
  readonly statement: Statement
  readonly tag: DatabaseError.DatabaseError["_tag"]
  /** What both dialects know of it. */
  readonly known?: { readonly table?: string; readonly column?: string; readonly constraint?: string }
  readonly options?: Session.Options
}

const cases: ReadonlyArray<Case> = [
  {
    what: "a value that must be unique",
    statement: (sql) => sql`INSERT INTO owners VALUES (2, 'ann@example.org', 30)`,
    tag: "UniqueViolation",
    known: { table: "owners" }
  },
  {
    what: "a primary key",
    statement: (sql) => sql`INSERT INTO owners VALUES (1, 'bob@example.org', 30)`,
    tag: "UniqueViolation",
    known: { table: "owners" }
  },
  {
    what: "a foreign key",
    statement: (sql) => sql`INSERT INTO pets VALUES (1, 7)`,
    tag: "ForeignKeyViolation"
  },
  {
    what: "a row that others refer to",
    statement: (sql) => Effect.zipRight(sql`INSERT INTO pets VALUES (1, 1)`, sql`DELETE FROM owners`),
    tag: "ForeignKeyViolation"
  },
  {
    what: "a foreign key that is looked at by the commit",
    statement: (sql) => sql`INSERT INTO late VALUES (1, 7)`,
    tag: "ForeignKeyViolation"
  },
  {
    what: "a value that must be there",
    statement: (sql) => sql`INSERT INTO owners VALUES (2, NULL, 30)`,
    tag: "NotNullViolation",
    known: { table: "owners", column: "email" }
  },
  {
    what: "a check",
    statement: (sql) => sql`INSERT INTO owners VALUES (2, 'bob@example.org', 3)`,
    tag: "CheckViolation",
    known: { constraint: "grown_up" }
  },
  { what: "a syntax error", statement: (sql) => sql`SELEC 1`, tag: "InvalidStatement" },
  { what: "a table that is not there", statement: (sql) => sql`SELECT * FROM nowhere`, tag: "InvalidStatement" },
  { what: "a column that is not there", statement: (sql) => sql`SELECT missing FROM owners`, tag: "InvalidStatement" },
  {
    what: "a table that is there already",
    statement: (sql) => sql`CREATE TABLE owners (id integer)`,
    tag: "InvalidStatement"
  },
  { what: "unprepared", statement: (sql) => sql`SELEC 1`.unprepared, tag: "InvalidStatement" },
  {
    what: "a write in a session that only reads",
    statement: (sql) => sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`,
    tag: "ReadOnlyViolation",
    options: { readOnly: true }
  },
  {
    what: "a session that takes too long",
    statement: () => Effect.never,
    tag: "SessionTimeout",
    options: { timeout: "100 millis" }
  },
  {
    what: "a statement that takes too long",
    statement: (sql) =>
      sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT max(i) FROM n`,
    tag: "StatementTimeout",
    options: { statementTimeout: "100 millis" }
  }
]

describe("what fails has the same name on every dialect", () => {
  for (const { known = {}, options, statement, tag, what } of cases) {
    onEach(`${what} is ${tag}`, ({ dialect, poolStats, sql }) =>
      Effect.gen(function*() {
        yield* createTables(sql)
        const error = yield* Effect.flip(Database.session(statement(sql), options))
        assert.isTrue(DatabaseError.isDatabaseError(error))
        const { _tag, code, message, reason, ...rest } = error as DatabaseError.DatabaseError
        assert.strictEqual(_tag, tag)
        assert.strictEqual(rest.dialect, dialect)
        assert.match(code, tag === "SessionTimeout" || dialect === "postgres" ? /^[0-9A-Z]{5}$/ : /^SQLITE_[A-Z_]+$/)
        assert.isAbove(reason.length, 10)
        assert.include(message, reason)
        assert.deepInclude(rest, known)
        // The database is as it was, and goes on.
        assert.deepStrictEqual(yield* sql`SELECT id FROM owners`, [{ id: 1 }])
        assert.deepStrictEqual(yield* sql`SELECT id FROM pets`, [])
        assert.strictEqual((yield* poolStats).used, 0)
      }))
  }

  onEach("the same error is in a statement's SqlError, outside of sessions too", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      const insert = sql`INSERT INTO owners VALUES (1, 'bob@example.org', 30)`
      const error = yield* Effect.flip(insert)
      assert.strictEqual(DatabaseError.fromSqlError(error)._tag, "UniqueViolation")
      const answered = yield* DatabaseError.typed(insert).pipe(
        Effect.catchTag("UniqueViolation", ({ table }) => Effect.succeed(`taken in ${table}`))
      )
      assert.strictEqual(answered, "taken in owners")
    }))

  onEach("a session's error is caught by its tag", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      const register = (id: number, email: string, age: number) =>
        Database.session(sql`INSERT INTO owners ${sql.insert({ id, email, age })}`).pipe(
          Effect.as("registered"),
          Effect.catchTags({
            UniqueViolation: () => Effect.succeed("taken"),
            CheckViolation: ({ constraint }) => Effect.succeed(`refused by ${constraint}`)
          })
        )
      assert.strictEqual(yield* register(2, "bob@example.org", 40), "registered")
      assert.strictEqual(yield* register(3, "bob@example.org", 40), "taken")
      assert.strictEqual(yield* register(4, "cy@example.org", 4), "refused by grown_up")
    }))

  onEach("the application's own failures pass as they are", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      const error = yield* Effect.flip(Database.session(Effect.zipRight(
        sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`,
        Effect.fail({ _tag: "Mine" as const })
      )))
      assert.deepStrictEqual(error, { _tag: "Mine" })
      assert.deepStrictEqual(yield* sql`SELECT id FROM owners`, [{ id: 1 }])
    }))
})

describe("sessions behave the same on every dialect", () => {
  onEach("a fiber that outlives its session gets SessionClosed", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      const fiber = yield* Database.session(Effect.forkDaemon(
        Effect.zipRight(Effect.sleep("100 millis"), sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`)
      ))
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.strictEqual(DatabaseError.fromSqlError(error)._tag, "SessionClosed")
      assert.deepStrictEqual(yield* sql`SELECT id FROM owners`, [{ id: 1 }])
    }))

  onEach("an acquired session that has ended says SessionClosed", ({ sql }) =>
    Effect.scoped(Effect.gen(function*() {
      yield* createTables(sql)
      const session = yield* Database.acquireSession()
      yield* session.run(sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`)
      yield* session.commit
      assert.strictEqual((yield* Effect.flip(session.commit))._tag, "SessionClosed")
      const error = yield* Effect.flip(session.run(sql`SELECT 1`))
      assert.strictEqual(DatabaseError.fromSqlError(error)._tag, "SessionClosed")
      assert.deepStrictEqual(yield* sql`SELECT id FROM owners ORDER BY id`, [{ id: 1 }, { id: 2 }])
    })))

  onEach("a violation that a nested session catches undoes that one alone", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      yield* Database.session(Effect.gen(function*() {
        yield* sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`
        yield* Database.session(Effect.zipRight(
          sql`INSERT INTO owners VALUES (3, 'cy@example.org', 30)`,
          sql`INSERT INTO owners VALUES (1, 'di@example.org', 30)`
        )).pipe(Effect.catchTag("UniqueViolation", () => Effect.void))
        yield* sql`INSERT INTO owners VALUES (4, 'ed@example.org', 30)`
      }))
      assert.deepStrictEqual(yield* sql`SELECT id FROM owners ORDER BY id`.values, [[1], [2], [4]])
    }))

  onEach(
    "afterCommit and afterRollback run after the end that they are named for",
    ({ sql }) =>
      Effect.gen(function*() {
        yield* createTables(sql)
        const said: Array<string> = []
        const say = (what: string) => Effect.sync(() => void said.push(what))
        const hooked = Effect.zipRight(Session.afterCommit(say("committed")), Session.afterRollback(say("rolled back")))
        yield* Database.session(hooked)
        yield* Effect.flip(Database.session(Effect.zipRight(hooked, Effect.fail("undo"))))
        yield* Effect.flip(Database.session(Effect.zipRight(hooked, sql`INSERT INTO late VALUES (1, 7)`)))
        assert.deepStrictEqual(said, ["committed", "rolled back", "rolled back"])
      })
  )

  onEach("rollbackOnly rolls back what succeeds", ({ sql }) =>
    Effect.gen(function*() {
      yield* createTables(sql)
      yield* Database.session(Effect.zipRight(
        sql`INSERT INTO owners VALUES (2, 'bob@example.org', 30)`,
        Session.rollbackOnly
      ))
      assert.deepStrictEqual(yield* sql`SELECT id FROM owners`, [{ id: 1 }])
    }))

  onEach("health is true", () => Effect.map(Database.health, (healthy) => assert.isTrue(healthy)))

  for (const dialect of ["postgres", "sqlite"] as const) {
    it.scopedLive(`a database that is closed says DatabaseClosed: ${dialect}`, () =>
      Effect.gen(function*() {
        const closed = yield* Effect.scoped(open(dialect))
        const error = yield* Effect.flip(using(closed, Database.session(closed.sql`SELECT 1`)))
        assert.strictEqual(error._tag, "DatabaseClosed")
        assert.strictEqual(DatabaseError.fromSqlError(yield* Effect.flip(closed.sql`SELECT 1`))._tag, "DatabaseClosed")
        assert.isFalse(yield* closed.health)
      }).pipe(Effect.provide(quiet)))

    it.scopedLive(`a wait for a connection that runs out is PoolTimeout: ${dialect}`, () =>
      Effect.gen(function*() {
        const database = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "200 millis" })
        const held = yield* Effect.fork(Effect.scoped(Effect.zipRight(database.sql.reserve, Effect.never)))
        yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
        const error = yield* Effect.flip(database.session(database.sql`SELECT 1`))
        yield* Fiber.interrupt(held)
        assert.isTrue(error._tag === "PoolTimeout" && error.stats?.used === 1)
      }).pipe(Effect.provide(quiet)))
  }
})
