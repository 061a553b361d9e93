/**
 * Metrics and spans: named as OpenTelemetry's conventions say, true, and without a single parameter of a statement.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import * as MetricKeyType from "effect/MetricKeyType"
import * as MetricState from "effect/MetricState"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { inspect } from "node:util"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import * as Telemetry from "../src/Telemetry.js"
import { dialects, make, postgres, sqliteFile } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { freshDatabase } from "./support/postgres.js"
import { collectingSpans } from "./support/spans.js"

let names = 0

/** A pool's name that no other test's metrics have. */
const uniqueName = () => `telemetry-${++names}`

type Labels = Readonly<Record<string, string>>

interface Reading {
  readonly name: string
  readonly labels: Labels
  readonly state: unknown
  readonly boundaries: ReadonlyArray<number> | undefined
}

/** All metrics of one pool. */
const readings = (pool: string): Effect.Effect<ReadonlyArray<Reading>> =>
  Effect.map(Metric.snapshot, (pairs) =>
    pairs.map(({ metricKey, metricState }) => ({
      name: metricKey.name,
      labels: Object.fromEntries(metricKey.tags.map(({ key, value }) => [key, value])),
      state: metricState,
      boundaries: MetricKeyType.isHistogramKey(metricKey.keyType) ? metricKey.keyType.boundaries.values : undefined
    })).filter(({ labels }) => labels["db.client.connection.pool.name"] === pool))

/** What all metrics have, or all of one name: where the database is. */
const common = new Set([
  "db.client.connection.pool.name",
  "db.system.name",
  "unit",
  "db.namespace",
  "server.address",
  "server.port",
  "db.query.summary",
  "db.operation.name",
  "db.collection.name"
])

/** The metrics of a name and a pool that have these labels besides those that all have, and no others. */
const find = (pool: string, name: string, labels: Labels) =>
  Effect.map(readings(pool), (all) =>
    all.filter((reading) => {
      const rest = Object.fromEntries(Object.entries(reading.labels).filter(([key]) => !common.has(key)))
      return reading.name === name && inspect(rest, { sorted: true }) === inspect(labels, { sorted: true })
    }))

const numberOf = (pool: string, name: string, labels: Labels = {}): Effect.Effect<number> =>
  Effect.map(find(pool, name, labels), ([reading]) =>
    reading === undefined
      ? 0
      : MetricState.isCounterState(reading.state)
      ? Number(reading.state.count)
      : Number.NaN)

const histogram = (pool: string, name: string, labels: Labels = {}) =>
  Effect.map(find(pool, name, labels), (found) => {
    const states = found.map(({ state }) => {
      assert.isTrue(MetricState.isHistogramState(state), name)
      return state as MetricState.MetricState.Histogram
    })
    const total = (values: ReadonlyArray<number>) => values.reduce((one, other) => one + other, 0)
    return {
      count: total(states.map(({ count }) => count)),
      sum: total(states.map(({ sum }) => sum)),
      max: Math.max(0, ...states.map(({ max }) => max))
    }
  })

const connectionCounts = (pool: string) =>
  Effect.all({
    idle: numberOf(pool, "db.client.connection.count", { "db.client.connection.state": "idle" }),
    used: numberOf(pool, "db.client.connection.count", { "db.client.connection.state": "used" })
  })

const exitWithSpans = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(collectingSpans(Effect.exit(effect)), ({ spans, value: exit }) => ({ exit, spans }))

const parentOf = (span: Tracer.Span | undefined) => span === undefined ? undefined : Option.getOrUndefined(span.parent)

const named = (spans: ReadonlyArray<Tracer.Span>, name: string) => spans.filter((span) => span.name === name)

const ofStatement = (spans: ReadonlyArray<Tracer.Span>, text: string) => {
  const found = spans.filter((span) => String(span.attributes.get("db.query.text")).includes(text))
  assert.lengthOf(found, 1, text)
  return found[0]
}

const createItems = (database: Database.Service) =>
  database.sql`CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (length(name) < 10000))`

