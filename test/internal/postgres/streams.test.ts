/** Streams beside statements, streams that are left early, and streams that outlive what they were opened in. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import { postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { newSeed, random } from "../../support/random.js"
import { assertIdle, createTables, failure, insert, live, numbers, open, timed } from "../session/harness.js"
import { connected, promptly, rows } from "./harness.js"

const series = (count: number) => `SELECT i FROM generate_series(1, ${count}) i`

/** A pool of one connection, and the client's bytes since `sent` was emptied. */
const single = Effect.gen(function*() {
  const network = yield* proxy(yield* freshDatabase)
  const sent: Array<string> = []
  yield* network.onClientData((chunk) => {
    sent.push(chunk.toString("latin1"))
    return "pass"
  })
  const db = yield* Database.make({ environment: "test", url: network.url, poolSize: 1, poolMaxOverflow: 0 })
  yield* createTables(db)
  return { db, network, sent }
})

const backend = (db: Database.Service) =>
  Effect.map(db.sql<{ readonly pid: number }>`SELECT pg_backend_pid() AS pid`, ([{ pid }]) => pid)

describe("streams and statements at once", () => {
  for (const where of ["session", "reserved connection"] as const) {
    live(`all end, and statements run in the order given, on one ${where}`, () =>
      promptly(Effect.gen(function*() {
        const db = yield* open(postgres)
        yield* db.sql`CREATE TABLE log (id INT GENERATED ALWAYS AS IDENTITY, n INT)`
        const seed = newSeed()
        const { below, chance } = random(seed)
        type Work = Effect.Effect<readonly [kind: "rows" | "id", value: number], SqlError>
        for (let round = 0; round < 25; round++) {
          const size = 2 + below(6)
          const kinds = Array.from({ length: size }, () => chance(0.6))
          const counts = Array.from({ length: size }, () => below(3_000))
          const run = (
            stream: (sql: string) => Stream.Stream<unknown, SqlError>,
            execute: (sql: string) => Effect.Effect<ReadonlyArray<any>, SqlError>
          ) =>
            Effect.all(
              kinds.map((isStream, i): Work =>
                isStream
                  ? Effect.map(Stream.runCount(stream(series(counts[i]))), (count) => ["rows", count] as const)
                  : Effect.map(
                    execute(`INSERT INTO log (n) VALUES (${i}) RETURNING id`),
                    ([{ id }]) => ["id", id] as const
                  )
              ),
              { concurrency: "unbounded" }
            )
          const results = yield* where === "session"
            ? db.session(run((sql) => db.sql.unsafe(sql).stream, (sql) => db.sql.unsafe(sql)))
            : Effect.scoped(Effect.flatMap(db.sql.reserve, (connection) =>
              run(
                (sql) => connection.executeStream(sql, [], undefined),
                (sql) => connection.execute(sql, [], undefined)
              )))
          const ids: Array<number> = []
          results.forEach(([kind, value], i) => {
            if (kind === "rows") {
              assert.strictEqual(value, counts[i], `seed ${seed}, round ${round}`)
            } else {
              ids.push(value)
            }
          })
          assert.deepStrictEqual(ids, ids.toSorted((a, b) => a - b), `seed ${seed}, round ${round}`)
        }
        yield* assertIdle(db)
      })))
  }
})

