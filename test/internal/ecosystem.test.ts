/**
 * What is written against @effect/sql works unchanged, inside and outside sessions.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as PgDrizzle from "@effect/sql-drizzle/Pg"
import * as SqliteDrizzle from "@effect/sql-drizzle/Sqlite"
import * as PgKysely from "@effect/sql-kysely/Pg"
import * as SqliteKysely from "@effect/sql-kysely/Sqlite"
import type * as PgClient from "@effect/sql-pg/PgClient"
import * as PgMigrator from "@effect/sql-pg/PgMigrator"
import type * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqliteMigrator from "@effect/sql-sqlite-node/SqliteMigrator"
import * as Migrator from "@effect/sql/Migrator"
import * as Model from "@effect/sql/Model"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as SqlResolver from "@effect/sql/SqlResolver"
import * as SqlSchema from "@effect/sql/SqlSchema"
import { describe } from "@effect/vitest"
import * as DrizzlePg from "drizzle-orm/pg-core"
import * as DrizzleSqlite from "drizzle-orm/sqlite-core"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { assert } from "vitest"
import { on, onEach } from "./clients.js"

class Person extends Schema.Class<Person>("Person")({ id: Schema.Number, name: Schema.String }) {}

const createPeople = (sql: SqlClient.SqlClient) => sql`CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL)`

const addPeople = (sql: SqlClient.SqlClient, ...people: ReadonlyArray<typeof Person.Encoded>) =>
  sql`INSERT INTO people ${sql.insert(people)}`

const names = (sql: SqlClient.SqlClient) =>
  Effect.map(sql<{ name: string }>`SELECT name FROM people ORDER BY id`, (rows) => rows.map(({ name }) => name))

/** The numbers of requests of the batches that a resolver ran. */
const resolvers = (sql: SqlClient.SqlClient) =>
  Effect.gen(function*() {
    const batches: Array<number> = []
    const counted = <A, B>(f: (requests: ReadonlyArray<A>) => B) => (requests: ReadonlyArray<A>) => {
      batches.push(requests.length)
      return f(requests)
    }
    const insert = yield* SqlResolver.ordered("Insert", {
      Request: Person,
      Result: Person,
      execute: counted((people) => sql`INSERT INTO people ${sql.insert(people).returning("*")}`)
    })
    const insertVoid = yield* SqlResolver.void("InsertVoid", {
      Request: Person,
      execute: counted((people) => sql`INSERT INTO people ${sql.insert(people)}`)
    })
    const byId = yield* SqlResolver.findById("ById", {
      Id: Schema.Number,
      Result: Person,
      ResultId: ({ id }) => id,
      execute: counted((ids) => sql`SELECT * FROM people WHERE ${sql.in("id", ids)}`)
    })
    const byName = yield* SqlResolver.grouped("ByName", {
      Request: Schema.String,
      RequestGroupKey: (name) => name,
      Result: Person,
      ResultGroupKey: ({ name }) => name,
      execute: counted((all) => sql`SELECT * FROM people WHERE ${sql.in("name", all)} ORDER BY id`)
    })
    return { batches, byId, byName, insert, insertVoid }
  })

const ann = new Person({ id: 1, name: "Ann" })
const bob = new Person({ id: 2, name: "Bob" })
const cy = new Person({ id: 3, name: "Cy" })
const anotherAnn = new Person({ id: 4, name: "Ann" })