const conflict = (dialect: DatabaseError.Dialect) =>
  new DatabaseError.SerializationFailure({ dialect, code: "40001", reason: "try again" })

describe("the names", () => {
  it("of attributes and spans are OpenTelemetry's and @effect/sql's", () => {
    assert.strictEqual(Telemetry.errorType, "error.type")
    assert.strictEqual(Telemetry.responseStatusCode, "db.response.status_code")
    assert.strictEqual(Telemetry.statementSpan, "sql.execute")
    assert.strictEqual(Telemetry.sessionSpan, "sql.transaction")
  })
})

for (const dialect of dialects) {
  const systemName = dialect.dialect === "postgres" ? "postgresql" : "sqlite"

  describe(`metrics: ${dialect.name}`, () => {
    it.scopedLive("are named and labelled as OpenTelemetry's conventions say, in seconds", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name, poolSize: 1, poolMaxOverflow: 0 })
        yield* database.session(database.sql`SELECT 1`)
        yield* Effect.exit(database.sql`SELECT nonsense`)
        yield* Effect.exit(database.session(Effect.fail(conflict(dialect.dialect)), { retry: Schedule.recurs(1) }))
        yield* Effect.exit(database.session(Effect.zipRight(
          database.sql`SELECT 1`,
          Effect.exit(database.session(database.sql`SELECT 1`, { propagation: "new" }))
        )))
        const all = yield* readings(name)
        assert.deepStrictEqual(Array.from(new Set(all.map((reading) => reading.name))).sort(), [
          "db.client.connection.count",
          "db.client.connection.create_time",
          "db.client.connection.idle.max",
          "db.client.connection.idle.min",
          "db.client.connection.max",
          "db.client.connection.pending_requests",
          "db.client.connection.timeouts",
          "db.client.connection.use_time",
          "db.client.connection.wait_time",
          "db.client.operation.duration",
          "sqlayer.session.committed",
          "sqlayer.session.duration",
          "sqlayer.session.retried",
          "sqlayer.session.rolled_back"
        ])
        for (const reading of all) {
          assert.strictEqual(reading.labels["db.system.name"], systemName, reading.name)
          if (reading.boundaries !== undefined) {
            const finite = reading.boundaries.filter(Number.isFinite)
            assert.deepStrictEqual(finite, [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10], reading.name)
          }
        }
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("count connections and what was done with them", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name, poolSize: 2, poolMaxOverflow: 1 })
        const { sql } = database
        assert.strictEqual(yield* numberOf(name, "db.client.connection.max"), dialect.single ? 1 : 3)
        assert.strictEqual(yield* numberOf(name, "db.client.connection.idle.min"), dialect.single ? 1 : 2)
        assert.strictEqual(yield* numberOf(name, "db.client.connection.idle.max"), dialect.single ? 1 : 3)
        assert.deepStrictEqual(yield* connectionCounts(name), { idle: 1, used: 0 })
        const created = yield* histogram(name, "db.client.connection.create_time")
        assert.strictEqual(created.count, 1)
        assert.isAbove(created.sum, 0)
        assert.isBelow(created.sum, 10)

        yield* Effect.repeatN(sql`SELECT 1`, 2)
        assert.strictEqual((yield* histogram(name, "db.client.connection.wait_time")).count, 3)
        assert.strictEqual((yield* histogram(name, "db.client.connection.use_time")).count, 3)
        assert.strictEqual((yield* histogram(name, "db.client.operation.duration")).count, 3)

        let atLeast = 0
        const before = yield* histogram(name, "db.client.connection.use_time")
        const session = database.session(Effect.gen(function*() {
          yield* sql`SELECT 1`
          const usedAt = performance.now()
          assert.deepStrictEqual(yield* connectionCounts(name), { idle: 0, used: 1 })
          yield* Effect.sleep("50 millis")
          atLeast = (performance.now() - usedAt) / 1_000
        }))
        const [elapsed] = yield* Effect.timed(session)
        assert.deepStrictEqual(yield* connectionCounts(name), { idle: 1, used: 0 })
        const used = yield* histogram(name, "db.client.connection.use_time")
        assert.strictEqual(used.count, 4)
        assert.isAtLeast(used.sum - before.sum, atLeast - 0.001)
        assert.isAtMost(used.sum - before.sum, Duration.toSeconds(elapsed) + 0.001)
        const { checkouts, created: opened } = yield* database.poolStats
        assert.deepStrictEqual({ checkouts, opened }, { checkouts: 4, opened: 1 })
      }))

    it.scopedLive("count the fibers that wait for a connection, and how long", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name, poolSize: 1, poolMaxOverflow: 0 })
        const { sql } = database
        const pending = numberOf(name, "db.client.connection.pending_requests")
        const timeouts = numberOf(name, "db.client.connection.timeouts")
        assert.strictEqual(yield* pending, 0)
        const startedAt = performance.now()
        const held = yield* Scope.make()
        yield* Scope.extend(sql.reserve, held)
        const waiting = yield* Effect.fork(sql`SELECT 1`)
        yield* eventually(Effect.map(pending, (count) => count === 1))
        const waitingAt = performance.now()
        yield* Effect.sleep("50 millis")
        const atLeast = (performance.now() - waitingAt) / 1_000
        yield* Scope.close(held, Exit.void)
        yield* Fiber.join(waiting)
        const atMost = (performance.now() - startedAt) / 1_000
        assert.strictEqual(yield* pending, 0)
        assert.strictEqual(yield* timeouts, 0)
        const waited = yield* histogram(name, "db.client.connection.wait_time")
        assert.strictEqual(waited.count, 2)
        assert.isAtLeast(waited.max, atLeast - 0.001)
        assert.isAtMost(waited.max, atMost + 0.001)
      }))

    it.scopedLive("count the waits that time out", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name, poolSize: 1, poolMaxOverflow: 0, poolTimeout: "500 millis" })
        yield* database.sql.reserve
        const waiting = yield* Effect.fork(Effect.flip(database.sql`SELECT 1`))
        assert.strictEqual(DatabaseError.fromSqlError(yield* Fiber.join(waiting))._tag, "PoolTimeout")
        assert.strictEqual(yield* numberOf(name, "db.client.connection.pending_requests"), 0)
        assert.strictEqual(yield* numberOf(name, "db.client.connection.timeouts"), 1)
        assert.strictEqual((yield* histogram(name, "db.client.connection.wait_time")).count, 1)
      }))

    it.scopedLive("say how long statements took, and what failed", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name })
        const { sql } = database
        const operations = (labels: Labels = {}) =>
          Effect.map(histogram(name, "db.client.operation.duration", labels), ({ count }) => count)
        const codes = dialect.dialect === "postgres"
          ? ["23505", "23505", "42703"]
          : ["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_ERROR"]
        const failed = (error: string, code: string) =>
          operations({ "error.type": error, "db.response.status_code": code })
        yield* createItems(database)
        yield* sql`INSERT INTO items VALUES (1, 'one')`
        yield* Effect.flip(sql`INSERT INTO items VALUES (2, 'one')`)
        yield* Effect.flip(sql`INSERT INTO items VALUES (1, 'two')`)
        yield* Effect.flip(sql`SELECT nonsense`)
        yield* Effect.flip(sql`SELECT nonsense`.raw)
        yield* Effect.flip(sql`SELECT nonsense`.values)
        yield* Effect.flip(sql`SELECT nonsense`.unprepared)
        yield* Effect.flip(Stream.runDrain(sql`SELECT nonsense`.stream))
        yield* Stream.runDrain(sql`SELECT 1`.stream)
        assert.strictEqual(yield* operations(), 3)
        for (const code of new Set(codes.slice(0, 2))) {
          assert.strictEqual(
            yield* failed("UniqueViolation", code),
            codes.slice(0, 2).filter((each) => each === code).length
          )
        }
        assert.strictEqual(yield* failed("InvalidStatement", codes[2]), 5)
        const { sum } = yield* histogram(name, "db.client.operation.duration")
        assert.isAbove(sum, 0)
        assert.isBelow(sum, 10)
      }))

    it.scopedLive("count sessions by how they ended", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name })
        const { sql } = database
        const rolledBack = (reason: string) => numberOf(name, "sqlayer.session.rolled_back", { "error.type": reason })
        yield* createItems(database)
        yield* database.session(sql`INSERT INTO items VALUES (1, 'one')`)
        // Only the outermost counts.
        yield* database.session(database.session(sql`INSERT INTO items VALUES (2, 'two')`))
        yield* sql.withTransaction(sql`SELECT 1`)
        yield* Effect.scoped(Effect.flatMap(database.acquireSession(), ({ commit }) => commit))
        yield* Effect.flip(database.session(sql`INSERT INTO items VALUES (3, 'two')`))
        yield* Effect.flip(database.session(Effect.fail("no")))
        yield* Effect.exit(database.session(Effect.die("no")))
        yield* Effect.exit(database.session(Effect.interrupt))
        yield* database.session(Session.rollbackOnly)
        yield* Effect.scoped(database.acquireSession())
        assert.strictEqual(yield* numberOf(name, "sqlayer.session.committed"), 4)
        assert.strictEqual(yield* rolledBack("UniqueViolation"), 1)
        assert.strictEqual(yield* rolledBack("failure"), 1)
        assert.strictEqual(yield* rolledBack("defect"), 1)
        assert.strictEqual(yield* rolledBack("interrupted"), 1)
        assert.strictEqual(yield* rolledBack("rollback"), 2)
        const durations = yield* histogram(name, "sqlayer.session.duration")
        assert.strictEqual(durations.count, 10)
        assert.isAbove(durations.sum, 0)
        assert.isBelow(durations.sum, 10)
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("do not count a session that only reads as rolled back because its caller leaves", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const messages: Array<string> = []
        const logger = Logger.make(({ message }) => {
          messages.push(String(message))
        })
        const database = yield* make(dialect, { name })
        const rolledBack = (reason: string) => numberOf(name, "sqlayer.session.rolled_back", { "error.type": reason })
        const rows = database.sql`SELECT 1`
        const leave = <A, E>(session: Effect.Effect<A, E>) =>
          Effect.gen(function*() {
            const fiber = yield* Effect.fork(session)
            yield* eventually(Effect.map(database.activity, ({ sessions }) => sessions[0]?.state === "idle"))
            yield* Fiber.interrupt(fiber)
          })
        const options = { name: "report", readOnly: true }
        const logged = Effect.provide(Logger.replace(Logger.defaultLogger, logger))
        yield* Effect.all([
          leave(database.session(Effect.zipRight(rows, Effect.never), options)),
          leave(database.session(Effect.never, options)),
          leave(database.session(database.session(Effect.zipRight(rows, Effect.never)), options)),
          leave(Effect.scoped(Effect.zipRight(
            Effect.flatMap(database.acquireSession(options), ({ run }) => run(rows)),
            Effect.never
          ))),
          leave(Stream.runDrain(database.sessionStream(Stream.concat(Stream.fromEffect(rows), Stream.never), options)))
        ]).pipe(logged, Logger.withMinimumLogLevel(LogLevel.All))
        assert.strictEqual(yield* rolledBack("interrupted"), 0)
        assert.deepStrictEqual((yield* database.activity).rolledBack, {})
        assert.strictEqual((yield* histogram(name, "sqlayer.session.duration")).count, 5)
        const ended = messages.filter((message) => message.includes("session report"))
        assert.deepStrictEqual(
          ended,
          Array.from(ended, () => "the session report was interrupted after it had only read")
        )
        assert.lengthOf(ended, 5)
        // One that may write, and one that fails.
        yield* leave(database.session(Effect.zipRight(rows, Effect.never)))
        yield* Effect.exit(database.session(Effect.die("no"), options))
        assert.strictEqual(yield* rolledBack("interrupted"), 1)
        assert.strictEqual(yield* rolledBack("defect"), 1)
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("count how often sessions were run again, and nothing else", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name })
        const error = conflict(dialect.dialect)
        const retried = numberOf(name, "sqlayer.session.retried", { "error.type": "SerializationFailure" })
        let attempts = 0
        const failing = (times: number) => Effect.suspend(() => attempts++ < times ? Effect.fail(error) : Effect.void)
        yield* database.session(failing(2), { retry: Schedule.recurs(5) })
        assert.strictEqual(yield* retried, 2)
        assert.strictEqual(yield* numberOf(name, "sqlayer.session.committed"), 1)
        // The last failure is not followed by another attempt.
        attempts = 0
        yield* Effect.flip(database.session(failing(100), { retry: Schedule.recurs(2) }))
        assert.strictEqual(attempts, 3)
        assert.strictEqual(yield* retried, 4)
        // What cannot pass is not tried again.
        yield* Effect.flip(database.session(database.sql`SELECT nonsense`, { retry: true }))
        assert.strictEqual(yield* Effect.flip(database.session(Effect.fail("mine"), { retry: true })), "mine")
        const again = (yield* readings(name)).filter((reading) => reading.name === "sqlayer.session.retried")
        assert.lengthOf(again, 1)
        assert.strictEqual(yield* retried, 4)
        assert.strictEqual(
          yield* numberOf(name, "sqlayer.session.rolled_back", { "error.type": "SerializationFailure" }),
          5
        )
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))
  })

  describe(`spans: ${dialect.name}`, () => {
    it.scopedLive("are one a statement and one a session, each within what it belongs to", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        const { sql } = database
        const { spans } = yield* exitWithSpans(Effect.withSpan(
          Effect.gen(function*() {
            yield* sql`SELECT 1 AS outside`
            yield* database.session(
              Effect.gen(function*() {
                yield* sql`SELECT 2 AS within`
                yield* Effect.withSpan(sql`SELECT 3 AS deeper`, "step")
                yield* database.session(sql`SELECT 4 AS nested`, { name: "inner" })
                yield* database.session(sql`SELECT 5 AS joined`, { propagation: "join" })
                yield* sql.withTransaction(sql`SELECT 6 AS standard`)
                yield* Stream.runDrain(sql`SELECT 7 AS streamed`.stream)
              }),
              { name: "outer" }
            )
          }),
          "request"
        ))
        const [request] = named(spans, "request")
        const [step] = named(spans, "step")
        const sessions = named(spans, "sql.transaction")
        const [outer, inner, standard] = sessions
        assert.lengthOf(sessions, 3)
        assert.lengthOf(named(spans, "SELECT"), 7)
        assert.lengthOf(spans, 12)
        assert.strictEqual(parentOf(ofStatement(spans, "outside")), request)
        assert.strictEqual(parentOf(outer), request)
        assert.strictEqual(parentOf(ofStatement(spans, "within")), outer)
        assert.strictEqual(parentOf(step), outer)
        assert.strictEqual(parentOf(ofStatement(spans, "deeper")), step)
        assert.strictEqual(parentOf(inner), outer)
        assert.strictEqual(parentOf(ofStatement(spans, "nested")), inner)
        assert.strictEqual(parentOf(ofStatement(spans, "joined")), outer)
        assert.strictEqual(parentOf(standard), outer)
        assert.strictEqual(parentOf(ofStatement(spans, "standard")), standard)
        assert.strictEqual(parentOf(ofStatement(spans, "streamed")), outer)
        assert.deepStrictEqual(sessions.map((span) => span.attributes.get("sqlayer.session.name")), [
          "outer",
          "inner",
          undefined
        ])
        assert.lengthOf(new Set(sessions.map((span) => span.attributes.get("sqlayer.session.id"))), 3)
        for (const span of spans) {
          assert.strictEqual(span.status._tag, "Ended")
          assert.strictEqual(span.kind, span === request || span === step ? "internal" : "client")
          assert.isFalse(span.attributes.has("error.type"))
        }
      }))

    it.scopedLive("of a session that is acquired are around nothing, and its statements belong to whoever runs them", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        const { spans } = yield* exitWithSpans(Effect.withSpan(
          Effect.scoped(
            Effect.flatMap(
              database.acquireSession(),
              (session) => Effect.zipRight(session.run(database.sql`SELECT 1 AS acquired`), session.commit)
            )
          ),
          "request"
        ))
        assert.strictEqual(parentOf(ofStatement(spans, "acquired")), named(spans, "request")[0])
      }))

    it.scopedLive("have the standard's attributes", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, { spanAttributes: { "service.role": "ledger" } })
        const { sql } = database
        const { spans } = yield* exitWithSpans(database.session(Effect.gen(function*() {
          yield* sql`SELECT ${42} AS answer`
          yield* sql`SELECT 1 AS raw`.raw
          yield* sql`SELECT 1 AS streamed`.stream.pipe(Stream.runDrain)
        })))
        for (const span of spans) {
          assert.strictEqual(span.attributes.get("db.system.name"), systemName)
          assert.strictEqual(span.attributes.get("service.role"), "ledger")
          assert.isString(span.attributes.get("db.namespace"))
          if (dialect.dialect === "postgres") {
            assert.strictEqual(span.attributes.get("server.address"), "127.0.0.1")
            assert.isNumber(span.attributes.get("server.port"))
          }
        }
        const statement = ofStatement(spans, "answer")
        assert.strictEqual(
          statement.attributes.get("db.query.text"),
          dialect.dialect === "postgres" ? "SELECT $1 AS answer" : "SELECT ? AS answer"
        )
        for (const text of ["answer", "raw", "streamed"]) {
          assert.strictEqual(ofStatement(spans, text).name, "SELECT")
          assert.strictEqual(ofStatement(spans, text).attributes.get("db.query.summary"), "SELECT")
          assert.strictEqual(ofStatement(spans, text).attributes.get("db.operation.name"), "SELECT")
        }
        assert.isFalse(statement.attributes.has("db.response.status_code"))
        assert.isFalse(statement.attributes.has("db.collection.name"))
      }))

    it.scopedLive("are named by what the statement does, and to which tables, whatever its literals and its kind", () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name })
        const { sql } = database
        yield* createItems(database)
        const select = (value: number) =>
          sql.unsafe(`SELECT name FROM items WHERE id = ${value} AND name <> 'secret ${value}'`)
        const { spans } = yield* exitWithSpans(database.session(Effect.gen(function*() {
          yield* sql`-- about FROM others\nINSERT INTO ${sql("items")} ${
            sql.insert([{ id: 1, name: "x" }, { id: 2, name: "y" }])
          }`
          yield* Effect.forEach([1, 2, 3], select)
          yield* Stream.runDrain(sql`WITH one AS (SELECT * FROM items) SELECT * FROM one, items AS other`.stream)
          yield* Effect.exit(sql`FROBNICATE`)
        })))
        const statements = spans.filter((span) => span.attributes.has("db.query.text"))
        const shown = statements.map(({ attributes, name }) => [
          name,
          attributes.get("db.query.summary"),
          attributes.get("db.operation.name"),
          attributes.get("db.collection.name")
        ])
        assert.deepStrictEqual(shown, [
          ["INSERT items", "INSERT items", "INSERT", "items"],
          ["SELECT items", "SELECT items", "SELECT", "items"],
          ["SELECT items", "SELECT items", "SELECT", "items"],
          ["SELECT items", "SELECT items", "SELECT", "items"],
          ["SELECT items SELECT items", "SELECT items SELECT items", "SELECT", "items"],
          [systemName, undefined, undefined, undefined]
        ])
        // Many rows of one statement are one operation.
        assert.isFalse(statements.some(({ attributes }) => attributes.has("db.operation.batch.size")))
        const labels = (yield* readings(name)).filter(({ labels, name }) =>
          name === "db.client.operation.duration" && labels["db.query.summary"] === "SELECT items"
        ).map(({ labels }) => labels)
        assert.lengthOf(labels, 1)
        assert.strictEqual(labels[0]["db.operation.name"], "SELECT")
        assert.strictEqual(labels[0]["db.collection.name"], "items")
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("of a text of several statements are those of a batch, where it is run", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        const { spans } = yield* exitWithSpans(
          Effect.exit(database.sql.unsafe("SELECT 1; SELECT 2; -- the last one").unprepared)
        )
        assert.deepStrictEqual([spans[0].name, spans[0].attributes.get("db.operation.batch.size")], ["BATCH SELECT", 2])
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("of a copy are those of its statement", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        yield* createItems(database)
        const { spans } = yield* exitWithSpans(Effect.zipRight(
          Stream.make([1, "one"], [2, "two"]).pipe(database.copyFrom("items", ["id", "name"])),
          Stream.runDrain(database.copyTo("SELECT * FROM items"))
        ))
        const statements = spans.filter((span) => span.attributes.has("db.query.text"))
        assert.deepStrictEqual(
          statements.map(({ attributes, name }) => [name, attributes.get("db.collection.name")]),
          dialect.dialect === "postgres"
            ? [["COPY items", "items"], ["COPY SELECT items", "items"]]
            : [["INSERT items", "items"], ["SELECT items", "items"]]
        )
      }))

    it.scopedLive("are named as @effect/sql names them where that is asked for", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, { spanNames: "effect-sql" })
        const { sql } = database
        const { spans } = yield* exitWithSpans(Effect.gen(function*() {
          yield* sql`SELECT 1`
          yield* sql`SELECT 1`.raw
          yield* Stream.runDrain(sql`SELECT 1`.stream)
          yield* Stream.runDrain(database.copyTo("SELECT 1"))
        }))
        assert.deepStrictEqual(
          spans.map(({ attributes, name }) => [name, attributes.get("db.operation.name")]),
          ["execute", "executeRaw", "executeStream", "copyTo"].map((method) => ["sql.execute", method])
        )
      }))

    it.scopedLive("say what failed: the statement, its session, and the session that this one is nested in", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect)
        const { sql } = database
        yield* createItems(database)
        yield* sql`INSERT INTO items VALUES (1, 'one')`
        const code = dialect.dialect === "postgres" ? "23505" : "SQLITE_CONSTRAINT_UNIQUE"
        const { exit, spans } = yield* exitWithSpans(
          database.session(
            database.session(sql`INSERT INTO items VALUES (2, 'one')`, { name: "inner" }),
            { name: "outer" }
          )
        )
        assert.isTrue(Exit.isFailure(exit))
        assert.lengthOf(spans, 3)
        for (const span of spans) {
          assert.strictEqual(span.attributes.get("error.type"), "UniqueViolation", span.name)
          assert.strictEqual(span.attributes.get("db.response.status_code"), code, span.name)
          assert.isTrue(span.status._tag === "Ended" && Exit.isFailure(span.status.exit))
        }
        const streamed = yield* exitWithSpans(Stream.runDrain(sql`SELECT nonsense`.stream))
        assert.strictEqual(streamed.spans[0]?.attributes.get("error.type"), "InvalidStatement")
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))

    it.scopedLive("say why a session never began: its first statement got no connection", () =>
      Effect.gen(function*() {
        const database = yield* make(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "1 second" })
        yield* database.sql.reserve
        const { spans } = yield* exitWithSpans(database.session(database.sql`SELECT 1`))
        assert.deepStrictEqual(
          new Map(spans.map(({ attributes, name }) => [name, attributes.get("error.type")])),
          new Map([["SELECT", "PoolTimeout"], ["sql.transaction", "PoolTimeout"]])
        )
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))
  })
}

