/**
 * A statement that failed ends what its session can do, whoever swallows its failure, and it does so on every dialect.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { quiet } from "./internal/clients.js"
import { dialects, make } from "./support/dialects.js"

/** How an effect ended: with "success", with the tag of the database's error, or with the program's own. */
const outcomeOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<unknown, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    if (Exit.isSuccess(exit)) {
      return "success"
    }
    assert(exit.cause._tag === "Fail", String(exit))
    const error: unknown = exit.cause.error
    return error instanceof SqlError ? fromSqlError(error)._tag : isDatabaseError(error) ? error._tag : error
  })

/** What a program is written with. */
interface Tools {
  readonly sql: SqlClient.SqlClient
  /** Runs an effect as a unit of work, or as a part of one. */
  readonly within: <A, E>(effect: Effect.Effect<A, E, Client>) => Effect.Effect<A, unknown, Client>
  readonly insert: (n: number) => Effect.Effect<unknown, SqlError>
  /** Notes how an effect ended, and goes on. */
  readonly swallow: (effect: Effect.Effect<unknown, unknown, Client>) => Effect.Effect<void, never, Client>
}

type Client = Database.Database | SqlClient.SqlClient

interface Case {
  readonly what: string
  /** In the unit of work. Beforehand there is a row 1. */
  readonly program: (tools: Tools) => Effect.Effect<unknown, unknown, Client>
  /** How the unit of work ends. */
  readonly outcome: string
  /** What was swallowed. */
  readonly swallowed?: ReadonlyArray<string>
  /** The rows beside row 1. */
  readonly kept?: ReadonlyArray<number>
  /** Whether something must be stopped, which nothing can that runs on the main thread. */
  readonly stops?: boolean
}

const circular: Record<string, unknown> = {}
circular.self = circular

