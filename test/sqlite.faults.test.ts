import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { failure, timed } from "./internal/session/harness.js"
import { killed } from "./internal/sqlite/killed.js"
import { program, running } from "./internal/sqlite/process.js"
import { directory } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"

const quiet = Logger.remove(Logger.defaultLogger)

const live = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>, timeout = 30_000): void =>
  it.scopedLive(name, () => Effect.provide(body(), quiet), timeout)

type Options = Omit<DatabaseConfig.Options, "url">

const open = (filename: string, options: Options = {}) =>
  Database.make({ environment: "test", ...options, url: `sqlite:///${filename}` })

const name = (path: string) => Path.join(path, "test.db")

const createTable = (database: Database.Service) => database.sql`CREATE TABLE items (n INTEGER PRIMARY KEY, bytes BLOB)`

const insert = (database: Database.Service, n: number) => database.sql`INSERT INTO items (n) VALUES (${n})`

const numbers = (database: Database.Service) =>
  Effect.map(database.sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))

const each = (...effects: ReadonlyArray<Effect.Effect<unknown, unknown>>) => effects

const reading = { readOnly: true }

/** What SQLite says of the file, asked by somebody who has just opened it. */
const integrity = (filename: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Sqlite(filename)),
    (file) => Effect.sync(() => file.pragma("integrity_check", { simple: true })),
    (file) => Effect.sync(() => file.close())
  )

const assertWhole = (filename: string) => Effect.map(integrity(filename), (said) => assert.strictEqual(said, "ok"))

/** As root one may do everything, so somebody else is. */
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

/** Mounting takes a right that not every root has. */
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

const disk = canMount ? "disk" : "disk (none can be mounted here, so SQLite's own limit stands for it)"

describe(`a SQLite file's ${disk} is full`, () => {
  const fill = (database: Database.Service) =>
    Effect.forever(database.sql`INSERT INTO items (bytes) VALUES (randomblob(100000))`)

  const holdsOn = (database: Database.Service, filename: string) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* numbers(database), [1])
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1])
      assert.isTrue(yield* database.health)
      assert.deepInclude(yield* database.poolStats, { used: 0 })
      yield* assertWhole(filename)
    })

  const onDisk: typeof live = canMount ? live : () => {}

  onDisk("ResourceExhausted, and nothing is half done", () =>
    Effect.gen(function*() {
      const filename = name(yield* smallDisk)
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTable(database)
        yield* insert(database, 1)
        // In the middle of a transaction, whose rows no longer fit into the cache.
        const spilled = yield* failure(
          database.session(Effect.zipRight(database.sql`PRAGMA cache_size = 5`, fill(database)))
        )
        assert.strictEqual(spilled._tag, "ResourceExhausted")
        assert.strictEqual(spilled.code, "SQLITE_FULL")
        yield* holdsOn(database, filename)
        // At its commit.
        const refused = yield* failure(database.session(
          Effect.zipRight(
            database.sql`PRAGMA cache_size = -100000`,
            database.sql`INSERT INTO items (bytes) VALUES (randomblob(5000000))`
          )
        ))
        assert.strictEqual(refused._tag, "ResourceExhausted")
        yield* holdsOn(database, filename)
        // Outside of any session.
        const alone = yield* failure(database.sql`INSERT INTO items (bytes) VALUES (randomblob(5000000))`)
        assert.strictEqual(alone._tag, "ResourceExhausted")
        yield* holdsOn(database, filename)
        // Somebody else has filled it to the last byte.
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
      yield* assertWhole(filename)
    }))

  live("the same where the file has reached the limit that SQLite was given", () =>
    Effect.gen(function*() {
      const filename = name(yield* directory)
      const database = yield* open(filename)
      yield* createTable(database)
      yield* insert(database, 1)
      const error = yield* failure(
        database.session(Effect.zipRight(database.sql`PRAGMA max_page_count = 100`, fill(database)))
      )
      assert.strictEqual(error._tag, "ResourceExhausted")
      assert.strictEqual(error.code, "SQLITE_FULL")
      yield* holdsOn(database, filename)
      // The limit has gone with the session.
      yield* database.sql`INSERT INTO items (n, bytes) VALUES (2, randomblob(1000000))`
      yield* assertWhole(filename)
    }))
})

