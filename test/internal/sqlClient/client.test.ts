import * as Reactivity from "@effect/experimental/Reactivity"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import { describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { inspect } from "node:util"
import { assert } from "vitest"
import * as Database from "../../../src/Database.js"
import { fromSqlError, isDatabaseError } from "../../../src/DatabaseError.js"
import * as Dialects from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { on, onEach, open } from "../clients.js"
import { directory } from "../sqlite/support.js"

const camelToSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const snakeToCamel = (name: string) => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
const transforms = { transformQueryNames: camelToSnake, transformResultNames: snakeToCamel }

/** People with the numbers and names given. */
const people = (sql: SqlClient.SqlClient, ...names: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    yield* sql`CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL)`
    if (names.length > 0) {
      yield* sql`INSERT INTO people ${sql.insert(names.map((name, i) => ({ id: i + 1, name })))}`
    }
  })

const names = (sql: SqlClient.SqlClient) =>
  Effect.map(sql<{ name: string }>`SELECT name FROM people ORDER BY id`, (rows) => rows.map(({ name }) => name))

const numbers = (sql: SqlClient.SqlClient, upTo: number) =>
  sql<
    { n: number }
  >`WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ${upTo}) SELECT n FROM numbers`

describe("statements", () => {
  onEach("rows are objects, in the order of the query, and parameters are bound", ({ sql }) =>
    Effect.gen(function*() {
      yield* people(sql, "Ann", "Bob")
      assert.deepStrictEqual(yield* sql`SELECT id, name FROM people WHERE name = ${"Bob"}`, [{ id: 2, name: "Bob" }])
      assert.deepStrictEqual(yield* sql`SELECT id, name FROM people WHERE name = ${"' OR 1=1"}`, [])
      assert.deepStrictEqual(yield* sql`INSERT INTO people VALUES (3, ${"O'Hara"})`, [])
      assert.deepStrictEqual(yield* names(sql), ["Ann", "Bob", "O'Hara"])
    }))

  onEach("values, raw, unprepared and withoutTransform", ({ dialect, sql }) =>
    Effect.gen(function*() {
      yield* people(sql, "Ann", "Bob")
      const statement = sql<{ id: number; name: string }>`SELECT id, name FROM people WHERE id > ${1}`
      assert.deepStrictEqual(yield* statement.values, [[2, "Bob"]])
      assert.deepStrictEqual(yield* statement.unprepared, [{ id: 2, name: "Bob" }])
      assert.deepStrictEqual(yield* statement.withoutTransform, [{ id: 2, name: "Bob" }])
      const raw = yield* sql`INSERT INTO people VALUES (${3}, ${"Cy"})`.raw
      assert.strictEqual((raw as Record<string, unknown>)[dialect === "postgres" ? "rowCount" : "changes"], 1)
      // A statement may run again and again.
      assert.deepStrictEqual(yield* statement, [{ id: 2, name: "Bob" }, { id: 3, name: "Cy" }])
    }))

  onEach("values of columns of the same name are all there", ({ sql }) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* sql`SELECT 1 AS a, 2 AS a`.values, [[1, 2]])
    }))

  onEach("unsafe takes text and parameters", ({ dialect, sql }) =>
    Effect.gen(function*() {
      yield* people(sql, "Ann", "Bob")
      const placeholder = dialect === "postgres" ? "$1" : "?"
      assert.deepStrictEqual(
        yield* sql.unsafe<{ name: string }>(`SELECT name FROM people WHERE id = ${placeholder}`, [2]),
        [{ name: "Bob" }]
      )
    }))

  onEach(
    "a helper that is given no rows is a typed failure, in whatever way the statement is run",
    ({ sql }) =>
      Effect.gen(function*() {
        yield* people(sql)
        const insert = sql`INSERT INTO people ${sql.insert([])}`
        const update = sql`UPDATE people SET name = data.name FROM ${sql.updateValues([], "data")}`
        const ways: ReadonlyArray<Effect.Effect<unknown, SqlError>> = [
          insert,
          update,
          insert.raw,
          insert.values,
          insert.unprepared,
          insert.withoutTransform,
          Stream.runCollect(insert.stream),
          sql.withTransaction(insert)
        ]
        for (const tracing of [true, false]) {
          for (const way of ways) {
            const error = fromSqlError(yield* Effect.flip(Effect.withTracerEnabled(way, tracing)))
            assert.strictEqual(error._tag, "InvalidStatement")
            assert.include(error.message, "at least one row")
          }
        }
        // What a value throws when it is looked at may be the value.
        const secret = "throws-4711"
        const row = {
          get name(): string {
            throw new TypeError(secret)
          }
        }
        const proxy = new Proxy({}, {
          get: () => {
            throw new TypeError(secret)
          }
        })
        for (
          const throwing of [sql`INSERT INTO people ${sql.insert(row)}`, sql`SELECT ${proxy}`]
        ) {
          for (const tracing of [true, false]) {
            const error = fromSqlError(yield* Effect.flip(Effect.withTracerEnabled(throwing, tracing)))
            assert.strictEqual(error._tag, "InvalidData")
            assert.notInclude(JSON.stringify(error), secret)
          }
        }
      })
  )

  onEach(
    "the helpers: insert, update, in, and, or, csv, join, literal and identifiers",
    ({ sql }) =>
      Effect.gen(function*() {
        yield* people(sql)
        const inserted = yield* sql`INSERT INTO people ${
          sql.insert([{ id: 1, name: "Ann" }, { id: 2, name: "Bob" }, { id: 3, name: "Cy" }]).returning("*")
        }`
        assert.deepStrictEqual(inserted, [{ id: 1, name: "Ann" }, { id: 2, name: "Bob" }, { id: 3, name: "Cy" }])
        const updated = yield* sql`UPDATE people SET ${
          sql.update({ id: 2, name: "Bea" }, ["id"])
        } WHERE id = 2 RETURNING name`
        assert.deepStrictEqual(updated, [{ name: "Bea" }])
        assert.deepStrictEqual(yield* sql`SELECT id FROM people WHERE ${sql.in("id", [1, 3])} ORDER BY id`.values, [
          [1],
          [
            3
          ]
        ])
        assert.deepStrictEqual(yield* sql`SELECT id FROM people WHERE ${sql.in("id", [])}`, [])
        assert.deepStrictEqual(yield* sql`SELECT id FROM people WHERE id IN ${sql.in([2])}`, [{ id: 2 }])
        assert.deepStrictEqual(
          yield* sql`SELECT id FROM people WHERE ${sql.and([sql`id > ${1}`, "id < 3"])}`,
          [{ id: 2 }]
        )
        assert.deepStrictEqual(
          yield* sql`SELECT id FROM people WHERE ${sql.or([sql`id = ${1}`, sql`name = ${"Cy"}`])} ORDER BY ${
            sql.csv(["id", "name"])
          }`,
          [{ id: 1 }, { id: 3 }]
        )
        assert.deepStrictEqual(
          yield* sql`SELECT ${sql.join(" + ", false)(["1", sql`${2}`, "3"])} AS ${sql("sum of \"all\"")}`,
          [{ "sum of \"all\"": 6 }]
        )
        assert.deepStrictEqual(
          yield* sql`SELECT ${sql("people.name")} FROM ${sql("people")} ${sql.literal("WHERE id = 1")}`,
          [{ name: "Ann" }]
        )
      })
  )

  on("postgres")("updateValues updates many rows at once", ({ sql }) =>
    Effect.gen(function*() {
      yield* people(sql, "Ann", "Bob", "Cy")
      yield* sql`UPDATE people SET name = data.name FROM ${
        sql.updateValues([{ id: "1", name: "Ada" }, { id: "3", name: "Cat" }], "data")
      } WHERE people.id = data.id::int`
      assert.deepStrictEqual(yield* names(sql), ["Ada", "Bob", "Cat"])
    }))

  onEach("safe and, without transforms, withoutTransforms are the client itself", ({ sql }) =>
    Effect.gen(function*() {
      assert.strictEqual(sql.safe, sql)
      assert.strictEqual(sql.withoutTransforms(), sql)
      assert.deepStrictEqual(yield* sql.safe`SELECT 1 AS n`, [{ n: 1 }])
    }))

  it.scopedLive("onDialect asks each client for its own dialect, also where there are clients of both", () =>
    Effect.gen(function*() {
      const sqlite = yield* open("sqlite")
      const postgres = yield* open("postgres")
      const never = () => "another"
      const dialect = (sql: SqlClient.SqlClient) =>
        sql.onDialect({
          pg: () => "postgres",
          sqlite: () => "sqlite",
          mysql: never,
          mssql: never,
          clickhouse: never
        })
      assert.strictEqual(dialect(sqlite.sql), "sqlite")
      assert.strictEqual(dialect(postgres.sql), "postgres")
      assert.strictEqual(postgres.sql.onDialectOrElse({ pg: () => 1, orElse: () => 2 }), 1)
      assert.strictEqual(sqlite.sql.onDialectOrElse({ pg: () => 1, orElse: () => 2 }), 2)
    }))
})

