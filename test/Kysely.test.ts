/** Kysely over a database: what its queries result in, where they run, and what is refused. */
import * as SqlClient from "@effect/sql/SqlClient"
import { describe } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as K from "kysely"
import { assert } from "vitest"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Kysely from "../src/Kysely.js"
import { on, onEach, open, using } from "./internal/clients.js"
import { collectingSpans } from "./support/spans.js"

interface Person {
  readonly id: K.Generated<number>
  readonly full_name: string
  readonly age: number | null
}

interface Tables {
  readonly person: Person
}

const setUp = Effect.gen(function*() {
  const db = yield* Kysely.make<Tables>()
  const { dialect } = yield* Database.Database
  yield* Kysely.execute(
    db.schema.createTable("person")
      .addColumn("id", dialect === "postgres" ? "serial" : "integer", (column) => column.primaryKey())
      .addColumn("full_name", "text", (column) => column.notNull().unique())
      .addColumn("age", "integer")
  )
  return db
})

const names = (db: K.Kysely<Tables>) =>
  Effect.map(
    Kysely.execute(db.selectFrom("person").select("full_name").orderBy("id")),
    (rows) => rows.map(({ full_name }) => full_name)
  )

describe("a query", () => {
  onEach("results in what Kysely's own would", ({ dialect }) =>
    Effect.gen(function*() {
      const db = yield* setUp
      const [inserted] = yield* Kysely.execute(
        db.insertInto("person").values([{ full_name: "Ann", age: 30 }, { full_name: "Bob", age: null }])
      )
      assert.instanceOf(inserted, K.InsertResult)
      assert.strictEqual(inserted.numInsertedOrUpdatedRows, 2n)
      assert.strictEqual(inserted.insertId, dialect === "postgres" ? undefined : 2n)
      const returned: Array<{ id: number }> = yield* Kysely.execute(
        db.insertInto("person").values({ full_name: "Cy", age: 40 }).returning("id")
      )
      assert.deepStrictEqual(returned, [{ id: 3 }])
      const [updated] = yield* Kysely.execute(db.updateTable("person").set({ age: 31 }).where("age", ">", 1))
      assert.strictEqual(updated.numUpdatedRows, 2n)
      const [deleted] = yield* Kysely.execute(db.deleteFrom("person").where("full_name", "=", "nobody"))
      assert.strictEqual(deleted.numDeletedRows, 0n)
      const rows: Array<{ id: number; full_name: string; age: number | null }> = yield* Kysely.execute(
        db.selectFrom("person").selectAll().orderBy("id")
      )
      assert.deepStrictEqual(rows, [
        { id: 1, full_name: "Ann", age: 31 },
        { id: 2, full_name: "Bob", age: null },
        { id: 3, full_name: "Cy", age: 31 }
      ])
      const first: Option.Option<{ age: number | null }> = yield* Kysely.executeTakeFirst(
        db.selectFrom("person").select("age").where("id", "=", 1)
      )
      assert.deepStrictEqual(Option.map(first, ({ age }) => age), Option.some(31))
      assert.deepStrictEqual(
        yield* Kysely.executeTakeFirst(db.selectFrom("person").select("age").where("id", "=", 9)),
        Option.none()
      )
    }))

  onEach("may be compiled beforehand, and a text of Kysely is", () =>
    Effect.gen(function*() {
      const db = yield* setUp
      const insert = db.insertInto("person").values({ full_name: "Ann", age: 1 }).compile()
      yield* Kysely.execute(insert)
      yield* Kysely.execute(db.deleteFrom("person"))
      yield* Kysely.execute(insert)
      const [row] = yield* Kysely.execute(K.sql<{ n: string }>`SELECT ${"x"} || 'y' AS n`.compile(db))
      assert.strictEqual(row.n, "xy")
      assert.deepStrictEqual(yield* names(db), ["Ann"])
    }))

  onEach("runs in the session, and is undone with it", () =>
    Effect.gen(function*() {
      const db = yield* setUp
      const insert = (full_name: string) => Kysely.execute(db.insertInto("person").values({ full_name }))
      yield* insert("Ann")
      const seen = yield* Effect.flip(Database.session(Effect.gen(function*() {
        yield* insert("Bob")
        yield* Effect.flip(Database.session(Effect.zipRight(insert("Cy"), Effect.fail("no"))))
        return yield* Effect.flatMap(names(db), Effect.fail)
      })))
      assert.deepStrictEqual(seen, ["Ann", "Bob"])
      assert.deepStrictEqual(yield* names(db), ["Ann"])
    }))

  onEach("fails with a SqlError, and its session with the database's error", () =>
    Effect.gen(function*() {
      const db = yield* setUp
      const insert = Kysely.execute(db.insertInto("person").values({ full_name: "Ann" }))
      yield* insert
      const error = yield* Effect.flip(insert)
      assert.strictEqual(error._tag, "SqlError")
      assert.strictEqual(DatabaseError.fromSqlError(error)._tag, "UniqueViolation")
      assert.strictEqual((yield* Effect.flip(Database.session(insert)))._tag, "UniqueViolation")
    }))

  onEach("streams, with Kysely's plugins", () =>
    Effect.gen(function*() {
      yield* setUp
      const db = yield* Kysely.make<{ person: { id: K.Generated<number>; fullName: string } }>({
        plugins: [new K.CamelCasePlugin()]
      })
      yield* Kysely.execute(
        db.insertInto("person").values(Array.from({ length: 500 }, (_, i) => ({ fullName: `name ${i}` })))
      )
      const query = db.selectFrom("person").select("fullName").orderBy("id")
      assert.strictEqual((yield* Kysely.execute(query))[499].fullName, "name 499")
      const streamed = yield* Database.session(Stream.runCollect(Kysely.stream(query)))
      assert.deepStrictEqual(Chunk.toArray(streamed)[7], { fullName: "name 7" })
      assert.strictEqual(Chunk.size(streamed), 500)
      const returned = yield* Effect.flip(Database.session(Effect.sync(() => Kysely.stream(query))))
      assert.strictEqual(returned._tag, "InvalidStatement")
      const plain = yield* Kysely.execute(db.withoutPlugins().selectFrom("person").selectAll().limit(1))
      assert.deepStrictEqual(Object.keys(plain[0]), ["id", "full_name", "age"])
      const again = db.withoutPlugins().withPlugin(new K.CamelCasePlugin()).selectFrom("person").select("fullName")
      assert.deepStrictEqual(Object.keys((yield* Kysely.execute(again))[0]), ["fullName"])
    }))

  onEach("has the span of a statement, and its parameters are in none", () =>
    Effect.gen(function*() {
      const db = yield* setUp
      const { spans } = yield* collectingSpans(
        Kysely.execute(db.selectFrom("person").selectAll().where("full_name", "=", "canary"))
      )
      assert.deepStrictEqual(spans.map(({ name }) => name), ["select person"])
      assert.notInclude(JSON.stringify([...spans[0].attributes]), "canary")
    }))

  on("postgres")("sends and reads the values of other statements", () =>
    Effect.gen(function*() {
      interface Values {
        readonly values: { a: Array<string>; b: bigint; d: Date; j: { x: ReadonlyArray<number> } }
      }
      const db = yield* Kysely.make<Values>()
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE values (a text[], b int8, d timestamptz, j jsonb)`
      const d = new Date("2024-05-06T07:08:09.123Z")
      yield* Kysely.execute(db.insertInto("values").values({ a: ["x", "y,z"], b: 9007199254740993n, d, j: { x: [1] } }))
      const row = yield* Kysely.executeTakeFirst(db.selectFrom("values").select(["a", "d", "j"]).where("d", "=", d))
      assert.deepStrictEqual(Option.getOrThrow(row), { a: ["x", "y,z"], d, j: { x: [1] } })
    }))

  onEach("belongs to the database that its Kysely was made with", ({ dialect }) =>
    Effect.gen(function*() {
      const db = yield* setUp
      const other = yield* open(dialect)
      const others = yield* using(other, setUp)
      yield* using(other, Kysely.execute(others.insertInto("person").values({ full_name: "Ann" })))
      yield* other.session(Kysely.execute(db.insertInto("person").values({ full_name: "Bob" })))
      assert.deepStrictEqual(yield* Database.session(names(others)), ["Ann"])
      assert.deepStrictEqual(yield* names(db), ["Bob"])
    }))
})

describe("what Kysely runs itself", () => {
  onEach("is refused: it would not be in the session", () =>
    Effect.gen(function*() {
      const db = yield* setUp
      const insert = db.insertInto("person").values({ full_name: "Ann" })
      const attempts: ReadonlyArray<() => Promise<unknown>> = [
        () => insert.execute(),
        () => db.transaction().execute((trx) => trx.insertInto("person").values({ full_name: "Ann" }).execute()),
        () => db.startTransaction().execute(),
        () => db.connection().execute((one) => one.selectFrom("person").selectAll().execute()),
        () => db.introspection.getTables(),
        () => db.selectFrom("person").selectAll().stream().next(),
        () => K.sql`DELETE FROM person`.execute(db)
      ]
      yield* Database.session(Effect.forEach(attempts, (attempt) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(Effect.tryPromise({ try: attempt, catch: (error) => error }))
          assert.isTrue(DatabaseError.isDatabaseError(error), String(error))
          assert.strictEqual((error as DatabaseError.DatabaseError)._tag, "InvalidStatement")
          assert.include(String(error), "Database.session")
        })))
      assert.deepStrictEqual(yield* names(db), [])
    }))

  onEach("and the query of another Kysely", () =>
    Effect.gen(function*() {
      const other = new K.Kysely<Tables>({
        dialect: {
          createAdapter: () => new K.SqliteAdapter(),
          createDriver: () => new K.DummyDriver(),
          createIntrospector: (db) => new K.SqliteIntrospector(db),
          createQueryCompiler: () => new K.SqliteQueryCompiler()
        }
      })
      const exit = yield* Effect.exit(Kysely.execute(other.selectFrom("person").selectAll()))
      assert(Exit.isFailure(exit) && exit.cause._tag === "Die")
      assert.include(Cause.pretty(exit.cause), "Kysely.make")
    }))
})

class Db extends Context.Tag("Db")<Db, K.Kysely<Tables>>() {}

describe("a layer", () => {
  onEach("of it is of one line", (database) =>
    Effect.gen(function*() {
      yield* setUp
      const live = Layer.effect(Db, Kysely.make<Tables>())
      const count = yield* Effect.flatMap(Db, names).pipe(Effect.provide(live), Effect.provide(database.context))
      assert.deepStrictEqual(count, [])
    }))
})