describe("a stream that is left early", () => {
  live("touches no statement that runs beside it, however long that takes", () =>
    Effect.gen(function*() {
      const { db } = yield* single
      const pid = yield* backend(db)
      const [taken] = yield* db.session(Effect.zipLeft(
        Effect.all([
          Stream.runCount(Stream.take(db.sql.unsafe(series(5_000)).stream, 5)),
          db.sql`SELECT pg_sleep(1.2)`
        ], { concurrency: "unbounded" }),
        insert(db, 1)
      ))
      assert.strictEqual(taken, 5)
      assert.deepStrictEqual(yield* numbers(db), [1])
      assert.strictEqual(yield* backend(db), pid)
      yield* assertIdle(db)
    }))

  live("by an interruption does not abort a transaction that it only reads in", () =>
    Effect.gen(function*() {
      const { db } = yield* single
      const pid = yield* backend(db)
      const rows = (count: number) => db.sql.unsafe(series(count)).stream
      const ways: ReadonlyArray<readonly [name: string, leave: Effect.Effect<unknown, SqlError>]> = [
        ["buffer and take", Stream.runDrain(Stream.take(Stream.buffer(rows(50_000), { capacity: 1 }), 40))],
        ["zip", Stream.runDrain(Stream.zip(rows(3), rows(50_000)))],
        ["zip latest", Stream.runDrain(Stream.take(Stream.zipLatest(rows(50_000), rows(50_000)), 3))],
        ["timeout", Effect.timeoutOption(Stream.runForEach(rows(50_000), () => Effect.yieldNow()), "5 millis")],
        ["a slow first batch", Effect.timeoutOption(Stream.runDrain(db.sql`SELECT pg_sleep(0.1)`.stream), "20 millis")],
        ["race", Effect.race(Stream.runDrain(rows(10)), Stream.runDrain(rows(50_000)))]
      ]
      let n = 0
      for (const [name, leave] of ways) {
        for (let round = 0; round < 15; round++) {
          const exit = yield* Effect.exit(db.session(Effect.zipRight(leave, insert(db, ++n))))
          assert.isTrue(Exit.isSuccess(exit), `${name}, round ${round}: ${String(exit)}`)
        }
      }
      assert.lengthOf(yield* numbers(db), n)
      assert.strictEqual(yield* backend(db), pid)
      yield* assertIdle(db)
    }))

  live("by an interruption aborts a transaction that it may have written in", () =>
    Effect.gen(function*() {
      const { db } = yield* single
      const error = yield* failure(db.session(Effect.zipRight(
        Stream.runDrain(Stream.take(
          Stream.buffer(
            db.sql`INSERT INTO items SELECT i FROM generate_series(1, 5000) i RETURNING n, pg_sleep(0.0001)`.stream,
            { capacity: 1 }
          ),
          1
        )),
        insert(db, 9_999)
      )))
      assert.strictEqual(error._tag, "TransactionAborted")
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live("by an interruption while a batch takes long ends soon", () =>
    Effect.gen(function*() {
      const { db } = yield* single
      const [left, millis] = yield* timed(Effect.exit(db.session(Effect.flatMap(
        Effect.timeoutOption(Stream.runDrain(db.sql`SELECT pg_sleep(60)`.stream), "50 millis"),
        (done) => Effect.sync(() => assert.isTrue(Option.isNone(done)))
      ))))
      assert.isTrue(Exit.isFailure(left))
      assert.isBelow(millis, 20_000)
      yield* db.session(insert(db, 1))
      yield* assertIdle(db)
    }))

  live("has half a second for its rollback from when that is sent", () =>
    Effect.gen(function*() {
      const network = yield* proxy(yield* freshDatabase)
      const { connection: c } = yield* connected(network.url)
      const left = yield* Effect.exit(
        Stream.runForEach(c.executeStream(series(5_000), [], undefined), () =>
          network.delay(150).pipe(
            Effect.zipRight(Effect.forkDaemon(c.ping)),
            Effect.zipRight(Effect.forkDaemon(c.ping)),
            Effect.zipRight(Effect.yieldNow()),
            Effect.zipRight(Effect.fail("mine"))
          ))
      )
      assert.isTrue(Exit.isFailure(left))
      yield* network.delay(0)
      assert.strictEqual(c.status(), "idle")
      assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS n"), [{ n: 1 }])
    }))
})

describe("a stream on a reserved connection", () => {
  live("that fails or is left undoes no statement that succeeded beside it", () =>
    promptly(Effect.gen(function*() {
      const { db } = yield* single
      const pid = yield* backend(db)
      let n = 0
      for (const how of ["fails", "is interrupted", "ends"] as const) {
        for (let round = 0; round < 5; round++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const connection = yield* db.sql.reserve
            const reading = yield* Effect.fork(Stream.runForEach(
              connection.executeStream(series(2_000), [], undefined),
              ({ i }) =>
                i < 40
                  ? Effect.yieldNow()
                  : how === "fails"
                  ? Effect.fail("mine")
                  : how === "ends"
                  ? Effect.void
                  : Effect.never
            ))
            const statements = Array.from(
              { length: 4 },
              () => connection.execute("INSERT INTO items VALUES ($1)", [++n], undefined)
            )
            const slow = yield* Effect.fork(connection.execute("SELECT pg_sleep(0.05)", [], undefined))
            yield* Effect.all(statements, { concurrency: "unbounded" })
            yield* how === "is interrupted" ? Fiber.interrupt(reading) : Fiber.await(reading)
            yield* Fiber.join(slow)
          }))
          assert.lengthOf(yield* numbers(db), n, how)
        }
      }
      assert.strictEqual(yield* backend(db), pid)
      yield* assertIdle(db)
    })))
})

