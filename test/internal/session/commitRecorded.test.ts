import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { randomUUID } from "node:crypto"
import * as Database from "../../../src/Database.js"
import { makeCleaner } from "../../../src/internal/database/commitRecords.js"
import type { Connection } from "../../../src/internal/driver.js"
import { cleanRecords, lookUpRecord, makeCommitRecord } from "../../../src/internal/postgres/commitRecord.js"
import { identityQuery, parseServerIdentity } from "../../../src/internal/postgres/serverIdentity.js"
import * as Migrations from "../../../src/Migrations.js"
import * as Session from "../../../src/Session.js"
import * as TestDatabase from "../../../src/TestDatabase.js"
import { forEachDialect, sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { assertIdle, failure, insert, live, numbers, open } from "./harness.js"
import {
  accepted,
  atCommit,
  connecting,
  inPlaceOfTheAnswer,
  inserting,
  lost,
  migrated,
  newLog,
  proxied,
  reconnected,
  recorded,
  records
} from "./lostCommit.js"

const times = 25

const many = Array.from({ length: times }, (_, n) => n)

describe("a recorded commit", () => {
  live(`whose answer was lost has happened, ${times} times`, () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      for (const n of many) {
        yield* inPlaceOfTheAnswer(network, n % 2 === 0 ? "cut" : "reset")
        const log = newLog()
        yield* db.session(inserting(db, n, log), recorded)
        assert.deepStrictEqual(log, { runs: 1, hooks: ["commit"] })
      }
      yield* reconnected(db)
      assert.deepStrictEqual(yield* numbers(db), many)
      assert.deepStrictEqual(yield* records(url), { true: times })
      yield* assertIdle(db)
    }))

  live(`that was lost on its way is done again by retry, once, ${times} times`, () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      for (const n of many) {
        yield* atCommit(network, () => n % 2 === 0 ? "cut" : "reset")
        const log = newLog()
        yield* db.session(inserting(db, n, log), recorded)
        assert.deepStrictEqual(log, { runs: 2, hooks: ["rollback", "commit"] })
      }
      assert.deepStrictEqual(yield* numbers(db), many)
      assert.deepStrictEqual(yield* records(url), { false: times, true: times })
    }))

  live("is told by a server that was restarted, or that crashed, in between", () =>
    Effect.gen(function*() {
      const { kill, start, stop, url } = yield* server()
      const { db, network } = yield* migrated(url)
      const restart = Effect.zipRight(stop("fast"), start)
      const crash = Effect.zipRight(kill, start)
      let n = 0
      for (const meanwhile of [restart, crash]) {
        for (const what of ["answer", "request"] as const) {
          yield* reconnected(db)
          yield* lost(network, what, meanwhile)
          const log = newLog()
          yield* db.session(inserting(db, ++n, log), recorded)
          assert.strictEqual(log.runs, what === "answer" ? 1 : 2)
        }
      }
      yield* reconnected(db)
      assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
    }))

  live("costs no round trip more, and none at all where nothing was done", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      let sent = 0
      yield* network.onClientData(() => {
        sent++
        return "pass"
      })
      yield* db.session(Effect.void, recorded)
      assert.strictEqual(sent, 0)
      yield* db.session(Effect.zipRight(insert(db, 1), insert(db, 2)), recorded)
      assert.strictEqual(sent, 3)
      yield* network.onClientData(undefined)
      assert.strictEqual((yield* accepted(network)) > 0, true)
      assert.deepStrictEqual(yield* records(url), { true: 1 })
    }))

  live("without its table fails, and says what to do", () =>
    Effect.gen(function*() {
      const { db } = yield* proxied(yield* freshDatabase)
      const log = newLog()
      const error = yield* failure(db.session(inserting(db, 1, log), recorded))
      assert.strictEqual(error._tag, "InvalidStatement")
      assert.include(error.hint, "Migrations.commitRecords")
      assert.deepStrictEqual(log, { runs: 1, hooks: ["rollback"] })
      assert.deepStrictEqual(yield* numbers(db), [])
      // One that cannot write has nothing to record.
      assert.deepStrictEqual(yield* db.session(numbers(db), { ...recorded, readOnly: true }), [])
      yield* assertIdle(db)
    }))

  live(
    "is written by the user of the connection, whatever the session's role and search_path are",
    () =>
      Effect.gen(function*() {
        const { url } = yield* server()
        const { db } = yield* migrated(url)
        yield* query(url, "CREATE ROLE application; GRANT INSERT ON items TO application")
        const who = db.sql<{ readonly who: string }>`SELECT current_user::text AS who`
        yield* db.sql`CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS ${
          db.sql.literal(
            "$$BEGIN PERFORM set_config('tests.who', current_user::text, false); RETURN NULL; END$$"
          )
        }`
        yield* db.sql`CREATE CONSTRAINT TRIGGER who AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION who()`
        yield* db.session(insert(db, 1), {
          ...recorded,
          role: "application",
          settings: { search_path: "public, pg_temp" }
        })
        assert.deepStrictEqual(yield* db.sql`SELECT current_setting('tests.who') AS who`, [{ who: "application" }])
        assert.notStrictEqual((yield* who)[0].who, "application")
        yield* db.session(Effect.zipRight(db.sql`SET LOCAL search_path = pg_catalog`, db.sql`SELECT 1`), recorded)
        assert.deepStrictEqual(yield* records(url), { true: 2 })
        yield* query(url, "REVOKE ALL ON SCHEMA sqlayer FROM PUBLIC; CREATE ROLE plain LOGIN PASSWORD 'plain'")
        const plain = new URL(url)
        plain.username = plain.password = "plain"
        const other = yield* Database.make({ url: plain.toString(), environment: "test" })
        const error = yield* failure(other.session(other.sql`SELECT 1`, { commit: "recorded" }))
        assert.strictEqual(error._tag, "InsufficientPrivilege")
        assert.include(error.hint, "sqlayer.commits")
      })
  )

  live("that the server refuses fails as any other", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db } = yield* migrated(url)
      const orphan = db.sql`INSERT INTO children (id, parent) VALUES (1, 1)`
      assert.strictEqual((yield* failure(db.session(orphan, recorded)))._tag, "ForeignKeyViolation")
      const swallowed = Effect.ignore(db.sql`SELECT nothing`)
      assert.strictEqual((yield* failure(db.session(swallowed, recorded)))._tag, "TransactionAborted")
      assert.deepStrictEqual(yield* records(url), {})
      yield* assertIdle(db)
    }))

  live("is one row for the outermost session, however it was begun", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      const nested = (n: number) =>
        db.session(
          Effect.zipRight(
            db.session(insert(db, n), recorded),
            db.session(insert(db, n + 1), { ...recorded, propagation: "join" })
          ),
          recorded
        )
      const acquired = (n: number) =>
        Effect.scoped(Effect.flatMap(db.acquireSession({ commit: "recorded" }), (handle) =>
          Effect.zipRight(handle.run(insert(db, n)), handle.commit)))
      const byDefault = (n: number) =>
        db.sql.withTransaction(insert(db, n)).pipe(Session.withDefaults({ commit: "recorded" }))
      const reserved = (n: number) =>
        Effect.scoped(Effect.flatMap(db.sql.reserve, (connection) =>
          Effect.provideService(db.session(insert(db, n), recorded), SqlClient.TransactionConnection, [
            connection,
            -1
          ])))
      let n = 10
      for (const session of [nested, acquired, byDefault, reserved]) {
        yield* inPlaceOfTheAnswer(network, "cut")
        yield* session(n)
        yield* reconnected(db)
        n += 10
      }
      assert.deepStrictEqual(yield* numbers(db), [10, 11, 20, 30, 40])
      assert.deepStrictEqual(yield* records(url), { true: 4 })
    }))

  live("is like any other on SQLite, whose migration makes nothing", () =>
    Effect.gen(function*() {
      const db = yield* open(sqliteFile)
      yield* Migrations.run({ loader: Migrations.fromRecord({ "0001_commit_records": Migrations.commitRecords }) })
        .pipe(
          Effect.provideService(Database.Database, db)
        )
      yield* db.session(insert(db, 1), recorded)
      assert.deepStrictEqual(yield* numbers(db), [1])
      assert.deepStrictEqual(yield* db.sql`SELECT name FROM sqlite_master WHERE name LIKE '%commits%'`, [])
    }))

  forEachDialect((name, layer) =>
    live(`needs no table in a sandbox: ${name}`, () =>
      Effect.gen(function*() {
        const db = yield* Database.Database
        yield* db.sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
        yield* db.session(insert(db, 1), recorded)
        assert.deepStrictEqual(yield* numbers(db), [1])
      }).pipe(Effect.provide(Layer.provideMerge(TestDatabase.sandbox, layer))))
  )
})

