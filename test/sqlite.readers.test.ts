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
import { createTables, failure, insert, numbers } from "./internal/session/harness.js"
import { file } from "./internal/sqlite/support.js"
import { make as makeOn, sqliteFile } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

type Options = Omit<DatabaseConfig.Options, "url">

const quiet = Logger.remove(Logger.defaultLogger)

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  it.scopedLive(name, () => Effect.provide(body(), quiet), 240_000)

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

/** The threads that are started from now on and have not ended. */
const threads: Effect.Effect<ReadonlySet<Worker>, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const running = new Set<Worker>()
      const add = (thread: Worker) => {
        running.add(thread)
        thread.once("exit", () => running.delete(thread))
      }
      process.on("worker", add)
      return { running, add }
    }),
    ({ add }) => Effect.sync(() => process.off("worker", add))
  ),
  ({ running }) => running
)

/** A barrier: waits until so many fibers have arrived. */
const barrier = (count: number) =>
  Effect.map(Deferred.make<void>(), (all) => {
    let arrived = 0
    return Effect.suspend(() => ++arrived === count ? Deferred.succeed(all, undefined) : Deferred.await(all))
  })

const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

const counting = (count: number) =>
  `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count}) SELECT count(*) AS n FROM n`

describe("read-only sessions on a SQLite file", () => {
  live("run beside a session that writes, and do not see its uncommitted changes", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      yield* insert(database, 1)
      const writing = yield* Deferred.make<void>()
      const done = yield* Deferred.make<void>()
      const writer = yield* Effect.fork(database.session(
        Effect.zipRight(
          insert(database, 3),
          Effect.zipRight(Deferred.succeed(writing, undefined), Deferred.await(done))
        )
      ))
      yield* Deferred.await(writing)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
      yield* Deferred.succeed(done, undefined)
      yield* Fiber.join(writer)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 3])
    }))

  live("run concurrently, four at a time, and the others wait", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const arrive = yield* barrier(4)
      const four = Effect.replicateEffect(database.session(Effect.zipRight(numbers(database), arrive), reading), 4, {
        concurrency: "unbounded"
      })
      yield* four
      let running = 0
      let maxRunning = 0
      // Each stays until four run at once, and a little longer, in which a fifth would be seen.
      const stay = Effect.acquireUseRelease(
        Effect.sync(() => {
          running++
          maxRunning = Math.max(maxRunning, running)
        }),
        () => Effect.zipRight(eventually(Effect.sync(() => maxRunning >= 4)), Effect.sleep("20 millis")),
        () =>
          Effect.sync(() => {
            running--
          })
      )
      yield* Effect.replicateEffect(
        database.session(Effect.zipRight(numbers(database), stay), reading),
        9,
        { concurrency: "unbounded", discard: true }
      )
      assert.strictEqual(maxRunning, 4)
    }))

  live("each have a snapshot", () =>
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

  live("see everything that was committed before", () =>
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

  live("cannot write", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      for (const text of ["INSERT INTO items VALUES (1)", "CREATE TABLE other (a)", "DELETE FROM items"]) {
        const error = yield* failure(database.session(sql.unsafe(text), reading))
        assert.strictEqual(error._tag, "ReadOnlyViolation", text)
      }
      // Turning it off lasts for one session.
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

  live("of a new transaction do not wait for the session that starts them", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      yield* insert(database, 1)
      const separate = { propagation: "new" } as const
      const seen = yield* database.session(
        Effect.zipRight(insert(database, 2), database.session(numbers(database), { ...separate, readOnly: true }))
      )
      assert.deepStrictEqual(seen, [1])
      yield* database.session(database.session(insert(database, 3), separate), reading)
      assert.deepStrictEqual(yield* numbers(database), [1, 2, 3])
      // This waits for the only connection that writes, which its own session holds.
      const nested = database.session(insert(database, 4), separate)
      const error = yield* failure(database.session(Effect.zipRight(insert(database, 5), nested)))
      assert.strictEqual(error._tag, "PoolTimeout")
      assert.deepStrictEqual(yield* numbers(database), [1, 2, 3])
      // One that has run no statement holds none.
      yield* database.session(nested)
      assert.deepStrictEqual(yield* numbers(database), [1, 2, 3, 4])
    }))

  live("do not block writers, however long they run", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      const reader = yield* Effect.fork(database.session(Stream.runDrain(sql.unsafe(endless).stream), reading))
      yield* eventually(Effect.map(database.activity, ({ sessions }) => sessions.length === 1))
      yield* Effect.forEach([1, 2, 3], (n) => database.session(insert(database, n)))
      assert.isNull(reader.unsafePoll())
      yield* Fiber.interrupt(reader)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 2, 3])
    }))

  live("end with their timeouts, and their connection is kept or replaced", () =>
    Effect.gen(function*() {
      const { database } = yield* opened()
      const { sql } = database
      const timedOut = (text: string) =>
        failure(database.session(sql.unsafe(text), { readOnly: true, statementTimeout: "100 millis" }))
      assert.strictEqual((yield* timedOut(endless))._tag, "StatementTimeout")
      // Counting returns no row before it is done, so its connection is given up.
      assert.strictEqual((yield* timedOut(counting(10_000_000)))._tag, "StatementTimeout")
      const late = yield* failure(database.session(sql.unsafe(endless), { readOnly: true, timeout: "100 millis" }))
      assert.strictEqual(late._tag, "SessionTimeout")
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [])
      assert.deepInclude(yield* database.poolStats, { created: 1, used: 0, idle: 1 })
    }))

  live(
    "open connections on demand, whose threads end with the database",
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
          // On a busy machine a connection may have been replaced, whose thread ends.
          yield* eventually(Effect.sync(() => running.size === 2))
          const arrive = yield* barrier(4)
          yield* Effect.replicateEffect(database.session(Effect.zipRight(numbers(database), arrive), reading), 4, {
            concurrency: "unbounded"
          })
          assert.strictEqual(running.size, 5)
          yield* insert(database, 1)
          assert.isAbove(Fs.statSync(`${filename}-wal`).size, 0)
        }))
        yield* eventually(Effect.sync(() => running.size === 0))
        // The last connection that closed has checkpointed the WAL.
        assert.deepStrictEqual(Fs.readdirSync(Path.dirname(filename)), ["test.db"])
      })
  )

  live("are waited for by a database that closes, which refuses new ones", () =>
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
          yield* numbers(database)
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

  live("have a pool with stats of its own", () =>
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

  live("time out while all connections are in use, and go on when they are not", () =>
    Effect.gen(function*() {
      const { database } = yield* opened({ poolTimeout: "5 seconds" })
      const end = yield* Deferred.make<void>()
      const holders = yield* Effect.replicateEffect(
        Effect.gen(function*() {
          const began = yield* Deferred.make<void>()
          const hold = Effect.zipRight(Deferred.succeed(began, undefined), Deferred.await(end))
          const holder = yield* Effect.fork(database.session(Effect.zipRight(numbers(database), hold), reading))
          yield* Deferred.await(began)
          return holder
        }),
        4
      )
      const error = yield* failure(database.session(numbers(database), reading))
      assert(error._tag === "PoolTimeout")
      assert.deepInclude(error.stats, { name: "test.db (readers)", maximum: 4, used: 4 })
      // Writers have a pool of their own.
      yield* database.session(insert(database, 1))
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.joinAll(holders)
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
    }))

  live("replace a lost connection, without effect on others", () =>
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

  live("have loaded the extensions, also on connections that were open before", () =>
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
        const arrive = yield* barrier(3)
        const results = yield* Effect.replicateEffect(database.session(Effect.zipLeft(call, arrive), reading), 3, {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(results.flat(), [{ n: 2 }, { n: 2 }, { n: 2 }])
      }
    }))

  live("see the changes of a sandbox, and the faults of a test", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened()
      const client = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT n FROM items`)
      const inSandbox = Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* Database.session(sql`INSERT INTO items VALUES (7)`)
        const separate = Database.session(client, { readOnly: true, propagation: "new" })
        assert.deepStrictEqual(yield* Database.session(separate), [{ n: 7 }])
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

describe("SQLite without connections for readers", () => {
  const runsOneByOne = (database: Database.Service) =>
    Effect.gen(function*() {
      const began = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const hold = Effect.zipRight(Deferred.succeed(began, undefined), Deferred.await(end))
      const holder = yield* Effect.fork(database.session(Effect.zipRight(database.sql`SELECT 1 AS n`, hold)))
      yield* Deferred.await(began)
      const reader = yield* Effect.fork(database.session(database.sql`SELECT 1 AS n`, reading))
      yield* eventually(Effect.map(database.poolStats, ({ waiting }) => waiting === 1))
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(holder)
      assert(Exit.isSuccess(yield* Fiber.await(reader)))
    })

  live("in memory sessions run one by one", () => Effect.flatMap(Database.make({ url: ":memory:" }), runsOneByOne))

  live(
    "on the main thread sessions run one by one",
    () => Effect.flatMap(makeOn(sqliteFile, { thread: "main" }), runsOneByOne)
  )

  live(
    "without WAL sessions run one by one, so that readers do not block commits",
    () =>
      Effect.gen(function*() {
        const filename = yield* file
        new Sqlite(filename).exec("CREATE TABLE items (n)").close()
        yield* runsOneByOne(yield* Database.make({ environment: "test", url: `file:${filename}?mode=ro` }))
      })
  )
})
