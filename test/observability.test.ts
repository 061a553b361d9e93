/**
 * What arrives at the other end: spans and metrics as the OpenTelemetry SDK exports them, from a real HTTP server that a
 * real client asks, and what is logged.
 */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SqlClient from "@effect/sql/SqlClient"
import * as SqlResolver from "@effect/sql/SqlResolver"
import { assert, describe, it } from "@effect/vitest"
import { SpanKind, SpanStatusCode } from "@opentelemetry/api"
import { DataPointType, type Histogram, type MetricData, MetricReader } from "@opentelemetry/sdk-metrics"
import { InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base"
import * as Conventions from "@opentelemetry/semantic-conventions/incubating"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { randomBytes } from "node:crypto"
import { createServer } from "node:http"
import { inspect } from "node:util"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { type Dialect, dialects, make } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

/** Gives what is measured now to whoever asks. */
class PullReader extends MetricReader {
  protected onForceFlush = async () => {}
  protected onShutdown = async () => {}
}

/** The SDK of an application, and what it has exported. */
const makeSdk = () => {
  const exporter = new InMemorySpanExporter()
  const reader = new PullReader()
  return {
    layer: NodeSdk.layer(() => ({
      resource: { serviceName: "ledger" },
      spanProcessor: new SimpleSpanProcessor(exporter),
      metricReader: reader
    })),
    spans: (): ReadonlyArray<ReadableSpan> => exporter.getFinishedSpans(),
    metrics: Effect.map(
      Effect.promise(() => reader.collect()),
      ({ resourceMetrics }) => resourceMetrics.scopeMetrics.flatMap(({ metrics }) => metrics)
    )
  }
}

let count = 0

/** A pool's name that no other test's metrics have. */
const uniqueName = () => `observed-${++count}`

/** A database that is observed by an SDK of its own, which an effect may be run with. */
const observed = (dialect: Dialect, options: Omit<DatabaseConfig.Options, "url"> = {}) =>
  Effect.gen(function*() {
    const name = uniqueName()
    // A busy machine may need long to start a worker.
    const database = yield* make(dialect, { name, connectTimeout: "1 minute", ...options })
    const sdk = makeSdk()
    const traced = yield* Layer.toRuntime(sdk.layer)
    const ours = (data: MetricData) => ({
      ...data,
      dataPoints: data.dataPoints.filter((point) =>
        point.attributes[Conventions.ATTR_DB_CLIENT_CONNECTION_POOL_NAME] === name
      )
    })
    return {
      name,
      database,
      sql: database.sql,
      spans: sdk.spans,
      /** Those of this database's pool. */
      metrics: Effect.map(sdk.metrics, (all) => all.map(ours).filter(({ dataPoints }) => dataPoints.length > 0)),
      run: <A, E>(effect: Effect.Effect<A, E>) => Effect.provide(effect, traced)
    }
  })

const ofStatement = (spans: ReadonlyArray<ReadableSpan>, text: string): ReadableSpan => {
  const found = spans.filter(({ attributes }) => String(attributes[Conventions.ATTR_DB_QUERY_TEXT]).includes(text))
  assert.lengthOf(found, 1, text)
  return found[0]
}

const ofSession = (spans: ReadonlyArray<ReadableSpan>, name: string): ReadableSpan => {
  const found = spans.filter(({ attributes }) => attributes["sqlayer.session.name"] === name)
  assert.lengthOf(found, 1, name)
  return found[0]
}

const isWithin = (inner: ReadableSpan, outer: ReadableSpan): void => {
  assert.strictEqual(inner.parentSpanContext?.spanId, outer.spanContext().spanId, `${inner.name} in ${outer.name}`)
  assert.strictEqual(inner.spanContext().traceId, outer.spanContext().traceId)
  const nanos = ([seconds, rest]: ReadableSpan["startTime"]) => BigInt(seconds) * 1_000_000_000n + BigInt(rest)
  assert.isTrue(nanos(inner.startTime) >= nanos(outer.startTime) && nanos(inner.endTime) <= nanos(outer.endTime))
}

/** Whatever an exporter could send of a span. */
const renderSpan = ({ attributes, events, links, name, resource, status }: ReadableSpan): string =>
  inspect({ name, attributes, events, links, status, resource: resource.attributes }, { depth: Infinity })

interface Logged {
  readonly level: LogLevel.LogLevel
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
}

/** A logger that keeps what is logged. */
const collectingLogs = () => {
  const logged: Array<Logged> = []
  const logger = Logger.make(({ annotations, cause, logLevel, message }) => {
    logged.push({
      level: logLevel,
      text: `${Array.isArray(message) ? message.join(" ") : String(message)}${
        Cause.isEmpty(cause) ? "" : Cause.pretty(cause, { renderErrorCause: true })
      }`,
      annotations: Object.fromEntries(HashMap.entries(annotations))
    })
  })
  return {
    logged,
    layer: Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(LogLevel.All))
  }
}

