/**
 * Backups of a SQLite database that is written meanwhile.
 */
import type * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import { writeBackup } from "../src/internal/sqlite/backupFile.js"
import * as Sqlite from "../src/Sqlite.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "a file, journal mode delete": (filename: string) => ({ url: `sqlite:///${filename}`, journalMode: "delete" }),
  "memory": () => ({ url: ":memory:" })
} as const

/** Two accounts whose sum is always 0, in a database of some thousand pages. */
const setUp = Effect.gen(function*() {
  const { sql } = yield* Database.Database
  yield* sql`CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER)`
  yield* sql`INSERT INTO accounts VALUES (1, 0), (2, 0)`
  yield* sql`CREATE TABLE big (a BLOB)`
  yield* sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO big SELECT zeroblob(4000) FROM n`
})

const incompleteFiles = (folder: string) => Fs.readdirSync(folder).filter((file) => file.endsWith(".incomplete"))

const transfer = Effect.gen(function*() {
  const { session, sql } = yield* Database.Database
  yield* session(Effect.gen(function*() {
    yield* sql`UPDATE accounts SET amount = amount + 1 WHERE id = 1`
    yield* sql`UPDATE accounts SET amount = amount - 1 WHERE id = 2`
  }))
})

describe.each(Object.keys(kinds) as Array<keyof typeof kinds>)("%s", (kind) => {
  it.scopedLive("is copied with progress, as of one moment", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const layer = Sqlite.layerFrom({
        environment: "test",
        connectTimeout: "1 minute",
        ...kinds[kind](Path.join(folder, "test.db"))
      })
      const copy = Path.join(folder, "copy.db")
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* setUp
          const progress: Array<SqliteClient.BackupMetadata> = []
          let transfers = 0
          let duringBackup = 0
          const writer = yield* Effect.fork(Effect.forever(Effect.zipRight(
            transfer,
            Effect.suspend(() => {
              transfers++
              return Effect.yieldNow()
            })
          )))
          const before = transfers
          const result = yield* Sqlite.backup(copy, {
            onProgress: (pages) =>
              Effect.sync(() => {
                progress.push(pages)
                duringBackup = transfers - before
              })
          })
          yield* Fiber.interrupt(writer)
          assert.isAbove(result.totalPages, 3000)
          assert.strictEqual(result.remainingPages, 0)
          assert.deepStrictEqual(progress.at(-1), result)
          const remaining = progress.map(({ remainingPages }) => remainingPages)
          assert.deepStrictEqual(remaining, remaining.toSorted((a, b) => b - a))
          if (kind === "a file") {
            assert.isAbove(duringBackup, 0)
          }
          const { sql } = yield* Database.Database
          assert.deepStrictEqual(yield* sql`SELECT sum(amount) AS sum FROM accounts`, [{ sum: 0 }])
        }),
        layer
      )
      const restored = yield* Database.make({
        environment: "test",
        url: `sqlite:///${copy}`,
        connectTimeout: "1 minute"
      })
      assert.deepStrictEqual(
        yield* restored.sql`SELECT sum(amount) AS sum, (SELECT count(*) FROM big) AS big FROM accounts`,
        [{ sum: 0, big: 3000 }]
      )
      assert.deepStrictEqual(yield* restored.sql`PRAGMA integrity_check`, [{ integrity_check: "ok" }])
    }), 120_000)

  it.scopedLive("can be interrupted, and its errors are typed", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const layer = Sqlite.layerFrom({
        environment: "test",
        connectTimeout: "1 minute",
        ...kinds[kind](Path.join(folder, "test.db"))
      })
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* setUp
          const begun = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(Sqlite.backup(Path.join(folder, "copy.db"), {
            onProgress: () => Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never)
          }))
          yield* Deferred.await(begun)
          yield* Fiber.interrupt(fiber)
          yield* eventually(Effect.sync(() => incompleteFiles(folder).length === 0))
          const error = fromSqlError(yield* Effect.flip(Sqlite.backup(Path.join(folder, "missing", "copy.db"))))
          assert.strictEqual(error._tag, "ConnectionFailed")
          yield* transfer
          const { sql } = yield* Database.Database
          assert.deepStrictEqual(yield* sql`SELECT amount FROM accounts`, [{ amount: 1 }, { amount: -1 }])
        }),
        layer
      )
    }), 120_000)
})

