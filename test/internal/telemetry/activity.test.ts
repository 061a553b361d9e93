import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import * as Database from "../../../src/Database.js"
import { ActivityTracker } from "../../../src/internal/telemetry/activity.js"
import * as Recorders from "../../../src/internal/telemetry/recorders.js"
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
      order.forEach((index) => tracked.statement(`SELECT ${index}`, index))
      assert.deepStrictEqual(
        tracked.snapshot().statements.map(({ longest }) => longest),
        Array.from({ length: 20 }, (_, index) => 1_000 - index)
      )
    }
  })

  it("keeps a statement's figures together", () => {
    const tracked = tracker()
    for (const seconds of [1, 3, 2]) {
      tracked.statement("SELECT 1", seconds)
    }
    assert.deepStrictEqual(tracked.snapshot().statements, [{ text: "SELECT 1", count: 3, longest: 3, total: 6 }])
  })

  it("keeps only the beginning of a long text", () => {
    const tracked = tracker()
    const long = `SELECT ${"x".repeat(100_000)}`
    tracked.statement(long, 1)
    tracked.statement(`${long}y`, 1)
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
