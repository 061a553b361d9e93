/**
 * Programs that close nothing: an idle database does not keep them alive, and what is under way does.
 */
import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { eventually } from "../../support/eventually.js"
import { lock } from "./blocking.js"
import { program } from "./process.js"
import { directory } from "./support.js"

/** What a program has written, once it has ended by itself. */
const outputOf = (url: string, whileRunning: Effect.Effect<void> = Effect.void, ...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const { line, process } = yield* program("./forgetful.ts", url, ...args)
    let output = line
    process.stdout?.on("data", (data: Buffer) => {
      output += `\n${data.toString().trim()}`
    })
    yield* whileRunning
    yield* eventually(Effect.sync(() => process.exitCode !== null || process.signalCode !== null), {
      timeout: "50 seconds"
    })
    assert.strictEqual(process.exitCode, 0, output)
    return output
  })

describe("a program that closes nothing", () => {
  for (const kind of ["a file", "memory"] as const) {
    it.scopedLive(`ends, but not before its last statement has: ${kind}`, () =>
      Effect.gen(function*() {
        const path = yield* directory
        const output = yield* outputOf(kind === "memory" ? ":memory:" : `sqlite:///${Path.join(path, "test.db")}`)
        assert.strictEqual(output, "opened\ncounted 1000000")
      }), 240_000)

    it.scopedLive(`does not end while it waits for a lock: ${kind}`, () =>
      Effect.gen(function*() {
        const path = yield* directory
        const locked = Path.join(path, "locked.db")
        yield* Effect.sync(() => {
          const database = new Sqlite(locked)
          database.exec("CREATE TABLE t (a)")
          database.close()
        })
        const unlock = yield* lock(locked)
        const url = kind === "memory" ? ":memory:" : `sqlite:///${Path.join(path, "test.db")}`
        const output = yield* outputOf(url, Effect.delay(unlock, "500 millis"), locked)
        assert.strictEqual(output, "opened\ncounted 1000000")
      }), 240_000)
  }

  for (const how of ["process.exit", "the end"] as const) {
    it.scopedLive(`leaves no WAL behind: ${how}`, () =>
      Effect.gen(function*() {
        const filename = Path.join(yield* directory, "test.db")
        const { line, process } = yield* program("./unclosed.ts", filename, how)
        yield* eventually(Effect.sync(() => process.exitCode !== null || process.signalCode !== null), {
          timeout: "50 seconds"
        })
        assert.deepStrictEqual([line, process.exitCode], ["exiting true", 0])
        assert.deepStrictEqual(Fs.readdirSync(Path.dirname(filename)), ["test.db"])
      }), 240_000)
  }
})