describe("streams", () => {
  onEach("a stream gives every row, and its connection back", ({ poolStats, sql }) =>
    Effect.gen(function*() {
      const rows = yield* Stream.runCollect(numbers(sql, 5_000).stream)
      assert.deepStrictEqual(
        Chunk.toReadonlyArray(rows).map(({ n }) => n),
        Array.from({ length: 5_000 }, (_, i) => i + 1)
      )
      assert.strictEqual((yield* poolStats).used, 0)
    }))

  onEach(
    "a stream that nobody reads to its end gives its connection back",
    ({ poolStats, sql }) =>
      Effect.gen(function*() {
        const rows = yield* Stream.runCollect(Stream.take(numbers(sql, 1_000_000).stream, 3))
        assert.deepStrictEqual(Chunk.toReadonlyArray(rows), [{ n: 1 }, { n: 2 }, { n: 3 }])
        assert.strictEqual((yield* poolStats).used, 0)
        assert.deepStrictEqual(yield* sql`SELECT 1 AS n`, [{ n: 1 }])
      })
  )

  onEach("in a session other statements run between the rows", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* people(sql)
      yield* session(
        numbers(sql, 600).stream.pipe(
          Stream.runForEach(({ n }) => sql`INSERT INTO people VALUES (${n}, ${`number ${n}`})`)
        )
      )
      assert.lengthOf(yield* names(sql), 600)
    }))

  onEach(
    "a stream in a session sees what the session wrote, and is undone with it",
    ({ session, sql }) =>
      Effect.gen(function*() {
        yield* people(sql)
        const seen = yield* session(
          Effect.gen(function*() {
            yield* sql`INSERT INTO people VALUES (1, 'Ann')`
            const rows = yield* Stream.runCollect(
              sql<{ name: string }>`INSERT INTO people VALUES (2, 'Bob') RETURNING name`.stream
            )
            const all = yield* Stream.runCollect(sql<{ name: string }>`SELECT name FROM people ORDER BY id`.stream)
            return yield* Effect.fail([rows, all].map((each) => Chunk.toReadonlyArray(each).map(({ name }) => name)))
          })
        ).pipe(Effect.flip)
        assert.deepStrictEqual(seen, [["Bob"], ["Ann", "Bob"]])
        assert.deepStrictEqual(yield* names(sql), [])
      })
  )

  onEach("a stream's rows are transformed", ({ sql }) =>
    Effect.gen(function*() {
      const rows = yield* Stream.runCollect(sql`SELECT 1 AS first_name`.stream)
      assert.deepStrictEqual(Chunk.toReadonlyArray(rows), [{ firstName: 1 }])
    }), transforms)

  onEach("a stream's failure is its statement's", ({ sql }) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Stream.runDrain(sql`SELECT nothing FROM nowhere`.stream))
      assert.strictEqual(error._tag, "SqlError")
      assert.isTrue(isDatabaseError(error.cause) && error.cause._tag === "InvalidStatement")
    }))
})

