/** What is logged of a session that is run again. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Schedule from "effect/Schedule"
import * as Database from "../../../src/Database.js"
import { make } from "../../../src/internal/makeError.js"
import { forEachDialect } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"

const conflict = make("SerializationFailure", { dialect: "postgres", code: "40001", reason: "a conflict" })

/** The log entries of an effect, each with its level. */
const logged = <A, E, R>(effect: (entries: Array<string>) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const entries: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      entries.push(`${logLevel.label}: ${String(message)}`)
    })
    return Effect.as(effect(entries), entries).pipe(
      Logger.withMinimumLogLevel(LogLevel.Debug),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger))
    )
  })

const end = "INFO: the session transfer was rolled back: SerializationFailure: a conflict (40001)"
const again = "DEBUG: the session transfer is run again: SerializationFailure: a conflict (40001)"

forEachDialect((name, layer) =>
  describe(`the log of a session with retry, ${name}`, () => {
    /** Fails this many times. */
    const failing = (times: number) => {
      let attempts = 0
      return Effect.suspend(() => attempts++ < times ? Effect.fail(conflict) : Effect.void)
    }

    it.live("has no end that was none", () =>
      Effect.gen(function*() {
        const entries = yield* logged(() => Database.session(failing(2), { name: "transfer", retry: true }))
        assert.deepStrictEqual(entries, [again, again])
      }).pipe(Effect.provide(layer)))

    it.live("has one end if none succeeds", () =>
      Effect.gen(function*() {
        const retry = Schedule.recurs(3)
        const entries = yield* logged(() => Effect.flip(Database.session(failing(10), { name: "transfer", retry })))
        assert.deepStrictEqual(entries, [again, again, again, end])
      }).pipe(Effect.provide(layer)))

    it.live("has the end at once if it is not run again", () =>
      Effect.gen(function*() {
        const entries = yield* logged(() =>
          Effect.flip(Database.session(Effect.fail("no"), { name: "transfer", retry: true }))
        )
        assert.deepStrictEqual(entries, ["DEBUG: the session transfer was rolled back: failure"])
        const without = yield* logged(() => Effect.flip(Database.session(failing(1), { name: "transfer" })))
        assert.deepStrictEqual(without, [end])
      }).pipe(Effect.provide(layer)))

    it.live("has the end of a session that is interrupted before its next attempt", () =>
      Effect.gen(function*() {
        let attempts = 0
        const entries = yield* logged(() =>
          Effect.gen(function*() {
            const session = Database.session(
              Effect.suspend(() => {
                attempts++
                return Effect.fail(conflict)
              }),
              { name: "transfer", retry: Schedule.spaced("1 hour") }
            )
            const fiber = yield* Effect.fork(session)
            yield* eventually(Effect.sync(() => attempts === 1))
            yield* Fiber.interrupt(fiber)
          })
        )
        assert.deepStrictEqual(entries, [end])
      }).pipe(Effect.provide(layer)))
  })
)
