/**
 * What the clients of @effect/sql-pg and @effect/sql-sqlite-node get wrong, shown on them first, and what sqlayer does.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as SqlResolver from "@effect/sql/SqlResolver"
import { describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { assert } from "vitest"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import { quiet } from "./internal/clients.js"
import { file } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase, query } from "./support/postgres.js"

const scoped = (name: string, test: () => Effect.Effect<void, unknown, Scope.Scope>) =>
  it.scopedLive(name, () => Effect.provide(test(), quiet))

const stockPostgres = (url: string, maxConnections = 5) =>
  Effect.provide(PgClient.make({ url: Redacted.make(url), maxConnections }), Reactivity.layer)

const stockSqlite = (filename: string) => Effect.provide(SqliteClient.make({ filename }), Reactivity.layer)

const postgres = (url: string, connections = 5) =>
  Database.make({ environment: "test", url, poolSize: connections, poolMaxOverflow: 0 })

const sqlite = (filename: string) => Database.make({ environment: "test", url: `sqlite:///${filename}` })

const isDie = (exit: Exit.Exit<unknown, unknown>): boolean => Exit.isFailure(exit) && Cause.isDie(exit.cause)

const createDeferred = (url: string) =>
  query(url, "CREATE TABLE nodes (id int PRIMARY KEY, parent int REFERENCES nodes DEFERRABLE INITIALLY DEFERRED)")

const createNumbers = (url: string) => query(url, "CREATE TABLE numbers (n int PRIMARY KEY)")

const numbers = (url: string) =>
  Effect.map(query(url, "SELECT n FROM numbers ORDER BY n"), (rows) => rows.map(({ n }) => n as number))

/** Ends the connections of a database from outside, all but the one that asks. */
const terminate = (url: string) =>
  query(
    url,
    `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`
  )

/** Takes a connection until it is told to give it back. */
const hold = (sql: SqlClient.SqlClient) =>
  Effect.gen(function*() {
    const taken = yield* Effect.makeLatch(false)
    const release = yield* Effect.makeLatch(false)
    const fiber = yield* Effect.forkScoped(
      Effect.scoped(Effect.zipRight(Effect.zipRight(sql.reserve, taken.open), release.await))
    )
    yield* taken.await
    return Effect.zipRight(release.open, Effect.asVoid(Fiber.await(fiber)))
  })

/** Whether an effect ends within the time. */
const endsWithin = <A, E, R>(
  timeout: Duration.DurationInput,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<boolean, never, R> =>
  effect.pipe(
    Effect.exit,
    Effect.disconnect,
    Effect.timeoutOption(timeout),
    Effect.map(({ _tag }) => _tag === "Some")
  )

/** Shorter than the statements that are interrupted, and longer than any machine needs to interrupt them. */
const ends = <A, E, R>(effect: Effect.Effect<A, E, R>) => endsWithin("20 seconds", effect)

/** The effect would never end, so that the second is only what the test takes. */
const hangs = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.negate(endsWithin("1 second", effect))

describe("a COMMIT or a ROLLBACK that fails", () => {
  const orphan = (sql: SqlClient.SqlClient) => sql`INSERT INTO nodes VALUES (1, 7)`

  scoped("stock: a COMMIT that fails is a defect", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createDeferred(url)
      const sql = yield* stockPostgres(url)
      assert.isTrue(isDie(yield* Effect.exit(sql.withTransaction(orphan(sql)))))
    }))

  scoped("a COMMIT that fails is a typed failure", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createDeferred(url)
      const { session, sql } = yield* postgres(url)
      assert.strictEqual((yield* Effect.flip(session(orphan(sql))))._tag, "ForeignKeyViolation")
      const error = yield* Effect.flip(sql.withTransaction(orphan(sql)))
      assert.strictEqual(error._tag, "SqlError")
      assert.strictEqual(fromSqlError(error)._tag, "ForeignKeyViolation")
    }))

  const cutThenFail = (url: string) => Effect.zipRight(terminate(url), Effect.fail("mine" as const))

  scoped("stock: a ROLLBACK on a lost connection takes the place of the failure", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const sql = yield* stockPostgres(url)
      assert.isTrue(isDie(yield* Effect.exit(sql.withTransaction(cutThenFail(url)))))
    }))

  scoped("a ROLLBACK on a lost connection leaves the failure as it is", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { session, sql } = yield* postgres(url)
      assert.strictEqual(yield* Effect.flip(session(cutThenFail(url))), "mine")
      assert.strictEqual(yield* Effect.flip(sql.withTransaction(cutThenFail(url))), "mine")
      assert.deepStrictEqual(yield* session(sql`SELECT 1 AS n`), [{ n: 1 }])
    }))
})

