import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import Fs, { renameSync, statSync, utimesSync } from "node:fs"
import { loadBinding } from "../../../src/internal/sqlite/loadBinding.js"
import { describeStaleWal, walOf } from "../../../src/internal/sqlite/staleWal.js"
import { replaceBuiltin } from "../../support/builtins.js"
import { binding as name, file } from "./support.js"

/** Runs a function right before a file is opened the next time. */
const beforeOpening = (path: string, run: () => void) =>
  replaceBuiltin(Fs, "openSync", (original, restore) => (...args) => {
    if (args[0] === path) {
      restore()
      run()
    }
    return original(...args)
  })

describe("a WAL", () => {
  it.scopedLive("that begins anew while it is looked at, as another program writes, is not that of another file", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const binding = yield* Effect.promise(() => loadBinding(name))
      const database = yield* Effect.acquireRelease(
        Effect.sync(() => binding.open(filename, { readOnly: false, immutable: false, mustExist: false })),
        (database) => Effect.sync(() => database.close())
      )
      database.pragma("journal_mode = WAL")
      database.exec("CREATE TABLE items (n INTEGER PRIMARY KEY, text); INSERT INTO items VALUES (1, 'first')")
      database.pragma("wal_checkpoint(PASSIVE)")
      const wal = walOf(filename)
      const before = statSync(filename).mtimeMs / 1_000 - 1
      utimesSync(wal, before, before)
      assert.isUndefined(describeStaleWal(filename))
      yield* beforeOpening(wal, () => database.exec("UPDATE items SET text = 'second'"))
      assert.isUndefined(describeStaleWal(filename))
      // As long as nobody writes, it is.
      utimesSync(wal, before, before)
      assert.match(String(describeStaleWal(filename)), /was written by another program after its WAL/)
      renameSync(wal, `${wal}.kept`)
      assert.isUndefined(describeStaleWal(filename))
      renameSync(`${wal}.kept`, wal)
    }))
})