describe("a stream that outlives what it was opened in", () => {
  live(
    "sends nothing to the next borrower of its connection when it is closed: a session's",
    () =>
      Effect.gen(function*() {
        const { db, sent } = yield* single
        for (let round = 0; round < 10; round++) {
          const scope = yield* Scope.make()
          const pull = yield* db.session(Effect.tap(
            Scope.extend(Stream.toPull(db.sql.unsafe(series(5_000)).stream), scope),
            (pull) => pull
          ))
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, round)
            sent.length = 0
            assert.isTrue(Exit.isFailure(yield* Effect.exit(pull)))
            yield* Scope.close(scope, round % 2 === 0 ? Exit.void : Exit.fail("mine"))
            yield* db.sql`SELECT 1`
            assert.notInclude(sent.join(""), "Psqlayer_")
          }))
        }
        assert.lengthOf(yield* numbers(db), 10)
        yield* assertIdle(db)
      })
  )

  live(
    "sends nothing to the next borrower of its connection when it is closed: a reserved connection's",
    () =>
      Effect.gen(function*() {
        const { db, sent } = yield* single
        for (let round = 0; round < 10; round++) {
          const scope = yield* Scope.make()
          yield* Effect.scoped(
            Effect.flatMap(db.sql.reserve, (connection) =>
              Effect.flatten(
                Scope.extend(Stream.toPull(connection.executeStream(series(5_000), [], undefined)), scope)
              ))
          )
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, round)
            sent.length = 0
            yield* Scope.close(scope, round % 2 === 0 ? Exit.void : Exit.fail("mine"))
            yield* db.sql`SELECT 1`
            assert.notInclude(sent.join(""), "ROLLBACK")
            assert.notInclude(sent.join(""), "COMMIT")
            assert.notInclude(sent.join(""), "Psqlayer_")
          }))
        }
        assert.lengthOf(yield* numbers(db), 10)
        yield* assertIdle(db)
      })
  )

  live("is closed in its own transaction ahead of the next statement", () =>
    Effect.gen(function*() {
      const { db, sent } = yield* single
      yield* db.session(Effect.gen(function*() {
        yield* Stream.runDrain(Stream.take(db.sql.unsafe(series(5_000)).stream, 1))
        sent.length = 0
        const open = yield* db.sql`SELECT name FROM pg_cursors WHERE name LIKE 'sqlayer%'`
        assert.deepStrictEqual(open, [])
        assert.include(sent.join(""), "Psqlayer_")
      }))
      const fiber = yield* Effect.fork(db.session(Stream.runDrain(db.sql`SELECT pg_sleep(60)`.stream)))
      yield* eventually(Effect.sync(() => sent.join("").includes("pg_sleep(60)")))
      yield* Fiber.interrupt(fiber)
      yield* assertIdle(db)
    }))
})