describe("a SQLite file may not be written", () => {
  const made = (mode: number) =>
    Effect.gen(function*() {
      const path = yield* directory
      const filename = name(path)
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* open(filename)
        yield* createTable(database)
        yield* insert(database, 1)
      }))
      Fs.chmodSync(filename, mode)
      return { path, filename }
    })

  live("a read-only file reads, and refuses to write with ReadOnlyViolation", () =>
    Effect.gen(function*() {
      const { filename, path } = yield* made(0o444)
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
      yield* assertWhole(filename)
    }))

  live("in a read-only directory there is no place for its WAL: ConnectionFailed", () =>
    Effect.gen(function*() {
      const { filename, path } = yield* made(0o666)
      Fs.chmodSync(path, 0o555)
      const error = yield* asNobody(failure(Effect.scoped(open(filename))))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.match(error.code, /^SQLITE_(CANTOPEN|READONLY)/)
      assert.include(error.message, filename)
      Fs.chmodSync(path, 0o755)
      yield* assertWhole(filename)
    }))
})

describe("a SQLite file is taken away", () => {
  const opened = Effect.gen(function*() {
    const path = yield* directory
    const filename = name(path)
    const database = yield* open(filename, { poolTimeout: "2 seconds" })
    yield* createTable(database)
    yield* insert(database, 1)
    yield* database.session(numbers(database), reading)
    return { path, filename, database }
  })

  live(
    "deleted: nothing is committed into the void, and no empty file is made in its place",
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
        // What was checkpointed by then is in it; whoever puts a file there is heard.
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
        yield* assertWhole(filename)
      })
  )

  live("deleted outside of any session: the write that nobody would find again fails", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      Fs.rmSync(filename)
      const error = yield* failure(insert(database, 2))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.isFalse(Fs.existsSync(filename))
    }))

  live("deleted while nobody asks: the health says so", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      assert.isTrue(yield* database.health)
      Fs.rmSync(filename)
      assert.isFalse(yield* database.health)
      assert.isFalse(Fs.existsSync(filename))
    }))

  live("replaced by another: sessions go on in that one", () =>
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
      // Whoever only reads would else go on in the old one for ever.
      const error = yield* failure(database.session(numbers(database), reading))
      assert.strictEqual(error._tag, "ConnectionLost")
      yield* eventually(
        Effect.map(Effect.either(database.session(insert(database, 6))), ({ _tag }) => _tag === "Right")
      )
      assert.deepStrictEqual(yield* numbers(database), [5, 6])
      assert.deepStrictEqual(yield* database.session(numbers(database), reading), [5, 6])
      yield* assertWhole(filename)
    }))

  live("its WAL deleted: what was committed is not lost with it", () =>
    Effect.gen(function*() {
      const { database, filename } = yield* opened
      Fs.rmSync(`${filename}-wal`)
      const error = yield* failure(database.session(insert(database, 2)))
      assert.strictEqual(error._tag, "ConnectionLost")
      yield* eventually(
        Effect.map(Effect.either(database.session(insert(database, 3))), ({ _tag }) => _tag === "Right")
      )
      assert.deepStrictEqual(yield* numbers(database), [1, 3])
      yield* assertWhole(filename)
    }))
})

describe("a SQLite file is damaged", () => {
  live("a page of a table: DatabaseCorrupt for who reads it, and the rest goes on", () =>
    Effect.gen(function*() {
      const filename = name(yield* directory)
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
      yield* assertWhole(filename)
    }))

  live("no database at all: DatabaseCorrupt, when it is opened", () =>
    Effect.gen(function*() {
      const filename = name(yield* directory)
      Fs.writeFileSync(filename, "this is no database at all\n".repeat(200))
      const error = yield* failure(Effect.scoped(open(filename)))
      assert.strictEqual(error._tag, "DatabaseCorrupt")
      assert.strictEqual(error.code, "SQLITE_NOTADB")
    }))
})

