import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { failure } from "./internal/session/harness.js"
import { running } from "./internal/sqlite/process.js"
import { directory } from "./internal/sqlite/support.js"

type Options = Omit<DatabaseConfig.Options, "url">

const open = (filename: string, options: Options = {}, query = "") =>
  Database.make({ environment: "test", connectTimeout: "1 minute", ...options, url: `sqlite:///${filename}${query}` })

const file = Effect.map(directory, (path) => Path.join(path, "test.db"))

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>): void =>
  it.scopedLive(name, () => Effect.provide(body(), Logger.remove(Logger.defaultLogger)), 120_000)

const reading = { readOnly: true }

const value = (database: Database.Service, name: string) =>
  Effect.map(database.sql.unsafe<Record<string, unknown>>(`PRAGMA ${name}`), ([row]) => Object.values(row)[0])

/** The value on the connection that writes, and on one that reads. */
const values = (database: Database.Service, name: string) =>
  Effect.all([value(database, name), database.session(value(database, name), reading)])

const assertRefused = <E>(effect: Effect.Effect<unknown, E>, advice: RegExp) =>
  Effect.map(failure(effect), (error) => {
    assert.strictEqual(error._tag, "InvalidStatement")
    assert.match(error.message, advice)
  })

/** Creates a file in rollback mode, or in WAL mode, with one row. */
const create = (filename: string, mode: "delete" | "wal") => {
  const database = new Sqlite(filename)
  database.pragma(`journal_mode = ${mode}`)
  database.exec("CREATE TABLE items (n); INSERT INTO items VALUES (1)")
  database.close()
}

const items = (database: Database.Service) => database.sql`SELECT n FROM items ORDER BY n`

describe("the option pragmas", () => {
  live("is set on every connection of the file, also on one that replaces another", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const database = yield* open(filename, {
        pragmas: { cache_size: -8000, synchronous: "NORMAL", mmap_size: 1_048_576, page_size: 8192, temp_store: 2 }
      })
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual(yield* values(database, "cache_size"), [-8000, -8000])
        assert.deepStrictEqual(yield* values(database, "synchronous"), [1, 1])
        assert.deepStrictEqual(yield* values(database, "mmap_size"), [1_048_576, 1_048_576])
        assert.deepStrictEqual(yield* values(database, "temp_store"), [2, 2])
        assert.deepStrictEqual(yield* values(database, "foreign_keys"), [1, 1])
        assert.deepStrictEqual(yield* values(database, "page_size"), [8192, 8192])
        // Reopens the connection.
        yield* database.session(database.sql`CREATE TEMP TABLE temporary (a)`)
      }
    }))

  live("of a database in memory, and busy_timeout as the lock timeout", () =>
    Effect.gen(function*() {
      const memory = yield* Database.make({ url: ":memory:", pragmas: "cache_size = -8000, recursive_triggers=off" })
      yield* memory.session(memory.sql`CREATE TEMP TABLE temporary (a)`)
      assert.strictEqual(yield* value(memory, "cache_size"), -8000)
      assert.strictEqual(yield* value(memory, "recursive_triggers"), 0)
      const filename = yield* file
      const database = yield* open(filename, { pragmas: { busy_timeout: 50 } })
      yield* database.sql`CREATE TABLE items (n)`
      const other = new Sqlite(filename)
      other.exec("BEGIN IMMEDIATE")
      assert.strictEqual((yield* failure(database.sql`INSERT INTO items VALUES (1)`))._tag, "LockTimeout")
      other.close()
    }))
})

describe("journalMode", () => {
  live("puts the file into the mode", () =>
    Effect.gen(function*() {
      const filename = yield* file
      for (const journalMode of ["delete", "wal", "truncate", "persist"] as const) {
        yield* Effect.scoped(Effect.gen(function*() {
          const database = yield* open(filename, { journalMode })
          yield* database.sql`CREATE TABLE IF NOT EXISTS items (n)`
          assert.deepStrictEqual(yield* values(database, "journal_mode"), [journalMode, journalMode])
        }))
      }
    }))
})

