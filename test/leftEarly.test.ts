/**
 * Copies and nested sessions that are left early in a session whose server does not answer, or does not get the cancel
 * request. Nothing here waits for the detection of silence.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { freshDatabase } from "./support/postgres.js"
import { type Hook, proxy } from "./support/proxy.js"

const behindProxy = Effect.gen(function*() {
  const between = yield* proxy(yield* freshDatabase)
  const db = yield* Database.make({ url: between.url, environment: "test", poolSize: 1, silence: "1 hour" })
  yield* db.sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
  return { between, db }
})

const insert = (db: Database.Service, n: number) => db.sql`INSERT INTO items VALUES (${n})`
const inserted = (db: Database.Service) => db.sql`SELECT n FROM items ORDER BY n`

/** Each row is sent at once, and all of them take longer than any test. */
const endless = "SELECT repeat('x', 9000), pg_sleep(0.01) FROM generate_series(1, 1000000)"

const leave = (db: Database.Service) => Stream.runDrain(Stream.take(db.copyTo(endless), 1))

/** Completes when a client sends a cancel request, about which `decision` decides. */
const onCancelRequest = (seen: Deferred.Deferred<void>, decision: "pass" | "cut"): Hook => (chunk) => {
  if (chunk.length !== 16 || chunk.readInt32BE(4) !== 80877102) {
    return "pass"
  }
  Deferred.unsafeDone(seen, Effect.void)
  return decision
}

/** A database whose cancel requests are passed on or cut. The first one completes `canceling`. */
const withCancelRequest = (decision: "pass" | "cut") =>
  Effect.gen(function*() {
    const { between, db } = yield* behindProxy
    const canceling = yield* Deferred.make<void>()
    yield* between.onClientData(onCancelRequest(canceling, decision))
    return { between, canceling, db }
  })

/** What a statement fails with where a session that is interrupted ends. */
const withReason = (db: Database.Service, reasons: Array<string>) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.onInterrupt(effect, () =>
    Effect.matchEffect(insert(db, 9), {
      onFailure: (error) => Effect.sync(() => reasons.push(String(error.cause))),
      onSuccess: () => Effect.void
    }))

/** Interrupts a fiber. Fails if that takes longer than anything here has to. */
const interrupted = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.timeoutFail(Effect.disconnect(Fiber.interrupt(fiber)), {
    duration: "30 seconds",
    onTimeout: () => "the interruption does not end"
  })

describe("what is left early", { concurrent: true }, () => {
  it.scopedLive("a statement that arrives while a copy is canceled is executed", () =>
    Effect.gen(function*() {
      const { between, canceling, db } = yield* withCancelRequest("pass")
      yield* db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* between.delay(100)
        const leaving = yield* Effect.fork(leave(db))
        yield* Deferred.await(canceling)
        yield* insert(db, 2)
        yield* Fiber.join(leaving)
      }))
      yield* between.delay(0)
      assert.deepStrictEqual(yield* inserted(db), [{ n: 1 }, { n: 2 }])
    }))

  it.scopedLive("an interruption ends the cancellation of a copy", () =>
    Effect.gen(function*() {
      const { canceling, db } = yield* withCancelRequest("cut")
      const reasons: Array<string> = []
      const session = yield* Effect.fork(db.session(
        withReason(db, reasons)(Effect.zipRight(insert(db, 1), leave(db)))
      ))
      yield* Deferred.await(canceling)
      yield* interrupted(session)
      assert.lengthOf(reasons, 1)
      assert.notInclude(reasons[0], "did not cancel")
      assert.deepStrictEqual(yield* inserted(db), [])
    }))

  it.scopedLive("the timeout of a session ends the cancellation of a copy", () =>
    Effect.gen(function*() {
      const { db } = yield* withCancelRequest("cut")
      const reasons: Array<string> = []
      const error = yield* Effect.flip(
        db.session({ timeout: "2 seconds" })(
          withReason(db, reasons)(Effect.zipRight(insert(db, 1), leave(db)))
        )
      )
      assert.strictEqual((error as { readonly _tag: string })._tag, "SessionTimeout")
      assert.lengthOf(reasons, 1)
      assert.notInclude(reasons[0], "did not cancel")
    }))

  it.scopedLive("a copy whose cancel request is lost costs the connection, also if nothing is interrupted", () =>
    Effect.gen(function*() {
      const { db } = yield* withCancelRequest("cut")
      const error = yield* Effect.flip(db.session(
        Effect.zipRight(insert(db, 1), Effect.zipRight(leave(db), insert(db, 2)))
      ))
      assert.include(String(error), "did not cancel a statement in time")
      assert.deepStrictEqual(yield* inserted(db), [])
    }))

  it.scopedLive("an interruption ends a copy that is read to its end because another statement waits", () =>
    Effect.gen(function*() {
      const { db } = yield* behindProxy
      const leaving = yield* Deferred.make<void>()
      const session = yield* Effect.fork(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* Stream.runForEachWhile(db.copyTo(endless), () =>
          Effect.gen(function*() {
            yield* Effect.fork(insert(db, 2))
            yield* Effect.sleep("200 millis")
            yield* Deferred.succeed(leaving, undefined)
            return false
          }))
      })))
      yield* Deferred.await(leaving)
      yield* Effect.sleep("200 millis")
      yield* interrupted(session)
      assert.deepStrictEqual(yield* inserted(db), [])
    }))

  it.scopedLive("the timeout of a session stream ends a copy in it", () =>
    Effect.gen(function*() {
      const { between, db } = yield* behindProxy
      const reading = yield* Effect.fork(Effect.flip(Stream.runForEach(
        db.sessionStream({ timeout: "2 seconds" })(db.copyTo(endless)),
        () => between.silence
      )))
      const error = yield* Effect.timeoutFail(Fiber.join(reading), { duration: "8 seconds", onTimeout: () => "none" })
      assert.strictEqual((error as { readonly _tag: string })._tag, "SessionTimeout")
      yield* between.unsilence
    }))

  it.scopedLive("an interruption ends the rollback of a nested session stream", () =>
    Effect.gen(function*() {
      const { between, db } = yield* behindProxy
      const silent = yield* Deferred.make<void>()
      const rows = db.sql<{ readonly i: number }>`SELECT i FROM generate_series(1, 100000) AS i`.stream
      const session = yield* Effect.fork(db.session(Effect.zipRight(
        insert(db, 1),
        Stream.runForEachWhile(db.sessionStream(rows), () =>
          Effect.zipRight(between.silence, Effect.as(Deferred.succeed(silent, undefined), false)))
      )))
      yield* Deferred.await(silent)
      yield* Effect.sleep("200 millis")
      yield* interrupted(session)
      yield* between.unsilence
    }))
})