const quietly = Logger.withMinimumLogLevel(LogLevel.None)

const createItems = (sql: SqlClient.SqlClient) =>
  sql`CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (length(name) < 10000))`

/** A statement with a parameter that takes much longer than 10 milliseconds on any machine. */
const slow = (sql: SqlClient.SqlClient, parameter: unknown) =>
  sql.onDialectOrElse({
    pg: () => sql`SELECT pg_sleep(0.2), ${String(parameter)}::text AS slow`,
    orElse: () =>
      sql`WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000)
          SELECT count(*), ${parameter} AS slow FROM c`
  })

/** Waits until at least so much real time has passed since a time of performance.now(): timers may fire early. */
const waitUntilPassed = (millis: number, since: number) =>
  eventually(Effect.sync(() => performance.now() - since >= millis))

const endless = (sql: SqlClient.SqlClient) =>
  sql.onDialectOrElse({
    pg: () => sql`SELECT pg_sleep(60) AS endless`,
    orElse: () =>
      sql`WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS endless FROM c`
  })

/** An application: what it does is told by the path. */
const routes = HttpRouter.empty.pipe(
  HttpRouter.get(
    "/nest",
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`SELECT 1 AS outside`
      yield* Database.session(
        Effect.gen(function*() {
          yield* sql`SELECT 2 AS within`
          yield* Effect.withSpan(sql`SELECT 3 AS deeper`, "step")
          yield* Database.session(sql`SELECT 4 AS nested`, { name: "inner" })
          yield* Stream.runDrain(sql`SELECT 5 AS streamed`.stream)
        }),
        { name: "outer" }
      )
      return HttpServerResponse.empty()
    })
  ),
  HttpRouter.get(
    "/fail",
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* createItems(sql)
      yield* sql`INSERT INTO items VALUES (1, 'one')`
      yield* Database.session(sql`INSERT INTO items VALUES (2, 'one')`, { name: "failing" })
      return HttpServerResponse.empty()
    })
  )
)

/** Asks the application as a client that traces, and gives the spans of that trace. */
const request = (dialect: Dialect, path: string) =>
  Effect.gen(function*() {
    const sdk = makeSdk()
    const url = yield* dialect.url
    const server = yield* Layer.build(
      HttpServer.serve(routes).pipe(
        Layer.provide(Database.layerFrom({ environment: "test", url, spanAttributes: { "service.role": "ledger" } })),
        Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port: 0 })),
        Layer.provideMerge(sdk.layer)
      )
    )
    const { address } = Context.get(server, HttpServer.HttpServer)
    assert(address._tag === "TcpAddress")
    const traceId = randomBytes(16).toString("hex")
    const spanId = randomBytes(8).toString("hex")
    const status = yield* Effect.promise(async () => {
      const response = await fetch(`http://127.0.0.1:${address.port}${path}`, {
        headers: { traceparent: `00-${traceId}-${spanId}-01`, connection: "close" }
      })
      await response.arrayBuffer()
      return response.status
    })
    const isServer = ({ kind }: ReadableSpan) => kind === SpanKind.SERVER
    yield* eventually(Effect.sync(() => sdk.spans().some(isServer)))
    const spans = sdk.spans().filter((span) => span.spanContext().traceId === traceId)
    const span = spans.find(isServer)
    assert(span !== undefined)
    assert.strictEqual(span.parentSpanContext?.spanId, spanId)
    return { status, span, spans, url }
  }).pipe(quietly)