describe("another process", () => {
  live(
    "keeps the lock: LockTimeout in time, readers do not wait, and retry gets it in the end",
    () =>
      Effect.gen(function*() {
        const filename = name(yield* directory)
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
        assert.isBelow(millis, 5_000)
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [])
        const patient = yield* Effect.fork(database.session(insert(database, 3), { lockTimeout: "20 seconds" }))
        yield* Effect.sleep("100 millis")
        yield* other.end
        yield* Fiber.join(patient)
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [1, 3])
        yield* assertWhole(filename)
      })
  )

  live(
    "is killed in the middle of a commit, again and again: what was acknowledged is there, and nothing is half there",
    () =>
      Effect.gen(function*() {
        const { acknowledged, rounds } = yield* killed({ rounds: 5 })
        assert.strictEqual(rounds, 5)
        assert.isAbove(acknowledged, 0)
      }),
    120_000
  )
})

describe("a statement that takes long", () => {
  live(
    "and was left behind does not keep the process from a signal, which does the file no harm",
    () =>
      Effect.gen(function*() {
        const filename = name(yield* directory)
        const other = yield* program("./stuck.ts", filename)
        assert.strictEqual(other.line, "left behind")
        const ended = new Promise((resolve) => other.process.once("exit", (_, signal) => resolve(signal)))
        other.process.kill("SIGTERM")
        const [signal, millis] = yield* timed(Effect.promise(() => ended))
        assert.strictEqual(signal, "SIGTERM")
        assert.isBelow(millis, 5_000)
        yield* assertWhole(filename)
        assert.deepStrictEqual(yield* Effect.flatMap(open(filename), numbers), [1])
      })
  )

  const counting = (count: number) =>
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count}) SELECT count(*) AS n FROM n`

  /** As many rows as take about so many milliseconds to count. */
  const countOf = (database: Database.Service, millis: number) =>
    Effect.map(
      timed(database.sql.unsafe(counting(300_000))),
      ([, took]) => Math.ceil(300_000 * millis / took)
    )

  live("never holds the event loop, on any connection", () =>
    Effect.gen(function*() {
      const database = yield* open(name(yield* directory))
      const count = yield* countOf(database, 1_000)
      const slow = database.sql.unsafe(counting(count))
      const delay = yield* Effect.acquireRelease(
        Effect.sync(() => monitorEventLoopDelay({ resolution: 5 })),
        (delay) => Effect.sync(() => delay.disable())
      )
      yield* database.session(Effect.void, reading)
      delay.enable()
      const [, millis] = yield* timed(
        Effect.all([slow, database.session(slow, reading)], { concurrency: "unbounded", discard: true })
      )
      delay.disable()
      assert.isAbove(millis, 400)
      assert.isBelow(delay.max / 1_000_000, millis / 2)
      assert.isBelow(delay.mean / 1_000_000, 50)
    }))

  live(
    "and gives no rows cannot be stopped: its thread is left behind, its work undone, and others go on",
    () =>
      Effect.gen(function*() {
        const filename = name(yield* directory)
        const database = yield* open(filename)
        yield* createTable(database)
        yield* insert(database, 0)
        const count = yield* countOf(database, 3_000)
        const began = yield* Deferred.make<void>()
        const writing = yield* Effect.fork(database.session(
          Effect.gen(function*() {
            yield* insert(database, 1)
            yield* Deferred.succeed(began, undefined)
            yield* database.sql.unsafe(`INSERT INTO items (n) ${counting(count)}`)
          }),
          { name: "import" }
        ))
        yield* Deferred.await(began)
        yield* Effect.sleep("200 millis")
        const [, millis] = yield* timed(Fiber.interrupt(writing))
        assert.isBelow(millis, 2_000)
        // Reading goes on at once, on a connection for reading and on the one that replaces what was left behind.
        assert.deepStrictEqual(yield* database.session(numbers(database), reading), [0])
        assert.deepStrictEqual(yield* numbers(database), [0])
        assert.isTrue(yield* database.health)
        // Writing waits for the lock that the statement keeps until it ends.
        const early = yield* failure(database.session(insert(database, 2), { lockTimeout: "50 millis" }))
        assert.strictEqual(early._tag, "LockTimeout")
        yield* database.session(insert(database, 2), { lockTimeout: Duration.minutes(1) })
        assert.deepStrictEqual(yield* numbers(database), [0, 2])
        assert.deepInclude((yield* database.poolStats).closed, { lost: 1 })
        yield* assertWhole(filename)
      }),
    60_000
  )
})
