/** Drizzle over a database: what its queries result in, where they run, and what is refused. */
import * as SqlClient from "@effect/sql/SqlClient"
import { describe, it } from "@effect/vitest"
import * as D from "drizzle-orm"
import * as Pg from "drizzle-orm/pg-core"
import * as PgProxy from "drizzle-orm/pg-proxy"
import * as Sqlite from "drizzle-orm/sqlite-core"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { assert } from "vitest"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Drizzle from "../src/Drizzle.js"
import { on, open, using } from "./internal/clients.js"
import { collectingSpans } from "./support/spans.js"

const pgPerson = Pg.pgTable("person", {
  id: Pg.serial().primaryKey(),
  name: Pg.text("full_name").notNull().unique(),
  born: Pg.date(),
  seen: Pg.timestamp({ withTimezone: true }),
  local: Pg.timestamp(),
  exact: Pg.timestamp({ mode: "string", precision: 6 }),
  every: Pg.interval(),
  days: Pg.date({ mode: "string" }).array(),
  big: Pg.bigint({ mode: "bigint" }),
  price: Pg.numeric(),
  tags: Pg.text().array(),
  data: Pg.jsonb()
})

const pgPet = Pg.pgTable("pet", { id: Pg.integer().primaryKey(), owner: Pg.integer().notNull(), name: Pg.text() })

const pgSchema = {
  pgPerson,
  pgPet,
  personRelations: D.relations(pgPerson, ({ many }) => ({ pets: many(pgPet) })),
  petRelations: D.relations(pgPet, ({ one }) => ({
    owner: one(pgPerson, { fields: [pgPet.owner], references: [pgPerson.id] })
  }))
}

const sqlitePerson = Sqlite.sqliteTable("person", {
  id: Sqlite.integer().primaryKey(),
  name: Sqlite.text("full_name").notNull().unique(),
  seen: Sqlite.integer({ mode: "timestamp_ms" }),
  isNice: Sqlite.integer({ mode: "boolean" }),
  data: Sqlite.text({ mode: "json" }),
  bytes: Sqlite.blob({ mode: "buffer" })
})

const setUpPg = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE person (id serial PRIMARY KEY, full_name text NOT NULL UNIQUE, born date, seen timestamptz,
    local timestamp, exact timestamp, every interval, days date[], big int8, price numeric, tags text[], data jsonb)`
  yield* sql`CREATE TABLE pet (id integer PRIMARY KEY, owner integer NOT NULL, name text)`
  return yield* Drizzle.postgres({ schema: pgSchema })
})

const setUpSqlite = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE person (id integer PRIMARY KEY, full_name text NOT NULL UNIQUE, seen integer, "isNice" integer,
    data text, bytes blob)`
  return yield* Drizzle.sqlite({ schema: { sqlitePerson } })
})