for (const dialect of dialects) {
  const isPostgres = dialect.dialect === "postgres"
  const systemName = isPostgres ? Conventions.DB_SYSTEM_NAME_VALUE_POSTGRESQL : Conventions.DB_SYSTEM_NAME_VALUE_SQLITE

  /** Where a database is, as attributes. */
  const placeOf = (url: string) => {
    if (!isPostgres) {
      return { [Conventions.ATTR_DB_NAMESPACE]: url === ":memory:" ? url : "test.db" }
    }
    const { hostname, pathname, port } = new URL(url)
    return {
      [Conventions.ATTR_DB_NAMESPACE]: pathname.slice(1),
      [Conventions.ATTR_SERVER_ADDRESS]: hostname,
      [Conventions.ATTR_SERVER_PORT]: Number(port)
    }
  }

  describe(`spans: ${dialect.name}`, () => {
    it.scopedLive("nest: statement, session, request, client", () =>
      Effect.gen(function*() {
        const { span, spans, status } = yield* request(dialect, "/nest")
        assert.strictEqual(status, 204)
        const outer = ofSession(spans, "outer")
        const inner = ofSession(spans, "inner")
        const step = spans.find(({ name }) => name === "step")
        assert(step !== undefined)
        isWithin(ofStatement(spans, "outside"), span)
        isWithin(outer, span)
        isWithin(ofStatement(spans, "within"), outer)
        isWithin(step, outer)
        isWithin(ofStatement(spans, "deeper"), step)
        isWithin(inner, outer)
        isWithin(ofStatement(spans, "nested"), inner)
        isWithin(ofStatement(spans, "streamed"), outer)
        assert.lengthOf(spans, 9)
      }))

    it.scopedLive("have the attributes of the conventions for database clients", () =>
      Effect.gen(function*() {
        const { spans, url } = yield* request(dialect, "/nest")
        const common = {
          "service.role": "ledger",
          [Conventions.ATTR_DB_SYSTEM_NAME]: systemName,
          ...placeOf(url)
        }
        const statement = ofStatement(spans, "within")
        assert.strictEqual(statement.name, "SELECT")
        assert.strictEqual(statement.kind, SpanKind.CLIENT)
        assert.deepStrictEqual(statement.attributes, {
          ...common,
          [Conventions.ATTR_DB_QUERY_SUMMARY]: "SELECT",
          [Conventions.ATTR_DB_OPERATION_NAME]: "SELECT",
          [Conventions.ATTR_DB_QUERY_TEXT]: "SELECT 2 AS within"
        })
        assert.deepStrictEqual(ofStatement(spans, "streamed").attributes, {
          ...common,
          [Conventions.ATTR_DB_QUERY_SUMMARY]: "SELECT",
          [Conventions.ATTR_DB_OPERATION_NAME]: "SELECT",
          [Conventions.ATTR_DB_QUERY_TEXT]: "SELECT 5 AS streamed"
        })
        const session = ofSession(spans, "outer")
        assert.strictEqual(session.name, "sql.transaction")
        assert.strictEqual(session.kind, SpanKind.CLIENT)
        assert.deepStrictEqual(session.attributes, {
          ...common,
          "sqlayer.session.name": "outer",
          "sqlayer.session.id": session.attributes["sqlayer.session.id"]
        })
        assert.isString(session.attributes["sqlayer.session.id"])
        for (const span of spans) {
          assert.notStrictEqual(span.status.code, SpanStatusCode.ERROR)
        }
      }))

    it.scopedLive("say what failed, as a status, an exception and attributes", () =>
      Effect.gen(function*() {
        const { span, spans, status, url } = yield* request(dialect, "/fail")
        assert.strictEqual(status, 500)
        const statement = ofStatement(spans, "VALUES (2")
        const session = ofSession(spans, "failing")
        isWithin(statement, session)
        isWithin(session, span)
        for (const failed of [statement, session]) {
          assert.deepInclude(failed.attributes, {
            ...placeOf(url),
            [Conventions.ATTR_ERROR_TYPE]: "UniqueViolation",
            [Conventions.ATTR_DB_RESPONSE_STATUS_CODE]: isPostgres ? "23505" : "SQLITE_CONSTRAINT_UNIQUE"
          })
          assert.strictEqual(failed.status.code, SpanStatusCode.ERROR)
          const exceptions = failed.events.filter(({ name }) => name === "exception")
          assert.lengthOf(exceptions, 1)
          const { attributes = {} } = exceptions[0]
          assert.match(String(attributes[Conventions.ATTR_EXCEPTION_MESSAGE]), /unique/i)
          assert.match(String(attributes[Conventions.ATTR_EXCEPTION_TYPE]), /SqlError|UniqueViolation/)
          assert.isString(attributes[Conventions.ATTR_EXCEPTION_STACKTRACE])
        }
        assert.notStrictEqual(ofStatement(spans, "VALUES (1").status.code, SpanStatusCode.ERROR)
      }))

    it.scopedLive("hold parameters only where they were asked for", () =>
      Effect.gen(function*() {
        const secret = "canary-7c1e"
        const parameters = ({ attributes }: ReadableSpan) =>
          Object.fromEntries(Object.entries(attributes).filter(([key]) => key.startsWith("db.query.parameter")))
        const query = (sql: SqlClient.SqlClient) => sql`SELECT 1 AS asked WHERE ${secret} <> ${"x"} AND ${5} = ${5}`

        const silent = yield* observed(dialect)
        yield* silent.run(query(silent.sql))
        assert.deepStrictEqual(parameters(ofStatement(silent.spans(), "asked")), {})

        const asked = yield* observed(dialect, { spanParameters: true })
        yield* asked.run(createItems(asked.sql))
        yield* asked.run(query(asked.sql))
        assert.deepStrictEqual(parameters(ofStatement(asked.spans(), "asked")), {
          [Conventions.ATTR_DB_QUERY_PARAMETER("0")]: secret,
          [Conventions.ATTR_DB_QUERY_PARAMETER("1")]: "x",
          [Conventions.ATTR_DB_QUERY_PARAMETER("2")]: "5",
          [Conventions.ATTR_DB_QUERY_PARAMETER("3")]: "5"
        })
        const failing = asked.sql`INSERT INTO items VALUES (${1}, ${new Uint8Array([1, 2])}, ${null}, ${secret})`
        yield* asked.run(Effect.exit(failing))
        const failed = ofStatement(asked.spans(), "INSERT")
        assert.deepStrictEqual(parameters(failed), {
          [Conventions.ATTR_DB_QUERY_PARAMETER("0")]: "1",
          [Conventions.ATTR_DB_QUERY_PARAMETER("1")]: "2 bytes",
          [Conventions.ATTR_DB_QUERY_PARAMETER("2")]: "null",
          [Conventions.ATTR_DB_QUERY_PARAMETER("3")]: secret
        })
        // What was asked for is an attribute, and nothing else.
        assert.notInclude(inspect([failed.events, failed.status], { depth: Infinity }), secret)
      }))
  })

  describe(`metrics: ${dialect.name}`, () => {
    it.scopedLive("have the names, units, kinds and attributes of the conventions", () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const { database, metrics, name, run, sql } = yield* observed(
          { ...dialect, url: Effect.succeed(url) },
          { poolSize: 2, poolMaxOverflow: isPostgres ? 1 : 0 }
        )
        yield* run(database.session(sql`SELECT 1`))
        yield* run(quietly(Effect.exit(database.session(sql`SELECT nonsense`))))
        const all = yield* metrics
        const of = (metric: string) => all.find(({ descriptor }) => descriptor.name === metric)
        const pool = {
          [Conventions.ATTR_DB_CLIENT_CONNECTION_POOL_NAME]: name,
          [Conventions.ATTR_DB_SYSTEM_NAME]: systemName
        }

        const upAndDown = (metric: string, unit: string, points: ReadonlyArray<readonly [object, number]>) => {
          const data = of(metric)
          assert(data?.dataPointType === DataPointType.SUM, metric)
          assert.isFalse(data.isMonotonic)
          assert.strictEqual(data.descriptor.unit, unit)
          assert.deepStrictEqual(
            data.dataPoints.map(({ attributes, value }) => ({ attributes, value })),
            points.map(([attributes, value]) => ({ attributes: { unit, ...pool, ...attributes }, value })),
            metric
          )
        }
        const state = Conventions.ATTR_DB_CLIENT_CONNECTION_STATE
        upAndDown(Conventions.METRIC_DB_CLIENT_CONNECTION_COUNT, "{connection}", [
          [{ [state]: Conventions.DB_CLIENT_CONNECTION_STATE_VALUE_IDLE }, 1],
          [{ [state]: Conventions.DB_CLIENT_CONNECTION_STATE_VALUE_USED }, 0]
        ])
        upAndDown("db.client.connection.max", "{connection}", [[{}, isPostgres ? 3 : 1]])
        upAndDown(Conventions.METRIC_DB_CLIENT_CONNECTION_IDLE_MAX, "{connection}", [[{}, isPostgres ? 3 : 1]])
        upAndDown(Conventions.METRIC_DB_CLIENT_CONNECTION_IDLE_MIN, "{connection}", [[{}, isPostgres ? 2 : 1]])
        upAndDown(Conventions.METRIC_DB_CLIENT_CONNECTION_PENDING_REQUESTS, "{request}", [[{}, 0]])

        const growing = (metric: string, unit: string, value: number, attributes: object = {}) => {
          const data = of(metric)
          assert(data?.dataPointType === DataPointType.SUM, metric)
          assert.isTrue(data.isMonotonic)
          assert.strictEqual(data.descriptor.unit, unit)
          assert.lengthOf(data.dataPoints, 1)
          assert.strictEqual(data.dataPoints[0].value, value)
          assert.deepStrictEqual(data.dataPoints[0].attributes, { unit, ...pool, ...attributes })
        }
        growing("sqlayer.session.committed", "{session}", 1)
        growing("sqlayer.session.rolled_back", "{session}", 1, {
          [Conventions.ATTR_ERROR_TYPE]: "InvalidStatement"
        })

        const times = (metric: string, points: ReadonlyArray<readonly [object, number]>) => {
          const data = of(metric)
          assert(data?.dataPointType === DataPointType.HISTOGRAM, metric)
          assert.strictEqual(data.descriptor.unit, "s")
          assert.deepStrictEqual(
            data.dataPoints.map(({ attributes, value }) => [attributes, (value as Histogram).count]),
            points.map(([attributes, value]) => [{ unit: "s", ...pool, ...attributes }, value]),
            metric
          )
          for (const { value } of data.dataPoints) {
            const { buckets, sum = Infinity } = value as Histogram
            const finite = buckets.boundaries.filter(Number.isFinite)
            assert.deepStrictEqual(finite, [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10])
            assert.isBelow(sum, 10)
          }
        }
        times(Conventions.METRIC_DB_CLIENT_CONNECTION_CREATE_TIME, [[{}, 1]])
        times(Conventions.METRIC_DB_CLIENT_CONNECTION_WAIT_TIME, [[{}, 2]])
        times(Conventions.METRIC_DB_CLIENT_CONNECTION_USE_TIME, [[{}, 2]])
        times("sqlayer.session.duration", [[{}, 2]])
        const place = Object.fromEntries(Object.entries(placeOf(url)).map(([key, value]) => [key, String(value)]))
        const select = { [Conventions.ATTR_DB_QUERY_SUMMARY]: "SELECT", [Conventions.ATTR_DB_OPERATION_NAME]: "SELECT" }
        times(Conventions.METRIC_DB_CLIENT_OPERATION_DURATION, [
          [{ ...place, ...select }, 1],
          [
            {
              ...place,
              ...select,
              [Conventions.ATTR_ERROR_TYPE]: "InvalidStatement",
              [Conventions.ATTR_DB_RESPONSE_STATUS_CODE]: isPostgres ? "42703" : "SQLITE_ERROR"
            },
            1
          ]
        ])

        const exhausted = yield* observed(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "1 second" })
        yield* Effect.scoped(Effect.zipRight(
          exhausted.sql.reserve,
          quietly(Effect.exit(exhausted.sql.reserve))
        ))
        const timeouts = (yield* exhausted.metrics).find(({ descriptor }) =>
          descriptor.name === Conventions.METRIC_DB_CLIENT_CONNECTION_TIMEOUTS
        )
        assert(timeouts?.dataPointType === DataPointType.SUM)
        assert.isTrue(timeouts.isMonotonic)
        assert.strictEqual(timeouts.descriptor.unit, "{timeout}")
        assert.deepStrictEqual(timeouts.dataPoints.map(({ attributes, value }) => ({ attributes, value })), [
          {
            attributes: {
              unit: "{timeout}",
              ...pool,
              [Conventions.ATTR_DB_CLIENT_CONNECTION_POOL_NAME]: exhausted.name
            },
            value: 1
          }
        ])
      }))

    it.scopedLive("of pools of one name add up, and what is closed no longer counts", () =>
      Effect.gen(function*() {
        const { metrics, name } = yield* observed(dialect, { poolSize: 2, poolMaxOverflow: 0 })
        const levels = Effect.map(metrics, (all) =>
          Object.fromEntries(all.flatMap((data) =>
            data.dataPointType === DataPointType.SUM && !data.isMonotonic
              ? data.dataPoints.map(({ attributes, value }) => [
                `${data.descriptor.name} ${String(attributes["db.client.connection.state"] ?? "")}`.trim(),
                value
              ])
              : []
          )))
        const alone = yield* levels
        assert.strictEqual(alone["db.client.connection.count idle"], 1)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* make(dialect, { name, poolSize: 2, poolMaxOverflow: 0 })
          assert.deepStrictEqual(
            yield* levels,
            Object.fromEntries(Object.entries(alone).map(([key, value]) => [key, Number(value) * 2]))
          )
        }))
        assert.deepStrictEqual(yield* levels, alone)
      }))

    it.scopedLive("count a statement that was interrupted", () =>
      Effect.gen(function*() {
        const { database, metrics, run, spans, sql } = yield* observed(dialect, { slowStatement: 0 })
        // A database in memory runs statements in this thread, so only the wait for its connection can be interrupted.
        const holder = dialect.name.includes("memory") ? yield* sql.reserve : undefined
        const fiber = yield* Effect.fork(run(holder === undefined ? endless(sql) : sql`SELECT 1 AS endless`))
        yield* eventually(Effect.map(
          database.poolStats,
          ({ used, waiting }) => holder === undefined ? used === 1 : waiting === 1
        ))
        const runningAt = performance.now()
        yield* waitUntilPassed(20, runningAt)
        const atLeast = (performance.now() - runningAt) / 1_000
        yield* Fiber.interrupt(fiber)
        const data = (yield* metrics).find(({ descriptor }) =>
          descriptor.name === Conventions.METRIC_DB_CLIENT_OPERATION_DURATION
        )
        assert(data?.dataPointType === DataPointType.HISTOGRAM)
        const [{ attributes, value }] = data.dataPoints
        assert.lengthOf(data.dataPoints, 1)
        assert.strictEqual(attributes[Conventions.ATTR_ERROR_TYPE], "interrupted")
        assert.isUndefined(attributes[Conventions.ATTR_DB_RESPONSE_STATUS_CODE])
        const { count, sum = 0 } = value as Histogram
        assert.strictEqual(count, 1)
        assert.isAtLeast(sum, atLeast)
        const span = ofStatement(spans(), "endless")
        assert.strictEqual(span.attributes[Conventions.ATTR_ERROR_TYPE], "interrupted")
        assert.notStrictEqual(span.status.code, SpanStatusCode.ERROR)
        assert.deepStrictEqual((yield* database.activity).errors, {})
      }))
  })

  describe(`logs: ${dialect.name}`, () => {
    it.scopedLive("a slow statement is logged once, with the place that ran it", () =>
      Effect.gen(function*() {
        const { layer, logged } = collectingLogs()
        const { run, sql, database } = yield* observed(dialect, { slowStatement: "10 millis" })
        yield* database.session(slow(sql, "canary-slow"), { name: "report" })
          .pipe(Effect.withSpan("request"), run, Effect.provide(layer))
        const [{ annotations, level, text }] = logged
        assert.lengthOf(logged, 1)
        assert.strictEqual(level, LogLevel.Warning)
        assert.match(
          text,
          /^a statement took \d+ ms in fiber #\d+ in span "sql\.transaction" of "request": (SELECT pg_sleep|WITH )/
        )
        assert.include(text, isPostgres ? "$1::text AS slow" : "? AS slow")
        assert.notInclude(text, "canary")
        assert.strictEqual(annotations["session"], "report")
        assert.isString(annotations["sessionId"])
      }))

    it.scopedLive("a statement that takes less than slowStatement is not logged", () =>
      Effect.gen(function*() {
        const { layer, logged } = collectingLogs()
        const { database, sql } = yield* observed(dialect, { slowStatement: "1 hour" })
        yield* Effect.provide(Effect.zipRight(slow(sql, "x"), database.session(slow(sql, "x"))), layer)
        assert.deepStrictEqual(logged, [])
      }))

    it.scopedLive("a slow statement outside of sessions is logged too, its wait for a connection is not", () =>
      Effect.gen(function*() {
        const { layer, logged } = collectingLogs()
        const { database, run, sql } = yield* observed(dialect, {
          slowStatement: "10 millis",
          poolSize: 1,
          poolMaxOverflow: 0
        })
        const holder = yield* database.acquireSession()
        yield* holder.run(sql`SELECT 1 AS holding`)
        const waiting = yield* Effect.fork(Effect.provide(sql`SELECT 1 AS waiting`, layer))
        yield* eventually(Effect.map(database.poolStats, ({ waiting }) => waiting === 1))
        yield* waitUntilPassed(500, performance.now())
        const releasedAt = performance.now()
        yield* holder.rollback
        yield* Fiber.join(waiting)
        // On a busy machine the statement itself may be slow, but it did not take longer than the time since it could start.
        for (const { text } of logged) {
          assert.isAtMost(Number(/took (\d+) ms/.exec(text)?.[1]), performance.now() - releasedAt + 1)
        }
        logged.length = 0
        yield* slow(sql, "x").pipe(Effect.withSpan("job"), run, Effect.provide(layer))
        assert.lengthOf(logged, 1)
        assert.match(logged[0].text, /^a statement took \d+ ms in fiber #\d+ in span "job": /)
        assert.deepStrictEqual(logged[0].annotations, {})
      }))

    if (!dialect.name.includes("memory")) {
      it.scopedLive("a slow statement that was interrupted is logged", () =>
        Effect.gen(function*() {
          const { layer, logged } = collectingLogs()
          const { database, sql } = yield* observed(dialect, { slowStatement: "1 milli" })
          const fiber = yield* Effect.fork(Effect.provide(endless(sql), layer))
          yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
          yield* waitUntilPassed(100, performance.now())
          yield* Fiber.interrupt(fiber)
          assert.lengthOf(logged, 1)
          assert.include(logged[0].text, "endless")
        }))
    }

    it.scopedLive("a session without a name is not called by one", () =>
      Effect.gen(function*() {
        const { layer, logged } = collectingLogs()
        const { database } = yield* observed(dialect)
        yield* Effect.provide(Effect.exit(database.session(database.sql`SELECT nonsense`)), layer)
        yield* Effect.provide(Effect.exit(database.session(Effect.fail("mine"), { name: "transfer" })), layer)
        assert.lengthOf(logged, 2)
        assert.match(logged[0].text, /^the session was rolled back: InvalidStatement/)
        assert.strictEqual(logged[1].text, "the session transfer was rolled back: failure")
        assert.strictEqual(logged[1].annotations["session"], "transfer")
      }))
  })

  it.scopedLive(`no parameter reaches a span, a metric or a log: ${dialect.name}`, () =>
    Effect.gen(function*() {
      const secret = "canary 'q\" 4929-1234"
      const shortened = "canary"
      const { layer, logged } = collectingLogs()
      const { database, metrics, run, spans, sql } = yield* observed(dialect, { slowStatement: "1 milli" })
      const byName = yield* SqlResolver.findById("ByName", {
        Id: Schema.String,
        Result: Schema.Struct({ name: Schema.String }),
        ResultId: ({ name }) => name,
        execute: (names) => sql`SELECT name FROM items WHERE ${sql.in("name", names)}`
      })
      yield* createItems(sql)
      yield* sql`CREATE TABLE parts (name TEXT PRIMARY KEY REFERENCES items (name), size VARCHAR(10), must TEXT NOT NULL)`
      const row = { id: 1, name: secret }
      const canceled = Effect.flatMap(
        Effect.fork(isPostgres ? sql`SELECT ${secret}::text, pg_sleep(60)` : sql`SELECT ${secret}`),
        (fiber) => Effect.zipRight(Effect.sleep("20 millis"), Fiber.interrupt(fiber))
      )
      const paths: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        sql`INSERT INTO items ${sql.insert(row)}`,
        // The server's DETAIL quotes the value: Key (name)=(…) already exists.
        sql`INSERT INTO items ${sql.insert({ ...row, id: 2 })}`,
        // A batch whose last row fails.
        sql`INSERT INTO items ${sql.insert([{ id: 3, name: `${secret}3` }, { id: 4, name: secret }])}`,
        sql`UPDATE items SET name = ${secret} WHERE name = ${`${secret}0`}`.raw,
        sql`SELECT id FROM items WHERE name = ${secret}`.values,
        sql`SELECT id FROM items WHERE name = ${secret}`.unprepared,
        sql`SELECT id FROM items WHERE name = ${secret}`.withoutTransform,
        Stream.runDrain(sql`SELECT id FROM items WHERE name = ${secret}`.stream),
        Stream.runDrain(Stream.take(sql`SELECT id, ${secret} AS x FROM items`.stream, 1)),
        Stream.runDrain(sql`SELECT CAST(${secret} AS INTEGER) / 0 FROM items`.stream),
        Effect.all([byName.execute(secret), byName.execute(`${secret}1`)], {
          batching: true,
          concurrency: "unbounded"
        }),
        sql`INSERT INTO parts ${sql.insert({ name: `${secret}!`, size: null, must: "x" })}`,
        sql`INSERT INTO parts ${sql.insert({ name: secret, size: secret, must: "x" })}`,
        sql`INSERT INTO parts ${sql.insert({ name: secret, size: null, must: null })}`,
        sql`SELECT nonsense FROM items WHERE name = ${secret}`,
        sql`SELECT id FROM items WHERE id = ${secret}`,
        sql.unsafe(isPostgres ? "SELECT $1::int" : "SELECT abs(-9223372036854775808), ?", [secret]),
        canceled
      ]
      for (const path of paths) {
        for (
          const effect of [
            path,
            database.session(path, { name: "unit" }),
            database.session(database.session(path)),
            sql.withTransaction(path),
            Effect.scoped(Effect.flatMap(database.acquireSession(), (session) => session.run(path))),
            database.session(Effect.zipRight(Effect.exit(path), Effect.fail("mine"))),
            database.session(path, { timeout: "5 seconds", retry: false })
          ]
        ) {
          yield* run(Effect.exit(effect)).pipe(Effect.provide(layer))
        }
      }
      yield* run(slow(sql, secret)).pipe(Effect.provide(layer))
      // SqlResolver has spans of its own, which hold what was asked for.
      const exported = spans().filter(({ name }) => !name.startsWith("sql.Resolver"))
      assert.isAbove(exported.length, 200)
      assert.isTrue(exported.some(({ status }) => status.code === SpanStatusCode.ERROR))
      assert.isTrue(exported.some(({ attributes }) => attributes["db.collection.name"] === "items"))
      assert.isTrue(logged.some(({ text }) => text.startsWith("a statement took")))
      assert.isTrue(logged.some(({ text }) => text.includes("was rolled back: UniqueViolation")))
      for (const span of exported) {
        assert.notInclude(renderSpan(span), shortened)
      }
      for (const line of logged) {
        assert.notInclude(inspect(line, { depth: Infinity }), shortened)
      }
      assert.notInclude(inspect(yield* metrics, { depth: Infinity }), shortened)
      assert.notInclude(inspect(yield* database.activity, { depth: Infinity }), shortened)
    }))
}

describe("slowStatement", () => {
  it.scopedLive("zero logs no statement", () =>
    Effect.gen(function*() {
      const { layer, logged } = collectingLogs()
      const { sql } = yield* observed(dialects[2], { slowStatement: 0 })
      yield* Effect.provide(slow(sql, "x"), layer)
      assert.deepStrictEqual(logged, [])
    }))
})

describe("without a tracer", () => {
  it.scopedLive("a place is named by its fiber alone, and parameters are not rendered", () =>
    Effect.gen(function*() {
      const { layer, logged } = collectingLogs()
      const { sql, spans, run } = yield* observed(dialects[1], { slowStatement: "10 millis", spanParameters: true })
      const exit = yield* slow(sql, "x").pipe(
        Effect.withTracerEnabled(false),
        run,
        Effect.provide(layer),
        Effect.exit
      )
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(spans(), [])
      assert.lengthOf(logged, 1)
      assert.match(logged[0].text, /^a statement took \d+ ms in fiber #\d+: WITH/)
      assert.isTrue(Option.isNone(Option.fromNullable(logged[0].annotations["session"])))
    }))
})