/** A record of a transaction on the server of a URL, and its lookup. */
const recordOn = (url: string) =>
  Effect.map(query(url, identityQuery), ([row]) => {
    const record = makeCommitRecord(parseServerIdentity(row).systemIdentifier, "on")
    return { record, lookUp: Effect.orDie(lookUpRecord(connecting(url), record)) }
  })

const insertRecord = (id: string) => `INSERT INTO sqlayer.commits VALUES ('${id}', true, clock_timestamp())`

describe("the lookup of a record", () => {
  live(
    "that says rolled back keeps a COMMIT that is still on its way from doing anything",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* migrated(url)
        const { lookUp, record } = yield* recordOn(url)
        assert.strictEqual(yield* lookUp, "aborted")
        const late = query(url, `BEGIN; INSERT INTO items VALUES (1); ${insertRecord(record.id)}; COMMIT`)
        const error = yield* Effect.catchAllDefect(late, (defect) => Effect.succeed(String(defect)))
        assert.include(error, "duplicate key")
        assert.strictEqual(yield* lookUp, "aborted")
        assert.deepStrictEqual(yield* query(url, "SELECT n FROM items"), [])
      })
  )

  live("waits for a COMMIT that is being executed", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* migrated(url)
      for (const [end, outcome] of [["COMMIT", "committed"], ["ROLLBACK", "aborted"]] as const) {
        const { lookUp, record } = yield* recordOn(url)
        const connection = yield* Effect.uninterruptibleMask(connecting(url))
        yield* connection.query(`BEGIN; ${insertRecord(record.id)}`)
        const looking = yield* Effect.fork(lookUp)
        const blocked = query(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        yield* eventually(Effect.map(blocked, (rows) => rows.length === 1))
        yield* connection.query(end)
        assert.strictEqual(yield* Fiber.join(looking), outcome)
        yield* connection.close
      }
    }))

  live(
    "of a commit that was sent long ago, or whose server could not be identified, is not told by a missing row",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* migrated(url)
        const { record } = yield* recordOn(url)
        const outcomeOf = (other: Partial<typeof record>) =>
          Effect.orDie(lookUpRecord(connecting(url), { ...record, id: randomUUID(), ...other }))
        assert.strictEqual(yield* outcomeOf({ sentAt: Date.now() - 31 * 60_000 }), "unknown")
        assert.strictEqual(yield* outcomeOf({ sentAtMonotonic: performance.now() - 31 * 60_000 }), "unknown")
        assert.strictEqual(yield* outcomeOf({ system: undefined }), "pending")
        assert.strictEqual(yield* outcomeOf({ system: "1" }), "pending")
        assert.strictEqual(yield* outcomeOf({ system: null }), "aborted")
        yield* query(url, insertRecord(record.id))
        assert.strictEqual(yield* outcomeOf({ id: record.id, system: undefined }), "committed")
        assert.strictEqual(yield* outcomeOf({ id: record.id, system: "1" }), "committed")
      })
  )
})