describe("a COMMIT that is answered ROLLBACK", () => {
  const swallowed = (sql: SqlClient.SqlClient) =>
    Effect.gen(function*() {
      yield* sql`INSERT INTO numbers VALUES (1)`
      yield* Effect.ignore(sql`SELECT * FROM nowhere`)
    })

  scoped("stock: is reported as success, and the rows are gone", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const sql = yield* stockPostgres(url)
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(sql.withTransaction(swallowed(sql)))))
      assert.deepStrictEqual(yield* numbers(url), [])
    }))

  scoped("is TransactionAborted", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const { session, sql } = yield* postgres(url)
      assert.strictEqual((yield* Effect.flip(session(swallowed(sql))))._tag, "TransactionAborted")
      assert.strictEqual(
        fromSqlError(yield* Effect.flip(sql.withTransaction(swallowed(sql))))._tag,
        "TransactionAborted"
      )
    }))
})

describe("waiting for a connection", () => {
  scoped(
    "stock: cannot be interrupted, and a reserve that was interrupted keeps its connection",
    () =>
      Effect.gen(function*() {
        const sql = yield* stockPostgres(yield* freshDatabase, 1)
        const release = yield* hold(sql)
        const waiting = yield* Effect.fork(sql.withTransaction(sql`SELECT 1`))
        yield* Effect.sleep("50 millis")
        assert.isTrue(yield* hangs(Fiber.interrupt(waiting)))
        const reserving = yield* Effect.fork(Effect.scoped(sql.reserve))
        yield* Effect.sleep("50 millis")
        yield* Fiber.interrupt(reserving)
        yield* release
        yield* Fiber.await(waiting)
        assert.isTrue(yield* hangs(sql`SELECT 1`))
      })
  )

  scoped("is interrupted at once, and nothing leaks", () =>
    Effect.gen(function*() {
      const { poolStats, session, sql } = yield* postgres(yield* freshDatabase, 1)
      const release = yield* hold(sql)
      const waits: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        sql.withTransaction(sql`SELECT 1`),
        session(sql`SELECT 1`),
        sql`SELECT 1`,
        Effect.scoped(sql.reserve)
      ]
      for (const wait of waits) {
        const fiber = yield* Effect.fork(wait)
        yield* eventually(Effect.map(poolStats, ({ waiting }) => waiting === 1))
        assert.isTrue(yield* ends(Fiber.interrupt(fiber)))
        assert.strictEqual((yield* poolStats).waiting, 0)
      }
      yield* release
      assert.strictEqual((yield* poolStats).used, 0)
      assert.deepStrictEqual(yield* sql`SELECT 1 AS n`, [{ n: 1 }])
    }))
})

describe("cancelling a statement", () => {
  const active = (url: string) => Effect.map(connections(url), ({ active }) => active)

  scoped("stock: waits for a connection of the pool", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const sql = yield* stockPostgres(url, 1)
      const fiber = yield* Effect.fork(sql`SELECT pg_sleep(60)`)
      yield* eventually(Effect.map(active(url), (count) => count === 1))
      assert.isTrue(yield* hangs(Fiber.interrupt(fiber)))
      assert.strictEqual(yield* active(url), 1)
      yield* terminate(url)
    }))

  scoped("needs no connection of the pool", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { poolStats, session, sql } = yield* postgres(url, 1)
      const fiber = yield* Effect.fork(session(sql`SELECT pg_sleep(60)`))
      yield* eventually(Effect.map(active(url), (count) => count === 1))
      assert.isTrue(yield* ends(Fiber.interrupt(fiber)))
      yield* eventually(Effect.map(active(url), (count) => count === 0))
      assert.strictEqual((yield* poolStats).used, 0)
    }))

  scoped("never hits a later statement", () =>
    Effect.gen(function*() {
      const { sql } = yield* postgres(yield* freshDatabase, 1)
      for (let i = 0; i < 30; i++) {
        // About as long as the statement takes, so that the request and the answer cross.
        yield* Effect.timeoutOption(sql`SELECT pg_sleep(0.01)`, 8 + i % 8)
        assert.deepStrictEqual(yield* sql`SELECT 1 AS n, pg_sleep(0.005)::text AS slept`, [{ n: 1, slept: "" }])
      }
    }))
})

