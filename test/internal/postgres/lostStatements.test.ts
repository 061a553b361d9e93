/** Prepared statements that the server has lost: dropped by the application unseen, or left behind by a pooler. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import * as Database from "../../../src/Database.js"
import * as DatabaseError from "../../../src/DatabaseError.js"
import { PreparePolicy, StatementCache } from "../../../src/internal/postgres/statementCache.js"
import { freshDatabase, query } from "../../support/postgres.js"

/** A database of one connection, and a function that drops its prepared statements. */
const opened = Effect.gen(function*() {
  const url = yield* freshDatabase
  yield* query(
    url,
    "CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$"
  )
  const database = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
  const { sql } = database
  const add = (n: number) => Effect.map(sql<{ readonly n: number }>`SELECT ${n}::int + 1 AS n`, ([row]) => row.n)
  return {
    database,
    add,
    forget: sql`SELECT forget()`.unprepared,
    names: Effect.map(
      sql<{ readonly n: number }>`SELECT count(*)::int AS n FROM pg_prepared_statements WHERE NOT from_sql`.unprepared,
      ([{ n }]) => n
    )
  }
})

describe("prepared statements that the application has dropped unseen", () => {
  it.scopedLive("fail nothing outside of sessions, however many are in flight, and are prepared again", () =>
    Effect.gen(function*() {
      const { add, forget, names } = yield* opened
      yield* Effect.forEach([1, 2, 3], add)
      assert.isAbove(yield* names, 0)
      yield* forget
      assert.strictEqual(yield* names, 0)
      const numbers = [1, 2, 3, 4, 5, 6, 7, 8]
      assert.deepStrictEqual(
        yield* Effect.forEach(numbers, add, { concurrency: "unbounded" }),
        numbers.map((n) => n + 1)
      )
      yield* Effect.forEach([1, 2, 3], add)
      assert.isAbove(yield* names, 0)
    }))

  it.scopedLive("fail a session once, with an error that is retried, and are prepared again", () =>
    Effect.gen(function*() {
      const { add, database, forget, names } = yield* opened
      yield* Effect.forEach([1, 2, 3], add)
      yield* forget
      let attempts = 0
      const session = Effect.zipRight(Effect.sync(() => attempts++), Effect.all([add(1), add(2)]))
      const failure = yield* Effect.either(database.session(session))
      assert.isTrue(failure._tag === "Right" || DatabaseError.isRetryable(failure.left))
      attempts = 0
      assert.deepStrictEqual(yield* database.session(session), [2, 3])
      assert.strictEqual(attempts, 1)
      yield* Effect.forEach([1, 2, 3], add)
      assert.isAbove(yield* names, 0)
    }))

  it.scopedLive("again and again are not prepared any more", () =>
    Effect.gen(function*() {
      const { add, database, forget, names } = yield* opened
      const failures: Array<boolean> = []
      for (let i = 0; i < 10; i++) {
        yield* Effect.forEach([1, 2, 3], add)
        yield* forget
        failures.push((yield* Effect.either(database.session(Effect.all([add(1), add(2)]))))._tag === "Left")
      }
      assert.isAtMost(failures.filter((failed) => failed).length, 2)
      assert.deepStrictEqual(failures.slice(2), Array(8).fill(false))
      assert.strictEqual(yield* names, 0)
    }))
})

describe("the policy of preparing", () => {
  const text = "SELECT 1"
  const lost = { code: "26000", message: "prepared statement \"sqlayer_x\" does not exist" } as never
  const processId = 7

  const cacheOf = (policy: PreparePolicy) => {
    const cache = new StatementCache(policy, processId)
    /** Executes the text, on the backend that is given, and returns whether it is prepared from then on. */
    const prepares = (backend = processId) => {
      cache.lookup(text)
      if (cache.lookup(text) === undefined && cache.needsBackendCheck) {
        cache.needsBackendCheck = false
        cache.backendIdentified(backend)
      }
      return cache.lookup(text) !== undefined
    }
    return { cache, prepares }
  }

  it("finds out again whether a connection leads to the server, after its statements were lost", () => {
    const policy = new PreparePolicy("auto")
    const { cache, prepares } = cacheOf(policy)
    assert.isTrue(prepares())
    assert.isTrue(cache.invalidateOnError(lost, undefined))
    // What was in flight fails for the same loss.
    assert.isTrue(cache.invalidateOnError(lost, undefined))
    assert.isTrue(prepares())
    const behindPooler = cacheOf(policy)
    assert.isFalse(behindPooler.prepares(processId + 1))
    assert.isFalse(cacheOf(policy).prepares())
    assert.isFalse(prepares())
  })

  it("prepares nothing for an hour after two losses within ten minutes", () => {
    const now = vi.spyOn(performance, "now")
    const at = (minutes: number) => now.mockReturnValue(minutes * 60_000)
    try {
      at(1_000)
      const policy = new PreparePolicy("auto")
      const { cache, prepares } = cacheOf(policy)
      const other = cacheOf(policy)
      assert.isTrue(prepares())
      assert.isTrue(other.prepares())
      cache.invalidateOnError(lost, undefined)
      at(1_011)
      assert.isTrue(prepares())
      cache.invalidateOnError(lost, undefined)
      at(1_012)
      assert.isTrue(prepares())
      assert.isTrue(other.prepares())
      other.cache.invalidateOnError(lost, undefined)
      assert.isFalse(prepares())
      assert.isFalse(other.prepares())
      at(1_071)
      assert.isFalse(other.prepares())
      at(1_072)
      assert.isTrue(prepares())
      assert.isTrue(other.prepares())
    } finally {
      now.mockRestore()
    }
  })
})
