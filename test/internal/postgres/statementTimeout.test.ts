import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { Exchange } from "../../../src/internal/postgres/exchange.js"
import * as Exchanges from "../../../src/internal/postgres/exchanges.js"
import { StatementTimeout } from "../../../src/internal/postgres/statementTimeout.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { connection, promptly, rows } from "./harness.js"

const failure = <A>(effect: Effect.Effect<A, any>): Effect.Effect<DatabaseError> =>
  Effect.map(
    Effect.flip(effect),
    (error) => error._tag === "SqlError" ? fromSqlError(error) : error as DatabaseError
  ) as Effect.Effect<DatabaseError>

const timeout = Duration.millis(300)

/** A connection with a statement timeout of 300 ms, to a server where `unlimited()` lifts it, which no text tells. */
const limited = Effect.gen(function*() {
  const database = yield* freshDatabase
  yield* query(
    database,
    "CREATE FUNCTION unlimited() RETURNS text LANGUAGE sql AS " +
      "$$ SELECT set_config('statement_timeout', '0', false) $$"
  )
  const c = yield* connection(database, { settings: { statementTimeout: timeout } })
  return { database, c }
})

/** Cancels at 2.3 seconds on this side. */
const isLate = (millis: number) => assert.isAtLeast(millis, 2_250)

const completed = (text: string, makesDirty: boolean, params: ReadonlyArray<unknown> = []): Exchange => {
  const exchange = Exchanges.query(text, { user: true, params })
  exchange.makesDirty = makesDirty
  return exchange
}

describe("what is known of statement_timeout", () => {
  it("is that of the session, and within a transaction that of its options", () => {
    const known = new StatementTimeout(500)
    assert.strictEqual(known.current, 500)
    known.set(100)
    assert.strictEqual(known.current, 100)
    known.set(0)
    assert.isUndefined(known.current)
    known.transactionEnded()
    assert.strictEqual(known.current, 500)
    assert.isUndefined(new StatementTimeout(undefined).current)
    assert.isUndefined(new StatementTimeout(0).current)
  })

  it("is nothing after a statement that may have changed it, for as long as that holds", () => {
    const known = new StatementTimeout(500)
    const complete = (exchange: ReturnType<typeof completed>) => known.statementCompleted(exchange, exchange.makesDirty)
    complete(completed("SET LOCAL Statement_Timeout = '1h'", false))
    assert.isUndefined(known.current)
    known.transactionEnded()
    assert.strictEqual(known.current, 500)
    const lasting = [
      completed("SET statement_timeout TO DEFAULT", true),
      completed("SELECT set_config('statement_timeout', $1, false)", false, ["1h"]),
      completed("SELECT set_config($1, $2, false)", false, ["statement_timeout", "1h"]),
      completed("DO $$ BEGIN SET statement_timeout = 0; END $$", true)
    ]
    for (const exchange of lasting) {
      complete(exchange)
      known.transactionEnded()
      assert.isUndefined(known.current, exchange.text)
      known.reset()
      assert.strictEqual(known.current, 500)
    }
    for (const text of ["SELECT 'statement_timeout'", "SELECT set_config('app.user', $1, true)"]) {
      complete(completed(text, false, ["someone"]))
      assert.strictEqual(known.current, 500, text)
    }
    complete(completed("SET search_path = app", true))
    assert.strictEqual(known.current, 500)
  })
})

describe("a statement that outlasts its timeout", () => {
  it.live("is ended by the server where that does, and not by this side", () =>
    Effect.scoped(Effect.gen(function*() {
      const { c } = yield* limited
      // This side cancels two seconds later, and a busy machine may be as late as that now and then.
      yield* eventually(Effect.map(
        Effect.timed(failure(rows(c, "SELECT pg_sleep(30)"))),
        ([duration, error]) => error._tag === "StatementTimeout" && Duration.toMillis(duration) < 2_000
      ))
      assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS one"), [{ one: 1 }])
    })))

  it.live(
    "is canceled two seconds later otherwise, and its connection can be used further",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { c } = yield* limited
        yield* rows(c, "SELECT unlimited()")
        const sleeping = yield* Effect.fork(Effect.timed(promptly(failure(rows(c, "SELECT pg_sleep(30)")))))
        yield* Effect.sleep("50 millis")
        const behind = yield* Effect.fork(rows(c, "SELECT 2 AS two"))
        const [duration, error] = yield* Fiber.join(sleeping)
        isLate(Duration.toMillis(duration))
        assert.strictEqual(error._tag, "StatementTimeout", error.message)
        assert.include(error.message, "statement timeout")
        assert.deepStrictEqual(yield* Fiber.join(behind), [{ two: 2 }])
        // For what the function has set.
        assert.strictEqual(c.status(), "dirty")
      })),
    240_000
  )

  it.live("has the timeout of its transaction", () =>
    Effect.scoped(Effect.gen(function*() {
      const { database } = yield* limited
      const c = yield* connection(database)
      yield* c.begin({ statementTimeout: timeout })
      yield* rows(c, "SELECT unlimited()")
      const [duration, error] = yield* Effect.timed(promptly(failure(rows(c, "SELECT pg_sleep(30)"))))
      isLate(Duration.toMillis(duration))
      assert.strictEqual(error._tag, "StatementTimeout")
      assert.strictEqual(c.status(), "aborted")
      yield* c.rollback
      // Not in the next one.
      yield* rows(c, "SELECT unlimited(), pg_sleep(3)")
    })), 240_000)

  it.live("may be a COMMIT, which is then rolled back", () =>
    Effect.scoped(Effect.gen(function*() {
      const { c, database } = yield* limited
      yield* query(
        database,
        "CREATE TABLE kept (id int); " +
          "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'; " +
          "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED FOR EACH ROW " +
          "EXECUTE FUNCTION slow()"
      )
      yield* rows(c, "SELECT unlimited()")
      yield* c.begin({})
      yield* rows(c, "INSERT INTO kept VALUES (1)")
      const [duration, error] = yield* Effect.timed(promptly(failure(c.commit)))
      isLate(Duration.toMillis(duration))
      assert.strictEqual(error._tag, "StatementTimeout", error.message)
      yield* c.rollback
      assert.deepStrictEqual(yield* query(database, "SELECT * FROM kept"), [])
    })), 240_000)

  it.live("is measured from when the server begins it", () =>
    Effect.scoped(Effect.gen(function*() {
      const { database } = yield* limited
      const c = yield* connection(database, { settings: { statementTimeout: Duration.seconds(1) } })
      const sleeps = Array.from({ length: 6 }, (_, i) => rows(c, `SELECT pg_sleep(0.7), ${i} AS i`))
      assert.strictEqual((yield* Effect.all(sleeps, { concurrency: "unbounded" })).length, 6)
      yield* rows(c, Array.from({ length: 6 }, () => "SELECT pg_sleep(0.7)").join("; "))
      yield* c.begin({})
      assert.strictEqual((yield* Effect.all(sleeps, { concurrency: "unbounded" })).length, 6)
    })), 240_000)

  it.live("is left alone where it may have set another timeout", () =>
    Effect.scoped(Effect.gen(function*() {
      const { c } = yield* limited
      yield* c.begin({})
      yield* rows(c, "SET LOCAL statement_timeout = '1min'")
      yield* rows(c, "SELECT pg_sleep(3)")
      yield* c.rollback
      assert.strictEqual((yield* failure(rows(c, "SELECT pg_sleep(30)")))._tag, "StatementTimeout")
    })), 240_000)
})