describe("nested sessions that run concurrently", () => {
  /**
   * Two at once, of which the first fails after it has written. It waits for the second to succeed first, where that is
   * possible: where sessions of one connection run one after the other, the second has not begun yet.
   */
  const siblings = (
    sql: SqlClient.SqlClient,
    nested: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<unknown, unknown>,
    options: { readonly interleaved: boolean } = { interleaved: false }
  ) =>
    Effect.gen(function*() {
      const first = yield* Effect.makeLatch(false)
      const second = yield* Effect.makeLatch(false)
      const loser = Effect.gen(function*() {
        yield* sql`INSERT INTO numbers VALUES (1)`
        yield* first.open
        yield* options.interleaved ? second.await : Effect.sleep("100 millis")
        return yield* Effect.fail("undo")
      })
      const winner = sql`INSERT INTO numbers VALUES (2)`
      yield* Effect.all([
        Effect.ignore(nested(loser)),
        Effect.zipRight(first.await, Effect.zipRight(nested(winner), second.open))
      ], { concurrency: "unbounded" })
    })

  scoped("stock: the failure of one undoes the other, and leaves its own", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const sql = yield* stockPostgres(url)
      yield* sql.withTransaction(siblings(sql, sql.withTransaction, { interleaved: true }))
      assert.deepStrictEqual(yield* numbers(url), [1])
    }))

  scoped("postgres: each undoes its own work, and no savepoint is left", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const { session, sql } = yield* postgres(url)
      yield* session(siblings(sql, (effect) => session(effect)))
      assert.deepStrictEqual(yield* numbers(url), [2])
      yield* query(url, "DELETE FROM numbers")
      yield* sql.withTransaction(siblings(sql, sql.withTransaction))
      assert.deepStrictEqual(yield* numbers(url), [2])
      const error = yield* Effect.flip(session(Effect.zipRight(
        session(sql`SELECT 1`),
        sql`ROLLBACK TO SAVEPOINT sqlayer_1`
      )))
      assert.strictEqual(error.code, "3B001")
    }))

  scoped("sqlite: each undoes its own work", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* sqlite(yield* file)
      yield* sql`CREATE TABLE numbers (n int PRIMARY KEY)`
      yield* session(siblings(sql, (effect) => session(effect)))
      assert.deepStrictEqual(yield* sql`SELECT n FROM numbers`, [{ n: 2 }])
    }))
})

describe("a connection that comes back inside an open transaction", () => {
  const leaveOpen = (sql: SqlClient.SqlClient) =>
    Effect.scoped(Effect.gen(function*() {
      const connection = yield* sql.reserve
      yield* connection.executeUnprepared("BEGIN", [], undefined)
      yield* connection.executeUnprepared("INSERT INTO numbers VALUES (1)", [], undefined)
    }))

  scoped("stock: is taken back as it is, and the next statement joins the transaction", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const sql = yield* stockPostgres(url, 1)
      yield* leaveOpen(sql)
      yield* sql`INSERT INTO numbers VALUES (2)`
      assert.strictEqual((yield* connections(url)).inTransaction, 1)
      assert.deepStrictEqual(yield* numbers(url), [])
    }))

  scoped("is rolled back before anyone else has it", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const { sql } = yield* postgres(url, 1)
      yield* leaveOpen(sql)
      yield* sql`INSERT INTO numbers VALUES (2)`
      assert.strictEqual((yield* connections(url)).inTransaction, 0)
      assert.deepStrictEqual(yield* numbers(url), [2])
    }))
})

