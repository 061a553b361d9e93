import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { failure, timed } from "./internal/session/harness.js"
import { lock, waitForLocks } from "./internal/sqlite/blocking.js"
import { exits } from "./internal/sqlite/exits.js"
import { killed } from "./internal/sqlite/killed.js"
import { program, running } from "./internal/sqlite/process.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"

const quiet = Logger.remove(Logger.defaultLogger)

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>, timeout = 240_000): void =>
  it.scopedLive(name, () => Effect.provide(body(), quiet), timeout)

type Options = Omit<DatabaseConfig.Options, "url">

const open = (filename: string, options: Options = {}) =>
  Database.make({ environment: "test", ...options, url: `sqlite:///${filename}` })

const fileIn = (path: string) => Path.join(path, "test.db")

const createTable = (database: Database.Service) => database.sql`CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB)`

const insert = (database: Database.Service, n: number) => database.sql`INSERT INTO items (n) VALUES (${n})`

const numbers = (database: Database.Service) =>
  Effect.map(database.sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))

const each = (...effects: ReadonlyArray<Effect.Effect<unknown, unknown>>) => effects

const reading = { readOnly: true }

/** The result of PRAGMA integrity_check on a new connection. */
const integrity = (filename: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Sqlite(filename)),
    (file) =>
      Effect.sync(() => {
        try {
          return file.pragma("integrity_check", { simple: true })
        } catch (error) {
          return String(error)
        }
      }),
    (file) => Effect.sync(() => file.close())
  )

const assertIntegrity = (filename: string) =>
  Effect.map(integrity(filename), (result) => assert.strictEqual(result, "ok"))

/** Root ignores file permissions, so this runs as another user. */
const asNobody = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  process.geteuid?.() === 0
    ? Effect.acquireUseRelease(
      Effect.sync(() => process.seteuid?.(65534)),
      () => effect,
      () => Effect.sync(() => process.seteuid?.(0))
    )
    : effect

const mount = (path: string) =>
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", path], { stdio: "ignore" })

const unmount = (path: string) => execFileSync("umount", ["-l", path])

/** In a container even root may not be allowed to mount. */
const canMount = (() => {
  const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-"))
  try {
    mount(path)
    unmount(path)
    return true
  } catch {
    return false
  } finally {
    Fs.rmdirSync(path)
  }
})()

/** A disk of two megabytes. */
const smallDisk: Effect.Effect<string, never, Scope.Scope> = Effect.flatMap(
  directory,
  (path) =>
    Effect.acquireRelease(Effect.as(Effect.sync(() => mount(path)), path), (path) => Effect.sync(() => unmount(path)))
)

const disk = canMount ? "disk" : "disk (not tested: a file system cannot be mounted here)"

describe(`a SQLite file's ${disk} is full`, () => {
  const fill = (database: Database.Service) =>
    Effect.forever(database.sql`INSERT INTO items (bytes) VALUES (randomblob(100000))`)

  const assertUsable = (database: Database.Service, filename: string) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* numbers(database), [1])
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
      assert.isTrue(yield* database.health)
      assert.deepInclude(yield* database.poolStats, { used: 0 })
      yield* assertIntegrity(filename)
    })

  const onDisk: typeof live = canMount ? live : () => {}

  onDisk("fails with ResourceExhausted, and keeps no partial transaction", () =>
    Effect.gen(function*() {
      const filename = fileIn(yield* smallDisk)
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTable(database)
        yield* insert(database, 1)
        // During a transaction, as its rows no longer fit into the cache.
        const spilled = yield* failure(
          database.session(Effect.zipRight(database.sql`PRAGMA cache_size = 5`, fill(database)))
        )
        assert.strictEqual(spilled._tag, "ResourceExhausted")
        assert.strictEqual(spilled.code, "SQLITE_FULL")
        yield* assertUsable(database, filename)
        // At the commit.
        const refused = yield* failure(database.session(
          Effect.zipRight(
            database.sql`PRAGMA cache_size = -100000`,
            database.sql`INSERT INTO items (bytes) VALUES (randomblob(5000000))`
          )
        ))
        assert.strictEqual(refused._tag, "ResourceExhausted")
        yield* assertUsable(database, filename)
        // Outside of a session.
        const alone = yield* failure(database.sql`INSERT INTO items (bytes) VALUES (randomblob(5000000))`)
        assert.strictEqual(alone._tag, "ResourceExhausted")
        yield* assertUsable(database, filename)
        // Another file takes the last byte of the disk.
        const other = Path.join(Path.dirname(filename), "other")
        assert.throws(() => {
          for (;;) {
            Fs.appendFileSync(other, Buffer.alloc(1024))
          }
        }, /ENOSPC/)
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
        Fs.rmSync(other)
        yield* insert(database, 2)
      }))
      const database = yield* open(filename)
      assert.deepStrictEqual(yield* numbers(database), [1, 2])
      yield* assertIntegrity(filename)
    }))

  live("a file that has reached max_page_count fails in the same way", () =>
    Effect.gen(function*() {
      const filename = fileIn(yield* directory)
      const database = yield* open(filename)
      yield* createTable(database)
      yield* insert(database, 1)
      const error = yield* failure(
        database.session(Effect.zipRight(database.sql`PRAGMA max_page_count = 100`, fill(database)))
      )
      assert.strictEqual(error._tag, "ResourceExhausted")
      assert.strictEqual(error.code, "SQLITE_FULL")
      yield* assertUsable(database, filename)
      // The limit ends with the session.
      yield* database.sql`INSERT INTO items (n, bytes) VALUES (2, randomblob(1000000))`
      yield* assertIntegrity(filename)
    }))
})

