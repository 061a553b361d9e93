/**
 * Statements of a session on SQLite that are interrupted: by a timeout, by a race that they lose, by a sibling's failure.
 * A file's statements run on a thread; those of a database in memory, or with `thread: "main"`, in the fiber itself.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Database from "../src/Database.js"
import { fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import { file } from "./internal/sqlite/support.js"
import { newSeed, random } from "./support/random.js"

const quiet = Logger.remove(Logger.defaultLogger)
const rounds = 100
const seed = newSeed()

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

const open = (kind: keyof typeof kinds) =>
  Effect.gen(function*() {
    const database = yield* Database.make({ environment: "test", ...kinds[kind](yield* file) })
    yield* database.sql`CREATE TABLE t (a INTEGER PRIMARY KEY, round INTEGER)`
    return database
  })

const numbers = ({ sql }: Database.Service, round?: number) =>
  Effect.map(
    round === undefined
      ? sql<{ readonly a: number }>`SELECT a FROM t ORDER BY a`
      : sql<{ readonly a: number }>`SELECT a FROM t WHERE round = ${round} ORDER BY a`,
    (rows) => rows.map(({ a }) => a)
  )

/** Rows 1, 2, … of a round. */
const row = ({ sql }: Database.Service, round: number, n: number) =>
  sql`INSERT INTO t VALUES (${round * 10 + n}, ${round})`