describe("SqlResolver", () => {
  onEach(
    "what a session asks for goes together, on its connection, and is undone with it",
    ({ session, sql }) =>
      Effect.gen(function*() {
        yield* createPeople(sql)
        const { batches, byId, byName, insert, insertVoid } = yield* resolvers(sql)
        const work = Effect.gen(function*() {
          assert.deepStrictEqual(
            yield* Effect.forEach([ann, bob], insert.execute, { batching: true, concurrency: "unbounded" }),
            [ann, bob]
          )
          yield* Effect.forEach([cy, anotherAnn], insertVoid.execute, {
            batching: true,
            concurrency: "unbounded",
            discard: true
          })
          assert.deepStrictEqual(
            yield* Effect.forEach([2, 5, 1], byId.execute, { batching: true, concurrency: "unbounded" }),
            [Option.some(bob), Option.none(), Option.some(ann)]
          )
          assert.deepStrictEqual(
            yield* Effect.forEach(["Ann", "Di"], byName.execute, { batching: true, concurrency: "unbounded" }),
            [[ann, anotherAnn], []]
          )
          assert.deepStrictEqual(batches.splice(0), [2, 2, 3, 2])
        })
        yield* Effect.flip(session(Effect.zipRight(work, Effect.fail("undo"))))
        assert.deepStrictEqual(yield* names(sql), [])
        yield* session(work)
        assert.deepStrictEqual(yield* names(sql), ["Ann", "Bob", "Cy", "Ann"])
      })
  )

  onEach("outside of sessions each batch takes a connection", ({ poolStats, sql }) =>
    Effect.gen(function*() {
      yield* createPeople(sql)
      yield* addPeople(sql, ann, bob)
      const { batches, byId } = yield* resolvers(sql)
      assert.deepStrictEqual(
        yield* Effect.forEach([2, 1], byId.execute, { batching: true, concurrency: "unbounded" }),
        [Option.some(bob), Option.some(ann)]
      )
      assert.deepStrictEqual(batches, [2])
      assert.strictEqual((yield* poolStats).used, 0)
    }))

  onEach("in a nested session it uses that one", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* createPeople(sql)
      const { insertVoid } = yield* resolvers(sql)
      yield* session(Effect.gen(function*() {
        yield* insertVoid.execute(ann)
        yield* Effect.flip(session(Effect.zipRight(insertVoid.execute(bob), Effect.fail("undo"))))
        yield* session(insertVoid.execute(cy))
      }))
      assert.deepStrictEqual(yield* names(sql), ["Ann", "Cy"])
    }))
})

describe("SqlSchema", () => {
  onEach("findAll, findOne, single and void", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* createPeople(sql)
      const add = SqlSchema.void({ Request: Person, execute: (person) => addPeople(sql, person) })
      const byId = SqlSchema.findOne({
        Request: Schema.Number,
        Result: Person,
        execute: (id) => sql`SELECT * FROM people WHERE id = ${id}`
      })
      const all = SqlSchema.findAll({
        Request: Schema.Void,
        Result: Person,
        execute: () => sql`SELECT * FROM people ORDER BY id`
      })
      const first = SqlSchema.single({
        Request: Schema.Void,
        Result: Person,
        execute: () => sql`SELECT * FROM people ORDER BY id`
      })
      yield* add(ann)
      yield* Effect.flip(session(Effect.zipRight(add(bob), Effect.flatMap(all(), Effect.fail)))).pipe(
        Effect.map((seen) => assert.deepStrictEqual(seen, [ann, bob]))
      )
      assert.deepStrictEqual(yield* byId(1), Option.some(ann))
      assert.deepStrictEqual(yield* byId(2), Option.none())
      assert.deepStrictEqual(yield* first(), ann)
      const error = yield* Effect.flip(session(add(ann)))
      assert.strictEqual(error._tag, "UniqueViolation")
    }))
})

class Group extends Model.Class<Group>("Group")({
  id: Model.Generated(Schema.Number),
  name: Schema.String,
  createdAt: Model.DateTimeInsert
}) {}

