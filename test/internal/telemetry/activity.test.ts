import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import * as Database from "../../../src/Database.js"
import { make } from "../../../src/internal/makeError.js"
import { ActivityTracker } from "../../../src/internal/telemetry/activity.js"
import * as Recorders from "../../../src/internal/telemetry/recorders.js"
import * as Migrations from "../../../src/Migrations.js"
import type * as Telemetry from "../../../src/Telemetry.js"
import { forEachDialect, layer, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"

const activityWith = (check: (activity: Telemetry.Activity) => boolean) =>
  Effect.zipRight(eventually(Effect.map(Database.activity, check)), Database.activity)

forEachDialect((name, live) => {
  describe(`activity of ${name}`, () => {
    it.live("shows a session while it is open, and the statement that runs", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const gate = yield* Deferred.make<void>()
        const session = yield* Effect.gen(function*() {
          yield* sql`SELECT 1`
          yield* Deferred.await(gate)
        }).pipe(Database.session({ name: "shown" }), Effect.fork)
        const { sessions: [shown] } = yield* activityWith(({ sessions }) => sessions[0]?.state === "idle")
        assert.strictEqual(shown.name, "shown")
        assert.isString(shown.id)
        assert.strictEqual(shown.statement, undefined)
        assert.isBelow(Duration.toSeconds(shown.age), 60)
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(session)
        assert.deepStrictEqual((yield* Database.activity).sessions, [])
      }).pipe(Effect.provide(live)))

    it.live("shows a session once, by its outermost level, and not after it failed or was interrupted", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const during = yield* Effect.zipRight(sql`SELECT 1`, Database.activity).pipe(
          Database.session({ name: "inner" }),
          Database.session({ name: "outer" })
        )
        assert.deepStrictEqual(during.sessions.map(({ name }) => name), ["outer"])
        yield* Effect.exit(Database.session(Effect.fail("no")))
        yield* Effect.exit(Database.session(Effect.die("no")))
        yield* Database.session(Effect.timeout(Effect.never, "10 millis")).pipe(Effect.exit)
        const endless = yield* Effect.fork(Database.session(Effect.never))
        yield* activityWith(({ sessions }) => sessions[0]?.state === "idle")
        yield* Fiber.interrupt(endless)
        const { committed, rolledBack, sessions } = yield* Database.activity
        assert.deepStrictEqual(sessions, [])
        assert.strictEqual(committed, 1)
        assert.deepStrictEqual(rolledBack, { failure: 2, defect: 1, interrupted: 1 })
      }).pipe(Effect.provide(live)))

    it.scopedLive("shows a session that is acquired until it is given back", () =>
      Effect.gen(function*() {
        const handle = yield* Database.acquireSession({ name: "acquired" })
        const { sessions } = yield* Database.activity
        assert.deepStrictEqual(sessions.map(({ id, name }) => [id, name]), [[handle.id, "acquired"]])
        yield* handle.commit
        assert.deepStrictEqual((yield* Database.activity).sessions, [])
      }).pipe(Effect.provide(live)))

    it.live("counts statements, errors and retries", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE thing (id INTEGER PRIMARY KEY)`
        const insert = (id: number) => sql`INSERT INTO thing (id) VALUES (${id})`
        yield* insert(1)
        yield* insert(2)
        yield* Effect.exit(insert(2))
        yield* Effect.exit(Database.session(insert(1)))
        const { errors, rolledBack, statements } = yield* Database.activity
        assert.deepStrictEqual(errors, { UniqueViolation: 2 })
        assert.deepStrictEqual(rolledBack, { UniqueViolation: 1 })
        const inserted = statements.find(({ text }) => text.startsWith("INSERT INTO thing"))
        assert(inserted !== undefined)
        assert.strictEqual(inserted.count, 4)
        assert.isAtMost(inserted.longest, inserted.total)
        assert.match(inserted.text, /VALUES \((\$1|\?)\)$/)
        assert.isAtMost(inserted.p95, inserted.longest)
        assert.isAbove(inserted.p95, 0)
      }).pipe(Effect.provide(live)))

    it.live("counts lists of any length as one statement, by the sessions that run it", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT)`
        const insert = (first: number, count: number) =>
          sql`INSERT INTO thing ${
            sql.insert(Array.from({ length: count }, (_, i) => ({ id: first + i, name: `secret name ${i}` })))
          }`
        const select = (count: number) =>
          sql`SELECT id FROM thing WHERE id IN ${sql.in(Array.from({ length: count }, (_, i) => i))} AND name = ${"x"}`
        yield* insert(1, 1)
        yield* Database.session(insert(2, 7), { name: "import" })
        yield* Database.session(Effect.zipRight(select(1), Database.session(select(5), { name: "inner" })), {
          name: "report"
        })
        yield* select(3)
        const { statements } = yield* Database.activity
        const found = (start: string) => statements.filter(({ text }) => text.startsWith(start))
        assert.deepStrictEqual(found("INSERT").map(({ count, sessions }) => ({ count, sessions })), [
          { count: 2, sessions: [{ name: "import", count: 1 }, { name: undefined, count: 1 }] }
        ])
        assert.deepStrictEqual(found("SELECT").map(({ count, sessions }) => ({ count, sessions })), [
          { count: 3, sessions: [{ name: "report", count: 2 }, { name: undefined, count: 1 }] }
        ])
        assert.match(found("SELECT")[0].text, /id IN \((\$1\) AND name = \$2|\?\) AND name = \?)$/)
        assert.notInclude(JSON.stringify(statements), "secret")
      }).pipe(Effect.provide(live)))

    it.live("keeps recent errors with session and statement, once each, and no values", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT UNIQUE)`
        yield* sql`INSERT INTO thing (id, name) VALUES (1, ${"secret name"})`
        for (let i = 0; i < 3; i++) {
          yield* Effect.exit(Database.session(sql`INSERT INTO thing (id, name) VALUES (2, ${"secret name"})`, {
            name: "sign up"
          }))
        }
        yield* Effect.exit(sql`SELECT * FROM nowhere_to_be_found`)
        yield* Effect.exit(Database.session(sql`SELECT 1`.pipe(Effect.zipRight(Effect.never)), {
          name: "late",
          timeout: "20 millis"
        }))
        const { recentErrors } = yield* Database.activity
        assert.deepStrictEqual(
          recentErrors.map(({ count, error, session, statement }) => [error, session, count, statement?.slice(0, 30)]),
          [
            ["SessionTimeout", "late", 1, undefined],
            ["InvalidStatement", undefined, 1, "SELECT * FROM nowhere_to_be_fo"],
            ["UniqueViolation", "sign up", 3, "INSERT INTO thing (id, name) V"]
          ]
        )
        assert.isString(recentErrors[2].sessionId)
        assert.isAbove(recentErrors[2].time, Date.now() - 600_000)
        assert.notInclude(JSON.stringify(recentErrors), "secret")
      }).pipe(Effect.provide(live)))

    it.live("shows the connection of a session from its first statement on", () =>
      Effect.scoped(Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const handle = yield* Database.acquireSession()
        assert.strictEqual((yield* Database.activity).sessions[0].connectionId, undefined)
        yield* handle.run(sql`SELECT 1`)
        const { sessions: [{ connectionId }] } = yield* Database.activity
        const pid = yield* handle.run(sql.onDialectOrElse({
          pg: () => Effect.map(sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`, ([{ pid }]) => pid),
          orElse: () => Effect.succeed(connectionId)
        }))
        assert.isNumber(connectionId)
        assert.strictEqual(connectionId, pid)
      })).pipe(Effect.provide(live)))

    it.live("shows the statements of migrations apart from those that migrations make", () =>
      Effect.gen(function*() {
        const made = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO made VALUES (1)`)
        yield* Migrations.run({
          loader: Migrations.fromRecord({ "0001_make": "CREATE TABLE made (id INTEGER)", "0002_fill": made }),
          progress: () => Effect.void
        })
        const { ownStatements, statements } = yield* Database.activity
        const texts = statements.map(({ text }) => text)
        assert.sameMembers(texts, ["CREATE TABLE made (id INTEGER)", "INSERT INTO made VALUES (1)"])
        assert.isTrue(ownStatements.some(({ text }) => text.includes("effect_sql_migrations")))
        assert.isFalse(ownStatements.some(({ text }) => text.includes(" made ")))
      }).pipe(Effect.provide(live)))
  })
})

describe("activity of postgres", () => {
  it.live("shows what waits for a connection, and the text of what runs", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const value = 30.123
      const first = yield* sql`SELECT pg_sleep(${value})`.pipe(Database.session({ name: "first" }), Effect.fork)
      yield* activityWith(({ sessions }) => sessions[0]?.state === "statement")
      const second = yield* sql`SELECT 2`.pipe(Database.session({ name: "second" }), Effect.fork)
      const { sessions: [running, waiting] } = yield* activityWith(({ sessions }) => sessions[1]?.state === "waiting")
      assert.strictEqual(running.statement, "SELECT pg_sleep($1)")
      assert.deepStrictEqual([waiting.name, waiting.state], ["second", "waiting"])
      assert.notStrictEqual(waiting.id, running.id)
      yield* Fiber.interrupt(first)
      yield* Fiber.join(second)
      const { rolledBack, sessions } = yield* Database.activity
      assert.deepStrictEqual(sessions, [])
      assert.deepStrictEqual(rolledBack, { interrupted: 1 })
    }).pipe(Effect.provide(layer(postgres, { poolSize: 1, poolMaxOverflow: 0 }))))
})

describe("Tracker", () => {
  const tracker = () => new ActivityTracker(Recorders.operations("tracked", "sqlite", []))

  it("shows the twenty slowest statements of many, slowest first, whatever their order", () => {
    const statements = Array.from({ length: 1_000 }, (_, index) => index + 1)
    for (
      const order of [
        statements,
        statements.toReversed(),
        statements.toSorted((one, other) => one % 7 - other % 7)
      ]
    ) {
      const tracked = tracker()
      order.forEach((index) => tracked.statement(`SELECT ${index}`, index, undefined))
      assert.deepStrictEqual(
        tracked.snapshot().statements.map(({ longest }) => longest),
        Array.from({ length: 20 }, (_, index) => 1_000 - index)
      )
    }
  })

  it("keeps a statement's figures together", () => {
    const tracked = tracker()
    for (const seconds of [1, 3, 2]) {
      tracked.statement("SELECT 1", seconds, undefined)
    }
    const [{ p95, ...figures }] = tracked.snapshot().statements
    assert.deepStrictEqual(figures, {
      text: "SELECT 1",
      count: 3,
      longest: 3,
      total: 6,
      sessions: [{ name: undefined, count: 3 }]
    })
    assert.closeTo(p95, 3, 3 * 0.05)
  })

  it("knows the 95th percentile of each statement, and its most frequent sessions", () => {
    const tracked = tracker()
    for (let run = 1; run <= 100; run++) {
      const session = tracked.sessionOpened(run <= 60 ? `session ${run % 5}` : `rare ${run}`)
      tracked.statement("SELECT 1", run / 1_000, session)
      tracked.statement("SELECT 2", 1, undefined)
    }
    const { statements } = tracked.snapshot()
    const one = statements.find(({ text }) => text === "SELECT 1")
    assert.closeTo(one?.p95 ?? 0, 0.095, 0.095 * 0.05)
    assert.deepStrictEqual(one?.sessions[0], { name: "others", count: 40 })
    assert.deepStrictEqual(one?.sessions.slice(1).map(({ count }) => count), [12, 12, 12, 12, 12])
    assert.closeTo(statements[0].p95, 1, 0.05)
  })

  it("finds a statement that it has forgotten, or that was replaced, again", () => {
    const tracked = tracker()
    tracked.statement("SELECT 1", 1, undefined)
    for (let i = 0; i < 1_000; i++) {
      tracked.statement(`SELECT a${i}`, 0.5, undefined)
    }
    tracked.statement("SELECT 1", 2, undefined)
    for (let i = 0; i < 100; i++) {
      tracked.statement(`SELECT b${i}`, 3, undefined)
    }
    tracked.statement("SELECT 1", 4, undefined)
    const [{ count, longest, text }] = tracked.snapshot().statements
    assert.deepStrictEqual([text, count, longest], ["SELECT 1", 1, 4])
  })

  it("keeps the last fifty different errors, the latest first", () => {
    const tracked = tracker()
    const fail = (i: number) =>
      tracked.failed(
        make("InvalidStatement", { dialect: "sqlite", code: "SQLITE_ERROR", reason: `no ${i}` }),
        undefined,
        `SELECT ${i}`
      )
    for (let i = 0; i < 120; i++) {
      fail(i)
    }
    fail(100)
    const { recentErrors } = tracked.snapshot()
    assert.lengthOf(recentErrors, 50)
    assert.deepStrictEqual(recentErrors.slice(0, 2).map(({ count, statement }) => [statement, count]), [
      ["SELECT 100", 2],
      ["SELECT 119", 1]
    ])
  })

  it("keeps only the beginning of a long text", () => {
    const tracked = tracker()
    const long = `SELECT ${"x".repeat(100_000)}`
    tracked.statement(long, 1, undefined)
    tracked.statement(`${long}y`, 1, undefined)
    const session = tracked.sessionOpened("long")
    session.identity = { id: "1" }
    session.statementStarted(long)
    const { sessions, statements } = tracked.snapshot()
    assert.strictEqual(statements.length, 1)
    assert.strictEqual(statements[0].text, `${long.slice(0, 2_000)}…`)
    assert.strictEqual(sessions[0].statement, statements[0].text)
  })

  it("shows the sessions that are open, oldest first, whatever the order in which they end", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const tracked = tracker()
      let random = seed
      const open: Array<ReturnType<ActivityTracker["sessionOpened"]>> = []
      for (let i = 0; i < 200; i++) {
        random = random * 48_271 % 2_147_483_647
        if (open.length === 0 || random % 5 < 3) {
          open.push(tracked.sessionOpened(`${i}`))
        } else {
          const [ended] = open.splice(random % open.length, 1)
          tracked.sessionClosed(ended)
          tracked.sessionClosed(ended)
        }
        const names = tracked.snapshot().sessions.map(({ name }) => name)
        assert.deepStrictEqual(names, open.map(({ name }) => name), `seed ${seed}`)
      }
    }
  })

  it("knows the state of a session, also with statements side by side", () => {
    const tracked = tracker()
    const session = tracked.sessionOpened("states")
    const states: Array<string> = []
    const look = () => states.push(tracked.snapshot().sessions[0].state)
    session.identity = { id: "1" }
    look()
    session.statementStarted("SELECT 1")
    session.isWaiting = true
    look()
    session.isWaiting = false
    session.statementStarted("SELECT 2")
    look()
    session.statementEnded()
    look()
    session.statementEnded()
    look()
    session.endStarted()
    look()
    assert.deepStrictEqual(states, ["idle", "waiting", "statement", "statement", "idle", "ending"])
  })

  it.effect("counts on although the clock stands still", () =>
    Effect.gen(function*() {
      const tracked = tracker()
      tracked.retried("DeadlockDetected")
      tracked.retried("DeadlockDetected")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(tracked.snapshot().retried, { DeadlockDetected: 2 })
    }))
})
