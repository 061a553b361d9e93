import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Path from "node:path"
import type { Worker } from "node:worker_threads"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { createTables, failure, insert, numbers, timed } from "./internal/session/harness.js"
import { file } from "./internal/sqlite/support.js"
import { make as makeOn, sqliteFile } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

type Options = Omit<DatabaseConfig.Options, "url">

const quiet = Logger.remove(Logger.defaultLogger)

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  it.scopedLive(name, () => Effect.provide(body(), quiet), 30_000)

const open = (filename: string, options: Options = {}) =>
  Database.make({ environment: "test", ...options, url: `sqlite:///${filename}` })

/** A new database with the tables, and its file. */
const opened = (options: Options = {}) =>
  Effect.gen(function*() {
    const filename = yield* file
    const database = yield* open(filename, options)
    yield* createTables(database)
    return { database, filename }
  })

const reading = { readOnly: true }

/** The threads that run now. */
const threads: Effect.Effect<ReadonlySet<Worker>, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const running = new Set<Worker>()
      const note = (thread: Worker) => {
        running.add(thread)
        thread.once("exit", () => running.delete(thread))
      }
      process.on("worker", note)
      return { running, note }
    }),
    ({ note }) => Effect.sync(() => process.off("worker", note))
  ),
  ({ running }) => running
)

/** Who arrives waits until so many have. */
const meeting = (count: number) =>
  Effect.map(Deferred.make<void>(), (all) => {
    let arrived = 0
    return Effect.suspend(() => ++arrived === count ? Deferred.succeed(all, undefined) : Deferred.await(all))
  })

const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

const counting = (count: number) =>
  `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count}) SELECT count(*) AS n FROM n`

