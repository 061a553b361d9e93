/** Behind a pooler that gives each transaction another of its connections: Debian's PgBouncer, which knows no names. */
import * as PgClient from "@effect/sql-pg/PgClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import type { DatabaseError } from "../src/DatabaseError.js"
import * as Migrations from "../src/Migrations.js"
import { isInstalled, pgbouncer } from "./support/pgbouncer.js"
import { freshDatabase, query } from "./support/postgres.js"

const ci = process.env.CI !== undefined
const accounts = 20

const opened = (mode: "session" | "transaction", preparedStatements: DatabaseConfig.PreparedStatements) =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(url, "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL, note text)")
    yield* query(url, `INSERT INTO accounts SELECT i, 100, 'account ' || i FROM generate_series(1, ${accounts}) AS i`)
    const pooled = yield* pgbouncer(url, mode, mode === "session" ? 10 : 3)
    const database = yield* Database.make({
      environment: "test",
      url: pooled,
      poolSize: 8,
      poolMaxOverflow: 0,
      preparedStatements
    })
    return { database, sql: database.sql, url }
  })

/** Many fibers, many different statements, sessions and not. */
const busy = ({ database, sql }: Effect.Effect.Success<ReturnType<typeof opened>>) =>
  Effect.forEach(
    Array.from({ length: 400 }, (_, i) => i),
    (i): Effect.Effect<unknown, SqlError | DatabaseError> => {
      const from = 1 + i % accounts
      const to = 1 + (i * 7 + 3) % accounts
      switch (i % 4) {
        case 0:
          return Effect.map(
            sql<{ readonly id: number; readonly note: string }>`SELECT id, note FROM accounts WHERE id = ${from}`,
            (rows) => assert.deepStrictEqual([...rows], [{ id: from, note: `account ${from}` }])
          )
        case 1:
          return Effect.map(
            sql.unsafe<{ readonly n: number; readonly balance: number }>(
              `SELECT ${i % 12} AS n, count(*)::int AS balance FROM accounts WHERE id <= $1`,
              [from]
            ),
            (rows) => assert.deepStrictEqual([...rows], [{ n: i % 12, balance: from }])
          )
        default:
          return database.session(
            Effect.all([
              sql`UPDATE accounts SET balance = balance - 1 WHERE id = ${Math.min(from, to)}`,
              sql`UPDATE accounts SET balance = balance + 1 WHERE id = ${Math.max(from, to)}`
            ]),
            { retry: true, ...(i % 8 === 2 ? { commit: "verified" as const } : {}) }
          )
      }
    },
    { concurrency: 16, discard: true }
  )

