/**
 * What the dashboard asks of the database: while somebody looks, without harm, each table alone.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import { openDatabases } from "../../../src/internal/database/opened.js"
import type { Data, Section } from "../../../src/internal/databaseHttp/dashboard/data.js"
import { statementId } from "../../../src/internal/databaseHttp/dashboard/plan.js"
import { watch } from "../../../src/internal/databaseHttp/dashboard/watch.js"
import { type Driver, Interceptor } from "../../../src/internal/driver.js"
import { make as makeError } from "../../../src/internal/makeError.js"
import type { Connection as PostgresConnection } from "../../../src/internal/postgres/connection.js"
import { monitoring as postgresMonitoring } from "../../../src/internal/postgres/monitoring.js"
import * as Migrations from "../../../src/Migrations.js"
import { dialects, make, postgres, sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { serve } from "./dashboardApp.js"

const watched = { explains: false, migrations: undefined }

/** The answer of a dashboard that somebody looks at, once it says what is expected. */
const lookUntil = (
  answer: (cursor: string) => Effect.Effect<Data>,
  isExpected: (data: Data) => boolean
): Effect.Effect<Data> => {
  let last: Data
  return Effect.suspend(() =>
    Effect.map(
      eventually(Effect.map(answer(""), (data) => isExpected(last = data)), { timeout: "1 minute" }),
      () => last
    )
  )
}

const sectionOf = ({ examined }: Data, id: string): Section => {
  const section = examined?.sections.find((section) => section.id === id)
  assert(section !== undefined, `there is no ${id} among ${examined?.sections.map(({ id }) => id).join()}`)
  return section
}

const isExamined = ({ examined }: Data): boolean => examined !== undefined

/** Opens a database over a driver whose questions are counted, and may be others. */
const intercepted = (
  change: (driver: Driver) => Partial<Driver>,
  dialect = postgres,
  options: Parameters<typeof make>[1] = {}
): Effect.Effect<Database.Service, DatabaseError, Scope.Scope> =>
  Effect.provideService(
    make(dialect, options),
    Interceptor,
    (driver) => Effect.succeed({ ...driver, ...change(driver) })
  )