const createGroups = (sql: SqlClient.SqlClient) => {
  const id = sql.onDialectOrElse({
    pg: () => sql.literal("id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
    orElse: () => sql.literal("id integer PRIMARY KEY")
  })
  return sql`CREATE TABLE ${sql("groups")} (${id}, name text NOT NULL, ${sql("createdAt")} text NOT NULL)`
}

describe("Model", () => {
  onEach("a repository", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* createGroups(sql)
      const groups = yield* Model.makeRepository(Group, { tableName: "groups", spanPrefix: "Groups", idColumn: "id" })
      const made = yield* groups.insert(Group.insert.make({ name: "first" }))
      assert.strictEqual(made.name, "first")
      assert.deepStrictEqual(yield* groups.findById(made.id), Option.some(made))
      yield* Effect.flip(session(Effect.gen(function*() {
        const renamed = yield* groups.update({ id: made.id, name: "second" })
        assert.deepStrictEqual(yield* groups.findById(made.id), Option.some(renamed))
        yield* groups.delete(made.id)
        assert.deepStrictEqual(yield* groups.findById(made.id), Option.none())
        return yield* Effect.fail("undo")
      })))
      assert.deepStrictEqual(yield* groups.findById(made.id), Option.some(made))
    }))

  onEach("data loaders batch what is asked for at about the same time", ({ sql }) =>
    Effect.gen(function*() {
      yield* createGroups(sql)
      const groups = yield* Model.makeDataLoaders(Group, {
        tableName: "groups",
        spanPrefix: "Groups",
        idColumn: "id",
        window: "5 millis"
      })
      const inserted = yield* Effect.forEach(
        ["a", "b", "c"],
        (name) => groups.insert(Group.insert.make({ name })),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(inserted.map(({ name }) => name), ["a", "b", "c"])
      assert.deepStrictEqual(
        yield* Effect.forEach(inserted, ({ id }) => groups.findById(id), { concurrency: "unbounded" }),
        inserted.map(Option.some)
      )
    }))
})

const migrations = Migrator.fromRecord({
  "0001_people": Effect.flatMap(SqlClient.SqlClient, createPeople),
  "0002_ann": Effect.flatMap(SqlClient.SqlClient, (sql) => addPeople(sql, ann))
})