describe("transforms", () => {
  onEach("names are one thing in the program and another in the database", ({ sql }) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE ${sql("bigTable")} (first_name text, last_name text)`
      yield* sql`INSERT INTO big_table ${sql.insert({ firstName: "Ann", lastName: "Lee" })}`
      const all = sql`SELECT * FROM ${sql("bigTable")}`
      assert.deepStrictEqual(yield* all, [{ firstName: "Ann", lastName: "Lee" }])
      assert.deepStrictEqual(yield* all.unprepared, [{ firstName: "Ann", lastName: "Lee" }])
      assert.deepStrictEqual(yield* all.values, [["Ann", "Lee"]])
      const plain = sql`SELECT * FROM ${sql("big_table")} WHERE first_name = ${"Ann"}`
      assert.deepStrictEqual(yield* plain.withoutTransform, [{ first_name: "Ann", last_name: "Lee" }])
    }), transforms)

  onEach(
    "withoutTransforms is a client without them, of the same sessions",
    ({ session, sql }) =>
      Effect.gen(function*() {
        const plain = sql.withoutTransforms()
        assert.strictEqual(plain.withoutTransforms(), plain)
        assert.strictEqual(plain.safe, plain)
        yield* plain`CREATE TABLE ${plain("bigTable")} (first_name text)`
        yield* Effect.flip(session(Effect.gen(function*() {
          yield* plain`INSERT INTO ${plain("bigTable")} ${plain.insert({ first_name: "Ann" })}`
          assert.deepStrictEqual(yield* plain`SELECT * FROM ${plain("bigTable")}`, [{ first_name: "Ann" }])
          assert.deepStrictEqual(yield* sql`SELECT first_name FROM ${sql.literal("\"bigTable\"")}`, [{
            firstName: "Ann"
          }])
          return yield* Effect.fail("undo")
        })))
        assert.deepStrictEqual(yield* plain`SELECT * FROM ${plain("bigTable")}`, [])
      }),
    transforms
  )

  on("postgres")("transformJson reaches into json values", ({ sql }) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* sql`SELECT ${sql.literal(`'{"first_name":{"last_name":1},"a_b":[{"c_d":2}]}'::jsonb`)} AS the_value`,
        [{ theValue: { firstName: { lastName: 1 }, aB: [{ cD: 2 }] } }]
      )
    }), transforms)

  on("postgres")("json values are stored as @effect/sql-pg stores them", (database) =>
    Effect.gen(function*() {
      const { sql } = database
      const { json } = pgClient(database)
      yield* sql`CREATE TABLE stored (id integer, the_value jsonb)`
      yield* sql`INSERT INTO stored ${sql.insert({ id: 1, theValue: json({ firstName: { lastName: 1 } }) })}`
      const plain = sql.withoutTransforms()
      assert.deepStrictEqual(yield* plain`SELECT the_value::text AS text FROM stored`, [
        { text: `{"first_name": {"last_name": 1}}` }
      ])
      assert.deepStrictEqual(yield* sql`SELECT the_value FROM stored`, [{ theValue: { firstName: { lastName: 1 } } }])
    }), transforms)

  on("postgres")("without transformJson json values are left alone", ({ sql }) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* sql`SELECT ${sql.literal(`'{"first_name":1}'::jsonb`)} AS the_value`,
        [{ theValue: { first_name: 1 } }]
      )
    }), { ...transforms, transformJson: false })
})

const pgClient = ({ context }: Database.Service) =>
  Context.get(context as Context.Context<SqlClient.SqlClient | PgClient.PgClient>, PgClient.PgClient)

const sqliteClient = ({ context }: Database.Service) =>
  Context.get(
    context as Context.Context<SqlClient.SqlClient | SqliteClient.SqliteClient>,
    SqliteClient.SqliteClient
  )

describe("the dialect's own client", () => {
  onEach("the layer provides it beside SqlClient, and it is the same", (database) =>
    Effect.gen(function*() {
      const [pg, sqlite] = yield* Effect.all([
        Effect.serviceOption(PgClient.PgClient),
        Effect.serviceOption(SqliteClient.SqliteClient)
      ])
      const provided = database.dialect === "postgres" ? pg : sqlite
      const other = database.dialect === "postgres" ? sqlite : pg
      assert.isTrue(provided._tag === "Some" && Object.is(provided.value, database.sql))
      assert.strictEqual(other._tag, "None")
    }))

  on("postgres")(
    "config.url connects an upstream PgClient to the same database, and is redacted",
    (database) =>
      Effect.gen(function*() {
        const { config } = pgClient(database)
        assert.isTrue(Redacted.isRedacted(config.url))
        assert.propertyVal(JSON.parse(JSON.stringify(config)), "url", "<redacted>")
        yield* database.sql`CREATE TABLE here (id integer)`
        const upstream = yield* PgClient.make({ url: config.url })
        assert.deepStrictEqual(yield* upstream`SELECT to_regclass('here')::text AS name`, [{ name: "here" }])
      }).pipe(Effect.scoped, Effect.provide(Reactivity.layer))
  )

  on("postgres")("json fragments", (database) =>
    Effect.gen(function*() {
      const sql = pgClient(database)
      yield* sql`CREATE TABLE documents (body jsonb)`
      yield* sql`INSERT INTO documents ${sql.insert({ body: sql.json({ a: [1, { b: "c" }] }) })}`
      yield* sql`INSERT INTO documents VALUES (${sql.json({ d: null })})`
      assert.deepStrictEqual(
        yield* sql`SELECT body FROM documents`,
        [{ body: { a: [1, { b: "c" }] } }, { body: { d: null } }]
      )
    }))

  on("postgres")(
    "notify inside a session is sent when it commits, and only then",
    (database) =>
      Effect.scoped(Effect.gen(function*() {
        const sql = pgClient(database)
        const received = yield* Queue.unbounded<string>()
        yield* Effect.forkScoped(Stream.runForEach(sql.listen("news"), (payload) => received.offer(payload)))
        yield* eventually(Effect.map(
          Effect.zipRight(sql.notify("news", "ready?"), Effect.zipRight(Effect.sleep("20 millis"), received.size)),
          (size) => size > 0
        ))
        yield* received.takeAll
        yield* Effect.flip(database.session(Effect.zipRight(sql.notify("news", "undone"), Effect.fail("undo"))))
        yield* database.session(Effect.gen(function*() {
          yield* sql.notify("news", "done")
          yield* Effect.sleep("100 millis")
          assert.notInclude(Chunk.toReadonlyArray(yield* received.takeAll), "done")
        }))
        yield* sql.notify("news", "last")
        const heard: Array<string> = []
        while (heard[heard.length - 1] !== "last") {
          heard.push(yield* received.take)
        }
        assert.deepStrictEqual(heard.filter((payload) => payload !== "ready?"), ["done", "last"])
      }))
  )

  on("sqlite")("export and backup", (database) =>
    Effect.gen(function*() {
      const sql = sqliteClient(database)
      yield* people(sql, "Ann")
      assert.strictEqual(Buffer.from(yield* sql.export).toString("latin1", 0, 15), "SQLite format 3")
      const destination = Path.join(yield* directory, "backup.db")
      assert.isAbove((yield* sql.backup(destination)).totalPages, 0)
      assert.isAbove(Fs.statSync(destination).size, 0)
      const copy = yield* Database.make({ environment: "test", url: `sqlite:///${destination}` })
      assert.deepStrictEqual(yield* names(copy.sql), ["Ann"])
    }))

  on("sqlite")("SafeIntegers gives bigints, and does not stick to a statement", ({ sql }) =>
    Effect.gen(function*() {
      const statement = sql`SELECT 9007199254740991 AS n`
      const big = Effect.provideService(statement, SqlClient.SafeIntegers, true)
      assert.deepStrictEqual(yield* statement, [{ n: 9007199254740991 }])
      assert.deepStrictEqual(yield* big, [{ n: 9007199254740991n }])
      assert.deepStrictEqual(yield* statement, [{ n: 9007199254740991 }])
      assert.deepStrictEqual(
        yield* Effect.provideService(sql`SELECT ${9007199254740993n} AS n`.values, SqlClient.SafeIntegers, true),
        [[9007199254740993n]]
      )
    }))
})

