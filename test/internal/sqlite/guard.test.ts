/**
 * What a connection tells its session of a statement: whether it may have taken effect.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { type DatabaseError, SessionClosed } from "../../../src/DatabaseError.js"
import type { Pull, StatementGuard } from "../../../src/internal/driver.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { eventually } from "../../support/eventually.js"
import { lock } from "./blocking.js"
import { connect, driver, file } from "./support.js"

const makeGuard = (): StatementGuard & { refused: DatabaseError | undefined } => ({
  refused: undefined,
  refusal() {
    return this.refused
  },
  isSent: false,
  mayWrite: true
})

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = [], guard?: StatementGuard) =>
  connection.execute(sql, params, undefined, guard)

const numbers = (n: number) =>
  `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${n}) SELECT i FROM n`
const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

const rowsOf = (pull: Pull, rows: Array<unknown> = []): Effect.Effect<Array<unknown>, unknown> =>
  Effect.matchEffect(pull, {
    onSuccess: (batch) => rowsOf(pull, [...rows, ...batch]),
    onFailure: (error) => Option.isNone(error) ? Effect.succeed(rows) : Effect.fail(error.value)
  })

const refused = new SessionClosed({ dialect: "sqlite", code: "SQLITE_MISUSE", reason: "refused" })

for (const thread of ["worker", "main"] as const) {
  const test = <E>(
    name: string,
    body: (connection: SqliteConnection, filename: string) => Effect.Effect<void, E, Scope.Scope>
  ) =>
    it.scopedLive(name, () =>
      Effect.gen(function*() {
        const filename = yield* file
        const connection = yield* connect(driver(filename, { thread, lockTimeout: Duration.minutes(10) }))
        yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
        yield* body(connection, filename)
      }))

  describe(`the guard of a statement, thread: ${thread}`, () => {
    test("a statement that was run is sent, whether it succeeds or fails", (connection) =>
      Effect.gen(function*() {
        for (
          const [sql, succeeds] of [["INSERT INTO t VALUES (1)", true], ["INSERT INTO t VALUES (1)", false]] as const
        ) {
          const guard = makeGuard()
          assert.strictEqual(Exit.isSuccess(yield* Effect.exit(run(connection, sql, [], guard))), succeeds)
          assert.isTrue(guard.isSent)
        }
      }))

    test("one that is refused, or whose parameters cannot be bound, is not", (connection) =>
      Effect.gen(function*() {
        const guard = makeGuard()
        guard.refused = refused
        assert.strictEqual((yield* Effect.flip(run(connection, "INSERT INTO t VALUES (1)", [], guard))).cause, refused)
        assert.isFalse(guard.isSent)
        guard.refused = undefined
        yield* Effect.flip(run(connection, "INSERT INTO t VALUES (?)", [Symbol("a")], guard))
        assert.isFalse(guard.isSent)
        assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
      }))

    test(
      "one that waits for the lock of the file is not, and is once it has run",
      (connection, filename) =>
        Effect.gen(function*() {
          for (const isTransaction of [false, true]) {
            const unlock = yield* lock(filename)
            if (isTransaction) {
              yield* connection.begin({})
            }
            const guards = [makeGuard(), makeGuard()]
            const fibers = yield* Effect.forEach(
              guards,
              (guard, i) => Effect.fork(run(connection, "INSERT INTO t VALUES (?)", [i], guard))
            )
            // The guard is true for a moment with each attempt.
            yield* eventually(Effect.sync(() => !guards[0].isSent))
            yield* Effect.sleep(20)
            assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fibers[0])))
            assert.isFalse(guards[0].isSent)
            yield* unlock
            yield* Fiber.join(fibers[1])
            assert.isTrue(guards[1].isSent)
            assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: 1 }])
            if (isTransaction) {
              yield* connection.commit
            }
            yield* run(connection, "DELETE FROM t")
          }
        })
    )

    test("a cursor's first pull runs it; it only reads if it returns rows and writes nothing", (connection) =>
      Effect.gen(function*() {
        for (
          const [sql, mayWrite] of [
            [numbers(2_000), false],
            ["INSERT INTO t VALUES (1), (2) RETURNING a", true],
            ["INSERT INTO t VALUES (3)", true],
            ["DELETE FROM t RETURNING a", true]
          ] as const
        ) {
          const guard = makeGuard()
          const pull = yield* connection.cursor(sql, [], guard)
          assert.isFalse(guard.isSent)
          yield* pull
          assert.deepStrictEqual([guard.isSent, guard.mayWrite], [true, mayWrite], sql)
        }
      }))

    test("a pull that is refused leaves the cursor as it was", (connection) =>
      Effect.gen(function*() {
        for (const isTransaction of [false, true]) {
          if (isTransaction) {
            yield* connection.begin({})
          }
          const guard = makeGuard()
          const rows = yield* Effect.scoped(Effect.gen(function*() {
            const pull = yield* connection.cursor(numbers(2_000), [], guard)
            const refuse = Effect.gen(function*() {
              guard.refused = refused
              for (let i = 0; i < 3; i++) {
                const error = yield* Effect.flip(pull)
                assert.strictEqual(Option.getOrThrow(error).cause, refused)
              }
              guard.refused = undefined
            })
            yield* refuse
            assert.isFalse(guard.isSent)
            const first = yield* pull
            yield* refuse
            assert.isTrue(guard.isSent)
            const second = yield* pull
            yield* refuse
            return yield* rowsOf(pull, [...first, ...second])
          }))
          assert.deepStrictEqual(rows, Array.from({ length: 2_000 }, (_, i) => ({ i: i + 1 })))
          if (isTransaction) {
            yield* connection.commit
          }
          assert.strictEqual(connection.status(), "idle")
        }
      }))
  })
}

describe("the guard of a statement that is interrupted on the thread", () => {
  const test = <E>(name: string, body: (connection: SqliteConnection) => Effect.Effect<void, E, Scope.Scope>) =>
    it.scopedLive(name, () =>
      Effect.gen(function*() {
        const connection = yield* connect(driver(yield* file))
        yield* run(connection, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
        yield* connection.begin({})
        yield* run(connection, "INSERT INTO t VALUES (1)")
        yield* body(connection)
      }))

  test("behind another one it is not sent, and has no effect", (connection) =>
    Effect.gen(function*() {
      const first = makeGuard()
      const running = yield* Effect.fork(run(connection, endless, [], first))
      yield* eventually(Effect.sync(() => first.isSent))
      yield* Effect.sleep(20)
      const insert = makeGuard()
      const select = makeGuard()
      const queued = [
        yield* Effect.fork(run(connection, "INSERT INTO t VALUES (2)", [], insert)),
        yield* Effect.fork(rowsOf(yield* connection.cursor("INSERT INTO t VALUES (3) RETURNING a", [], select)))
      ]
      yield* Effect.sleep(20)
      for (const fiber of queued) {
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      }
      assert.deepStrictEqual([insert.isSent, select.isSent], [false, false])
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(running)))
      assert.isTrue(first.isSent)
      yield* connection.rollback
      assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [])
    }))

  test("one of whose parameters the memory is gone is not sent", (connection) =>
    Effect.gen(function*() {
      const guard = makeGuard()
      const bytes = new Uint8Array(8)
      const [error] = yield* Effect.all([
        Effect.flip(run(connection, "INSERT INTO t VALUES (? IS NULL)", [bytes], guard)),
        Effect.suspend(() => {
          structuredClone(bytes, { transfer: [bytes.buffer] })
          return run(connection, "SELECT 1")
        })
      ], { concurrency: "unbounded" })
      assert.strictEqual((error.cause as DatabaseError)._tag, "InvalidData")
      assert.isFalse(guard.isSent)
      assert.deepStrictEqual(yield* run(connection, "SELECT a FROM t"), [{ a: 1 }])
    }))
})
