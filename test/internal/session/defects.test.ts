/** A session whose effect died with an error of the database fails with it, typed. */
import * as Model from "@effect/sql/Model"
import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { SerializationFailure, toSqlError } from "../../../src/DatabaseError.js"
import * as Session from "../../../src/Session.js"
import { forEachDialect } from "../../support/dialects.js"
import { assertIdle, failure, insert, live, logged, numbers, open } from "./harness.js"

class Item extends Model.Class<Item>("Item")({ n: Schema.Number }) {}

const conflict = new SerializationFailure({ dialect: "postgres", code: "40001", reason: "a conflict" })

forEachDialect((name, _, dialect) =>
  describe(`a defect in a session on ${name}`, () => {
    live("that is an error of the database can be caught by its tag, whatever made it one", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* insert(db, 1)
        const repository = yield* Effect.provideService(
          Model.makeRepository(Item, { tableName: "items", spanPrefix: "Items", idColumn: "n" }),
          SqlClient.SqlClient,
          db.sql
        )
        const dying: ReadonlyArray<Effect.Effect<unknown>> = [
          Effect.orDie(insert(db, 1)),
          repository.insertVoid({ n: 1 }),
          Effect.asVoid(Effect.all([Effect.orDie(insert(db, 1)), Effect.never], { concurrency: "unbounded" })),
          Effect.die(toSqlError(conflict))
        ]
        for (const [i, each] of dying.entries()) {
          const caught = yield* db.session(Effect.zipRight(insert(db, 10), each)).pipe(
            Effect.catchTag("UniqueViolation", ({ _tag }) => Effect.succeed(_tag)),
            Effect.catchTag("SerializationFailure", ({ _tag }) => Effect.succeed(_tag))
          )
          assert.strictEqual(caught, i === 3 ? "SerializationFailure" : "UniqueViolation")
        }
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      }))

    live("is typed in nested, joining and retried sessions, and as SqlError in withTransaction", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* insert(db, 1)
        const dies = Effect.zipRight(insert(db, 2), Effect.orDie(insert(db, 1)))
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 3)
          const error = yield* Effect.flip(db.session(dies))
          assert.strictEqual((error as { readonly _tag: string })._tag, "UniqueViolation")
          const sqlError = yield* Effect.flip(db.sql.withTransaction(dies))
          assert.instanceOf(sqlError, SqlError)
        }))
        assert.strictEqual(
          (yield* failure(db.session(db.session(dies, { propagation: "join" }))))._tag,
          "UniqueViolation"
        )
        assert.strictEqual((yield* failure(db.session(dies, { timeout: "1 minute" })))._tag, "UniqueViolation")
        assert.deepStrictEqual(yield* numbers(db), [1, 3])
        yield* assertIdle(db)
      }))

    live("that can be retried is", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        let attempts = 0
        yield* db.session(
          Effect.gen(function*() {
            yield* insert(db, 1)
            if (++attempts < 3) {
              yield* Effect.die(attempts === 1 ? conflict : toSqlError(conflict))
            }
          }),
          { retry: true }
        )
        assert.strictEqual(attempts, 3)
        assert.deepStrictEqual(yield* numbers(db), [1])
      }))

    live("that is none stays one, and so does a failure beside it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const exit = yield* Effect.exit(db.session(Effect.zipRight(insert(db, 1), Effect.dieMessage("a bug"))))
        assert(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        for (const beside of [Effect.fail("mine"), Effect.dieMessage("a bug")]) {
          const died = yield* Effect.exit(db.session(Effect.ensuring(beside, Effect.die(conflict)), { retry: true }))
          assert(Exit.isFailure(died))
          assert.include(Array.from(Cause.defects(died.cause)), conflict)
        }
        assert.deepStrictEqual(yield* numbers(db), [])
      }))

    live("of a finalizer leaves an interruption and a timeout what they are", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        let attempts = 0
        const work = Effect.ensuring(
          Effect.zipRight(
            Effect.sync(() =>
              ++attempts
            ),
            Effect.zipRight(insert(db, 1), Effect.never)
          ),
          Effect.die(conflict)
        )
        const error = yield* failure(db.session(work, { timeout: "50 millis", retry: true }))
        assert.strictEqual(error._tag, "SessionTimeout")
        const running = yield* Effect.fork(db.session(work, { retry: true }))
        yield* Effect.sleep("50 millis")
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(running)))
        assert.strictEqual(attempts, 2)
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      }))

    live("is logged as the failure that it was", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* insert(db, 1)
        const logs = yield* logged(Effect.exit(db.session(Effect.orDie(insert(db, 1)), { name: "dying" })))
        const entry = logs.find(({ text }) => text.includes("dying"))
        assert.include(entry?.text ?? "", "was rolled back: UniqueViolation")
        assert.strictEqual(entry?.level, "DEBUG")
      }))

    live("of what outlives the session says how it is to be started", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const late = yield* db.session(Effect.zipRight(
          insert(db, 1),
          Effect.forkDaemon(Effect.zipRight(Effect.sleep("100 millis"), failure(insert(db, 2))))
        ))
        const error = yield* Fiber.join(late)
        assert.strictEqual(error._tag, "SessionClosed")
        assert.include(error.reason, "only if it is started outside of it")
        assert.deepStrictEqual(yield* numbers(db), [1])
      }))

    live("of a hook that never ends is bounded by the session's timeout, and reported", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        for (const hook of [Effect.never, Effect.uninterruptible(Effect.never)]) {
          for (const register of [Session.afterCommit, Session.afterRollback]) {
            const work = Effect.zipRight(
              register(hook),
              register === Session.afterRollback ? Session.rollbackOnly : Effect.void
            )
            const logs = yield* logged(
              Effect.timeout(db.session(work, { timeout: "200 millis", name: "hooked" }), "10 seconds")
            )
            const entry = logs.find(({ text }) => text.includes("took longer than 200ms"))
            assert.strictEqual(entry?.level, "WARN")
            assert.match(entry?.text ?? "", /the session hooked \(\w+-\w+\)/)
          }
        }
        yield* assertIdle(db)
      }))
  })
)