describe("a statement that changes a setting", () => {
  live("outside of sessions holds for every connection", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const path = Path.dirname(filename)
      const database = yield* open(filename)
      const { sql } = database
      // The connection that reads is open already.
      yield* database.session(sql`SELECT 1`, reading)
      yield* sql`PRAGMA cache_size = -5000`
      yield* sql`ATTACH ${Path.join(path, "one.db")} AS one`
      yield* sql.unsafe(`ATTACH '${Path.join(path, "two.db")}' AS "two"`)
      for (const name of ["one", "two"]) {
        yield* sql.unsafe(`CREATE TABLE ${name}.items (n)`)
        yield* database.session(sql.unsafe(`INSERT INTO ${name}.items VALUES (1)`))
      }
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual(yield* values(database, "cache_size"), [-5000, -5000])
        for (const rows of [sql`SELECT * FROM one.items`, sql`SELECT * FROM two.items`]) {
          assert.deepStrictEqual(yield* rows, [{ n: 1 }])
          assert.deepStrictEqual(yield* database.session(rows, reading), [{ n: 1 }])
        }
        yield* database.session(sql`CREATE TEMP TABLE temporary (a)`)
      }
      yield* sql`DETACH two`
      const gone = sql`SELECT * FROM two.items`
      assert.strictEqual((yield* failure(gone))._tag, "InvalidStatement")
      assert.strictEqual((yield* failure(database.session(gone, reading)))._tag, "InvalidStatement")
    }))

  live(
    "inside a session holds until it ends, and new files can be attached again and again",
    () =>
      Effect.gen(function*() {
        const filename = yield* file
        const logs: Array<unknown> = []
        const logger = Logger.replace(Logger.defaultLogger, Logger.make(({ message }) => void logs.push(message)))
        yield* Effect.gen(function*() {
          const database = yield* open(filename)
          const { sql } = database
          for (const name of ["one", "two", "three"]) {
            yield* database.session(Effect.gen(function*() {
              yield* sql`PRAGMA max_page_count = 1000`
              yield* sql`ATTACH ${Path.join(Path.dirname(filename), `${name}.db`)} AS other`
              yield* sql`CREATE TABLE other.items (n)`
            }))
            assert.notStrictEqual(yield* value(database, "max_page_count"), 1000)
          }
        }).pipe(Effect.provide(logger))
        const told = logs.flat().filter((message) => String(message).includes("is undone when it ends"))
        assert.strictEqual(told.length, 1)
        assert.include(String(told[0]), "pragmas")
      })
  )

  live("is refused where it would have no effect, or where an option has it", () =>
    Effect.gen(function*() {
      const database = yield* open(yield* file)
      const { sql } = database
      const refused: ReadonlyArray<readonly [string, RegExp]> = [
        ["foreign_keys = OFF", /rebuild/],
        ["journal_mode = DELETE", /journalMode/],
        ["busy_timeout = 100", /lockTimeout/],
        ["query_only(1)", /readOnly/],
        ["locking_mode = EXCLUSIVE", /lock each other out/],
        ["defer_foreign_keys = ON", /inside a session/]
      ]
      for (const [text, advice] of refused) {
        yield* assertRefused(sql.unsafe(`PRAGMA ${text}`), advice)
      }
      for (
        const text of [
          "PRAGMA \"foreign_keys\" = OFF",
          "PRAGMA'foreign_keys'=OFF",
          "PRAGMA 'main' . [foreign_keys](OFF)",
          "EXPLAIN PRAGMA foreign_keys = OFF",
          "explain query plan pragma main.`foreign_keys` = 0"
        ]
      ) {
        yield* assertRefused(sql.unsafe(text), /rebuild/)
      }
      for (const [text, advice] of [...refused.slice(0, 2), ["page_size = 512", /pragmas/] as const]) {
        yield* assertRefused(database.session(sql.unsafe(`-- now\nPRAGMA main.${text} -- now`)), advice)
      }
      // What is so already is accepted, as programs say it when they start.
      for (const text of ["foreign_keys = ON", "foreign_keys=1", "journal_mode = WAL", "busy_timeout = 0"]) {
        yield* sql.unsafe(`PRAGMA ${text}`)
      }
      yield* database.session(Effect.zipRight(sql`PRAGMA foreign_keys = ON`, sql`PRAGMA defer_foreign_keys = ON`))
      assert.deepStrictEqual(yield* values(database, "foreign_keys"), [1, 1])
      // These are the file's.
      yield* sql`PRAGMA user_version = 7`
      assert.deepStrictEqual(yield* values(database, "user_version"), [7, 7])
    }))
})

