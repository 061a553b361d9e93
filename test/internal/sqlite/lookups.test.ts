/**
 * Statements that run on the main thread beside the thread of their connection.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import { describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { MessagePort } from "node:worker_threads"
import { assert } from "vitest"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { chooseBinding } from "../../../src/internal/sqlite/chooseBinding.js"
import type { SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import { identityOf, walIdentityOf } from "../../../src/internal/sqlite/fileIdentity.js"
import { Lookups } from "../../../src/internal/sqlite/lookups.js"
import type { Run } from "../../../src/internal/sqlite/protocol.js"
import { connect, driver, file } from "./support.js"

const binding = await Effect.runPromise(chooseBinding)

const schema = `
  PRAGMA journal_mode = WAL;
  CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, email TEXT, balance REAL, data BLOB, note TEXT);
  CREATE UNIQUE INDEX account_email ON account (email);
  CREATE INDEX account_owner ON account (owner);
  CREATE UNIQUE INDEX account_balance ON account (balance) WHERE note = 'n';
  CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
  CREATE VIEW owners AS SELECT id, owner FROM account;
  INSERT INTO account VALUES (1, 'ann', 'ann@x', 1.5, x'0102', NULL), (2, 'bob', 'bob@x', 2, NULL, 'n'),
    (9007199254740993, 'huge', 'huge@x', 0, NULL, NULL);
  INSERT INTO country VALUES ('FR', 'France')`

/** A file with tables, and a client of its own to it, which stands for another process. */
const database = Effect.gen(function*() {
  const name = yield* file
  const other = new Sqlite(name)
  other.exec(schema)
  yield* Effect.addFinalizer(() => Effect.sync(() => other.close()))
  return { name, other }
})

const run = (connection: SqliteConnection, sql: string, params: ReadonlyArray<unknown> = []) =>
  Effect.mapError(connection.execute(sql, params, undefined), fromSqlError)

/** The result of an effect, and whether it sent a message to a thread. */
const traced = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const { postMessage } = MessagePort.prototype
    let isSent = false
    MessagePort.prototype.postMessage = function(this: MessagePort, ...args: Parameters<typeof postMessage>) {
      isSent ||= Array.isArray(args[0])
      return postMessage.apply(this, args)
    }
    return effect.pipe(
      Effect.ensuring(Effect.sync(() => {
        MessagePort.prototype.postMessage = postMessage
      })),
      Effect.map((result) => ({ result, isSent }))
    )
  })

const iteration = Effect.async<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const byKey = "SELECT owner FROM account WHERE id = ?"

/** Runs a statement until it runs on the main thread, which fails where it never does. */
const warm = (connection: SqliteConnection, sql = byKey, params: ReadonlyArray<unknown> = [1]) =>
  Effect.gen(function*() {
    for (let i = 0; i < 2_000; i++) {
      yield* iteration
      const { isSent, result } = yield* traced(run(connection, sql, params))
      if (!isSent) {
        return result
      }
    }
    throw new Error(`it never runs on the main thread: ${sql}`)
  })

/** Asserts that a statement is sent to the thread each time. */
const isSentAlways = (connection: SqliteConnection, sql = byKey, params: ReadonlyArray<unknown> = [1]) =>
  Effect.gen(function*() {
    for (let i = 0; i < 25; i++) {
      yield* iteration
      assert.isTrue((yield* traced(run(connection, sql, params))).isSent, sql)
    }
  })

const statement = (sql: string, params: ReadonlyArray<unknown>): Run => ({
  _tag: "Run",
  sql,
  params,
  form: "rows",
  cached: true,
  safeIntegers: false
})

const fileOf = (name: string) => ({
  journalMode: "wal",
  file: identityOf(name),
  wal: walIdentityOf(name),
  library: binding.library()
})

/** The lookups of a file, as a connection has them that writes to it. */
const lookupsOf = (name: string, maxMillis = Infinity) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const lookups = new Lookups({ binding, filename: name, pragmas: {}, maxMillis })
      lookups.follow(fileOf(name))
      return lookups
    }),
    (lookups) => Effect.sync(() => lookups.close())
  )

/** How many of so many runs of a statement give rows. */
const runsHere = (lookups: Lookups, run: Run, times: number): number =>
  Array.from({ length: times }, () => lookups.run(run)).filter((rows) => rows !== undefined).length

const isLookup = (lookups: Lookups, sql: string, params: ReadonlyArray<unknown>): boolean =>
  runsHere(lookups, statement(sql, params), 30) > 0