describe("a SQLite file may not be written", () => {
  const createFile = (mode: number) =>
    Effect.gen(function*() {
      const path = yield* directory
      const filename = fileIn(path)
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTable(database)
        yield* insert(database, 1)
      }))
      Fs.chmodSync(filename, mode)
      return { path, filename }
    })

  live("a read-only file can be read, and writing fails with ReadOnlyViolation", () =>
    Effect.gen(function*() {
      const { filename, path } = yield* createFile(0o444)
      Fs.chmodSync(path, 0o777)
      yield* asNobody(Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        assert.deepStrictEqual(yield* numbers(database), [1])
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
        for (const effect of each(insert(database, 2), database.session(insert(database, 2)))) {
          const error = yield* failure(effect)
          assert.strictEqual(error._tag, "ReadOnlyViolation")
          assert.match(error.code, /^SQLITE_READONLY/)
        }
        assert.isTrue(yield* database.health)
      })))
      yield* assertIntegrity(filename)
    }))

  live("in a read-only directory no WAL can be created: ConnectionFailed", () =>
    Effect.gen(function*() {
      const { filename, path } = yield* createFile(0o666)
      Fs.chmodSync(path, 0o555)
      const error = yield* asNobody(failure(Effect.scoped(open(filename))))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.match(error.code, /^SQLITE_(CANTOPEN|READONLY)/)
      assert.include(error.message, filename)
      Fs.chmodSync(path, 0o755)
      yield* assertIntegrity(filename)
    }))
})