describe("reactive", () => {
  for (const dialect of [Dialects.postgres, Dialects.sqliteFile]) {
    it.scopedLive(`a query runs again when what it reads is said to have changed: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* people(sql, "Ann")
        const seen = yield* Queue.unbounded<ReadonlyArray<string>>()
        yield* Effect.forkScoped(Stream.runForEach(sql.reactive(["people"], names(sql)), (all) => seen.offer(all)))
        assert.deepStrictEqual(yield* seen.take, ["Ann"])
        yield* Reactivity.mutation(sql`INSERT INTO people VALUES (2, 'Bob')`, ["people"])
        assert.deepStrictEqual(yield* Effect.timeout(seen.take, "10 seconds"), ["Ann", "Bob"])
        const mailbox = yield* sql.reactiveMailbox(["people"], names(sql))
        assert.deepStrictEqual(yield* mailbox.take, ["Ann", "Bob"])
      }).pipe(Effect.provide(Layer.merge(Dialects.layer(dialect), Reactivity.layer))))
  }
})

describe("transformers", () => {
  onEach(
    "a statement's transformer sees it, and gives another in its place",
    ({ session, sql }) =>
      Effect.gen(function*() {
        yield* people(sql, "Ann")
        const texts: Array<string> = []
        const transformed = Statement.withTransformer(
          Effect.zip(
            names(sql),
            Effect.flip(session(Effect.gen(function*() {
              yield* sql`INSERT INTO people VALUES (2, 'Bob')`
              return yield* Effect.flatMap(names(sql), Effect.fail)
            })))
          ),
          (statement, again) =>
            Effect.sync(() => {
              texts.push(statement.compile()[0])
              return again`${statement} ${again.literal("-- seen")}`
            })
        )
        assert.deepStrictEqual(yield* transformed, [["Ann"], ["Ann", "Bob"]])
        assert.lengthOf(texts, 3)
        assert.deepStrictEqual(yield* Statement.withTransformerDisabled(names(sql)), ["Ann"])
      })
  )
})

describe("what is shown", () => {
  onEach("a statement shows its text and never its parameters", ({ sql }) =>
    Effect.gen(function*() {
      const statement = sql`SELECT ${"hunter2"} AS word, ${sql.in(["hunter2"])}`
      const insert = sql`INSERT INTO people ${sql.insert({ name: "hunter2" })}`
      const unsafe = sql.unsafe("SELECT 1", ["hunter2"])
      for (const each of [statement, insert, unsafe]) {
        // Compiled statements remember what they were compiled to.
        each.compile()
        const shown = [
          inspect(each, { depth: 10, showHidden: true }),
          inspect({ each }, { depth: 10 }),
          JSON.stringify(each),
          (each as { readonly toString: () => string }).toString()
        ]
        for (const text of shown) {
          assert.notInclude(text, "hunter2")
          assert.match(text, /SELECT|INSERT/)
        }
      }
    }))

  onEach("an SqlError says what happened, and its cause is the classified error", ({ sql }) =>
    Effect.gen(function*() {
      yield* people(sql, "Ann")
      const error = yield* Effect.flip(sql`INSERT INTO people VALUES (1, ${"hunter2"})`)
      assert.strictEqual(error._tag, "SqlError")
      assert.isTrue(isDatabaseError(error.cause) && error.cause._tag === "UniqueViolation")
      assert.match(error.message, /^UniqueViolation: .*unique/i)
      assert.notInclude(inspect(error, { depth: 10, showHidden: true }), "hunter2")
      assert.notInclude(JSON.stringify(error), "hunter2")
    }))
})

describe("transactions and connections", () => {
  onEach("withTransaction commits, rolls back, and nests", ({ sql }) =>
    Effect.gen(function*() {
      yield* people(sql)
      yield* sql.withTransaction(Effect.gen(function*() {
        yield* sql`INSERT INTO people VALUES (1, 'Ann')`
        yield* Effect.flip(
          sql.withTransaction(Effect.zipRight(sql`INSERT INTO people VALUES (2, 'Bob')`, Effect.fail("undo")))
        )
        yield* sql.withTransaction(sql`INSERT INTO people VALUES (3, 'Cy')`)
      }))
      yield* Effect.flip(
        sql.withTransaction(Effect.zipRight(sql`INSERT INTO people VALUES (4, 'Di')`, Effect.fail("undo")))
      )
      assert.deepStrictEqual(yield* names(sql), ["Ann", "Cy"])
    }))

  onEach(
    "what was reserved is one connection, and refuses once it is given back",
    ({ poolStats, sql }) =>
      Effect.gen(function*() {
        yield* sql`CREATE TABLE counts (n integer)`
        const connection = yield* Effect.scoped(Effect.gen(function*() {
          const reserved = yield* sql.reserve
          yield* reserved.execute("INSERT INTO counts VALUES (1)", [], undefined)
          assert.deepStrictEqual(yield* reserved.executeValues("SELECT n FROM counts", []), [[1]])
          assert.strictEqual((yield* poolStats).used, 1)
          return reserved
        }))
        assert.strictEqual((yield* poolStats).used, 0)
        const error = yield* Effect.flip(connection.execute("SELECT 1", [], undefined))
        assert.isTrue(isDatabaseError(error.cause) && error.cause._tag === "SessionClosed")
      })
  )

  onEach("concurrent statements of a session run one after the other", ({ session, sql }) =>
    Effect.gen(function*() {
      yield* people(sql)
      const all = yield* session(Effect.gen(function*() {
        const fibers = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, i) => i + 1),
          (n) => Effect.fork(sql`INSERT INTO people VALUES (${n}, ${String(n)})`)
        )
        yield* Fiber.joinAll(fibers)
        return yield* names(sql)
      }))
      assert.deepStrictEqual(all, Array.from({ length: 20 }, (_, i) => String(i + 1)))
    }))
})