for (const kind of Object.keys(kinds) as Array<keyof typeof kinds>) {
  /** Where statements run in the fiber itself, one that loses a race was never run, so its session can be committed. */
  const dropsLosers = kind !== "a file"

  const test = <E>(name: string, body: (database: Database.Service) => Effect.Effect<void, E, Scope.Scope>) =>
    it.scopedLive(name, () => Effect.provide(Effect.flatMap(open(kind), body), quiet), 240_000)

  /** Runs a session many times. A session that succeeds has committed what it says, and another one nothing. */
  const repeated = (
    name: string,
    session: (
      database: Database.Service,
      round: number,
      delay: number
    ) => Effect.Effect<ReadonlyArray<number>, unknown>,
    succeeds = false
  ) =>
    test(`${name} (TEST_SEED=${seed})`, (database) =>
      Effect.gen(function*() {
        const { between } = random(seed)
        for (let round = 0; round < rounds; round++) {
          const exit = yield* Effect.exit(database.session(session(database, round, between(0, 1.5))))
          const rows = (yield* numbers(database, round)).map((a) => a - round * 10)
          if (Exit.isSuccess(exit)) {
            assert.deepStrictEqual(rows, exit.value, `round ${round}`)
          } else {
            assert.isFalse(succeeds, `round ${round}`)
            assert.deepStrictEqual(rows, [], `round ${round}`)
            const error = yield* Effect.flip(exit)
            assert(isDatabaseError(error), `round ${round}`)
            assert.strictEqual(error._tag, "TransactionAborted", `round ${round}`)
          }
        }
      }))

  describe(`interrupted statements of a session, ${kind}`, () => {
    repeated(
      "a statement that timed out, and another one in its place",
      (database, round, delay) =>
        Effect.gen(function*() {
          const done = yield* Effect.timeoutOption(row(database, round, 1), delay)
          if (Option.isSome(done)) {
            return [1]
          }
          yield* row(database, round, 2)
          return [2]
        })
    )

    repeated("the loser of a race", (database, round) =>
      Effect.map(
        Effect.race(
          Effect.as(row(database, round, 1), 1),
          Effect.as(row(database, round, 2), 2)
        ),
        (winner) => [winner]
      ), dropsLosers)

    repeated("the losers of a race behind a first statement", (database, round) =>
      Effect.gen(function*() {
        yield* row(database, round, 0)
        const winner = yield* Effect.raceAll([1, 2, 3].map((n) => Effect.as(row(database, round, n), n)))
        yield* row(database, round, 4)
        return [0, winner, 4]
      }), dropsLosers)

    repeated("the siblings of a failure that is swallowed", (database, round) =>
      Effect.gen(function*() {
        yield* row(database, round, 0)
        const written: Array<number> = [0]
        yield* Effect.ignore(Effect.all([
          Effect.andThen(row(database, round, 1), () => {
            written.push(1)
            return Effect.fail("no")
          }),
          Effect.tap(row(database, round, 2), () => written.push(2)),
          Effect.tap(row(database, round, 3), () => written.push(3))
        ], { concurrency: "unbounded" }))
        yield* row(database, round, 4)
        return [...written, 4]
      }), dropsLosers)

    repeated("a fiber that is interrupted", (database, round, delay) =>
      Effect.gen(function*() {
        const written: Array<number> = []
        const fiber = yield* Effect.fork(
          Effect.forEach([1, 2, 3], (n) => Effect.tap(row(database, round, n), () => written.push(n)))
        )
        yield* delay < 0.3 ? Effect.yieldNow() : Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        yield* row(database, round, 4)
        return [...written, 4]
      }))

    repeated("nested sessions, each of which has its own end", (database, round, delay) =>
      Effect.gen(function*() {
        yield* row(database, round, 0)
        const nested = yield* Effect.exit(database.session(Effect.gen(function*() {
          const done = yield* Effect.timeoutOption(row(database, round, 1), delay)
          if (Option.isNone(done)) {
            yield* row(database, round, 2)
          }
          return Option.isSome(done) ? [1] : [2]
        })))
        yield* row(database, round, 4)
        return [0, ...(Exit.isSuccess(nested) ? nested.value : []), 4]
      }))

    test("a transaction that was begun on a reserved connection can then only be rolled back", (database) =>
      Effect.gen(function*() {
        const { sql } = database
        let aborted = 0
        for (let round = 0; round < rounds; round++) {
          const committed = yield* Effect.scoped(Effect.gen(function*() {
            const connection = yield* sql.reserve
            const run = (text: string) => connection.execute(text, [], undefined)
            yield* run("BEGIN")
            const insert = (n: number) => run(`INSERT INTO t VALUES (${round * 10 + n}, ${round})`)
            // The second one has lost, and was run, or is running.
            yield* Effect.race(insert(1), insert(2))
            const exit = yield* Effect.exit(Effect.zipRight(insert(3), run("COMMIT")))
            if (Exit.isFailure(exit)) {
              const error = fromSqlError(yield* Effect.flip(exit))
              assert.strictEqual(error._tag, "TransactionAborted")
              aborted++
              yield* run("ROLLBACK")
              yield* insert(4)
            }
            return Exit.isSuccess(exit)
          }))
          const rows = (yield* numbers(database, round)).map((a) => a - round * 10)
          assert.deepStrictEqual(rows, committed ? [1, 3] : [4], `round ${round}`)
        }
        assert.isTrue(aborted > 0 || dropsLosers, `${aborted}`)
        assert.strictEqual((yield* database.poolStats).created, 1)
      }))
  })
}

describe("a file", () => {
  it.scopedLive(
    "a nested session that fails cancels what another fiber runs in it, and the session goes on",
    () =>
      Effect.provide(
        Effect.gen(function*() {
          const database = yield* open("a file")
          const { session, sql } = database
          // Each row counts as progress, and there is no last one.
          const endless = sql`WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT i FROM c`
          const running = yield* session(Effect.gen(function*() {
            yield* row(database, 0, 1)
            const nested = yield* Effect.flip(session(Effect.gen(function*() {
              yield* row(database, 0, 2)
              const running = yield* Effect.forkDaemon(Effect.flip(endless))
              yield* Effect.sleep("50 millis")
              return yield* Effect.fail(running)
            })))
            yield* row(database, 0, 3)
            return nested
          }))
          assert(Fiber.isFiber(running))
          assert.include(String(yield* Fiber.join(running)), "has ended")
          assert.deepStrictEqual(yield* numbers(database), [1, 3])
          assert.strictEqual((yield* database.poolStats).created, 1)
        }),
        quiet
      ),
    60_000
  )
})