describe("the destination of a backup", () => {
  const refusal = (destination: string) =>
    Effect.map(Effect.flip(Sqlite.backup(destination)), (error) => {
      const { _tag, message } = fromSqlError(error)
      assert.strictEqual(_tag, "ConnectionFailed")
      return message
    })

  it.scopedLive("stays as it was if the copy fails", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const copy = Path.join(folder, "copy.db")
      for (const before of [undefined, "before"]) {
        if (before !== undefined) {
          Fs.writeFileSync(copy, before)
        }
        const failed = yield* Effect.exit(Effect.tryPromise(() =>
          writeBackup(copy, Path.join(folder, "test.db"), (filename) => {
            Fs.writeFileSync(filename, "a part of it")
            return Promise.reject(new Error("canceled"))
          })
        ))
        assert(Exit.isFailure(failed))
        assert.deepStrictEqual(
          Fs.readdirSync(folder).map((file) =>
            Fs.readFileSync(Path.join(folder, file), "utf8")
          ),
          before === undefined ? [] : [before]
        )
      }
    }))

  it.scopedLive("is replaced when the copy is complete, that of a link too, and keeps its mode", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const [copy, link] = ["copy.db", "link.db"].map((name) => Path.join(folder, name))
      Fs.writeFileSync(copy, "before", { mode: 0o600 })
      Fs.symlinkSync(copy, link)
      yield* Effect.gen(function*() {
        yield* setUp
        yield* Sqlite.backup(link)
        assert.isTrue(Fs.lstatSync(link).isSymbolicLink())
        assert.strictEqual(Fs.statSync(copy).mode & 0o777, 0o600)
      }).pipe(Effect.provide(Sqlite.layerFrom({ environment: "test", url: ":memory:" })))
      const restored = yield* Database.make({ environment: "test", url: `sqlite:///${copy}` })
      assert.deepStrictEqual(yield* restored.sql`SELECT count(*) AS n FROM big`, [{ n: 3000 }])
    }))

  it.scopedLive("is made where a link points to, also if nothing is there yet", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const names = ["first.db", "second.db"]
      Fs.mkdirSync(Path.join(folder, "disk"))
      Fs.symlinkSync(Path.join("disk", "link.db"), Path.join(folder, "first.db"))
      Fs.symlinkSync(Path.join("..", "disk", "copy.db"), Path.join(folder, "disk", "link.db"))
      Fs.symlinkSync(folder, Path.join(folder, "disk", "folder"))
      Fs.symlinkSync(Path.join("disk", "second.db"), Path.join(folder, "second.db"))
      yield* Effect.promise(async () => {
        await writeBackup(Path.join(folder, names[0]), "test.db", async (file) => Fs.writeFileSync(file, "first"))
        const through = Path.join(folder, "disk", "folder", names[1])
        await writeBackup(through, "test.db", async (file) => Fs.writeFileSync(file, "second"))
      })
      assert.deepStrictEqual(names.map((name) => Fs.lstatSync(Path.join(folder, name)).isSymbolicLink()), [true, true])
      assert.strictEqual(Fs.readFileSync(Path.join(folder, "disk", "copy.db"), "utf8"), "first")
      assert.strictEqual(Fs.readFileSync(Path.join(folder, "disk", "second.db"), "utf8"), "second")
    }))

  it.scopedLive("has no WAL and no journal that SQLite would add to the copy, also if it is not there itself", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const write = (name: string, during = () => {}) =>
        Effect.merge(Effect.tryPromise({
          try: () =>
            writeBackup(Path.join(folder, name), Path.join(folder, "test.db"), async (file) => {
              Fs.writeFileSync(file, "copy")
              during()
              return "written"
            }),
          catch: String
        }))
      const put = (name: string, content: string) => Fs.writeFileSync(Path.join(folder, name), content)
      for (const added of ["-wal", "-journal"]) {
        put(`gone.db${added}`, "of another file")
        assert.match(yield* write("gone.db"), /would be added/)
        assert.isFalse(Fs.existsSync(Path.join(folder, "gone.db")))
        Fs.rmSync(Path.join(folder, `gone.db${added}`))

        put("there.db", "before")
        put(`there.db${added}`, "of another file")
        assert.match(yield* write("there.db"), /would be added/)
        Fs.rmSync(Path.join(folder, `there.db${added}`))
        const late = yield* write("there.db", () => put(`there.db${added}`, "of another file"))
        assert.match(late, /would be added/)
        assert.strictEqual(Fs.readFileSync(Path.join(folder, "there.db"), "utf8"), "before")
        Fs.rmSync(Path.join(folder, `there.db${added}`))
      }
      assert.deepStrictEqual(incompleteFiles(folder), [])
      // As the journal modes PERSIST and TRUNCATE keep it.
      for (const kept of ["\0".repeat(512), ""]) {
        put("there.db-journal", kept)
        assert.strictEqual(yield* write("there.db"), "written")
      }
    }))

  it.scopedLive("is neither the file itself, nor one with a WAL, nor anything else but a file", () =>
    Effect.gen(function*() {
      const folder = yield* directory
      const filename = Path.join(folder, "test.db")
      const used = Path.join(folder, "used.db")
      const other = yield* Database.make({ environment: "test", url: `sqlite:///${used}` })
      yield* other.sql`CREATE TABLE other (n INTEGER)`
      yield* Effect.gen(function*() {
        const { sql } = yield* Database.Database
        yield* sql`CREATE TABLE items (n INTEGER)`
        assert.match(yield* refusal(filename), /cannot replace the file that it copies/)
        assert.match(yield* refusal(used), /has a WAL, .*used\.db-wal, which would be added to the backup/)
        assert.match(yield* refusal(folder), /has to be a file/)
        assert.match(yield* refusal(`${folder}/missing/`), /has to be a file/)
        for (const own of ["-wal", "-shm", "-journal"]) {
          assert.match(yield* refusal(filename + own), /cannot replace the file that it copies/)
        }
        assert.match(yield* refusal(":memory:"), /needs the name of a file/)
        assert.deepStrictEqual(yield* sql`SELECT n FROM items`, [])
      }).pipe(Effect.provide(Sqlite.layerFrom({ environment: "test", url: `sqlite:///${filename}`, thread: "main" })))
      assert.deepStrictEqual(yield* other.sql`SELECT n FROM other`, [])
      assert.deepStrictEqual(incompleteFiles(folder), [])
    }))
})
