import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import type { Binding, Database } from "../../../src/internal/sqlite/binding.js"
import { loadBinding } from "../../../src/internal/sqlite/loadBinding.js"
import * as LockFile from "../../../src/internal/sqlite/lockFile.js"
import { binding as name, file } from "./support.js"

const binding = await Effect.runPromise(Effect.promise(() => loadBinding(name)))

/** Calls `after` with the path when the lock is about to be taken. */
const opening = (after: (path: string) => void): Binding => ({
  ...binding,
  open: (path, options) => {
    const database = binding.open(path, options)
    return {
      ...database,
      pragma: (text) => {
        after(path)
        return database.pragma(text)
      }
    }
  }
})

describe("the lock of a migration without a transaction", () => {
  it.scopedLive("is held by one at a time, and leaves no file", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const [one, other] = [LockFile.make(filename, () => binding), LockFile.make(filename, () => binding)]
      yield* Effect.scoped(Effect.gen(function*() {
        assert.isTrue(yield* one.hold)
        assert.isFalse(yield* other.hold)
        assert.isFalse(yield* other.isFree)
      }))
      assert.isTrue(yield* other.isFree)
      assert.isFalse(Fs.existsSync(`${filename}-migration`))
      assert.isTrue(yield* other.hold)
    }))

  it.scopedLive("is not taken on a file that was removed meanwhile, where another has the lock of the next one", () =>
    Effect.gen(function*() {
      const filename = yield* file
      let holder: Database | undefined
      const lock = LockFile.make(filename, () =>
        opening((path) => {
          if (holder === undefined) {
            Fs.rmSync(path)
            holder = binding.open(path, { readOnly: false, immutable: false, mustExist: false })
            holder.exec("BEGIN EXCLUSIVE")
          }
        }))
      assert.isFalse(yield* lock.hold)
      assert.isDefined(holder)
      holder.close()
      assert.isTrue(yield* lock.hold)
    }))
})
