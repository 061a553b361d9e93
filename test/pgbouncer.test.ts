/** Behind a pooler that gives each transaction another of its connections: Debian's PgBouncer, which knows no names. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import type { DatabaseError } from "../src/DatabaseError.js"
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
})