describe("a SQLite file is taken away", () => {
  const opened = Effect.gen(function*() {
    const path = yield* directory
    const filename = fileIn(path)
    const database = yield* open(filename, { poolTimeout: "20 seconds" })
    yield* createTable(database)
    yield* insert(database, 1)
    yield* database.session(numbers(database), reading)
    return { path, filename, database }
  })

  live(
    "deleted in a session: the commit fails, and no empty file is created",
    () =>
      Effect.gen(function*() {
        const { database, filename } = yield* opened
        const kept = Fs.readFileSync(filename)
        const inside = yield* failure(database.session(
          Effect.zipRight(insert(database, 2), Effect.sync(() => Fs.rmSync(filename)))
        ))
        assert.strictEqual(inside._tag, "ConnectionLost")
        assert.strictEqual(inside.code, "SQLITE_READONLY_DBMOVED")
        const others = each(
          insert(database, 3),
          database.session(insert(database, 3)),
          database.session(numbers(database)),
          database.session(numbers(database), reading)
        )
        for (const effect of others) {
          const error = yield* failure(effect)
          assert.strictEqual(error._tag, "ConnectionFailed")
          assert.strictEqual(error.code, "SQLITE_CANTOPEN")
        }
        assert.isFalse(yield* database.health)
        assert.isFalse(Fs.existsSync(filename))
        // A file with this name is used again. It has what was checkpointed.
        Fs.rmSync(`${filename}-wal`, { force: true })
        Fs.rmSync(`${filename}-shm`, { force: true })
        Fs.writeFileSync(filename, kept)
        const restored = new Sqlite(filename)
        restored.exec(
          "CREATE TABLE IF NOT EXISTS items (n INTEGER PRIMARY KEY, bytes BLOB); INSERT INTO items (n) VALUES (9)"
        )
        restored.close()
        yield* eventually(database.health)
        yield* insert(database, 10)
        assert.includeMembers(Array.from(yield* numbers(database)), [9, 10])
        assert.includeMembers(Array.from(yield* database.session(numbers(database), reading)), [9, 10])
        yield* assertIntegrity(filename)
      })
  )

  live("deleted outside of a session: the next write fails", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      Fs.rmSync(filename)
      const error = yield* failure(insert(database, 2))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.isFalse(Fs.existsSync(filename))
    }))

  live("deleted while idle: health reports it", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      assert.isTrue(yield* database.health)
      Fs.rmSync(filename)
      assert.isFalse(yield* database.health)
      assert.isFalse(Fs.existsSync(filename))
    }))

  live("replaced by another: sessions use the new file", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      const other = `${filename}.other`
      const made = new Sqlite(other)
      made.exec("CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB); INSERT INTO items (n) VALUES (5)")
      made.close()
      for (const suffix of ["-wal", "-shm"]) {
        Fs.rmSync(`${filename}${suffix}`, { force: true })
      }
      Fs.renameSync(other, filename)
      // Otherwise readers would use the old file for ever.
      const error = yield* failure(database.session(numbers(database), reading))
      assert.strictEqual(error._tag, "ConnectionLost")
      yield* eventually(
        Effect.map(Effect.either(database.session(insert(database, 6))), ({ _tag }) => _tag === "Right")
      )
      assert.deepStrictEqual(yield* numbers(database), [5, 6])
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [5, 6])
      yield* assertIntegrity(filename)
    }))

  live("its WAL was deleted: nothing that was committed is lost", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      Fs.rmSync(`${filename}-wal`)
      const error = yield* failure(database.session(insert(database, 2)))
      assert.strictEqual(error._tag, "ConnectionLost")
      yield* eventually(
        Effect.map(Effect.either(database.session(insert(database, 3))), ({ _tag }) => _tag === "Right")
      )
      assert.deepStrictEqual(yield* numbers(database), [1, 3])
      yield* assertIntegrity(filename)
    }))
})

describe("a SQLite file is damaged", () => {
  live("a page of a table: reading it fails with DatabaseCorrupt, and other tables work", () =>
    Effect.gen(function*() {
      const filename = fileIn(yield* directory)
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTable(database)
        yield* database.sql`CREATE TABLE other (a)`
        yield* database.sql`INSERT INTO other VALUES (1)`
        yield* database.sql.unsafe(
          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) " +
            "INSERT INTO items SELECT i, randomblob(400) FROM n"
        )
      }))
      const whole = Fs.readFileSync(filename)
      const damaged = Buffer.from(whole)
      const page = whole.readUInt16BE(16)
      const at = page * 100
      Fs.writeFileSync(filename, damaged.fill(0xff, at, at + page))
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        const all = database.sql`SELECT sum(length(bytes)) FROM items`
        for (const effect of each(all, database.session(all, reading), database.session(all))) {
          const error = yield* failure(effect)
          assert.strictEqual(error._tag, "DatabaseCorrupt")
          assert.match(error.code, /^SQLITE_CORRUPT/)
        }
        yield* database.session(database.sql`INSERT INTO other VALUES (2)`)
        assert.deepStrictEqual(yield* database.sql`SELECT a FROM other ORDER BY a`, [{ a: 1 }, { a: 2 }])
        assert.deepInclude(yield* database.poolStats, { used: 0, idle: 1 })
      }))
      assert.notStrictEqual(yield* integrity(filename), "ok")
      const now = Fs.readFileSync(filename)
      whole.copy(now, at, at, at + page)
      Fs.writeFileSync(filename, now)
      yield* assertIntegrity(filename)
    }))

  live("not a database: opening fails with DatabaseCorrupt", () =>
    Effect.gen(function*() {
      const filename = fileIn(yield* directory)
      Fs.writeFileSync(filename, "this is no database at all\n".repeat(200))
      const error = yield* failure(Effect.scoped(open(filename)))
      assert.strictEqual(error._tag, "DatabaseCorrupt")
      assert.strictEqual(error.code, "SQLITE_NOTADB")
    }))
})

