import { describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert } from "vitest"
import type { Driver } from "../../../src/internal/driver.js"
import { running } from "./process.js"
import { connect, directory, driver, file } from "./support.js"

const failure = (driver: Driver) => Effect.flip(Effect.scoped(connect(driver)))

const threads = ["worker", "main"] as const

const pragma = (name: string) => `SELECT * FROM pragma_${name}`

describe("opening", () => {
  for (const thread of threads) {
    describe(`thread: ${thread}`, () => {
      it.scopedLive("a file that is not a database is DatabaseCorrupt, and is not changed", () =>
        Effect.gen(function*() {
          const filename = yield* file
          const text = "this is no database at all\n".repeat(200)
          Fs.writeFileSync(filename, text)
          const error = yield* failure(driver(filename, { thread }))
          assert.strictEqual(error._tag, "DatabaseCorrupt")
          assert.strictEqual(error.code, "SQLITE_NOTADB")
          assert.include(error.message, filename)
          assert.strictEqual(Fs.readFileSync(filename, "utf8"), text)
        }))

      it.scopedLive("a database whose schema is damaged is DatabaseCorrupt", () =>
        Effect.gen(function*() {
          const filename = yield* file
          yield* Effect.scoped(Effect.gen(function*() {
            const connection = yield* connect(driver(filename, { thread }))
            yield* connection.execute("CREATE TABLE t (a)", [], undefined)
          }))
          const bytes = Fs.readFileSync(filename)
          Fs.writeFileSync(filename, bytes.fill(0xff, 100, 300))
          const error = yield* failure(driver(filename, { thread }))
          assert.strictEqual(error._tag, "DatabaseCorrupt")
          assert.match(error.code, /^SQLITE_CORRUPT/)
        }))

      it.scopedLive("a missing directory is ConnectionFailed", () =>
        Effect.gen(function*() {
          const filename = Path.join(yield* directory, "missing", "test.db")
          const error = yield* failure(driver(filename, { thread }))
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.include(error.message, filename)
          assert.include(error.message, "directory does not exist")
        }))

      it.scopedLive("a directory is ConnectionFailed", () =>
        Effect.gen(function*() {
          const error = yield* failure(driver(yield* directory, { thread }))
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.strictEqual(error.code, "SQLITE_CANTOPEN")
          assert.include(error.message, "it is a directory")
        }))

      it.scopedLive("a file without permission is ConnectionFailed", () =>
        Effect.gen(function*() {
          const filename = yield* file
          Fs.writeFileSync(filename, "", { mode: 0o000 })
          // Root may open any file, so this runs as another user.
          const root = process.geteuid?.() === 0
          if (root) {
            process.seteuid?.(65534)
          }
          const error = yield* failure(driver(filename, { thread })).pipe(
            Effect.ensuring(Effect.sync(() => root && process.seteuid?.(0)))
          )
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.match(error.code, /^SQLITE_CANTOPEN/)
        }))

      it.scopedLive("a missing file is created, except by a read-only connection", () =>
        Effect.gen(function*() {
          const filename = yield* file
          const error = yield* failure(driver(filename, { thread, readOnly: true }))
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.isFalse(Fs.existsSync(filename))
          yield* Effect.scoped(connect(driver(filename, { thread })))
          assert.isTrue(Fs.existsSync(filename))
        }))

      it.scopedLive("a file is durable, in WAL mode, and foreign keys are enforced", () =>
        Effect.gen(function*() {
          const connection = yield* connect(driver(yield* file, { thread }))
          assert.deepStrictEqual(yield* connection.executeValues(pragma("journal_mode"), []), [["wal"]])
          assert.deepStrictEqual(yield* connection.executeValues(pragma("synchronous"), []), [[2]])
          assert.deepStrictEqual(yield* connection.executeValues(pragma("foreign_keys"), []), [[1]])
          assert.deepStrictEqual(yield* connection.executeValues(pragma("busy_timeout"), []), [[0]])
        }))

      it.scopedLive("a read-only connection reads, and refuses to write", () =>
        Effect.gen(function*() {
          const filename = yield* file
          const writer = yield* connect(driver(filename, { thread }))
          yield* writer.execute("CREATE TABLE t (a)", [], undefined)
          const connection = yield* connect(driver(filename, { thread, readOnly: true }))
          const write = connection.execute("INSERT INTO t VALUES (1)", [], undefined)
          const refused = Effect.map(Effect.flip(write), (error) => (error.cause as { readonly _tag: string })._tag)
          assert.strictEqual(yield* refused, "ReadOnlyViolation")
          // A read-write transaction can still begin.
          yield* connection.begin({})
          assert.deepStrictEqual(yield* connection.execute("SELECT * FROM t", [], undefined), [])
          assert.strictEqual(yield* refused, "ReadOnlyViolation")
          yield* connection.rollback
          assert.strictEqual(connection.status(), "idle")
        }))

      it.scopedLive("opening waits for the lock of another process until connectTimeout", () =>
        Effect.gen(function*() {
          const filename = yield* file
          const other = yield* running(
            `const db = new Sqlite(file)
            db.pragma("locking_mode = EXCLUSIVE")
            db.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
            console.log("locked")`,
            filename
          )
          assert.strictEqual(other.line, "locked")
          const error = yield* failure(driver(filename, { thread, connectTimeout: Duration.millis(500) }))
          assert.include(["LockTimeout", "ConnectionFailed"], error._tag)
          assert.include(error.message, filename)
          const opening = yield* Effect.fork(connect(driver(filename, { thread })))
          yield* Effect.sleep(100)
          yield* other.end
          const connection = yield* opening
          assert.deepStrictEqual(yield* connection.execute("SELECT a FROM t", [], undefined), [{ a: 1 }])
        }))
    })
  }

  it.scopedLive("description, span attributes and pool of a driver", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const ofFile = driver(filename)
      assert.strictEqual(ofFile.dialect, "sqlite")
      assert.strictEqual(ofFile.description, filename)
      assert.deepStrictEqual(ofFile.spanAttributes, [["db.system.name", "sqlite"], ["db.namespace", "test.db"]])
      assert.deepStrictEqual(ofFile.pool, { size: 1, maxOverflow: 0, min: 1, recycle: Duration.infinity })
      const ofMemory = driver(":memory:")
      assert.strictEqual(ofMemory.description, ":memory:")
      assert.deepStrictEqual(ofMemory.spanAttributes, [["db.system.name", "sqlite"], ["db.namespace", ":memory:"]])
    }))

  it.scopedLive("a relative name is relative to the working directory, even if it looks like a URI", () =>
    Effect.gen(function*() {
      const path = yield* directory
      const filename = Path.relative(process.cwd(), Path.join(path, "file:test.db?mode=memory"))
      yield* Effect.scoped(connect(driver(filename)))
      assert.include(Fs.readdirSync(path), "file:test.db?mode=memory")
    }))

  it.scopedLive("connections have different ids", () =>
    Effect.gen(function*() {
      const one = yield* connect(driver(":memory:"))
      const two = yield* connect(driver(":memory:"))
      assert.notStrictEqual(one.id, two.id)
    }))
})