describe("sessions that only read, on a SQLite file", () => {
  live("run beside a session that writes, and do not see what it has not committed", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      yield* insert(database, 1)
      const during = yield* database.session(
        Effect.gen(function*() {
          yield* insert(database, 2)
          return yield* Effect.forkDaemon(database.session(numbers(database), reading)).pipe(Effect.flatMap(Fiber.join))
        }).pipe(Effect.timeout("10 seconds"))
      )
      // The fiber inherits its session, so it is nested in it.
      assert.deepStrictEqual(during, [1, 2])
      const writing = yield* Deferred.make<void>()
      const done = yield* Deferred.make<void>()
      const writer = yield* Effect.fork(database.session(
        Effect.zipRight(
          insert(database, 3),
          Effect.zipRight(Deferred.succeed(writing, undefined), Deferred.await(done))
        )
      ))
      yield* Deferred.await(writing)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 2])
      yield* Deferred.succeed(done, undefined)
      yield* Fiber.join(writer)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 2, 3])
    }))

  live("run beside each other, four at a time, and the others wait for their turn", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const meet = yield* meeting(4)
      const four = Effect.replicateEffect(database.session(Effect.zipRight(numbers(database), meet), reading), 4, {
        concurrency: "unbounded"
      })
      yield* Effect.timeout(four, "20 seconds")
      let within = 0
      let most = 0
      const stays = Effect.acquireUseRelease(
        Effect.sync(() => {
          most = Math.max(most, ++within)
        }),
        () => Effect.sleep("100 millis"),
        () =>
          Effect.sync(() => {
            within--
          })
      )
      yield* Effect.replicateEffect(
        database.session(Effect.zipRight(numbers(database), stays), reading),
        9,
        { concurrency: "unbounded", discard: true }
      )
      assert.strictEqual(most, 4)
    }))

  live("have each a snapshot", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      yield* insert(database, 1)
      const seen: Array<ReadonlyArray<number>> = []
      const look = Effect.map(numbers(database), (rows) => seen.push(rows))
      const looked = yield* Deferred.make<void>()
      const written = yield* Deferred.make<void>()
      const reader = yield* Effect.fork(database.session(
        Effect.gen(function*() {
          yield* look
          yield* Deferred.succeed(looked, undefined)
          yield* Deferred.await(written)
          yield* look
        }),
        reading
      ))
      yield* Deferred.await(looked)
      yield* database.session(insert(database, 2))
      yield* insert(database, 3)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 2, 3])
      yield* Deferred.succeed(written, undefined)
      yield* Fiber.join(reader)
      assert.deepStrictEqual(seen, [[1], [1]])
    }))

  live("see everything that was committed before they began", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      for (let n = 1; n <= 150; n++) {
        yield* n % 2 === 0 ? database.session(insert(database, n)) : insert(database, n)
        const [{ max }] = yield* database.session(
          database.sql<{ readonly max: number }>`SELECT max(n) AS max FROM items`,
          reading
        )
        assert.strictEqual(max, n)
      }
    }))

  live("cannot write, whatever they try", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      for (const text of ["INSERT INTO items VALUES (1)", "CREATE TABLE other (a)", "DELETE FROM items"]) {
        const error = yield* failure(database.session(sql.unsafe(text), reading))
        assert.strictEqual(error._tag, "ReadOnlyViolation", text)
      }
      // Who says otherwise to SQLite itself says it for himself.
      yield* database.session(sql`PRAGMA query_only = OFF`, reading)
      yield* Effect.replicateEffect(
        Effect.map(
          failure(database.session(insert(database, 1), reading)),
          ({ _tag }) => assert.strictEqual(_tag, "ReadOnlyViolation")
        ),
        8,
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(yield* numbers(database), [])
    }))

  live("need not wait for the session that they are started from", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      yield* insert(database, 1)
      const apart = { propagation: "new" } as const
      const seen = yield* database.session(
        Effect.zipRight(insert(database, 2), database.session(numbers(database), { ...apart, readOnly: true }))
      )
      assert.deepStrictEqual(seen, [1])
      yield* database.session(database.session(insert(database, 3), apart), reading)
      assert.deepStrictEqual(yield* numbers(database), [1, 2, 3])
      // The one connection that writes is held, so this would wait for itself.
      const error = yield* failure(database.session(database.session(insert(database, 4), apart)))
      assert.strictEqual(error._tag, "PoolTimeout")
    }))

  live("do not hold up who writes, however long they take", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      const reader = yield* Effect.fork(database.session(Stream.runDrain(sql.unsafe(endless).stream), reading))
      yield* eventually(Effect.map(database.activity, ({ sessions }) => sessions.length === 1))
      const [, millis] = yield* timed(Effect.forEach([1, 2, 3], (n) => database.session(insert(database, n))))
      assert.isBelow(millis, 5_000)
      assert.isNull(reader.unsafePoll())
      const [, stopped] = yield* timed(Fiber.interrupt(reader))
      assert.isBelow(stopped, 2_000)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 2, 3])
    }))

  live("end with their timeouts, and their connection goes on or is replaced", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      const within = (text: string) =>
        failure(database.session(sql.unsafe(text), { readOnly: true, statementTimeout: "100 millis" }))
      assert.strictEqual((yield* within(endless))._tag, "StatementTimeout")
      // Counting gives no row before it is done, so its thread is left behind.
      assert.strictEqual((yield* within(counting(20_000_000)))._tag, "StatementTimeout")
      const late = yield* failure(database.session(sql.unsafe(endless), { readOnly: true, timeout: "100 millis" }))
      assert.strictEqual(late._tag, "SessionTimeout")
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [])
      assert.deepInclude(yield* database.poolStats, { created: 1, used: 0, idle: 1 })
    }))

  live(
    "get connections when they need them, in threads of their own that end with the database",
    () =>
      Effect.gen(function*() {
        const running = yield* threads
        const filename = yield* file
        yield* Effect.scoped(Effect.gen(function*() {
          const database = yield* open(filename)
          yield* createTables(database)
          yield* database.session(numbers(database))
          assert.strictEqual(running.size, 1)
          yield* database.session(numbers(database), reading)
          yield* database.session(numbers(database), reading)
          assert.strictEqual(running.size, 2)
          const meet = yield* meeting(4)
          yield* Effect.replicateEffect(database.session(Effect.zipRight(numbers(database), meet), reading), 4, {
            concurrency: "unbounded"
          })
          assert.strictEqual(running.size, 5)
          yield* insert(database, 1)
          assert.isAbove(Fs.statSync(`${filename}-wal`).size, 0)
        }))
        yield* eventually(Effect.sync(() => running.size === 0))
        // Whoever closed last has brought everything into the file.
        assert.deepStrictEqual(Fs.readdirSync(Path.dirname(filename)), ["test.db"])
      })
  )

  live("are waited for by a database that closes, which takes no new ones of any kind", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const began = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const scope = yield* Deferred.make<Database.Service>()
      const close = yield* Deferred.make<void>()
      const life = yield* Effect.fork(Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTables(database)
        yield* Deferred.succeed(scope, database)
        yield* Deferred.await(close)
      })))
      const database = yield* Deferred.await(scope)
      const reader = yield* Effect.fork(database.session(
        Effect.gen(function*() {
          yield* Deferred.succeed(began, undefined)
          yield* Deferred.await(end)
          return yield* numbers(database)
        }),
        reading
      ))
      yield* Deferred.await(began)
      yield* Deferred.succeed(close, undefined)
      const refused = (effect: Effect.Effect<unknown, DatabaseError.DatabaseError | SqlError>) =>
        Effect.map(
          Effect.either(DatabaseError.typed(effect)),
          (result) => Either.isLeft(result) && result.left._tag === "DatabaseClosed"
        )
      yield* eventually(refused(database.session(numbers(database))))
      assert.isTrue(yield* refused(database.session(numbers(database), reading)))
      assert.isNull(life.unsafePoll())
      yield* Deferred.succeed(end, undefined)
      assert.deepStrictEqual(yield* Fiber.join(reader), [])
      yield* Fiber.join(life)
    }))

  live("count in the figures of a pool of their own", () =>
    Effect.gen(function*() {
      const { database } = yield* opened({ name: "sqlite-readers" })
      const connections = (pool: string) =>
        Effect.map(Metric.snapshot, (pairs) => {
          const states: Record<string, unknown> = {}
          for (const { metricKey, metricState } of pairs) {
            const labels = new Map(Array.from(metricKey.tags, ({ key, value }) => [key, value]))
            if (labels.get("db.client.connection.pool.name") === pool) {
              const state = labels.get("db.client.connection.state")
              if (metricKey.name === "db.client.connection.count" && state !== undefined) {
                states[state] =
                  (metricState as unknown as { readonly value?: number; readonly count?: number }).count ??
                    (metricState as unknown as { readonly value?: number }).value
              }
            }
          }
          return states
        })
      const [stats, metrics, activity] = yield* database.session(
        Effect.zipRight(
          numbers(database),
          Effect.all([database.poolStats, connections("sqlite-readers (readers)"), database.activity])
        ),
        { ...reading, name: "a report" }
      )
      assert.deepInclude(stats, { name: "sqlite-readers", maximum: 1, used: 0, idle: 1 })
      assert.deepStrictEqual(metrics, { idle: 0, used: 1 })
      assert.deepStrictEqual(activity.sessions.map(({ name }) => name), ["a report"])
      assert.isTrue(yield* database.health)
    }))

  live("tell whose turn did not come, and go on in the order of asking", () =>
    Effect.gen(function*() {
      const { database } = yield* opened({ poolTimeout: "3 seconds" })
      const end = yield* Deferred.make<void>()
      const meet = yield* meeting(5)
      const held = yield* Effect.fork(Effect.replicateEffect(
        database.session(Effect.zipRight(meet, Deferred.await(end)), reading),
        4,
        { concurrency: "unbounded" }
      ))
      yield* meet
      const error = yield* failure(database.session(numbers(database), reading))
      assert(error._tag === "PoolTimeout")
      assert.deepInclude(error.stats, { name: "test.db (readers)", maximum: 4, used: 4 })
      // Those who write are not concerned.
      yield* database.session(insert(database, 1))
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(held)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
    }))

  live("get over the loss of their connection, which is not that of others", () =>
    Effect.gen(function*() {
      const running = yield* threads
      const { database } = yield* opened()
      yield* database.session(numbers(database), reading)
      const [, readers] = running
      const reader = yield* Effect.fork(Effect.exit(database.session(database.sql.unsafe(endless), reading)))
      yield* eventually(Effect.map(database.activity, ({ sessions }) => sessions.length === 1))
      yield* Effect.sleep("50 millis")
      yield* Effect.promise(() => readers.terminate())
      const exit = yield* Fiber.join(reader)
      assert.strictEqual((yield* failure(exit))._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [])
      yield* insert(database, 1)
      assert.deepInclude(yield* database.poolStats, { created: 1 })
    }))

  live("have the extensions that were loaded, also on connections that were open before", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const extension = Path.join(
        Path.dirname(createRequire(import.meta.url).resolve("better-sqlite3/package.json")),
        "build/Release/test_extension.node"
      )
      yield* database.session(numbers(database), reading)
      const client = Context.get(
        database.context as Context.Context<SqlClient.SqlClient | SqliteClient.SqliteClient>,
        SqliteClient.SqliteClient
      )
      const call = database.session(database.sql.unsafe("SELECT testExtensionFunction(1, 2) AS n"), reading)
      assert.strictEqual((yield* failure(call))._tag, "InvalidStatement")
      if (Fs.existsSync(extension)) {
        yield* client.loadExtension(extension)
        const meet = yield* meeting(3)
        const results = yield* Effect.replicateEffect(database.session(Effect.zipLeft(call, meet), reading), 3, {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(results.flat(), [{ n: 2 }, { n: 2 }, { n: 2 }])
      }
    }))

  live("see what a sandbox has not committed, and what a test's faults do", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened()
      const client = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT n FROM items`)
      const inSandbox = Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* Database.session(sql`INSERT INTO items VALUES (7)`)
        const apart = Database.session(client, { readOnly: true, propagation: "new" })
        assert.deepStrictEqual(yield* Database.session(apart), [{ n: 7 }])
        return yield* Database.session(client, reading)
      }).pipe(
        Effect.provide(TestDatabase.sandbox),
        Effect.provide(Layer.succeed(Database.Database, database))
      )
      assert.deepStrictEqual(yield* inSandbox, [{ n: 7 }])
      assert.deepStrictEqual(yield* numbers(database), [])
      const faulty = yield* open(filename).pipe(Effect.provide(TestDatabase.faults([
        { on: "statement", matching: /items/, error: TestDatabase.error("ConnectionLost") }
      ])))
      const read = faulty.session(numbers(faulty), reading)
      assert.strictEqual((yield* failure(read))._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* read, [])
    }))
})

describe("SQLite without connections for reading", () => {
  const takesTurns = (database: Database.Service) =>
    Effect.gen(function*() {
      const began = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const holder = yield* Effect.fork(
        database.session(Effect.zipRight(Deferred.succeed(began, undefined), Deferred.await(end)))
      )
      yield* Deferred.await(began)
      const reader = yield* Effect.fork(database.session(database.sql`SELECT 1 AS n`, reading))
      yield* eventually(Effect.map(database.poolStats, ({ waiting }) => waiting === 1))
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(holder)
      assert(Exit.isSuccess(yield* Fiber.await(reader)))
    })

  live("in memory sessions take turns", () => Effect.flatMap(Database.make({ url: ":memory:" }), takesTurns))

  live(
    "on the main thread sessions take turns",
    () => Effect.flatMap(makeOn(sqliteFile, { thread: "main" }), takesTurns)
  )

  live(
    "on a file that is not in WAL mode sessions take turns, so that nobody keeps another from committing",
    () =>
      Effect.gen(function*() {
        const filename = yield* file
        new Sqlite(filename).exec("CREATE TABLE items (n)").close()
        yield* takesTurns(yield* Database.make({ environment: "test", url: `file:${filename}?mode=ro` }))
      })
  )
})