describe("two databases in one application", () => {
  const databases = Effect.gen(function*() {
    const [left, right] = [yield* freshDatabase, yield* freshDatabase]
    yield* createNumbers(left)
    yield* createNumbers(right)
    return { left, right }
  })

  const insertInto = (sql: SqlClient.SqlClient) =>
    SqlResolver.void("Insert", {
      Request: Schema.Number,
      execute: (all) => sql`INSERT INTO numbers ${sql.insert(all.map((n) => ({ n })))}`
    })

  scoped(
    "stock: a statement of one runs on the other's connection, inside its transaction",
    () =>
      Effect.gen(function*() {
        const { left, right } = yield* databases
        const [a, b] = [yield* stockPostgres(left), yield* stockPostgres(right)]
        yield* a.withTransaction(b`INSERT INTO numbers VALUES (1)`)
        assert.deepStrictEqual([yield* numbers(left), yield* numbers(right)], [[1], []])
      })
  )

  scoped("each statement runs on its own database, and each session ends for itself", () =>
    Effect.gen(function*() {
      const { left, right } = yield* databases
      const [a, b] = [yield* postgres(left), yield* postgres(right)]
      yield* Effect.flip(a.session(Effect.gen(function*() {
        yield* a.sql`INSERT INTO numbers VALUES (1)`
        yield* b.sql`INSERT INTO numbers VALUES (2)`
        yield* b.session(Effect.zipRight(a.sql`INSERT INTO numbers VALUES (3)`, b.sql`INSERT INTO numbers VALUES (4)`))
        assert.deepStrictEqual(yield* a.sql`SELECT n FROM numbers ORDER BY n`.values, [[1], [3]])
        return yield* Effect.fail("undo")
      })))
      assert.deepStrictEqual([yield* numbers(left), yield* numbers(right)], [[], [2, 4]])
    }))

  scoped("so do the statements of a SqlResolver", () =>
    Effect.gen(function*() {
      const { left, right } = yield* databases
      const [a, b] = [yield* postgres(left), yield* postgres(right)]
      const [intoA, intoB] = [yield* insertInto(a.sql), yield* insertInto(b.sql)]
      yield* Effect.flip(a.session(Effect.gen(function*() {
        yield* Effect.forEach([1, 2], intoA.execute, { batching: true, concurrency: "unbounded" })
        yield* Effect.forEach([3, 4], intoB.execute, { batching: true, concurrency: "unbounded" })
        yield* b.session(Effect.zipRight(intoA.execute(5), intoB.execute(6)))
        assert.deepStrictEqual(yield* a.sql`SELECT n FROM numbers ORDER BY n`.values, [[1], [2], [5]])
        return yield* Effect.fail("undo")
      })))
      assert.deepStrictEqual([yield* numbers(left), yield* numbers(right)], [[], [3, 4, 6]])
    }))

  scoped("also where one is a session of PostgreSQL and the other of SQLite", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const [a, b] = [yield* postgres(url), yield* sqlite(yield* file)]
      yield* b.sql`CREATE TABLE numbers (n int PRIMARY KEY)`
      yield* Effect.flip(a.session(
        b.session(Effect.zipRight(
          a.sql`INSERT INTO numbers VALUES (1)`,
          b.sql`INSERT INTO numbers VALUES (2)`
        )).pipe(Effect.zipRight(Effect.fail("undo")))
      ))
      assert.deepStrictEqual([yield* numbers(url), yield* b.sql`SELECT n FROM numbers`.values], [[], [[2]]])
    }))
})