const broken = Migrator.fromRecord({
  "0001_people": Effect.flatMap(SqlClient.SqlClient, createPeople),
  "0002_broken": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO nowhere VALUES (1)`)
})

const applied: ReadonlyArray<readonly [id: number, name: string]> = [[1, "people"], [2, "ann"]]

describe("migrators", () => {
  on("postgres")("PgMigrator", ({ context, sql }) =>
    Effect.gen(function*() {
      const run = PgMigrator.run({ loader: migrations }).pipe(
        Effect.provide(context as Context.Context<SqlClient.SqlClient | PgClient.PgClient>),
        Effect.provide(NodeContext.layer)
      )
      assert.deepStrictEqual(yield* run, applied)
      assert.deepStrictEqual(yield* run, [])
      assert.deepStrictEqual(yield* names(sql), ["Ann"])
    }))

  on("sqlite")("SqliteMigrator", ({ context, sql }) =>
    Effect.gen(function*() {
      const run = SqliteMigrator.run({ loader: migrations }).pipe(
        Effect.provide(context as Context.Context<SqlClient.SqlClient | SqliteClient.SqliteClient>),
        Effect.provide(NodeContext.layer)
      )
      assert.deepStrictEqual(yield* run, applied)
      assert.deepStrictEqual(yield* run, [])
      assert.deepStrictEqual(yield* names(sql), ["Ann"])
    }))

  onEach(
    "the standard migrator needs no more than SqlClient, and undoes what fails",
    ({ sql }) =>
      Effect.gen(function*() {
        const migrate = Migrator.make({})
        const exit = yield* Effect.exit(migrate({ loader: broken }))
        assert.strictEqual(exit._tag, "Failure")
        const error = yield* Effect.flip(names(sql))
        assert.match(error.message, /^InvalidStatement/)
        assert.deepStrictEqual(yield* migrate({ loader: migrations }), applied)
        assert.deepStrictEqual(yield* names(sql), ["Ann"])
      })
  )
})

interface Tables {
  readonly people: typeof Person.Encoded
}

describe("Kysely", () => {
  onEach(
    "its queries run in the session, and are undone with it",
    ({ dialect, session, sql }) =>
      Effect.gen(function*() {
        yield* createPeople(sql)
        const db = yield* dialect === "postgres" ? PgKysely.make<Tables>() : SqliteKysely.make<Tables>()
        yield* session(db.insertInto("people").values({ id: 1, name: "Ann" }))
        const seen = yield* Effect.flip(session(Effect.gen(function*() {
          yield* db.insertInto("people").values([{ id: 2, name: "Bob" }, { id: 3, name: "Cy" }])
          yield* db.deleteFrom("people").where("id", "=", 3)
          return yield* Effect.flatMap(db.selectFrom("people").selectAll().orderBy("id"), Effect.fail)
        })))
        assert.deepStrictEqual(seen, [{ id: 1, name: "Ann" }, { id: 2, name: "Bob" }])
        assert.deepStrictEqual(yield* db.selectFrom("people").select("name"), [{ name: "Ann" }])
        const error = yield* Effect.flip(session(db.insertInto("people").values({ id: 1, name: "Ann" })))
        assert.strictEqual(error._tag, "UniqueViolation")
      })
  )
})

const columns = {
  postgres: DrizzlePg.pgTable("people", { id: DrizzlePg.integer().primaryKey(), name: DrizzlePg.text().notNull() }),
  sqlite: DrizzleSqlite.sqliteTable("people", {
    id: DrizzleSqlite.integer().primaryKey(),
    name: DrizzleSqlite.text().notNull()
  })
}

type DrizzleRows = Effect.Effect<ReadonlyArray<unknown>, SqlError>

/** What the test asks of Drizzle, whose own types do not fit each other under `exactOptionalPropertyTypes`. */
interface DrizzleQueries {
  readonly insert: (table: unknown) => { readonly values: (row: typeof Person.Encoded) => DrizzleRows }
  readonly select: () => {
    readonly from: (table: unknown) => DrizzleRows & { readonly orderBy: (column: unknown) => DrizzleRows }
  }
}

describe("Drizzle", () => {
  onEach(
    "its queries run in the session, and are undone with it",
    ({ dialect, session, sql }) =>
      Effect.gen(function*() {
        yield* createPeople(sql)
        const table = columns[dialect]
        const made: unknown = yield* dialect === "postgres" ? PgDrizzle.make() : SqliteDrizzle.make()
        const db = made as DrizzleQueries
        yield* session(db.insert(table).values({ id: 1, name: "Ann" }))
        const seen = yield* Effect.flip(session(Effect.gen(function*() {
          yield* db.insert(table).values({ id: 2, name: "Bob" })
          return yield* Effect.flatMap(db.select().from(table).orderBy(table.id), Effect.fail)
        })))
        assert.deepStrictEqual(seen, [{ id: 1, name: "Ann" }, { id: 2, name: "Bob" }])
        assert.deepStrictEqual(yield* db.select().from(table), [{ id: 1, name: "Ann" }])
        const error = yield* Effect.flip(session(db.insert(table).values({ id: 1, name: "Ann" })))
        assert.strictEqual(error._tag, "UniqueViolation")
      })
  )
})

describe("What is started inside a session and lives on", () => {
  onEach("gets SessionClosed, unless it has left the session", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* createPeople(sql)
      const ended = yield* Deferred.make<void>()
      const add = (person: typeof Person.Encoded) => Effect.zipRight(Deferred.await(ended), addPeople(sql, person))
      const [inside, outside] = yield* session(Effect.gen(function*() {
        yield* addPeople(sql, { id: 1, name: "Ann" })
        return [
          yield* Effect.forkDaemon(add({ id: 2, name: "Bob" })),
          yield* Effect.forkDaemon(Effect.mapInputContext(
            add({ id: 3, name: "Cid" }),
            (context: Context.Context<never>): Context.Context<never> =>
              Context.omit(SqlClient.TransactionConnection)(context)
          ))
        ] as const
      }))
      yield* Deferred.succeed(ended, undefined)
      yield* Fiber.join(outside)
      const error = yield* Effect.flip(Fiber.join(inside))
      assert.propertyVal(error.cause, "_tag", "SessionClosed")
      assert.deepStrictEqual(yield* names(sql), ["Ann", "Cid"])
    }))
})
