/** Equal lines of the log are written once and counted, and a failure to start is written once. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Scope from "effect/Scope"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import { RepeatedLogs } from "../src/internal/telemetry/repeatedLogs.js"
import { freshDatabase } from "./support/postgres.js"

const withLog = <A, E, R>(run: (lines: Array<string>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel.label} ${[message].flat().map(String).join(" ")}`)
    })
    return Effect.provide(run(lines), Logger.replace(Logger.defaultLogger, logger))
  })

describe("equal lines of the log", () => {
  it.effect("are counted for as long as they come, each kind on its own", () =>
    withLog((lines) =>
      Effect.acquireUseRelease(
        Effect.sync(() => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })),
        () =>
          Effect.gen(function*() {
            const logs = new RepeatedLogs()
            const slow = (kind: string) => logs.limit(kind, LogLevel.Warning, `slow ${kind}`, Effect.logWarning(kind))
            yield* Effect.repeatN(slow("a"), 9)
            yield* slow("b")
            assert.deepStrictEqual(lines.splice(0), ["WARN a", "WARN b"])
            yield* Effect.promise(() => vi.advanceTimersByTimeAsync(10_000))
            assert.deepStrictEqual(lines.splice(0), ["WARN 9 times more within 10 s: slow a"])
            yield* slow("a")
            // The window of the other kind has passed.
            yield* slow("b")
            assert.deepStrictEqual(lines.splice(0), ["WARN b"])
            yield* Effect.promise(() => vi.advanceTimersByTimeAsync(10_000))
            assert.deepStrictEqual(lines.splice(0), ["WARN once more within 10 s: slow a"])
            yield* Effect.promise(() => vi.advanceTimersByTimeAsync(20_000))
            yield* Effect.repeatN(slow("a"), 2)
            yield* logs.flush
            assert.deepStrictEqual(lines.splice(0), ["WARN a", "WARN 2 times more within 10 s: slow a"])
          }),
        () => Effect.sync(() => vi.useRealTimers())
      )
    ))

  it.scopedLive("are those of timeouts under one lock, and of slow statements", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const scope = yield* Scope.make()
        const { session, sql } = yield* Scope.extend(
          Database.make({ environment: "test", url, slowStatement: "1 millis", poolSize: 10 }),
          scope
        )
        yield* sql`CREATE TABLE item (id int)`
        yield* session(Effect.zipRight(
          sql`LOCK TABLE item`,
          Effect.forEach(
            Array.from({ length: 20 }),
            () =>
              Effect.exit(session(sql`SELECT * FROM item`, {
                name: "reader",
                lockTimeout: "50 millis",
                propagation: "new"
              })),
            { concurrency: 8 }
          )
        ))
        yield* Scope.close(scope, Exit.void)
        const about = (text: string) => lines.filter((line) => line.includes(text))
        const timeouts = about("the session reader was rolled back: LockTimeout")
        assert.strictEqual(timeouts.length, 2)
        assert.include(timeouts[1], "INFO 19 times more within 10 s: ")
        const slow = about("SELECT * FROM item").filter((line) => line.includes("a statement took"))
        assert.strictEqual(slow.length, 2)
        assert.include(slow[1], "WARN 19 times more within 10 s: a statement took at least 1 ms")
      })
    ))

  it.scopedLive("a database that cannot be connected to is one line, and the failure of its layer", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const unreachable = "postgres://user:password@127.0.0.1:1/database"
        for (const [connectRetry, expected] of [["0 seconds", 0], ["1 seconds", 1]] as const) {
          const before = lines.length
          const error = yield* Effect.flip(Database.make({ environment: "test", url: unreachable, connectRetry }))
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.strictEqual(lines.length - before, expected)
        }
        const refused = yield* Effect.flip(
          Database.make({
            environment: "test",
            url: "sqlite:////missing/directory/file.db",
            connectRetry: "10 seconds"
          })
        )
        assert.strictEqual(refused._tag, "ConnectionFailed")
        assert.strictEqual(lines.length, 1)
      })
    ))
})
