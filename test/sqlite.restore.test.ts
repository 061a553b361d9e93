import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import { failure } from "./internal/session/harness.js"
import { running } from "./internal/sqlite/process.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  it.scopedLive(name, () => Effect.provide(body(), Logger.remove(Logger.defaultLogger)), 120_000)

const open = (filename: string, thread: "worker" | "main" = "worker", journalMode: "wal" | "delete" = "wal") =>
  Database.make({ environment: "test", connectTimeout: "1 minute", thread, journalMode, url: `sqlite:///${filename}` })

const reading = { readOnly: true }

const numbers = (database: Database.Service) =>
  Effect.map(database.sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))

const insert = (database: Database.Service, n: number) =>
  database.session(database.sql`INSERT INTO items VALUES (${n})`)

const read = (filename: string): ReadonlyArray<unknown> => {
  const file = new Sqlite(filename)
  try {
    assert.strictEqual(file.pragma("integrity_check", { simple: true }), "ok")
    return file.prepare("SELECT n FROM items ORDER BY n").pluck().all()
  } finally {
    file.close()
  }
}

const make = (filename: string, schema: string, rows: number) => {
  const file = new Sqlite(filename)
  file.exec(schema)
  for (let n = 1; n <= rows; n++) {
    file.prepare("INSERT INTO items (n) VALUES (?)").run(n)
  }
  file.close()
}

/** A backup with the row 1, and how it is made of the database, which has the rows 1 and 2. */
const backups = {
  "of the same schema": (filename: string, backup: string) => {
    const file = new Sqlite(filename)
    file.prepare("VACUUM INTO ?").run(backup)
    file.close()
  },
  "of another schema": (_: string, backup: string) =>
    make(backup, "CREATE TABLE other (a, b); CREATE TABLE items (n PRIMARY KEY, text DEFAULT 'none')", 1)
}