/** What takes very long, and can be stopped. */
const endless = (sql: SqlClient.SqlClient) =>
  sql.onDialectOrElse({
    pg: () => sql`SELECT pg_sleep(30)`,
    orElse: () => sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n`
  })

const twentyThousand = (sql: SqlClient.SqlClient) =>
  sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n`.stream

/** Fails in the middle. */
const broken = (sql: SqlClient.SqlClient) =>
  sql.onDialectOrElse({
    pg: () => sql`SELECT 1 / (15000 - i) AS n FROM generate_series(1, 20000) AS s(i)`,
    orElse: () =>
      sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        SELECT CASE i WHEN 15000 THEN json('{') END AS n FROM n`
  }).stream

const cases: ReadonlyArray<Case> = [
  {
    what: "a violation, after something was written",
    program: ({ insert, swallow }) => Effect.zipRight(insert(2), swallow(insert(1))),
    swallowed: ["UniqueViolation"],
    outcome: "TransactionAborted"
  },
  {
    what: "a violation of the very first statement",
    program: ({ insert, swallow }) => swallow(insert(1)),
    swallowed: ["UniqueViolation"],
    outcome: "TransactionAborted"
  },
  {
    what: "the session's own failure afterwards",
    program: ({ insert, swallow }) => Effect.zipRight(swallow(insert(1)), Effect.fail("changed my mind")),
    swallowed: ["UniqueViolation"],
    outcome: "changed my mind"
  },
  {
    what: "statements afterwards",
    program: ({ insert, sql, swallow, within }) =>
      Effect.all([
        insert(2),
        swallow(insert(1)),
        swallow(insert(3)),
        swallow(sql`SELECT n FROM t`),
        swallow(sql`SELECT n FROM t`.values),
        swallow(sql`SELECT n FROM t`.raw),
        swallow(sql`SELECT n FROM t`.unprepared),
        swallow(Stream.runDrain(sql`SELECT n FROM t`.stream)),
        swallow(within(insert(4))),
        insert(5)
      ]),
    swallowed: ["UniqueViolation", ...Array.from({ length: 7 }, () => "TransactionAborted")],
    outcome: "TransactionAborted"
  },
  {
    what: "a violation in a nested session",
    program: ({ insert, swallow, within }) =>
      Effect.all([insert(2), swallow(within(Effect.zipRight(insert(3), insert(1)))), insert(4)]),
    swallowed: ["UniqueViolation"],
    outcome: "success",
    kept: [2, 4]
  },
  {
    what: "a violation within a nested session",
    program: ({ insert, swallow, within }) =>
      Effect.all([insert(2), swallow(within(Effect.zipRight(insert(3), swallow(insert(1))))), insert(4)]),
    swallowed: ["UniqueViolation", "TransactionAborted"],
    outcome: "success",
    kept: [2, 4]
  },
  {
    what: "violations of several nested sessions",
    program: ({ insert, swallow, within }) =>
      Effect.all([
        swallow(within(insert(1))),
        within(Effect.all([swallow(within(insert(1))), insert(2), swallow(within(insert(2)))])),
        insert(3)
      ]),
    swallowed: ["UniqueViolation", "UniqueViolation", "UniqueViolation"],
    outcome: "success",
    kept: [2, 3]
  },
  {
    what: "a violation of one of several statements at once",
    program: ({ insert, swallow }) =>
      Effect.zipRight(
        insert(2),
        Effect.forEach([3, 1, 4, 5], (n) => swallow(insert(n)), { concurrency: "unbounded" })
      ),
    swallowed: ["success", "UniqueViolation", "TransactionAborted", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a syntax error",
    program: ({ insert, sql, swallow }) => Effect.all([insert(2), swallow(sql`SELEC 1`), swallow(insert(3))]),
    swallowed: ["InvalidStatement", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a parameter that cannot be sent",
    program: ({ insert, sql, swallow }) =>
      Effect.all([
        swallow(sql`INSERT INTO t VALUES (${circular as never})`),
        insert(2),
        swallow(sql`INSERT INTO t VALUES (${circular as never})`),
        insert(3)
      ]),
    swallowed: ["InvalidData", "InvalidData"],
    outcome: "success",
    kept: [2, 3]
  },
  {
    what: "too few parameters",
    program: ({ insert, sql, swallow }) =>
      Effect.all([
        insert(2),
        swallow(sql.onDialectOrElse({
          pg: () => sql.unsafe("SELECT $1::int + $2::int", [1]),
          orElse: () => sql.unsafe("SELECT ? + ?", [1])
        })),
        swallow(insert(3))
      ]),
    swallowed: ["InvalidData", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a stream that fails at once",
    program: ({ insert, sql, swallow }) =>
      Effect.all([insert(2), swallow(Stream.runDrain(sql`SELECT n FROM nowhere`.stream)), swallow(insert(3))]),
    swallowed: ["InvalidStatement", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a stream that fails in its middle",
    program: ({ insert, sql, swallow }) =>
      Effect.all([
        insert(2),
        swallow(Effect.mapError(Stream.runDrain(broken(sql)), () => "broken")),
        swallow(insert(3))
      ]),
    swallowed: ["broken", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a violation while a stream is open",
    program: ({ insert, sql, swallow }) =>
      swallow(Stream.runForEach(twentyThousand(sql), ({ i }: any) => i === 1 ? swallow(insert(1)) : Effect.void)),
    swallowed: ["UniqueViolation", "TransactionAborted"],
    outcome: "TransactionAborted"
  },
  {
    what: "a stream that is left",
    program: ({ insert, sql }) => Effect.zipRight(Stream.runDrain(Stream.take(twentyThousand(sql), 3)), insert(2)),
    outcome: "success",
    kept: [2]
  },
  {
    what: "a statement that is interrupted",
    program: ({ insert, sql, swallow }) =>
      Effect.all([insert(2), Effect.timeoutOption(endless(sql), 100), swallow(insert(3))]),
    swallowed: ["TransactionAborted"],
    outcome: "TransactionAborted",
    stops: true
  },
  {
    what: "a statement that is interrupted in a nested session",
    program: ({ insert, sql, within }) =>
      Effect.all([insert(2), Effect.timeoutOption(within(endless(sql)), 100), insert(3)]),
    outcome: "success",
    kept: [2, 3],
    stops: true
  },
  {
    what: "a violation, and a way back by hand",
    program: ({ insert, sql, swallow }) =>
      Effect.all([
        insert(2),
        sql`SAVEPOINT mine`,
        insert(3),
        swallow(insert(1)),
        swallow(insert(4)),
        sql`/* back */ ROLLBACK TRANSACTION TO SAVEPOINT mine`,
        insert(5)
      ]),
    swallowed: ["UniqueViolation", "TransactionAborted"],
    outcome: "success",
    kept: [2, 5]
  },
  {
    what: "a violation, and no way on by hand",
    program: ({ insert, sql, swallow }) =>
      Effect.all([
        insert(2),
        sql`SAVEPOINT mine`,
        swallow(insert(1)),
        swallow(sql`RELEASE mine`),
        swallow(sql`SAVEPOINT yours`)
      ]),
    swallowed: ["UniqueViolation", "TransactionAborted", "TransactionAborted"],
    outcome: "TransactionAborted"
  }
]

const units: ReadonlyArray<readonly [name: string, (sql: SqlClient.SqlClient) => Tools["within"]]> = [
  ["a session", () => (effect) => Database.session(effect)],
  ["withTransaction", (sql) => sql.withTransaction]
]

for (const dialect of dialects) {
  describe(`what is swallowed: ${dialect.name}`, () => {
    const onMain = dialect.name.includes("memory")
    const possible = cases.filter(({ stops }) => stops !== true || !onMain)
    for (const { kept = [], outcome, program, swallowed = [], what } of possible) {
      it.scopedLive(what, () =>
        Effect.gen(function*() {
          const database = yield* make(dialect)
          yield* database.sql`CREATE TABLE t (n integer PRIMARY KEY)`
          yield* database.sql`INSERT INTO t VALUES (1)`
          const real = Layer.succeedContext(database.context)
          const both = Layer.merge(real, Layer.succeed(Database.Database, database))
          for (const [unit, withinOf] of units) {
            const places = { database: both, sandbox: Layer.provide(TestDatabase.sandbox, both) }
            for (const [place, layer] of Object.entries(places)) {
              const about = `${unit}, in a ${place}`
              const notes: Array<unknown> = []
              const run = Effect.gen(function*() {
                const sql = yield* SqlClient.SqlClient
                const within = withinOf(sql)
                const swallow: Tools["swallow"] = (effect) =>
                  Effect.map(outcomeOf(effect), (noted) => {
                    notes.push(noted)
                  })
                const insert = (n: number) => sql`INSERT INTO t VALUES (${n})`
                const ended = yield* outcomeOf(within(program({ sql, within, insert, swallow })))
                const rows = yield* sql<{ readonly n: number }>`SELECT n FROM t WHERE n > 1 ORDER BY n`
                assert.deepStrictEqual([ended, notes, rows.map(({ n }) => n)], [outcome, swallowed, kept], about)
                // Outside of a session nothing is ended by a failure.
                yield* swallow(insert(1))
                yield* insert(9)
                yield* sql`DELETE FROM t WHERE n > 1`
              })
              yield* Effect.provide(run, layer)
            }
          }
        }).pipe(Effect.provide(quiet)))
    }
  })
}
