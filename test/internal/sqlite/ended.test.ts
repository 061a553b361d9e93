/**
 * A transaction of a session that a statement of its own has ended: nothing more is run in it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { file } from "./support.js"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

/** Statements that would change something, or begin another transaction. */
const later = [
  "rollback; insert into t values (2)",
  "rollback; begin",
  "ROLLBACK;INSERT INTO t VALUES (2);",
  "/* a comment */ rollback; /* another */ insert into t values (2)",
  "commit; insert into t values (2)",
  "end; begin",
  "; insert into t values (2)",
  "insert into t values (2)",
  "insert into t values (2) returning a",
  "-- rollback\ninsert into t values (2)",
  "with v(a) as (select 2) insert into t select a from v",
  "replace into t values (2)",
  "begin",
  "begin immediate",
  "savepoint rollback",
  "create table later (a)",
  "drop table t",
  "pragma user_version = 7",
  "vacuum",
  "select a from t"
]

const ways: Record<string, (database: Database.Service, text: string) => Effect.Effect<unknown, unknown>> = {
  "execute": ({ sql }, text) => sql.unsafe(text),
  "raw": ({ sql }, text) => sql.unsafe(text).raw,
  "values": ({ sql }, text) => sql.unsafe(text).values,
  "unprepared": ({ sql }, text) => sql.unsafe(text).unprepared,
  "a stream": ({ sql }, text) => Stream.runDrain(sql.unsafe(text).stream),
  "a nested session": (database, text) => database.session(database.sql.unsafe(text))
}

for (const kind of Object.keys(kinds) as Array<keyof typeof kinds>) {
  describe(`a transaction that a statement has ended, ${kind}`, () => {
    const ends: ReadonlyArray<readonly [end: string, kept: ReadonlyArray<number>, how: keyof typeof ways]> = [
      ["commit", [1], "execute"],
      ["end transaction", [1], "raw"],
      ["/* a comment */ COMMIT;", [1], "unprepared"],
      ["commit", [1], "a stream"],
      ["commit", [1], "a nested session"],
      ["rollback", [], "execute"],
      ["rollback", [], "a nested session"],
      ["insert or rollback into t values (1)", [], "execute"]
    ]
    for (const [end, kept, how] of ends) {
      it.scopedLive(`runs nothing more: ${end} by ${how}`, () =>
        Effect.gen(function*() {
          const database = yield* Database.make({ environment: "test", ...kinds[kind](yield* file) })
          const { sql } = database
          yield* sql`CREATE TABLE t (a INTEGER PRIMARY KEY)`
          const before = yield* sql`SELECT name FROM sqlite_schema`
          for (const [way, run] of Object.entries(ways)) {
            yield* sql`DELETE FROM t`
            const exit = yield* Effect.exit(database.session(Effect.gen(function*() {
              yield* sql`INSERT INTO t VALUES (1)`
              yield* Effect.exit(ways[how](database, end))
              for (const text of later) {
                const ended = yield* Effect.exit(run(database, text))
                assert.isTrue(Exit.isFailure(ended), `${text} by ${way}`)
              }
            })))
            assert.strictEqual((yield* Effect.flip(exit) as Effect.Effect<DatabaseError>)._tag, "TransactionAborted")
            assert.deepStrictEqual(yield* sql`SELECT a FROM t`, kept.map((a) => ({ a })), way)
            assert.deepStrictEqual(yield* sql`SELECT name FROM sqlite_schema`, before, way)
            assert.deepStrictEqual(yield* sql`PRAGMA user_version`, [{ user_version: 0 }], way)
            yield* database.session(sql`INSERT INTO t VALUES (9)`)
          }
        }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger))))
    }
  })
}