describe("the rows of recorded commits", () => {
  live("are removed after an hour, in batches, by one process in ten minutes", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db } = yield* migrated(url)
      const insertOld = (minutes: number, count: number) =>
        query(
          url,
          `INSERT INTO sqlayer.commits SELECT gen_random_uuid(), n % 2 = 0, clock_timestamp() - interval '${minutes} minutes'
             FROM generate_series(1, ${count}) n`
        )
      const count = Effect.map(query(url, "SELECT count(*)::int FROM sqlayer.commits"), ([row]) => row.count)
      const clean = Effect.scoped(
        Effect.flatMap(db.sql.reserve, (connection) => cleanRecords(connection as Connection))
      )
      yield* insertOld(61, 25_000)
      yield* insertOld(59, 10)
      yield* clean
      assert.strictEqual(yield* count, 11, "and one for the time of the cleaning")
      yield* insertOld(61, 10)
      yield* clean
      assert.strictEqual(yield* count, 21)
      yield* query(
        url,
        "UPDATE sqlayer.commits SET at = at - interval '11 minutes' WHERE at > now() - interval '1 minute'"
      )
      yield* Effect.all([clean, clean])
      assert.strictEqual(yield* count, 11)
    }))

  live(
    "are removed by a process that has recorded commits for a minute, and then every ten minutes",
    () =>
      Effect.gen(function*() {
        let now = 0
        let cleaned = 0
        const records = { interval: 600_000, clean: () => Effect.sync(() => void cleaned++) }
        const clock = { now: () => now, schedule: () => assert.fail("no timer") }
        const pool = { acquire: Effect.succeed(undefined) } as never
        const onRecorded = yield* makeCleaner(pool, records, clock)
        const expected: ReadonlyArray<readonly [number, number]> = [
          [5_000, 0],
          [64_999, 0],
          [65_000, 1],
          [664_999, 1],
          [665_000, 2],
          [9_000_000, 3]
        ]
        for (const [time, count] of expected) {
          now = time
          onRecorded()
          yield* eventually(Effect.sync(() => cleaned === count))
        }
      })
  )
})