describe("a query on PostgreSQL", () => {
  on("postgres")("results in what its columns say, in whatever time zone", () =>
    Effect.gen(function*() {
      const db = yield* setUpPg
      const person = {
        name: "Ann",
        born: "1990-02-03",
        seen: new Date("2024-05-06T07:08:09.123Z"),
        local: new Date("2024-01-02T03:04:05.678Z"),
        exact: "2024-01-02 03:04:05.678901",
        every: "1 day 02:00:00",
        days: ["2024-01-02", "2024-12-31"],
        big: 9007199254740993n,
        price: "12345678901234567890.5",
        tags: ["x", "y,\"z\""],
        data: { x: [1, null, "2"] }
      }
      const zone = process.env.TZ
      const all = yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          process.env.TZ = "America/New_York"
        }),
        () =>
          Effect.gen(function*() {
            const inserted = yield* Drizzle.execute(db.insert(pgPerson).values(person))
            assert.strictEqual(inserted.rowCount, 1)
            return yield* Drizzle.execute(db.select().from(pgPerson))
          }),
        () =>
          Effect.sync(() => {
            if (zone === undefined) {
              delete process.env.TZ
            } else {
              process.env.TZ = zone
            }
          })
      )
      assert.deepStrictEqual(all, [{ id: 1, ...person }])
      const sql = yield* SqlClient.SqlClient
      const [stored] = yield* sql`SELECT local::text AS local, seen = ${person.seen} AS same FROM person`
      assert.deepStrictEqual({ ...stored }, { local: "2024-01-02 03:04:05.678", same: true })
      const returned: ReadonlyArray<{ id: number; seen: Date | null }> = yield* Drizzle.execute(
        db.update(pgPerson).set({ big: 1n }).where(D.eq(pgPerson.id, 1)).returning({
          id: pgPerson.id,
          seen: pgPerson.seen
        })
      )
      assert.deepStrictEqual(returned, [{ id: 1, seen: person.seen }])
      assert.strictEqual((yield* Drizzle.execute(db.delete(pgPerson).where(D.eq(pgPerson.id, 2)))).rowCount, 0)
    }))

  on("postgres")("maps columns of the same name, relations, counts and texts", () =>
    Effect.gen(function*() {
      const db = yield* setUpPg
      yield* Drizzle.execute(db.insert(pgPerson).values([{ name: "Ann" }, { name: "Bob" }]))
      yield* Drizzle.execute(db.insert(pgPet).values([{ id: 7, owner: 2, name: "Rex" }]))
      const joined = yield* Drizzle.execute(
        db.select({ person: pgPerson.id, pet: pgPet.id, name: pgPet.name }).from(pgPerson)
          .leftJoin(pgPet, D.eq(pgPet.owner, pgPerson.id)).orderBy(pgPerson.id)
      )
      assert.deepStrictEqual(joined, [{ person: 1, pet: null, name: null }, { person: 2, pet: 7, name: "Rex" }])
      const found = yield* Drizzle.execute(
        db.query.pgPerson.findMany({ columns: { name: true }, with: { pets: true }, orderBy: pgPerson.id })
      )
      assert.deepStrictEqual(found, [
        { name: "Ann", pets: [] },
        { name: "Bob", pets: [{ id: 7, owner: 2, name: "Rex" }] }
      ])
      assert.isUndefined(yield* Drizzle.execute(db.query.pgPerson.findFirst({ where: D.eq(pgPerson.id, 9) })))
      assert.strictEqual(yield* Drizzle.execute(db.$count(pgPerson)), 2)
      const byName = db.select({ id: pgPerson.id }).from(pgPerson).where(D.eq(pgPerson.name, D.sql.placeholder("name")))
        .prepare("by_name")
      const prepared = yield* Drizzle.execute(() => byName.execute({ name: "Bob" }))
      assert.deepStrictEqual(prepared, [{ id: 2 }])
      const { rows } = yield* Drizzle.execute(db.execute<{ n: number }>(D.sql`SELECT ${"5"}::int AS n`))
      assert.deepStrictEqual(rows, [{ n: 5 }])
    }))
})

