import { assert, describe } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Supervisor from "effect/Supervisor"
import type * as Database from "../../../src/Database.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { assertIdle, failure, insert, live, numbers, open, timed } from "./harness.js"

/** A database whose commits take so long, and then fail if there is a code to fail with. */
const slowly = (seconds: number, code?: string) =>
  Effect.tap(open(postgres), ({ sql }) =>
    Effect.zipRight(
      sql.unsafe(
        `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           PERFORM pg_sleep(${seconds});
           ${code === undefined ? "" : `RAISE EXCEPTION USING ERRCODE = '${code}';`}
           RETURN NULL;
         END $$`
      ),
      sql.unsafe(
        `CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION slow()`
      )
    ))

/** Runs an effect uninterruptibly, interrupts its fiber after so many milliseconds, and gives its exit. */
const interruptUninterruptible = <A, E>(effect: Effect.Effect<A, E>, after: number) =>
  Effect.gen(function*() {
    let seen: Exit.Exit<A, E> | undefined
    const fiber = yield* Effect.fork(Effect.uninterruptible(Effect.map(Effect.exit(effect), (exit) => {
      seen = exit
    })))
    yield* Effect.sleep(after)
    yield* Fiber.interrupt(fiber)
    return seen
  })

/** Counts the fibers that have not ended. */
class Running extends Supervisor.AbstractSupervisor<number> {
  count = 0
  override readonly value = Effect.sync(() => this.count)
  override onStart(): void {
    this.count++
  }
  override onEnd(): void {
    this.count--
  }
}

describe("a commit that has begun", () => {
  live("is not cut off by the timeout, however long it takes", () =>
    Effect.gen(function*() {
      const db = yield* slowly(2)
      const work = (n: number) => Effect.as(insert(db, n), n)
      assert.strictEqual(yield* db.session(work(1), { timeout: "1500 millis" }), 1)
      assert.strictEqual(yield* db.session(work(2), { timeout: "1500 millis", commit: "verified" }), 2)
      assert.deepStrictEqual(yield* numbers(db), [1, 2])
      yield* assertIdle(db)
    }))

  live("is not waited for long after an interruption, with a timeout as without", () =>
    Effect.gen(function*() {
      const db = yield* slowly(60)
      const fiber = yield* Effect.fork(db.session(insert(db, 1), { timeout: "50 seconds" }))
      yield* Effect.sleep("200 millis")
      const [exit, millis] = yield* timed(Fiber.interrupt(fiber))
      assert.isTrue(Exit.isFailure(exit))
      assert.isBelow(millis, 30_000)
      yield* assertIdle(db)
    }))

  live("and fails is not tried again when the time is over meanwhile", () =>
    Effect.gen(function*() {
      const db = yield* slowly(2, "40001")
      let runs = 0
      const work = Effect.suspend(() => insert(db, ++runs))
      const error = yield* failure(db.session(work, { timeout: "1500 millis", retry: true }))
      assert.strictEqual(error._tag, "SessionTimeout")
      assert.strictEqual(runs, 1)
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live("and fails is tried again only until the time is over", () =>
    Effect.gen(function*() {
      const db = yield* slowly(0, "40001")
      const [error, millis] = yield* timed(failure(db.session(
        Effect.zipRight(insert(db, 1), Effect.sleep("150 millis")),
        { timeout: "400 millis", retry: true }
      )))
      assert.strictEqual(error._tag, "SessionTimeout")
      assert.isBelow(millis, 30_000)
      yield* assertIdle(db)
    }))
})

describe("the caller's interruptibility", () => {
  for (const timeout of [undefined, "30 seconds"] as const) {
    live(
      `holds for the end of an uninterruptible session, and for what it runs (timeout ${timeout})`,
      () =>
        Effect.gen(function*() {
          const db = yield* slowly(1)
          const inCommit = yield* interruptUninterruptible(db.session(insert(db, 1), { timeout }), 200)
          assert.deepStrictEqual(inCommit && Exit.isSuccess(inCommit), true, String(inCommit))
          const inside = yield* interruptUninterruptible(
            db.session(Effect.zipRight(Effect.sleep("300 millis"), insert(db, 2)), { timeout }),
            100
          )
          assert.deepStrictEqual(inside && Exit.isSuccess(inside), true, String(inside))
          assert.deepStrictEqual(yield* numbers(db), [1, 2])
          yield* assertIdle(db)
        })
    )
  }

  live("is that of the code that ends a session which was acquired", () =>
    Effect.gen(function*() {
      const db = yield* slowly(1)
      const inside = yield* Deferred.make<void>()
      let committed: Exit.Exit<void, unknown> | undefined = undefined
      const fiber = yield* Effect.fork(Effect.scoped(Effect.gen(function*() {
        const session = yield* db.acquireSession()
        yield* session.run(insert(db, 1))
        yield* Deferred.succeed(inside, undefined)
        yield* Effect.onExit(Effect.never, () =>
          Effect.map(Effect.exit(session.commit), (exit) => {
            committed = exit
          }))
      })))
      yield* Deferred.await(inside)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(committed, Exit.void)
      assert.deepStrictEqual(yield* numbers(db), [1])
      yield* assertIdle(db)
    }))

  live("does not keep a commit of a session which was acquired from being interrupted", () =>
    Effect.gen(function*() {
      const db = yield* slowly(60)
      const millis = yield* Effect.scoped(Effect.gen(function*() {
        const session = yield* Effect.uninterruptible(db.acquireSession())
        yield* session.run(insert(db, 1))
        const fiber = yield* Effect.fork(session.commit)
        yield* Effect.sleep("200 millis")
        const [, millis] = yield* timed(Fiber.interrupt(fiber))
        return millis
      }))
      assert.isBelow(millis, 30_000)
      yield* assertIdle(db)
    }))
})

forEachDialect((name, _, dialect) =>
  describe(`a timeout on ${name}`, () => {
    live("ends what cannot be interrupted from outside", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const error = yield* Effect.uninterruptible(
          failure(db.session(Effect.zipRight(insert(db, 1), Effect.never), { timeout: "50 millis" }))
        )
        assert.strictEqual(error._tag, "SessionTimeout")
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      }))

    live("is over before the commit of what comes too late", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const late = (n: number) => Effect.uninterruptible(Effect.zipRight(insert(db, n), Effect.sleep("100 millis")))
        const error = yield* failure(db.session(late(1), { timeout: "30 millis" }))
        assert.strictEqual(error._tag, "SessionTimeout")
        yield* db.session(Effect.gen(function*() {
          const nested = yield* failure(db.session(late(2), { timeout: "30 millis" }))
          assert.strictEqual(nested._tag, "SessionTimeout")
          yield* insert(db, 3)
        }))
        assert.deepStrictEqual(yield* numbers(db), [3])
        yield* assertIdle(db)
      }))

    live("leaves no fiber behind", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const running = new Running()
        const options = { timeout: "1 hour" } as const
        const ends = (work: (db: Database.Service) => Effect.Effect<unknown, unknown>) =>
          Effect.exit(Effect.supervised(db.session(work(db), options), running))
        yield* ends((db) => insert(db, 1))
        yield* ends(() => Effect.fail("mine"))
        yield* ends(() => Effect.die("mine"))
        const fiber = yield* Effect.fork(ends(() => Effect.never))
        yield* eventually(Effect.sync(() => running.count > 0))
        yield* Fiber.interrupt(fiber)
        yield* eventually(Effect.sync(() => running.count === 0))
        assert.strictEqual(running.count, 0)
        yield* assertIdle(db)
      }))
  })
)