describe("what sessions wait for", () => {
  it.scopedLive("is a lock of another session, with its holder, until it is released", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres)
      const { sql } = database
      yield* sql`CREATE TABLE account (id integer PRIMARY KEY, n integer)`
      yield* sql`INSERT INTO account VALUES (1, 1), (2, 2)`
      const answer = yield* watch(database, watched)
      const holder = yield* database.acquireSession({ name: "close the books" })
      yield* holder.run(sql`UPDATE account SET n = 7 WHERE id = ${1}`)
      const waiting = yield* Effect.fork(
        database.session(sql`UPDATE account SET n = 8 WHERE id IN ${sql.in([1, 2])}`, { name: "transfer" })
      )
      const data = yield* lookUntil(answer, ({ sessions }) => sessions.some(({ wait }) => wait?.lock !== undefined))
      const blocked = data.sessions.find(({ name }) => name === "transfer")
      const holding = data.sessions.find(({ name }) => name === "close the books")
      assert(blocked !== undefined)
      assert.strictEqual(blocked.state, "statement")
      assert.match(blocked.wait?.event ?? "", /^Lock: /)
      assert.match(blocked.wait?.lock?.name ?? "", /^ShareLock on a row of account$/)
      assert.isAtLeast(blocked.wait?.lock?.seconds ?? -1, 0)
      const [held, ...others] = blocked.wait?.lock?.holders ?? []
      assert.deepStrictEqual(others, [])
      assert.deepInclude(held, {
        connection: holding?.connectionId,
        session: "close the books",
        sessionId: holder.id,
        state: "idle in transaction"
      })
      assert.isAtLeast(held.seconds ?? -1, 0)
      assert.strictEqual(holding?.wait, undefined)
      yield* holder.rollback
      yield* Fiber.join(waiting)
      assert.deepStrictEqual((yield* answer("")).sessions, [])
    }), 240_000)

  it.scopedLive("is a lock of another program, a table's or an advisory one", () =>
    Effect.gen(function*() {
      const url = yield* postgres.url
      const open = (applicationName: string) => Database.make({ url, environment: "test", applicationName })
      const [database, other] = [yield* open("ours"), yield* open("theirs")]
      yield* database.sql`CREATE TABLE account (id integer PRIMARY KEY)`
      const answer = yield* watch(database, watched)
      const handle = yield* other.acquireSession()
      yield* handle.run(other.sql`LOCK TABLE account`)
      yield* handle.run(other.sql`SELECT pg_advisory_xact_lock(4711)`)
      const first = yield* Effect.fork(database.session(database.sql`SELECT * FROM account`, { name: "reader" }))
      const second = yield* Effect.fork(
        database.session(database.sql`SELECT pg_advisory_xact_lock(4711)`, { name: "job" })
      )
      const { sessions } = yield* lookUntil(answer, ({ sessions }) =>
        sessions.filter(({ wait }) => wait?.lock !== undefined).length === 2)
      const lockOf = (name: string) =>
        sessions.find((session) => session.name === name)?.wait?.lock
      assert.strictEqual(lockOf("reader")?.name, "AccessShareLock on account")
      assert.strictEqual(lockOf("job")?.name, "ExclusiveLock on advisory")
      for (const name of ["reader", "job"]) {
        assert.deepInclude(lockOf(name)?.holders[0], { application: "theirs", session: undefined })
      }
      yield* handle.rollback
      yield* Fiber.joinAll([first, second])
    }), 240_000)

  it.scopedLive("is a commit, or the server's own event", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres)
      const { sql } = database
      yield* sql`CREATE TABLE account (id integer)`
      yield* sql`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NULL; END'`
      yield* sql`CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow()`
      const answer = yield* watch(database, watched)
      const commits = yield* Effect.fork(
        database.session(sql`INSERT INTO account VALUES (1)`, { name: "commits", statementTimeout: "10 minutes" })
      )
      const sleeps = yield* Effect.fork(database.session(sql`SELECT pg_sleep(600)`, { name: "sleeps" }))
      const { sessions } = yield* lookUntil(answer, ({ sessions }) =>
        sessions.filter(({ wait }) => wait !== undefined).length === 2)
      const find = (name: string) =>
        sessions.find((session) => session.name === name)
      assert.deepInclude(find("commits"), {
        state: "ending",
        isCommitting: true,
        wait: { event: "Timeout: PgSleep", lock: undefined }
      })
      assert.deepInclude(find("sleeps"), {
        state: "statement",
        isCommitting: false,
        wait: { event: "Timeout: PgSleep", lock: undefined }
      })
      yield* Fiber.interruptAll([commits, sleeps])
    }), 240_000)
})