describe("secrets", () => {
  /** Whatever a span shows of itself. */
  const renderSpan = (span: Tracer.Span): string => {
    const { attributes, links, name, status } = span
    const ended = status._tag === "Ended" && Exit.isFailure(status.exit)
      ? Cause.pretty(status.exit.cause, { renderErrorCause: true }) + inspect(status.exit, { depth: Infinity })
      : ""
    const events = "events" in span ? span.events : []
    return `${name} ${inspect({ attributes, links, events }, { depth: Infinity })} ${ended}`
  }

  for (const dialect of [postgres, sqliteFile]) {
    it.scopedLive(`no parameter of a statement is in a span, a metric or a log: ${dialect.name}`, () =>
      Effect.gen(function*() {
        const name = uniqueName()
        const database = yield* make(dialect, { name })
        const { sql } = database
        yield* createItems(database)
        yield* sql`CREATE TABLE parts (
          name TEXT PRIMARY KEY REFERENCES items (name),
          size VARCHAR(10) CHECK (length(size) < 5),
          must TEXT NOT NULL
        )`
        let id = 0
        const logged: Array<string> = []
        const logger = Logger.make(({ annotations, cause, message, spans }) => {
          logged.push(
            inspect([message, Array.from(HashMap.entries(annotations)), Array.from(spans)], { depth: Infinity }) +
              Cause.pretty(cause, { renderErrorCause: true })
          )
        })
        const run = (secret: string) =>
          Effect.gen(function*() {
            const wrong: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
              sql`INSERT INTO items VALUES (${++id}, ${secret})`,
              sql`INSERT INTO items VALUES (${id + 1}, ${secret})`,
              sql`SELECT id FROM items WHERE name = ${secret}`,
              sql`SELECT id FROM items WHERE name = ${secret}`.raw,
              Stream.runDrain(sql`SELECT id FROM items WHERE name = ${secret}`.stream),
              sql`INSERT INTO parts VALUES (${`${secret}!`}, NULL, 'x')`,
              sql`INSERT INTO parts VALUES (${secret}, ${secret}, 'x')`,
              sql`INSERT INTO parts VALUES (${secret}, NULL, NULL)`,
              sql`SELECT CAST(${secret} AS INTEGER) + 1`,
              sql`SELECT id FROM items WHERE id = ${secret}`,
              sql`SELECT nonsense WHERE ${secret} = 'x'`,
              sql`INSERT INTO items ${sql.insert({ id: secret, name: secret })}`,
              sql.unsafe("SELECT nonsense", [secret])
            ]
            for (const statement of wrong) {
              yield* Effect.exit(statement)
              yield* Effect.exit(database.session(statement, { name: "unit" }))
              yield* Effect.exit(database.session(database.session(statement)))
            }
          })
        const failed: Array<string> = []
        const check = (core: string, rest: string) =>
          Effect.gen(function*() {
            logged.length = 0
            const { exit, spans } = yield* exitWithSpans(run(core + rest))
            assert.isTrue(Exit.isSuccess(exit))
            assert.isAbove(spans.length, 60)
            const metrics = inspect(yield* readings(name), { depth: Infinity })
            failed.push(...spans.filter((span) => span.attributes.has("error.type")).map(({ name }) => name))
            for (const text of [...spans.map(renderSpan), ...logged, metrics]) {
              assert.notInclude(text, core)
            }
          }).pipe(
            Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
            Logger.withMinimumLogLevel(LogLevel.All)
          )
        yield* Effect.promise(() =>
          FastCheck.assert(
            FastCheck.asyncProperty(
              FastCheck.stringMatching(/^[a-z]{6}[0-9]{6}[a-z]{4}$/),
              FastCheck.string({ maxLength: 200, unit: "binary" }),
              (core, rest) => Effect.runPromise(check(core, rest))
            ),
            { numRuns: 15 }
          )
        )
        assert.include(failed, "INSERT items")
        assert.include(failed, "sql.transaction")
      }))
  }

  it.scopedLive("the password is in no span", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { spans } = yield* exitWithSpans(Effect.flatMap(
        Database.make({ url }),
        (database) => Effect.exit(database.session(database.sql`SELECT nonsense`))
      ))
      assert.isAtLeast(spans.length, 2)
      for (const span of spans) {
        assert.notInclude(renderSpan(span), new URL(url).password)
      }
    }).pipe(Logger.withMinimumLogLevel(LogLevel.None)))
})
