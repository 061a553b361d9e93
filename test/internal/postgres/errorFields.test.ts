/** What the server says beside its message. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { inspect } from "node:util"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import { freshDatabase, query } from "../../support/postgres.js"

const functions = `
  CREATE TABLE t (n int, s text);
  CREATE FUNCTION raise(s text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'it broke' USING ERRCODE = 'P0001'; END $$;
  CREATE FUNCTION calls(s text) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE n int; BEGIN n := raise(s) + 1; RETURN n; END $$;
  CREATE FUNCTION executes(s text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN EXECUTE format(E'SELECT 1 / 0\\n  WHERE %L\\n <> ''open secret''', s); RETURN 1; END $$;
  CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'no %', NEW.n USING ERRCODE = '23514'; END $$;
  CREATE TRIGGER t_insert BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION on_insert();
`

const secret = "s3cr3t-v4lue"

const database = Effect.gen(function*() {
  const url = yield* freshDatabase
  yield* query(url, functions)
  const { sql } = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
  return sql
})

const failureOf = <A>(effect: Effect.Effect<A, SqlError>) => Effect.map(Effect.flip(effect), fromSqlError)

describe("an error of the server", () => {
  it.scopedLive("says where it was raised, how severe it is, and by which routine", () =>
    Effect.gen(function*() {
      const sql = yield* database
      const raised = yield* failureOf(sql`SELECT calls(${secret})`)
      assert.deepStrictEqual(raised.where?.split("\n"), [
        "PL/pgSQL function raise(text) line 2 at RAISE",
        "PL/pgSQL function calls(text) line 2 at assignment"
      ])
      assert.deepStrictEqual([raised.severity, raised.routine], ["ERROR", "exec_stmt_raise"])
      assert.isTrue(raised.message.startsWith("it broke"))
      const trigger = yield* failureOf(sql`INSERT INTO t VALUES (${1}, ${secret})`)
      assert.strictEqual(trigger._tag, "CheckViolation")
      assert.include(trigger.where, "PL/pgSQL function on_insert() line 2 at RAISE")
    }))

  it.scopedLive("says where in the statement it is", () =>
    Effect.gen(function*() {
      const sql = yield* database
      const error = yield* failureOf(sql`SELECT n, missing FROM t`)
      assert.deepStrictEqual([error.position, error.severity, error.where], [11, "ERROR", undefined])
      assert.isTrue(error.message.startsWith("column \"missing\" does not exist"))
    }))

  it.scopedLive("holds no value in its context", () =>
    Effect.gen(function*() {
      const sql = yield* database
      yield* sql`SET log_parameter_max_length_on_error = -1`
      const executed = yield* failureOf(sql`SELECT executes(${secret})`)
      assert.include(executed.where, "SQL statement ***")
      assert.include(executed.where, "PL/pgSQL function executes(text) line 2 at EXECUTE")
      const errors = [
        executed,
        yield* failureOf(sql`SELECT ${`{"a": ${secret}}`}::json`),
        yield* failureOf(sql`SELECT ${secret}::int`),
        yield* failureOf(sql`SELECT 1 / (length(${secret}) - length(${secret}))`)
      ]
      for (const error of errors) {
        assert.notInclude(inspect(error, { depth: 10 }), secret)
        assert.notInclude(inspect(error, { depth: 10 }), "open secret")
      }
      assert.include(errors[1].where, "JSON data, line 1: ***")
    }))

  it.scopedLive("is an InvalidStatement where the transaction or the schema does not allow it", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { session, sql } = yield* Database.make({ environment: "test", url, poolSize: 1 })
      const cases: ReadonlyArray<readonly [string, Effect.Effect<unknown, SqlError | DatabaseError>]> = [
        ["25001", session(sql`VACUUM`)],
        ["25001", session(Effect.zipRight(sql`SELECT 1`, sql`SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`))],
        ["25P01", sql`SAVEPOINT a`],
        ["3F000", sql`CREATE TABLE missing.t (n int)`]
      ]
      for (const [code, effect] of cases) {
        const failed = yield* Effect.flip(effect)
        const error = failed._tag === "SqlError" ? fromSqlError(failed) : failed
        assert.deepStrictEqual([error._tag, error.code], ["InvalidStatement", code])
      }
    }))
})

describe("what is too long for the server", () => {
  it.scopedLive("is ResourceExhausted before it is sent, and the connection stays", () =>
    Effect.gen(function*() {
      const sql = yield* database
      const [{ pid }] = yield* sql`SELECT pg_backend_pid() AS pid`
      const error = yield* failureOf(sql`SELECT length(${Buffer.alloc(0x4000_0000)})`)
      assert.deepStrictEqual([error._tag, error.code], ["ResourceExhausted", "54000"])
      assert.include(error.message, "parameter $1")
      const half = Buffer.alloc(0x2000_0000)
      const together = yield* failureOf(sql`SELECT length(${half}) + length(${half})`)
      assert.strictEqual(together._tag, "ResourceExhausted")
      assert.deepStrictEqual(yield* sql`SELECT pg_backend_pid() AS pid`, [{ pid }])
    }))
})