describe("the database", () => {
  it.scoped("is asked only while somebody looks", () =>
    Effect.gen(function*() {
      let asked = 0
      const database = yield* intercepted(({ monitoring }) => ({
        monitoring: {
          ...monitoring,
          waits: (connection, ids) => Effect.zipRight(Effect.sync(() => asked++), monitoring.waits!(connection, ids)),
          sections: monitoring.sections.map((section) => ({
            ...section,
            read: (connection) => Effect.zipRight(Effect.sync(() => asked++), section.read(connection))
          }))
        }
      }))
      const busy = yield* Effect.fork(database.session(database.sql`SELECT pg_sleep(600)`))
      yield* eventually(Effect.map(database.activity, ({ sessions }) => sessions[0]?.state === "statement"))
      const opened = (yield* database.poolStats).created
      const answer = yield* watch(database, watched)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(asked, 0)
      yield* lookUntil(answer, isExamined)
      const looked = asked
      assert.isAtLeast(looked, 2)
      // It looks once more, since it has been asked meanwhile.
      const round = 1 + openDatabases.get(database.sql)!.driver.monitoring.sections.length
      for (let i = 0; i < 15; i++) {
        yield* TestClock.adjust("2 seconds")
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 20)))
      }
      assert.isAtMost(asked, looked + round)
      assert.isAtMost((yield* database.poolStats).created, opened + 1)
      yield* Fiber.interrupt(busy)
    }), 240_000)

  it.scopedLive("is asked beside a pool that is exhausted, of which nothing is taken", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres, { poolSize: 2, poolMaxOverflow: 0 })
      const { sql } = database
      const answer = yield* watch(database, watched)
      const handles = [yield* database.acquireSession({ name: "a" }), yield* database.acquireSession({ name: "b" })]
      for (const handle of handles) {
        yield* handle.run(sql`SELECT 1`)
      }
      const before = yield* database.poolStats
      const waiting = yield* Effect.fork(database.session(sql`SELECT 1`, { name: "waits" }))
      const data = yield* lookUntil(answer, (data) =>
        isExamined(data) && data.sessions.some(({ state }) => state === "waiting"))
      assert.isTrue(
        data.examined?.sections.every(({ error }) =>
          error === undefined
        ),
        JSON.stringify(data.examined)
      )
      const { checkouts, created, waiting: waits } = yield* database.poolStats
      assert.deepStrictEqual({ checkouts, created, waits }, {
        checkouts: before.checkouts,
        created: before.created,
        waits: 1
      })
      for (const handle of handles) {
        yield* handle.commit
      }
      yield* Fiber.join(waiting)
    }), 240_000)

  it.scopedLive(
    "tells connections, caches, indexes, dead tuples, transactions and migrations",
    () =>
      Effect.gen(function*() {
        const database = yield* make(postgres)
        const { sql } = database
        // Autovacuum would remove the dead tuples that are counted below.
        yield* sql`CREATE TABLE account (id integer PRIMARY KEY, owner text) WITH (autovacuum_enabled = false)`
        yield* sql`CREATE INDEX account_owner ON account (owner)`
        yield* sql`INSERT INTO account SELECT i, repeat(i || ${" secret owner"}, 9) FROM generate_series(1, 3000) AS i`
        yield* sql`DELETE FROM account WHERE id > 2000`
        // So that the statistics are there at once.
        yield* sql`SELECT pg_stat_force_next_flush()`
        yield* Effect.provideService(
          Migrations.run({ loader: Migrations.fromRecord({ "0001_one": "SELECT 1" }), progress: () => Effect.void }),
          Database.Database,
          database
        )
        const status = Effect.provideService(
          Migrations.status({ loader: Migrations.fromRecord({ "0001_one": "SELECT 1", "0002_two": "SELECT 2" }) }),
          Database.Database,
          database
        )
        const answer = yield* watch(database, { explains: false, migrations: { status } })
        const handle = yield* database.acquireSession({ name: "forgotten" })
        yield* handle.run(sql`SELECT 1`)
        yield* Effect.sleep("1100 millis")
        const data = yield* lookUntil(answer, isExamined)
        assert.deepStrictEqual(data.examined?.sections.flatMap(({ error }) => error ?? []), [])
        const [maximum, opened] = sectionOf(data, "connections").rows
        assert.deepStrictEqual([maximum[0], maximum[2], opened[0]], ["max_connections", 1, "open"])
        assert.isBelow(Number(opened[2]), 1)
        const transaction = sectionOf(data, "transactions").rows.find(([connection]) =>
          String(connection).includes("forgotten")
        )
        assert(transaction !== undefined)
        assert.strictEqual(transaction[0], `${data.sessions[0].connectionId} (forgotten, ${handle.id})`)
        assert.isAbove(Number(transaction[1]), 1)
        assert.strictEqual(transaction[2], "idle in transaction")
        const [largest] = sectionOf(data, "largest-indexes").rows
        assert.deepStrictEqual([largest[0], largest[1]], ["account_owner", "account"])
        assert.isAbove(Number(largest[2]), 8192)
        assert.deepStrictEqual(
          sectionOf(data, "unused-indexes").rows.map(([index, table, scans]) => [index, table, scans]),
          [
            ["account_owner", "account", 0]
          ]
        )
        const [dead] = sectionOf(data, "dead-tuples").rows
        assert.deepStrictEqual(dead.slice(0, 3), ["account", 1000, 2000])
        assert.closeTo(Number(dead[3]), 1 / 3, 1e-9)
        assert.deepStrictEqual(sectionOf(data, "replication").rows, [])
        assert.deepStrictEqual(sectionOf(data, "migrations").rows.map((row) => row.slice(0, 3)), [
          ["2", "two", "pending"],
          ["1", "one", "applied"]
        ])
        assert.isTrue(data.settings?.some(([name, value]) => name === "poolSize" && value === "5"))
        assert.isAbove(data.process.uptime, 0)
        assert.notInclude(JSON.stringify(data), "secret")
        yield* handle.rollback
      }),
    240_000
  )

  it.scopedLive("says what a role may not see, and shows the rest", () =>
    Effect.gen(function*() {
      const url = yield* postgres.url
      const owner = yield* Database.make({ url, environment: "test" })
      const name = `poor_${process.pid}_${Date.now()}`
      const { sql } = owner
      yield* Effect.acquireRelease(
        sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD 'pw'`),
        () => Effect.orDie(sql.unsafe(`DROP OWNED BY ${name}; DROP ROLE ${name}`).unprepared.pipe(Effect.ignore))
      )
      yield* sql`REVOKE SELECT ON pg_stat_user_tables FROM PUBLIC`
      yield* sql`CREATE TABLE account (id integer PRIMARY KEY)`
      const handle = yield* owner.acquireSession()
      yield* handle.run(sql`LOCK TABLE account`)
      const poor = new URL(url)
      poor.username = name
      poor.password = "pw"
      yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* Database.make({ url: String(poor), environment: "test" })
        const answer = yield* watch(database, watched)
        const data = yield* lookUntil(answer, isExamined)
        assert.match(
          sectionOf(data, "transactions").missing ?? "",
          /^Details of \d+ of other users are hidden: GRANT pg_read/
        )
        assert.match(sectionOf(data, "dead-tuples").error ?? "", /^InsufficientPrivilege: permission denied for view/)
        assert.strictEqual(sectionOf(data, "largest-indexes").error, undefined)
        assert.strictEqual(sectionOf(data, "connections").rows[0][0], "max_connections")
        assert.strictEqual(sectionOf(data, "connections").error, undefined)
      }))
      yield* handle.rollback
    }), 240_000)

  it.scopedLive("shows the tables of an engine that refuses others", () =>
    Effect.gen(function*() {
      const database = yield* intercepted(({ monitoring }) => ({
        monitoring: {
          ...monitoring,
          waits: () => Effect.fail(makeError("InvalidStatement", { dialect: "postgres", code: "42883", reason: "no" })),
          sections: monitoring.sections.map((section) =>
            section.id === "cache"
              ? {
                ...section,
                read: (connection) =>
                  Effect.mapBoth(connection.executeUnprepared("SELECT * FROM pg_catalog.pg_not_here", [], undefined), {
                    onFailure: fromSqlError,
                    onSuccess: () => ({ rows: [] })
                  })
              }
              : section
          )
        }
      }))
      const data = yield* lookUntil(yield* watch(database, watched), isExamined)
      const failed = data.examined?.sections.filter(({ error }) => error !== undefined) ?? []
      assert.deepStrictEqual(failed.map(({ id }) => id), ["cache"])
      assert.match(failed[0].error ?? "", /^InvalidStatement: relation .* does not exist/)
    }), 240_000)

  for (const dialect of dialects.filter(({ single }) => single)) {
    it.scopedLive(`tells what SQLite knows: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        const { sql } = database
        yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT)`
        yield* sql`CREATE INDEX account_owner ON account (owner)`
        yield* sql`INSERT INTO account VALUES (1, ${"secret owner"}), (2, ${"secret owner"})`
        yield* sql`ANALYZE`
        const data = yield* lookUntil(yield* watch(database, watched), isExamined)
        assert.deepStrictEqual(data.examined?.sections.flatMap(({ error }) => error ?? []), [])
        const [[, bytes, pages]] = sectionOf(data, "size").rows
        assert.isAbove(Number(bytes), Number(pages))
        const objects = sectionOf(data, "objects").rows
        assert.sameDeepMembers(objects.map(([name, kind, table, , rows]) => [name, kind, table, rows]), [
          ["account", "table", "account", 2],
          ["account_owner", "index", "account", 2]
        ])
        assert.deepInclude(sectionOf(data, "pragmas").rows, ["foreign_keys", "1"])
        assert.deepStrictEqual(sectionOf(data, "migrations").rows, [])
        // Asking has left nothing on the connection.
        yield* database.session(sql`INSERT INTO account VALUES (3, 'x')`)
      }), 240_000)
  }

  it.scopedLive("in memory is not asked while a session uses it", () =>
    Effect.gen(function*() {
      const database = yield* make(dialects[2])
      const answer = yield* watch(database, watched)
      const handle = yield* database.acquireSession()
      yield* handle.run(database.sql`CREATE TABLE account (id INTEGER)`)
      const data = yield* lookUntil(answer, isExamined)
      assert.match(sectionOf(data, "size").error ?? "", /the connection of :memory: is in use/)
      yield* handle.commit
      assert.lengthOf(yield* database.sql`SELECT * FROM account`, 0)
    }), 240_000)
})

describe("the plan of a statement", () => {
  const request = (address: string, query: string, method = "GET") =>
    Effect.promise(async () => {
      const response = await fetch(`${address}/admin/database?explain=${query}`, { method })
      return { status: response.status, body: await response.text() }
    })

  for (const dialect of dialects) {
    it.scopedLive(
      `is made of a shown text without its values, and nothing else: ${dialect.name}`,
      () =>
        Effect.gen(function*() {
          const database = yield* make(dialect)
          const { sql } = database
          yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT)`
          yield* sql`INSERT INTO account VALUES (1, 'x')`
          yield* sql`SELECT owner FROM account WHERE id IN ${sql.in([4711, 4712])} AND owner = ${"secret owner"}`
          yield* sql`DELETE FROM account WHERE id = ${4711}`
          const address = yield* serve(database, { guard: Effect.succeed(true), explain: true })
          const data: Data = yield* Effect.promise(async () =>
            (await fetch(`${address}/admin/database?data`)).json() as Promise<Data>
          )
          assert.isTrue(data.explains)
          for (const start of ["SELECT owner", "DELETE"]) {
            const shown = data.statements.find(({ text }) => text.startsWith(start))
            const { body, status } = yield* request(address, shown?.id ?? "")
            assert.strictEqual(status, 200)
            assert.match(JSON.parse(body).lines.join("\n"), /account/)
            assert.notMatch(body, /secret|4711/)
          }
          assert.lengthOf(yield* sql`SELECT * FROM account`, 1)
          const created = data.statements.find(({ text }) => text.startsWith("CREATE"))
          assert.match(
            JSON.parse((yield* request(address, created?.id ?? "")).body).error,
            /^InvalidStatement: this is not/
          )
          for (const unknown of ["", "x", "SELECT%201", statementId("SELECT 1")]) {
            assert.match(JSON.parse((yield* request(address, unknown)).body).error, /^InvalidStatement: .* no longer/)
          }
        }),
      240_000
    )
  }

  it.scopedLive(
    "is not there unless it is asked for, nor for whom the guard does not let in",
    () =>
      Effect.gen(function*() {
        const database = yield* make(sqliteFile)
        yield* database.sql`SELECT 1`
        const id = statementId("SELECT 1")
        const closed = yield* serve(database, { guard: Effect.succeed(true) })
        assert.strictEqual((yield* request(closed, id)).status, 404)
        const guarded = yield* serve(database, { guard: Effect.succeed(false), explain: true })
        assert.strictEqual((yield* request(guarded, id)).status, 403)
        const open = yield* serve(database, { guard: Effect.succeed(true), explain: true })
        assert.strictEqual((yield* request(open, id, "POST")).status, 405)
        assert.deepStrictEqual(Object.keys(JSON.parse((yield* request(open, id)).body)), ["lines"])
      }),
    240_000
  )

  it.scopedLive("is refused by a server that is older than PostgreSQL 16", () =>
    Effect.gen(function*() {
      const open = openDatabases.get((yield* make(postgres)).sql)!
      const connection = (yield* open.acquire) as PostgresConnection
      const older = new Proxy(connection, {
        get: (target, name) =>
          name === "query"
            ? (text: string) =>
              text.includes("server_version_num") ? Effect.succeed([{ version: 150_010 }]) : target.query(text)
            : Reflect.get(target, name, target)
      })
      const error = yield* Effect.flip(postgresMonitoring.explain(older, "SELECT $1::int"))
      assert.deepInclude(error, { _tag: "InvalidStatement", code: "0A000" })
      assert.match(error.hint ?? "", /PostgreSQL 16/)
      assert.isAbove((yield* postgresMonitoring.explain(older, "SELECT 1")).length, 0)
    }), 240_000)

  it.scopedLive("is of a single statement that has one", () =>
    Effect.gen(function*() {
      const database = yield* make(postgres)
      const { sql } = database
      yield* sql`CREATE TABLE account (id integer)`
      const open = openDatabases.get(sql)!
      const connection = yield* open.acquire
      for (
        const text of [
          "SELECT 1; INSERT INTO account VALUES (1)",
          "SELECT 'a\\'; INSERT INTO account VALUES (1); --'",
          "CREATE TABLE other (id integer)",
          "ANALYZE account",
          "EXPLAIN ANALYZE INSERT INTO account VALUES (1)",
          "COMMIT",
          "",
          "DO 'BEGIN END'"
        ]
      ) {
        const error = yield* Effect.flip(postgresMonitoring.explain(connection, text))
        assert.strictEqual(error._tag, "InvalidStatement", text)
      }
      assert.lengthOf(yield* sql`SELECT * FROM account`, 0)
    }), 240_000)
})