describe("a backup takes the place of the open file", () => {
  for (const thread of ["worker", "main"] as const) {
    for (const [name, backUp] of Object.entries(backups)) {
      const restoring = (restore: (backup: string, filename: string) => void) =>
        Effect.gen(function*() {
          const path = yield* directory
          const filename = Path.join(path, "test.db")
          const backup = Path.join(path, "backup.db")
          const database = yield* open(filename, thread)
          yield* database.sql`CREATE TABLE items (n)`
          yield* insert(database, 1)
          yield* database.session(numbers(database), reading)
          backUp(filename, backup)
          yield* insert(database, 2)
          restore(backup, filename)
          return { database, filename, path }
        })

      live(
        `by renaming, ${name}, thread: ${thread}: the new file is used, and nothing of the old one`,
        () =>
          Effect.gen(function*() {
            const { database, filename } = yield* restoring(Fs.renameSync)
            const first = yield* failure(insert(database, 3))
            assert.strictEqual(first._tag, "ConnectionLost")
            yield* eventually(Effect.map(Effect.either(numbers(database)), ({ _tag }) => _tag === "Right"))
            assert.deepStrictEqual(yield* numbers(database), [1])
            assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
            yield* database.session(database.sql`INSERT INTO items (n) VALUES (4)`)
            assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 4])
            assert.deepStrictEqual(read(filename), [1, 4])
          })
      )
    }
  }

  for (const thread of ["worker", "main"] as const) {
    live(`which two databases of one process have open, thread: ${thread}`, () =>
      Effect.gen(function*() {
        const path = yield* directory
        const filename = Path.join(path, "test.db")
        const backup = Path.join(path, "backup.db")
        const one = yield* open(filename, thread)
        yield* one.sql`CREATE TABLE items (n)`
        yield* insert(one, 1)
        const other = yield* open(filename, thread)
        assert.deepStrictEqual(yield* numbers(other), [1])
        backups["of the same schema"](filename, backup)
        yield* insert(one, 2)
        assert.deepStrictEqual(yield* numbers(other), [1, 2])
        Fs.renameSync(backup, filename)
        assert.strictEqual((yield* failure(insert(one, 3)))._tag, "ConnectionLost")
        for (const database of [one, other]) {
          const isRead = Effect.map(Effect.either(numbers(database)), ({ _tag }) => _tag === "Right")
          yield* eventually(isRead)
          assert.deepStrictEqual(yield* numbers(database), [1])
        }
        yield* insert(other, 3)
        assert.deepStrictEqual(yield* numbers(one), [1, 3])
        assert.deepStrictEqual(read(filename), [1, 3])
      }))
  }

  for (const thread of ["worker", "main"] as const) {
    live(
      `before a COMMIT, or what commits by itself, outside of sessions: nothing is lost in silence, thread: ${thread}`,
      () =>
        Effect.gen(function*() {
          const writes = {
            COMMIT: [["BEGIN", "INSERT INTO items VALUES (3)"], "COMMIT"],
            END: [["BEGIN IMMEDIATE", "INSERT INTO items VALUES (3)"], "END TRANSACTION"],
            RELEASE: [["SAVEPOINT s", "INSERT INTO items VALUES (3)"], "RELEASE s"],
            INSERT: [[], "INSERT INTO items VALUES (3)"],
            "INSERT RETURNING": [[], "INSERT INTO items VALUES (3) RETURNING n"],
            CREATE: [[], "CREATE TABLE more (n)"]
          } as const
          for (const [name, [before, last]] of Object.entries(writes)) {
            const path = yield* directory
            const filename = Path.join(path, "test.db")
            const backup = Path.join(path, "backup.db")
            const database = yield* open(filename, thread)
            const { sql } = database
            yield* sql`CREATE TABLE items (n)`
            yield* insert(database, 1)
            backups["of the same schema"](filename, backup)
            const error = yield* Effect.flip(Effect.scoped(Effect.gen(function*() {
              const connection = yield* sql.reserve
              for (const text of before) {
                yield* connection.executeUnprepared(text, [], undefined)
              }
              Fs.renameSync(backup, filename)
              return yield* connection.execute(last, [], undefined)
            })))
            assert.propertyVal(error.cause, "_tag", "ConnectionLost", name)
            yield* eventually(Effect.map(Effect.either(insert(database, 4)), ({ _tag }) => _tag === "Right"))
            assert.deepStrictEqual(yield* numbers(database), [1, 4], name)
          }
        })
    )
  }

  for (const [thread, journalMode] of [["worker", "wal"], ["main", "wal"], ["worker", "delete"]] as const) {
    live(
      `while a session is rolled back, whose connection is reset, thread: ${thread}, mode: ${journalMode}`,
      () =>
        Effect.gen(function*() {
          const path = yield* directory
          const filename = Path.join(path, "test.db")
          const backup = Path.join(path, "backup.db")
          const database = yield* open(filename, thread, journalMode)
          const { sql } = database
          yield* sql`CREATE TABLE items (n)`
          yield* insert(database, 1)
          backups["of the same schema"](filename, backup)
          yield* insert(database, 2)
          const failed = database.session(Effect.gen(function*() {
            yield* sql`CREATE TEMP TABLE notes (n)`
            Fs.renameSync(backup, filename)
            return yield* Effect.fail("rolled back" as const)
          }))
          assert.strictEqual(yield* Effect.flip(failed), "rolled back")
          yield* eventually(Effect.map(Effect.either(insert(database, 3)), ({ _tag }) => _tag === "Right"))
          assert.deepStrictEqual(yield* numbers(database), [1, 3])
          assert.deepStrictEqual(read(filename), [1, 3])
        })
    )
  }

  for (const mode of ["TRUNCATE", "RESTART", "PASSIVE"]) {
    live(`another process's checkpoint is none: ${mode}`, () =>
      Effect.gen(function*() {
        const path = yield* directory
        const filename = Path.join(path, "test.db")
        const database = yield* open(filename)
        yield* database.sql`CREATE TABLE items (n)`
        const other = yield* Effect.acquireRelease(
          Effect.sync(() => new Sqlite(filename)),
          (other) => Effect.sync(() => other.close())
        )
        for (let n = 1; n <= 20; n++) {
          yield* insert(database, n)
          other.exec(`INSERT INTO items VALUES (${-n}); PRAGMA wal_checkpoint(${mode})`)
          assert.strictEqual((yield* database.session(numbers(database), reading)).length, 2 * n)
        }
      }))
  }

  live("while readers are open, and before another one is opened", () =>
    Effect.gen(function*() {
      const path = yield* directory
      const filename = Path.join(path, "test.db")
      const backup = Path.join(path, "backup.db")
      const database = yield* open(filename)
      yield* database.sql`CREATE TABLE items (n)`
      yield* insert(database, 1)
      backups["of the same schema"](filename, backup)
      yield* insert(database, 2)
      const began = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const reader = yield* Effect.fork(Effect.either(database.session(
        Effect.gen(function*() {
          const before = yield* numbers(database)
          yield* Deferred.succeed(began, undefined)
          yield* Deferred.await(end)
          assert.deepStrictEqual(yield* numbers(database), before)
        }),
        reading
      )))
      yield* Deferred.await(began)
      Fs.renameSync(backup, filename)
      // This opens another connection for reading.
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
      yield* Deferred.succeed(end, undefined)
      // It was reading the old file, and its connection is lost, or it has ended before.
      yield* Fiber.join(reader)
      yield* eventually(Effect.map(Effect.either(insert(database, 5)), ({ _tag }) => _tag === "Right"))
      assert.deepStrictEqual(yield* numbers(database), [1, 5])
      assert.deepStrictEqual(read(filename), [1, 5])
    }))
})