describe("lookups", () => {
  it.scoped("are statements whose work is bounded", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const lookups = yield* lookupsOf(name)
      const bounded: ReadonlyArray<readonly [sql: string, ...params: ReadonlyArray<unknown>]> = [
        [byKey, 1],
        ["-- by key\nselect * from account where id = ?", 2],
        ["SELECT id, owner FROM account WHERE email = ?", "bob@x"],
        ["SELECT name FROM country WHERE code = ?", "FR"],
        ["SELECT * FROM owners WHERE id = ?", 1],
        ["WITH a AS (SELECT * FROM account WHERE id = ?) SELECT owner FROM a", 1],
        ["SELECT owner || '!', balance * 2, coalesce(note, 'none') FROM account WHERE id = ? AND balance > ?", 1, 0],
        ["SELECT a.owner, c.name FROM account a JOIN country c ON c.code = a.note WHERE a.id = ?", 1],
        ["SELECT owner FROM account WHERE id = ? LIMIT 1", 1],
        ["SELECT owner FROM account WHERE balance = ? AND note = 'n'", 2],
        ["SELECT 1"]
      ]
      for (const [sql, ...params] of bounded) {
        assert.isTrue(isLookup(lookups, sql, params), sql)
      }
      const others: typeof bounded = [
        ["SELECT * FROM account"],
        ["SELECT * FROM account WHERE owner = ?", "ann"],
        ["SELECT * FROM account WHERE owner = ? LIMIT 1", "ann"],
        ["SELECT * FROM account WHERE id > ? LIMIT 1", 0],
        ["SELECT * FROM account WHERE id IN (?, ?)", 1, 2],
        ["SELECT * FROM account WHERE email LIKE ?", "bob@x"],
        ["SELECT owner FROM account WHERE balance = ? AND note = ?", 2, "n"],
        ["SELECT count(*) FROM account"],
        ["SELECT max(id) FROM account"],
        ["SELECT EXISTS (SELECT 1 FROM account WHERE owner = ?)", "bob"],
        ["SELECT (SELECT count(*) FROM country) FROM account WHERE id = ?", 1],
        ["SELECT hex(randomblob(?))", 10],
        ["SELECT upper(owner) FROM account WHERE id = ?", 1],
        ["SELECT changes(), last_insert_rowid(), total_changes()"],
        ["SELECT current_timestamp"],
        ["SELECT load_extension('none') FROM account WHERE id = ?", 100],
        ["SELECT value FROM json_each(?)", "[1]"],
        ["SELECT * FROM pragma_table_info('account')"],
        ["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT * FROM n", 3],
        ["VALUES (1), (2)"],
        ["PRAGMA user_version"],
        ["EXPLAIN SELECT * FROM account WHERE id = ?", 1],
        ["INSERT INTO country VALUES ('XX', 'none') RETURNING code"],
        ["WITH a AS (SELECT 1) UPDATE account SET note = 'n' WHERE id = 1 RETURNING id"],
        ["SELECT none FROM account WHERE id = ?", 1],
        ["SELECT owner FROM account WHERE id = ?"],
        [`SELECT owner FROM account WHERE id = ? -- ${"x".repeat(5_000)}`, 1]
      ]
      for (const [sql, ...params] of others) {
        assert.isFalse(isLookup(lookups, sql, params), sql)
      }
    }))

  it.scoped("send no message, also where 64 fibers run them at once", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const connection = yield* connect(driver(name))
      const crowd = Effect.all(Array.from({ length: 64 }, () => run(connection, byKey, [1])), {
        concurrency: "unbounded"
      })
      assert.isTrue((yield* traced(run(connection, byKey, [1]))).isSent)
      yield* warm(connection)
      let isSent = true
      // One that comes when the event loop has been blocked for long is sent.
      for (let i = 0; isSent && i < 1_000; i++) {
        yield* iteration
        const all = yield* traced(crowd)
        isSent = all.isSent
        assert.deepStrictEqual(all.result, Array.from({ length: 64 }, () => [{ owner: "ann" }]))
      }
      assert.isFalse(isSent)
    }))

  it.scoped("give what the thread gives", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const connection = yield* connect(driver(name))
      const all = "SELECT * FROM account WHERE id = ?"
      for (const params of [[1], [2], [3]]) {
        const first = yield* run(connection, all, params)
        assert.deepStrictEqual(yield* warm(connection, all, params), first)
      }
      const values = connection.executeValues(all, [1])
      yield* iteration
      assert.deepStrictEqual((yield* traced(values)).isSent, false)
      assert.deepStrictEqual(yield* values, [[1, "ann", "ann@x", 1.5, Buffer.from([1, 2]), null]])
      const exact = Effect.provideService(values, SqlClient.SafeIntegers, true)
      assert.deepStrictEqual(yield* exact, [[1n, "ann", "ann@x", 1.5, Buffer.from([1, 2]), null]])
      const huge = "SELECT id FROM account WHERE email = 'huge@x'"
      for (let i = 0; i < 25; i++) {
        const { _tag, message } = yield* Effect.flip(run(connection, huge))
        assert.strictEqual(_tag, "InvalidData")
        assert.include(message, "too large for a number")
        assert.strictEqual((yield* Effect.flip(run(connection, all, [])))._tag, "InvalidData")
      }
    }))

  it.scoped("see what was committed before, here and elsewhere", () =>
    Effect.gen(function*() {
      const { name, other } = yield* database
      const connection = yield* connect(driver(name))
      yield* warm(connection)
      for (let i = 0; i < 50; i++) {
        yield* run(connection, "UPDATE account SET owner = ? WHERE id = 1", [`alone ${i}`])
        assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: `alone ${i}` }])
        yield* connection.begin({ readOnly: false })
        yield* run(connection, "UPDATE account SET owner = ? WHERE id = 1", [`session ${i}`])
        yield* connection.commit
        assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: `session ${i}` }])
        other.prepare("UPDATE account SET owner = ? WHERE id = 1").run(`other ${i}`)
        assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: `other ${i}` }])
        const [, rows] = yield* Effect.all([
          run(connection, "UPDATE account SET owner = ? WHERE id = 1", [`beside ${i}`]),
          run(connection, byKey, [1])
        ], { concurrency: "unbounded" })
        assert.deepStrictEqual(rows, [{ owner: `beside ${i}` }])
      }
      yield* warm(connection)
    }))

  it.scoped("are the thread's in a transaction", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const connection = yield* connect(driver(name))
      yield* warm(connection)
      yield* connection.begin({ readOnly: false })
      yield* run(connection, "UPDATE account SET owner = 'changed' WHERE id = 1")
      yield* isSentAlways(connection)
      assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: "changed" }])
      yield* connection.rollback
      assert.deepStrictEqual(yield* warm(connection), [{ owner: "ann" }])
      yield* run(connection, "BEGIN")
      yield* run(connection, "UPDATE account SET owner = 'changed' WHERE id = 1")
      assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: "changed" }])
      yield* run(connection, "ROLLBACK")
      assert.deepStrictEqual(yield* warm(connection), [{ owner: "ann" }])
    }))

  it.scoped("are the thread's where its connection has state of its own", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const connection = yield* connect(driver(name))
      yield* warm(connection)
      yield* run(connection, "CREATE TEMP TABLE account (id INTEGER PRIMARY KEY, owner TEXT)")
      yield* run(connection, "INSERT INTO temp.account VALUES (1, 'temporary')")
      assert.deepStrictEqual(yield* run(connection, byKey, [1]), [{ owner: "temporary" }])
      yield* isSentAlways(connection)
      yield* connection.reset
      assert.deepStrictEqual(yield* warm(connection), [{ owner: "ann" }])
      yield* run(connection, "CREATE /* only here */ TEMP TABLE account (id INTEGER PRIMARY KEY, owner TEXT)")
      yield* isSentAlways(connection)
      yield* connection.reset
      yield* run(connection, "ATTACH ':memory:' AS extra")
      yield* isSentAlways(connection)
    }))

  it.scoped("are examined again when the schema has changed", () =>
    Effect.gen(function*() {
      const { name, other } = yield* database
      const lookups = yield* lookupsOf(name)
      const byEmail = statement("SELECT * FROM account WHERE email = ?", ["bob@x"])
      assert.isAbove(runsHere(lookups, byEmail, 30), 0)
      other.exec("DROP INDEX account_email")
      assert.strictEqual(runsHere(lookups, byEmail, 30), 0)
      other.exec("CREATE UNIQUE INDEX account_email ON account (email)")
      // Any lookup notices another version for all statements.
      assert.isAbove(runsHere(lookups, statement(byKey, [1]), 30), 0)
      assert.isAbove(runsHere(lookups, byEmail, 30), 0)
      other.exec("ALTER TABLE account ADD COLUMN added INTEGER DEFAULT 7")
      assert.isUndefined(lookups.run(byEmail))
      assert.isAbove(runsHere(lookups, byEmail, 30), 0)
      assert.strictEqual((lookups.run(byEmail)![0] as { readonly added: unknown }).added, 7)
    }))

  it.scoped("go back to the thread where they are slow", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const lookups = yield* lookupsOf(name, -1)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 10), 0)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 3), 3)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 320), 0)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 1), 1)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 10_000), 0)
    }))

  it.scoped("hold nothing of the file between two of them", () =>
    Effect.gen(function*() {
      const { name, other } = yield* database
      const lookups = yield* lookupsOf(name)
      assert.isAbove(runsHere(lookups, statement(byKey, [1]), 30), 0)
      other.exec("UPDATE account SET note = 'changed'")
      assert.deepStrictEqual(other.pragma("wal_checkpoint(TRUNCATE)"), [{ busy: 0, log: 0, checkpointed: 0 }])
      // What fails midway leaves no transaction open either.
      const huge = statement("SELECT id FROM account WHERE email = 'huge@x'", [])
      assert.strictEqual(runsHere(lookups, huge, 30), 0)
      other.exec("UPDATE account SET note = 'again'")
      assert.deepStrictEqual(other.pragma("wal_checkpoint(TRUNCATE)"), [{ busy: 0, log: 0, checkpointed: 0 }])
      assert.deepStrictEqual(lookups.run(statement(byKey, [1])), [{ owner: "ann" }])
    }))

  it.scoped("never read another file than the thread", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const lookups = yield* lookupsOf(name)
      assert.isAbove(runsHere(lookups, statement(byKey, [1]), 30), 0)
      const replacement = `${name}.new`
      const other = new Sqlite(replacement)
      other.exec(schema)
      other.exec("UPDATE account SET owner = 'replaced'; PRAGMA journal_mode = DELETE")
      other.close()
      Fs.renameSync(replacement, name)
      const start = performance.now()
      while (performance.now() - start < 150) {
        const rows = lookups.run(statement(byKey, [1]))
        assert.isTrue(rows === undefined || (rows[0] as { readonly owner: unknown }).owner === "ann")
      }
      assert.isUndefined(lookups.run(statement(byKey, [1])))
      // One that is opened only now finds another file than that of the thread.
      const late = new Lookups({ binding, filename: name, pragmas: {} })
      late.follow({ journalMode: "wal", file: "0:0", wal: "0:1", library: binding.library() })
      assert.strictEqual(runsHere(late, statement(byKey, [1]), 30), 0)
      late.close()
    }))

  it.scoped("do not open the file with another copy of SQLite than the thread", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      for (const library of ["/elsewhere/better_sqlite3.node", undefined]) {
        const lookups = new Lookups({ binding, filename: name, pragmas: {} })
        lookups.follow({ ...fileOf(name), library })
        assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 30), 0)
        lookups.close()
      }
    }))

  it.scoped("do not open another file, even an empty one, whose WAL SQLite would delete", () =>
    Effect.gen(function*() {
      const { name } = yield* database
      const lookups = yield* lookupsOf(name)
      assert.strictEqual(runsHere(lookups, statement(byKey, [1]), 10), 0)
      Fs.renameSync(name, `${name}.moved`)
      Fs.writeFileSync(name, "")
      assert.isUndefined(lookups.run(statement(byKey, [1])))
      assert.isAbove(Fs.statSync(`${name}-wal`).size, 0)
    }))

  it.scoped("are closed before the thread, which empties the WAL", () =>
    Effect.gen(function*() {
      const { name, other } = yield* database
      other.close()
      const connection = yield* connect(driver(name))
      yield* warm(connection)
      yield* run(connection, "UPDATE account SET owner = 'last' WHERE id = 1")
      yield* connection.close
      assert.isFalse(Fs.existsSync(`${name}-wal`))
      assert.strictEqual((yield* Effect.flip(run(connection, byKey, [1])))._tag, "ConnectionLost")
    }))

  it.scoped("are the thread's where the file has no WAL", () =>
    Effect.gen(function*() {
      const { name, other } = yield* database
      other.pragma("journal_mode = DELETE")
      other.close()
      const connection = yield* connect(driver(name, { journalMode: "delete" }))
      yield* isSentAlways(connection)
    }))
})