describe("behind PgBouncer", () => {
  it("is tested in CI", () => {
    assert.isTrue(isInstalled || !ci, "pgbouncer must be installed, or named by PGBOUNCER")
  })

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "in transaction mode no statement is lost, and none is prepared",
    () =>
      Effect.gen(function*() {
        const setup = yield* opened("transaction", "auto")
        yield* busy(setup)
        yield* busy(setup)
        const [{ sum }] = yield* query(setup.url, "SELECT sum(balance)::int AS sum FROM accounts")
        assert.strictEqual(sum, accounts * 100)
        // One per server connection, each asked in a transaction of its own.
        const counts = yield* Effect.forEach(
          Array.from({ length: 12 }),
          () =>
            setup.database.session(
              Effect.zipLeft(
                setup.sql<{ readonly n: number }>`SELECT count(*)::int AS n FROM pg_prepared_statements`.unprepared,
                Effect.sleep("20 millis")
              )
            ),
          { concurrency: 6 }
        )
        assert.deepStrictEqual(new Set(counts.map(([row]) => row?.n)), new Set([0]))
        assert.strictEqual((yield* setup.database.poolStats).connectFailures, 0)
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "in transaction mode a statement that is interrupted is stopped",
    () =>
      Effect.gen(function*() {
        const { sql, url } = yield* opened("transaction", "auto")
        const before = performance.now()
        yield* Effect.timeoutOption(sql`SELECT pg_sleep(${60})`, Duration.millis(300))
        assert.isBelow(performance.now() - before, 30_000)
        const [{ n }] = yield* query(
          url,
          `SELECT count(*)::int AS n FROM pg_stat_activity
           WHERE state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()`
        )
        assert.strictEqual(n, 0)
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)("in session mode it works as well", () =>
    Effect.gen(function*() {
      const setup = yield* opened("session", "auto")
      yield* busy(setup)
      const [{ sum }] = yield* query(setup.url, "SELECT sum(balance)::int AS sum FROM accounts")
      assert.strictEqual(sum, accounts * 100)
    }), 240_000)

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "told to prepare all the same it never gives the rows of another statement",
    () =>
      Effect.gen(function*() {
        const { sql } = yield* opened("transaction", "on")
        const results = yield* Effect.forEach(
          Array.from({ length: 400 }, (_, i) => i),
          (i) =>
            Effect.either(Effect.map(
              sql.unsafe<{ readonly n: number; readonly p: number }>(`SELECT ${i % 9} AS n, $1::int AS p`, [i]),
              (rows) => assert.deepStrictEqual([...rows], [{ n: i % 9, p: i }])
            )),
          { concurrency: 16 }
        )
        // Outside of transactions a name that another server does not know costs a round trip, and nothing else.
        assert.deepStrictEqual(results.filter(Either.isLeft), [])
      }),
    240_000
  )

  /** A database behind a PgBouncer with three connections to the server. */
  const through = (mode: "session" | "transaction", options: DatabaseConfig.Options = {}) =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const pooled = yield* pgbouncer(url, mode, 3)
      return yield* Database.make({
        environment: "production",
        url: pooled,
        poolSize: 3,
        poolMaxOverflow: 0,
        ...options
      })
    })

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "timeouts that it refuses at start-up hold in sessions, and the statement timeout everywhere",
    () =>
      Effect.gen(function*() {
        const database = yield* through("transaction", {
          statementTimeout: "1 second",
          lockTimeout: "2 seconds",
          idleInTransactionTimeout: "3 seconds"
        })
        const { sql } = database
        const settings = Effect.map(
          sql<{ readonly all: string }>`SELECT concat_ws(' ', current_setting('statement_timeout'),
            current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')) AS all`,
          ([row]) => row?.all
        )
        assert.strictEqual(yield* database.session(settings), "1s 2s 3s")
        assert.strictEqual(yield* database.session(database.session(settings)), "1s 2s 3s")
        assert.strictEqual(
          yield* database.session(settings, { statementTimeout: "4 seconds", lockTimeout: "5 seconds" }),
          "4s 5s 3s"
        )
        // A stream runs in a transaction, too.
        const streamed = yield* Stream.runCollect(
          sql<{ readonly timeout: string }>`
          SELECT current_setting('statement_timeout') AS timeout`.stream
        )
        assert.deepStrictEqual([...streamed], [{ timeout: "1s" }])
        // Nothing stays with the server's connections, which other clients get.
        assert.strictEqual(yield* settings, "0 0 0")
        // They cost no round trip and no query: SET TRANSACTION can still follow.
        yield* database.session(sql`SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`)
        const inside = yield* Effect.flip(database.session(sql`SELECT pg_sleep(60)`))
        assert.strictEqual(inside._tag, "StatementTimeout")
        const outside = yield* Effect.flip(sql`SELECT pg_sleep(60)`)
        assert.strictEqual((outside.cause as DatabaseError)._tag, "StatementTimeout")
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "what cannot pass fails at once, in production too",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const pooled = new URL(yield* pgbouncer(url, "transaction", 3))
        const refused = (change: (url: URL) => void) =>
          Effect.suspend(() => {
            const changed = new URL(pooled)
            change(changed)
            const options = { environment: "production", url: changed.toString(), connectRetry: "50 seconds" } as const
            return Effect.flip(Effect.scoped(Database.make(options)))
          })
        const missing = yield* refused((url) => {
          url.pathname = "/nowhere"
        })
        assert.strictEqual(missing._tag, "ConnectionFailed")
        // So with auth_type any; otherwise: no such database.
        assert.include(missing.message, "bouncer config error")
        const schema = yield* refused((url) => {
          url.search = "?schema=app"
        })
        assert.include(schema.message, "unsupported startup parameter: search_path")
        assert.include(schema.message, "DATABASE_URL")
        assert.include(schema.message, "ignore_startup_parameters")
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "LISTEN is refused in transaction mode, and works in session mode",
    () =>
      Effect.gen(function*() {
        const listen = (database: Database.Service) =>
          Context.unsafeGet(database.context as Context.Context<PgClient.PgClient>, PgClient.PgClient).listen("events")
        const shared = yield* through("transaction")
        const error = yield* Effect.flip(Stream.runHead(listen(shared)))
        assert.strictEqual((error.cause as DatabaseError)._tag, "InvalidStatement")
        assert.include(error.message, "LISTEN")
        // The server's connection, which other clients get, listens no longer.
        const channels = yield* shared.sql`SELECT pg_listening_channels() AS channel`
        assert.deepStrictEqual([...channels], [])

        const own = yield* through("session")
        const received = yield* Effect.fork(Stream.runHead(listen(own)))
        yield* Effect.repeat(own.sql`SELECT pg_notify('events', 'hello')`, {
          schedule: Schedule.spaced("100 millis"),
          until: () => Effect.map(Fiber.status(received), (status) => status._tag === "Done")
        })
        assert.deepStrictEqual(yield* Fiber.join(received), Option.some("hello"))
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "in transaction mode what a migration sets, such as the output of pg_dump, reaches neither the next one nor others",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        // Two connections to the server, which all clients share: one without a transaction needs both.
        const pooled = yield* pgbouncer(url, "transaction", 2)
        const open = Database.make({ environment: "test", url: pooled, poolSize: 2, poolMaxOverflow: 0 })
        const settings = `SELECT concat_ws(' ', current_setting('search_path'), current_setting('row_security'),
  current_setting('check_function_bodies'), current_setting('client_min_messages'), current_setting('work_mem'),
  current_setting('statement_timeout'), current_user = session_user)`
        const dump = Fs.readFileSync(new URL("internal/migrations/dump.sql", import.meta.url), "utf8")
          .replaceAll("OWNER TO postgres", "OWNER TO CURRENT_USER")
        const [application, migrating] = [yield* open, yield* open]
        const read = (text: string) => application.sql.unsafe(text).values
        const before = yield* read(settings)
        /** Of both connections: each has a session while the other one is asked. */
        const onBoth = application.session(Effect.all([
          read(settings),
          application.session(read(settings), { propagation: "new" })
        ]))
        const migrate = (migrations: Parameters<typeof Migrations.fromRecord>[0]) =>
          Effect.provideService(
            Migrations.run({ loader: Migrations.fromRecord(migrations), progress: () => Effect.void }),
            Database.Database,
            migrating
          )
        const seen = (table: string) => `CREATE TABLE ${table} AS ${settings} AS settings`
        const without = "SET work_mem = '7MB'; SELECT set_config('search_path', '', false)"
        const migrations = {
          "0001_dump": dump,
          "0002_after": seen("after_dump"),
          "0003_none": { up: without, transaction: "none", timeout: "1 hour" },
          "0004_after": seen("after_none")
        } as const
        const failing = { ...migrations, "0005_failing": `${without}; SELECT nothing` }
        assert.strictEqual((yield* migrate(migrations)).length, 4)
        assert.deepStrictEqual(yield* onBoth, [before, before])
        assert.strictEqual((yield* Effect.flip(migrate(failing)))._tag, "MigrationError")
        assert.deepStrictEqual(yield* onBoth, [before, before])
        for (const table of ["after_dump", "after_none"]) {
          assert.deepStrictEqual(yield* read(`SELECT settings FROM ${table}`), before, table)
        }
        assert.strictEqual((yield* application.sql`SELECT * FROM account`).length, 3)
      }),
    240_000
  )

  it.scopedLive.skipIf(!isInstalled && !ci)(
    "copies in and out, in sessions and outside, in either mode",
    () =>
      Effect.forEach(["session", "transaction"] as const, (mode) =>
        Effect.gen(function*() {
          const { database, sql, url } = yield* opened(mode, "auto")
          const rows = Stream.map(Stream.range(1_000, 5_999), (id) => [id, id, `account ${id}`])
          const copyIn = database.copyFrom("accounts", ["id", "balance", "note"])
          yield* copyIn(rows)
          yield* Effect.exit(database.session(Effect.zipRight(
            copyIn(Stream.map(rows, ([id, ...rest]) => [Number(id) + 10_000, ...rest])),
            Effect.fail("mine")
          )))
          yield* Effect.exit(copyIn(Stream.make([10_000, 1, "a"], [1_000, 1, "b"])))
          yield* Effect.timeoutOption(copyIn(Stream.concat(Stream.make([10_001, 1, "a"]), Stream.never)), "200 millis")
          const size = yield* database.session(Effect.gen(function*() {
            yield* Stream.runDrain(Stream.take(database.copyTo("SELECT generate_series(1, 1000000)"), 1))
            yield* sql`UPDATE accounts SET balance = 0 WHERE id = 1`
            return yield* Stream.runFold(database.copyTo("TABLE accounts"), 0, (sum, chunk) => sum + chunk.length)
          }))
          assert.isAbove(size, 5_000 * 10)
          const [row] = yield* query(url, "SELECT count(*)::int AS n, min(balance) AS min FROM accounts")
          assert.deepStrictEqual(row, { n: 5_000 + accounts, min: 0 })
        }), { discard: true })
  )
})