describe("another process", () => {
  live(
    "that keeps the lock: LockTimeout, readers do not wait, and a longer lockTimeout gets it",
    () =>
      Effect.gen(function*() {
        const filename = fileIn(yield* directory)
        const database = yield* open(filename, { lockTimeout: "300 millis" })
        yield* createTable(database)
        const other = yield* running(
          `const db = new Sqlite(file)
        db.exec("BEGIN IMMEDIATE; INSERT INTO items (n) VALUES (1)")
        console.log("writing")
        process.stdin.on("end", () => db.exec("COMMIT"))`,
          filename
        )
        assert.strictEqual(other.line, "writing")
        const [error, millis] = yield* timed(failure(database.session(insert(database, 2))))
        assert.strictEqual(error._tag, "LockTimeout")
        assert.isAtLeast(millis, 250)
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [])
        const patient = yield* Effect.fork(database.session(insert(database, 3), { lockTimeout: "1 minute" }))
        yield* Effect.sleep("100 millis")
        yield* other.end
        yield* Fiber.join(patient)
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 3])
        yield* assertIntegrity(filename)
      })
  )

  live(
    "that is killed while it commits: acknowledged sessions are kept, and none is kept in part",
    () =>
      Effect.gen(function*() {
        const { acknowledged, rounds } = yield* killed({ rounds: 5 })
        assert.strictEqual(rounds, 5)
        assert.isAbove(acknowledged, 0)
      }),
    240_000
  )
})

describe("a long statement", () => {
  live("that was given up does not delay a signal", () =>
    Effect.gen(function*() {
      const filename = fileIn(yield* directory)
      const other = yield* program("./stuck.ts", filename)
      assert.strictEqual(other.line, "given up")
      const exited = new Promise((resolve) => other.process.once("exit", (_, signal) => resolve(signal)))
      other.process.kill("SIGTERM")
      assert.strictEqual(yield* Effect.promise(() => exited), "SIGTERM")
      yield* assertIntegrity(filename)
      assert.deepStrictEqual(yield* Effect.flatMap(open(filename), numbers), [1])
    }))

  live("does not block the event loop, on any connection", () =>
    Effect.gen(function*() {
      const database = yield* open(fileIn(yield* directory))
      const slow = database.sql.unsafe(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT count(*) AS n FROM n"
      )
      yield* database.session(database.sql`SELECT 1`, reading)
      let iterations = 0
      let done = false
      const iterate = () => {
        iterations++
        if (!done) {
          setImmediate(iterate)
        }
      }
      setImmediate(iterate)
      yield* Effect.all([slow, database.session(slow, reading)], { concurrency: "unbounded", discard: true })
      done = true
      // A statement on the main thread would let it iterate only before and after.
      assert.isAbove(iterations, 20)
    }))

  live(
    "that cannot be canceled is given up: its work is rolled back, and others go on",
    () =>
      Effect.gen(function*() {
        const path = yield* directory
        const filename = fileIn(path)
        const attached = Path.join(path, "attached.db")
        const database = yield* open(filename)
        const { sql } = database
        yield* createTable(database)
        yield* insert(database, 0)
        new Sqlite(attached).exec("CREATE TABLE other (a)").close()
        // Waits within SQLite for a lock that another connection holds. BEGIN IMMEDIATE would lock the file if it was attached before.
        const unlock = yield* lock(attached)
        const blocked = database.session(Effect.gen(function*() {
          yield* insert(database, 1)
          yield* sql.unsafe(waitForLocks)
          yield* sql`ATTACH ${attached} AS attached`
          yield* sql`INSERT INTO attached.other VALUES (1)`
        }))
        const isLost = Effect.map(database.poolStats, ({ closed }) => closed.lost === 1)
        for (let millis = 100; !(yield* isLost); millis *= 2) {
          // If it is interrupted before it waits, it is canceled and does not lose its connection.
          const writing = yield* Effect.fork(blocked)
          yield* Effect.sleep(millis)
          yield* Fiber.interrupt(writing)
        }
        // Reading goes on, on a connection for reading and on a new one for writing.
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [0])
        assert.deepStrictEqual(yield* numbers(database), [0])
        assert.isTrue(yield* database.health)
        // Writing waits for the lock that the statement holds until it ends.
        const early = yield* failure(database.session(insert(database, 2), { lockTimeout: "50 millis" }))
        assert.strictEqual(early._tag, "LockTimeout")
        yield* unlock
        yield* database.session(insert(database, 2), { lockTimeout: Duration.minutes(1) })
        assert.deepStrictEqual(yield* numbers(database), [0, 2])
        yield* assertIntegrity(filename)
      }),
    240_000
  )

  live(
    "that was given up neither aborts the process nor keeps it from exiting, and is not committed",
    () => exits({ rounds: 6 }),
    240_000
  )
})