for (const thread of ["worker", "main"] as const) {
  describe(`a file that another process has locked, thread: ${thread}`, () => {
    const locks = {
      "BEGIN EXCLUSIVE": `db.exec("BEGIN EXCLUSIVE")`,
      "locking_mode EXCLUSIVE": `db.pragma("locking_mode = EXCLUSIVE"); db.exec("INSERT INTO items VALUES (2)")`,
      "a transaction that writes": `db.exec("BEGIN IMMEDIATE; INSERT INTO items VALUES (2)")`
    }
    for (const mode of ["delete", "wal"] as const) {
      for (const [name, statement] of Object.entries(locks)) {
        const isReadable = name === "a transaction that writes" || (name === "BEGIN EXCLUSIVE" && mode === "wal")
        live(
          `${name}, mode ${mode}: ${isReadable ? "is read" : "is waited for"} for the lock timeout`,
          () =>
            Effect.gen(function*() {
              const filename = yield* file
              create(filename, mode)
              const other = yield* running(`const db = new Sqlite(file); ${statement}; console.log("locked")`, filename)
              assert.strictEqual(other.line, "locked")
              const opened = open(filename, { thread, lockTimeout: "400 millis" })
              if (isReadable) {
                const database = yield* opened
                assert.deepStrictEqual(yield* items(database), [{ n: 1 }])
                assert.strictEqual(yield* value(database, "journal_mode"), mode)
                const insert = database.session(database.sql`INSERT INTO items VALUES (3)`)
                assert.strictEqual((yield* failure(insert))._tag, "LockTimeout")
                yield* other.end
                yield* insert
              } else {
                assert.strictEqual((yield* failure(Effect.scoped(opened)))._tag, "LockTimeout")
                const waiting = yield* Effect.fork(open(filename, { thread, lockTimeout: "1 minute" }))
                yield* Effect.sleep("100 millis")
                assert.isNull(waiting.unsafePoll())
                yield* other.end
                assert.strictEqual((yield* items(yield* Fiber.join(waiting)))[0].n, 1)
              }
            })
        )
      }
    }
  })
}

/** Root ignores file permissions, so this runs as another user. */
const asNobody = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  process.geteuid?.() === 0
    ? Effect.acquireUseRelease(
      Effect.sync(() => process.seteuid?.(65534)),
      () => effect,
      () => Effect.sync(() => process.seteuid?.(0))
    )
    : effect

describe("a file in a place that cannot be written", () => {
  const inPlace = (fileMode: number, mode: "delete" | "wal") =>
    Effect.map(file, (filename) => {
      create(filename, mode)
      Fs.chmodSync(filename, fileMode)
      Fs.chmodSync(Path.dirname(filename), 0o555)
      return filename
    })

  for (const mode of ["delete", "wal"] as const) {
    for (
      const [query, fileMode] of [["", 0o444], ["?mode=ro", 0o444], ["?mode=ro", 0o666], [
        "?immutable=1",
        0o444
      ]] as const
    ) {
      live(`is read, mode ${mode}, file ${fileMode.toString(8)}, URL ${query}`, () =>
        Effect.gen(function*() {
          const filename = yield* inPlace(fileMode, mode)
          yield* asNobody(Effect.scoped(Effect.gen(function*() {
            const database = yield* open(filename, {}, query)
            assert.deepStrictEqual(yield* items(database), [{ n: 1 }])
            assert.deepStrictEqual(yield* database.session(items(database), reading), [{ n: 1 }])
            const write = database.session(database.sql`INSERT INTO items VALUES (2)`)
            assert.strictEqual((yield* failure(write))._tag, "ReadOnlyViolation")
            assert.isTrue(yield* database.health)
          })))
        }))
    }
  }

  live("that is changed by another process nevertheless is opened again", () =>
    Effect.gen(function*() {
      const filename = yield* inPlace(0o444, "wal")
      yield* asNobody(Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename, {}, "?mode=ro")
        assert.deepStrictEqual(yield* items(database), [{ n: 1 }])
        const other = yield* running(
          `process.seteuid?.(process.getuid())
          const db = new Sqlite(file)
          db.exec("INSERT INTO items VALUES (2)")
          db.close()
          console.log("written")`,
          filename
        )
        assert.strictEqual(other.line, "written")
        assert.strictEqual((yield* failure(database.session(items(database), reading)))._tag, "ConnectionLost")
        assert.deepStrictEqual(yield* database.session(items(database), reading), [{ n: 1 }, { n: 2 }])
      })))
    }))

  live("and whose WAL has more than the file is refused with what to do", () =>
    Effect.gen(function*() {
      const source = yield* file
      create(source, "wal")
      const writer = new Sqlite(source)
      writer.exec("INSERT INTO items VALUES (2)")
      const filename = yield* file
      Fs.copyFileSync(source, filename)
      Fs.copyFileSync(`${source}-wal`, `${filename}-wal`)
      writer.close()
      Fs.chmodSync(Path.dirname(filename), 0o555)
      const error = yield* asNobody(failure(Effect.scoped(open(filename, {}, "?mode=ro"))))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.match(error.message, /open the file once where it can be written/)
    }))

  live("is not created with mode=rw", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const error = yield* failure(Effect.scoped(open(filename, {}, "?mode=rw")))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.include(error.message, "does not exist")
      assert.isFalse(Fs.existsSync(filename))
      create(filename, "wal")
      yield* (yield* open(filename, {}, "?mode=rw")).sql`INSERT INTO items VALUES (2)`
    }))
})