describe("a WAL that a killed process left meets another file", () => {
  /** A file whose WAL has a row that is not in the file, as a killed process leaves them. */
  const left = Effect.gen(function*() {
    const path = yield* directory
    const filename = Path.join(path, "test.db")
    make(filename, "PRAGMA journal_mode = WAL; CREATE TABLE items (n)", 1)
    const other = yield* running(
      `const db = new Sqlite(file)
      db.prepare("INSERT INTO items VALUES (2)").run()
      console.log("written")`,
      filename
    )
    assert.strictEqual(other.line, "written")
    yield* other.kill
    assert.isAbove(Fs.statSync(`${filename}-wal`).size, 0)
    return { path, filename }
  })

  const assertRefused = (filename: string) =>
    Effect.gen(function*() {
      const before = Fs.readFileSync(filename)
      const error = yield* failure(Effect.scoped(open(filename)))
      assert.strictEqual(error._tag, "DatabaseCorrupt")
      assert.include(error.message, `delete ${filename}-wal`)
      assert.deepStrictEqual(Fs.readFileSync(filename), before)
    })

  live("its own: what was committed is there", () =>
    Effect.gen(function*() {
      const { filename } = yield* left
      assert.deepStrictEqual(yield* numbers(yield* open(filename)), [1, 2])
    }))

  for (const suffixes of [["", "-wal"], ["-wal", ""]]) {
    live(
      `its own, and the owner and the mode of both were changed, ${suffixes.join(" before ")}`,
      () =>
        Effect.gen(function*() {
          const { filename } = yield* left
          for (const suffix of suffixes) {
            const { gid, uid } = Fs.statSync(`${filename}${suffix}`)
            // Only root may give a file away; chown to the same owner changes the same times.
            Fs.chownSync(`${filename}${suffix}`, process.getuid?.() === 0 ? 65534 : uid, gid)
            Fs.chmodSync(`${filename}${suffix}`, 0o600)
          }
          assert.deepStrictEqual(yield* numbers(yield* open(filename)), [1, 2])
        })
    )
  }

  live("its own, of which a part was written into the file: what was committed is there", () =>
    Effect.gen(function*() {
      const path = yield* directory
      const filename = Path.join(path, "test.db")
      make(filename, "PRAGMA journal_mode = WAL; CREATE TABLE items (n)", 1)
      const other = yield* running(
        `const db = new Sqlite(file)
        db.exec("INSERT INTO items VALUES (2)")
        const reader = new Sqlite(file)
        reader.exec("BEGIN")
        reader.prepare("SELECT * FROM items").all()
        db.exec("INSERT INTO items VALUES (3)")
        db.pragma("wal_checkpoint(PASSIVE)")
        console.log("written")`,
        filename
      )
      assert.strictEqual(other.line, "written")
      yield* other.kill
      assert.deepStrictEqual(yield* numbers(yield* open(filename)), [1, 2, 3])
    }))

  for (const [name, restore] of [["moved", Fs.renameSync], ["copied", Fs.copyFileSync]] as const) {
    live(`${name} into its place: refused, with what to do`, () =>
      Effect.gen(function*() {
        const { filename, path } = yield* left
        const backup = Path.join(path, "backup.db")
        make(backup, "CREATE TABLE items (n, text)", 1)
        restore(backup, filename)
        yield* assertRefused(filename)
        Fs.rmSync(`${filename}-wal`)
        Fs.rmSync(`${filename}-shm`)
        assert.deepStrictEqual(yield* numbers(yield* open(filename)), [1])
      }))
  }
})