describe("SQLite", () => {
  const missing = "/nowhere/at/all/test.db"
  const heavy = (sql: SqlClient.SqlClient) =>
    sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000) SELECT count(*) FROM n`

  /** How often a timer of 10 ms fired while the effect ran. */
  const ticks = <E>(effect: Effect.Effect<unknown, E>) =>
    Effect.gen(function*() {
      let count = 0
      const timer = setInterval(() => count++, 10)
      yield* Effect.ensuring(effect, Effect.sync(() => clearInterval(timer)))
      return count
    })

  /** How many transactions each of ten fibers completes in a second. */
  const turns = (sql: SqlClient.SqlClient) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE turns (fiber int)`
      const end = performance.now() + 1_000
      return yield* Effect.forEach(Array.from({ length: 10 }, (_, i) => i), (i) => {
        let made = 0
        return Effect.suspend(() => Effect.as(sql.withTransaction(sql`INSERT INTO turns VALUES (${i})`), ++made)).pipe(
          Effect.repeat({ while: () => performance.now() < end })
        )
      }, { concurrency: "unbounded" })
    })

  scoped(
    "stock: a database that cannot be opened, unprepared with a syntax error, and stream are defects",
    () =>
      Effect.gen(function*() {
        assert.isTrue(isDie(yield* Effect.exit(stockSqlite(missing))))
        const sql = yield* stockSqlite(yield* file)
        assert.isTrue(isDie(yield* Effect.exit(sql`SELEC 1`.unprepared)))
        assert.isTrue(isDie(yield* Effect.exit(Stream.runDrain(sql`SELECT 1`.stream))))
      })
  )

  scoped(
    "a database that cannot be opened, and unprepared with a syntax error, are failures; stream streams",
    () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* Effect.flip(sqlite(missing)))._tag, "ConnectionFailed")
        const { sql } = yield* sqlite(yield* file)
        assert.strictEqual(fromSqlError(yield* Effect.flip(sql`SELEC 1`.unprepared))._tag, "InvalidStatement")
        assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Stream.runCollect(sql`SELECT 1 AS n`.stream)), [{ n: 1 }])
      })
  )

  const safely = (sql: SqlClient.SqlClient) => {
    const statement = sql`SELECT 1 AS n`
    return Effect.zipRight(Effect.provideService(statement, SqlClient.SafeIntegers, true), statement)
  }

  scoped("stock: SafeIntegers sticks to a statement", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* safely(yield* stockSqlite(yield* file)), [{ n: 1n }])
    }))

  scoped("SafeIntegers does not stick to a statement", () =>
    Effect.gen(function*() {
      const { sql } = yield* sqlite(yield* file)
      assert.deepStrictEqual(yield* safely(sql), [{ n: 1 }])
    }))

  scoped("stock: a heavy statement holds up the application", () =>
    Effect.gen(function*() {
      const sql = yield* stockSqlite(yield* file)
      assert.isBelow(yield* ticks(heavy(sql)), 3)
    }))

  scoped("a heavy statement on a file does not hold up the application", () =>
    Effect.gen(function*() {
      const { sql } = yield* sqlite(yield* file)
      assert.isAtLeast(yield* ticks(heavy(sql)), 3)
    }))

  scoped("stock: of ten fibers that contend, most never get their turn", () =>
    Effect.gen(function*() {
      const made = yield* turns(yield* stockSqlite(yield* file))
      assert.isAbove(Math.max(...made), 10 * Math.min(...made))
    }))

  scoped("ten fibers that contend take turns", () =>
    Effect.gen(function*() {
      const { sql } = yield* sqlite(yield* file)
      const made = yield* turns(sql)
      assert.isAtMost(Math.max(...made), Math.min(...made) + 2)
    }))
})

describe("errors", () => {
  const duplicate = (sql: SqlClient.SqlClient) => sql`INSERT INTO numbers VALUES (1), (1)`

  scoped("stock: a statement's error says the same whatever happened, and has no code", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const sql = yield* stockPostgres(url)
      const errors = [yield* Effect.flip(duplicate(sql)), yield* Effect.flip(sql`SELEC 1`)]
      assert.deepStrictEqual(errors.map(({ message }) => message), [
        "Failed to execute statement",
        "Failed to execute statement"
      ])
      assert.notProperty(errors[0], "code")
    }))

  scoped("a statement's error says what happened, and its cause has the code", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* createNumbers(url)
      const { sql } = yield* postgres(url)
      const errors = [yield* Effect.flip(duplicate(sql)), yield* Effect.flip(sql`SELEC 1`)]
      assert.match(errors[0].message, /^UniqueViolation: duplicate key value .*numbers_pkey/)
      assert.match(errors[1].message, /^InvalidStatement: syntax error at or near "SELEC"/)
      assert.deepStrictEqual(errors.map((error) => fromSqlError(error).code), ["23505", "42601"])
    }))

  scoped("a pool that has no connection to give says so, with its figures", () =>
    Effect.gen(function*() {
      const database = yield* Database.make({
        environment: "test",
        url: yield* freshDatabase,
        poolSize: 1,
        poolMaxOverflow: 0,
        poolTimeout: "200 millis"
      })
      const release = yield* hold(database.sql)
      const error = fromSqlError(yield* Effect.flip(database.sql`SELECT 1`))
      assert.isTrue(error._tag === "PoolTimeout" && error.stats?.used === 1 && error.stats.maximum === 1)
      yield* release
    }))

  scoped("a server that is not there is ConnectionFailed, and says where", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(postgres("postgres://user:hunter2@127.0.0.1:1/app"))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.include(error.message, "127.0.0.1:1")
      assert.notInclude(error.message, "hunter2")
    }))
})