describe("JSON on PostgreSQL", () => {
  on("postgres")("is read once, also where it is a string", () =>
    Effect.gen(function*() {
      const table = Pg.pgTable("doc", { a: Pg.json(), b: Pg.jsonb(), c: Pg.jsonb().array(), d: Pg.jsonb() })
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE doc (a json, b jsonb, c jsonb[], d jsonb)`
      const db = yield* Drizzle.postgres()
      const doc = { a: "null", b: "12", c: ["5", { x: "6" }, ["7"]], d: ["8", "{}"] }
      const returned: ReadonlyArray<unknown> = yield* Drizzle.execute(db.insert(table).values(doc).returning())
      assert.deepStrictEqual(returned, [doc])
      assert.deepStrictEqual(yield* Drizzle.execute(db.select().from(table)), [doc])
      const expressions = yield* Drizzle.execute(
        db.select({ b: D.sql<string>`b`, mapped: D.sql`b`.mapWith(table.b).as("mapped"), d: D.sql`d` }).from(table)
      )
      assert.deepStrictEqual(expressions, [{ b: "12", mapped: "12", d: ["8", "{}"] }])
      yield* Drizzle.execute(db.update(table).set({ a: null, b: "plain", c: null, d: 5 }))
      assert.deepStrictEqual(yield* Drizzle.execute(db.select().from(table)), [{ a: null, b: "plain", c: null, d: 5 }])
    }))
})

describe("a query on SQLite", () => {
  on("sqlite")("results in what its columns say", () =>
    Effect.gen(function*() {
      const db = yield* setUpSqlite
      const person = {
        id: 1,
        name: "Ann",
        seen: new Date("2024-05-06T07:08:09.123Z"),
        isNice: true,
        data: { x: [1, null, "2"] },
        bytes: Buffer.from([1, 2, 255])
      }
      const inserted = yield* Drizzle.execute(db.insert(sqlitePerson).values(person))
      assert.deepStrictEqual({ ...inserted }, { changes: 1, lastInsertRowid: 1 })
      assert.deepStrictEqual(yield* Drizzle.execute(db.select().from(sqlitePerson)), [person])
      assert.deepStrictEqual(yield* Drizzle.execute(() => db.select().from(sqlitePerson).get()), person)
      assert.isUndefined(
        yield* Drizzle.execute(() => db.select().from(sqlitePerson).where(D.eq(sqlitePerson.id, 2)).get())
      )
      assert.deepStrictEqual(yield* Drizzle.execute(db.query.sqlitePerson.findFirst()), person)
      assert.deepStrictEqual(
        yield* Drizzle.execute(db.delete(sqlitePerson).returning({ name: sqlitePerson.name })),
        [{ name: "Ann" }]
      )
      const raw = D.sql`SELECT ${1} AS a, 'x' AS b`
      assert.deepStrictEqual(yield* Drizzle.execute(db.all(raw)), [{
        a: 1,
        b: "x"
      }])
      assert.deepStrictEqual({ ...(yield* Drizzle.execute(db.get(raw))) as object }, { a: 1, b: "x" })
      assert.deepStrictEqual(yield* Drizzle.execute(db.values(raw)), [[1, "x"]])
      assert.strictEqual((yield* Drizzle.execute(db.run(D.sql`DELETE FROM person`))).changes, 0)
    }))
})

/** What is the same on each dialect. */
const people = {
  postgres: Effect.map(setUpPg, (db) => ({
    insert: (name: string) => Effect.asVoid(Drizzle.execute(db.insert(pgPerson).values({ name }))),
    names: Effect.map(
      Drizzle.execute(db.select({ name: pgPerson.name }).from(pgPerson).orderBy(pgPerson.id)),
      (rows) => rows.map(({ name }) => name)
    ),
    attempts: [
      () => db.insert(pgPerson).values({ name: "Ann" }).execute(),
      async () => await db.insert(pgPerson).values({ name: "Ann" }),
      () => db.transaction((tx) => tx.insert(pgPerson).values({ name: "Ann" })),
      () => db.execute(D.sql`DELETE FROM person`).execute()
    ] as ReadonlyArray<() => Promise<unknown>>
  })),
  sqlite: Effect.map(setUpSqlite, (db) => ({
    insert: (name: string) => Effect.asVoid(Drizzle.execute(db.insert(sqlitePerson).values({ name }))),
    names: Effect.map(
      Drizzle.execute(db.select({ name: sqlitePerson.name }).from(sqlitePerson).orderBy(sqlitePerson.id)),
      (rows) => rows.map(({ name }) => name)
    ),
    attempts: [
      () => db.insert(sqlitePerson).values({ name: "Ann" }).execute(),
      async () => await db.insert(sqlitePerson).values({ name: "Ann" }),
      () => db.transaction((tx) => tx.insert(sqlitePerson).values({ name: "Ann" })),
      () => db.run(D.sql`DELETE FROM person`).execute()
    ] as ReadonlyArray<() => Promise<unknown>>
  }))
}

for (const dialect of ["postgres", "sqlite"] as const) {
  describe(`on ${dialect}`, () => {
    on(dialect)(
      "a query runs in the session, is undone with it, and fails with typed errors",
      () =>
        Effect.gen(function*() {
          const { insert, names } = yield* people[dialect]
          yield* insert("Ann")
          const seen = yield* Effect.flip(Database.session(Effect.gen(function*() {
            yield* insert("Bob")
            yield* Effect.flip(Database.session(Effect.zipRight(insert("Cy"), Effect.fail("no"))))
            return yield* Effect.flatMap(names, Effect.fail)
          })))
          assert.deepStrictEqual(seen, ["Ann", "Bob"])
          assert.deepStrictEqual(yield* names, ["Ann"])
          const error = yield* Effect.flip(insert("Ann"))
          assert.strictEqual(error._tag, "SqlError")
          assert.strictEqual(DatabaseError.fromSqlError(error)._tag, "UniqueViolation")
          assert.strictEqual((yield* Effect.flip(Database.session(insert("Ann"))))._tag, "UniqueViolation")
          const { spans } = yield* collectingSpans(names)
          assert.deepStrictEqual(spans.map(({ name }) => name), ["select person"])
          const all = yield* Effect.forEach(["Di", "Ed", "Flo"], insert, { concurrency: "unbounded" }).pipe(
            Effect.zipRight(names),
            Database.session()
          )
          assert.lengthOf(all, 4)
        })
    )

    on(dialect)("what Drizzle runs itself is refused: it would not be in the session", () =>
      Effect.gen(function*() {
        const { attempts, names } = yield* people[dialect]
        yield* Database.session(Effect.forEach(attempts, (attempt) =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(Effect.tryPromise({ try: attempt, catch: (error) => error as Error }))
            const refused = DatabaseError.isDatabaseError(error) ? error : error.cause
            assert.isTrue(DatabaseError.isDatabaseError(refused), String(error))
            assert.include(String(refused), "Database.session")
          })))
        const [, native, transaction] = attempts
        for (const attempt of [native, transaction]) {
          const error = yield* Effect.flip(Database.session(Effect.suspend(() => Drizzle.execute(attempt()))))
          assert.strictEqual(error._tag, "InvalidStatement")
        }
        assert.deepStrictEqual(yield* names, [])
        const [execute] = attempts
        const two = yield* Effect.flip(
          Database.session(Drizzle.execute(() => Promise.all([execute(), execute()])))
        )
        assert.strictEqual(two._tag, "InvalidStatement")
        assert.deepStrictEqual(yield* names, [])
        const settled = yield* Effect.flip(Drizzle.execute(() => Promise.allSettled([execute(), execute()])))
        assert.strictEqual(DatabaseError.fromSqlError(settled)._tag, "InvalidStatement")
        assert.deepStrictEqual(yield* names, [])
      }))

    on(dialect)(
      "a Drizzle belongs to the database that it was made with, and to its dialect",
      () =>
        Effect.gen(function*() {
          const { insert, names } = yield* people[dialect]
          const other = yield* open(dialect)
          yield* other.session(insert("Bob"))
          assert.deepStrictEqual(yield* using(other, names), ["Bob"])
          const wrong: Effect.Effect<unknown, DatabaseError.DatabaseError, SqlClient.SqlClient> = dialect === "postgres"
            ? Drizzle.sqlite()
            : Drizzle.postgres()
          const error = yield* Effect.flip(wrong)
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.isFalse(DatabaseError.isRetryable(error))
        })
    )
  })
}

on("sqlite")("a logger may run a query of its own", () =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* setUpSqlite
    yield* sql`CREATE TABLE log (query TEXT)`
    const log = yield* Drizzle.sqlite()
    const fibers: Array<Fiber.RuntimeFiber<unknown, unknown>> = []
    const db = yield* Drizzle.sqlite({
      logger: {
        logQuery: (query) => {
          fibers.push(Effect.runFork(Drizzle.execute(log.run(D.sql`INSERT INTO log VALUES (${query})`))))
        }
      }
    })
    yield* Drizzle.execute(db.insert(sqlitePerson).values({ name: "Ann" }))
    yield* Fiber.joinAll(fibers)
    const logged = yield* sql<{ query: string }>`SELECT query FROM log`
    assert.lengthOf(logged, 1)
    assert.include(logged[0].query, "insert into")
  }))

it.effect("what was not made here is a defect", () =>
  Effect.gen(function*() {
    const other = PgProxy.drizzle(() => Promise.resolve({ rows: [] }))
    const exit = yield* Effect.exit(Drizzle.execute(other.select({ id: pgPet.id }).from(pgPet)))
    assert(Exit.isFailure(exit) && exit.cause._tag === "Die")
    assert.include(Cause.pretty(exit.cause), "sqlayer/Drizzle")
  }))
