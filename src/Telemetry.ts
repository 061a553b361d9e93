/**
 * What sqlayer tells an operator: metrics and span attributes, named as OpenTelemetry's semantic conventions for
 * database clients name them (https://opentelemetry.io/docs/specs/semconv/database/), and sqlayer's own for sessions.
 * Times are in seconds. No metric or attribute ever holds a parameter of a statement.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricKey from "effect/MetricKey"
import type * as MetricKeyType from "effect/MetricKeyType"

/** The boundaries, in seconds, that the conventions advise for `db.client.operation.duration`. */
const boundaries = MetricBoundaries.fromIterable([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10])

/** The unit is a tag of its own: Effect has no other place for it, and its OpenTelemetry exporter looks for it there. */
const inUnit = <Type extends MetricKeyType.MetricKeyType.Untyped>(unit: string, key: MetricKey.MetricKey<Type>) =>
  Metric.fromMetricKey(MetricKey.tagged(key, "unit", unit))

const time = (name: string, description: string): Metric.Metric.Histogram<number> =>
  inUnit("s", MetricKey.histogram(name, boundaries, description))

/** What only grows. */
const total = (name: string, unit: string, description: string): Metric.Metric.Counter<number> =>
  inUnit(unit, MetricKey.counter(name, { description, incremental: true }))

/** What goes up and down, so that those of several pools of one name add up. */
const level = (name: string, unit: string, description: string): Metric.Metric.Counter<number> =>
  inUnit(unit, MetricKey.counter(name, { description, incremental: false }))

/**
 * Connections by `db.client.connection.state`: `idle` or `used`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCount = level(
  "db.client.connection.count",
  "{connection}",
  "The connections that are in the state that the attribute names"
)

/**
 * The most connections that the pool opens.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionMax = level(
  "db.client.connection.max",
  "{connection}",
  "The most connections that are open"
)

/**
 * The fewest idle connections that the pool keeps.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMin = level(
  "db.client.connection.idle.min",
  "{connection}",
  "The fewest idle connections that are kept"
)

/**
 * The most idle connections that the pool keeps.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMax = level(
  "db.client.connection.idle.max",
  "{connection}",
  "The most idle connections that are kept"
)

/**
 * Fibers that wait for a connection.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionPendingRequests = level(
  "db.client.connection.pending_requests",
  "{request}",
  "The requests that wait for a connection"
)

/**
 * Waits for a connection that ran out.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionTimeouts = total(
  "db.client.connection.timeouts",
  "{timeout}",
  "The waits for a connection that ran out"
)

/**
 * What it took to open a connection, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCreateTime = time(
  "db.client.connection.create_time",
  "The seconds that it took to open a connection"
)

/**
 * How long a fiber waited for a connection, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionWaitTime = time(
  "db.client.connection.wait_time",
  "The seconds that it took to get a connection from the pool"
)

/**
 * How long a connection was checked out, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionUseTime = time(
  "db.client.connection.use_time",
  "The seconds between taking a connection and giving it back"
)

/**
 * How long a statement took, in seconds; `error.type` is the tag of the error of one that failed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const operationDuration = time(
  "db.client.operation.duration",
  "The seconds that a statement took"
)

/**
 * Sessions that committed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsCommitted = total("sqlayer.session.committed", "{session}", "The sessions that committed")

/**
 * Sessions that did not commit; `error.type` is the tag of the error, `interrupted`, `defect` or `rollback`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRolledBack = total("sqlayer.session.rolled_back", "{session}", "The sessions that did not commit")

/**
 * Sessions that were run again after a retryable error, whose tag is `error.type`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRetried = total("sqlayer.session.retried", "{session}", "The sessions that were run again")

/**
 * How long a session took from asking for a connection to giving it back, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionDuration = time(
  "sqlayer.session.duration",
  "The seconds that a session took"
)

/**
 * The span attribute and metric attribute that names what failed: the tag of a DatabaseError.
 *
 * @since 0.1.0
 * @category attributes
 */
export const errorType = "error.type"

/**
 * The span attribute that holds a failed statement's code: SQLSTATE, or SQLite's extended result code.
 *
 * @since 0.1.0
 * @category attributes
 */
export const responseStatusCode = "db.response.status_code"

/**
 * What the span attributes begin with that hold the parameters of a statement, where that was asked for; then comes a
 * dot and the parameter's place, from 0.
 *
 * @since 0.1.0
 * @category attributes
 */
export const queryParameter = "db.query.parameter"

/**
 * The name of the span around a statement. There is one where a tracer sees it: not with the tracer that Effect has by
 * default, which shows its spans to nobody, nor where tracing is disabled.
 *
 * @since 0.1.0
 * @category attributes
 */
export const statementSpan = "sql.execute"

/**
 * The name of the span around a session, which there is as there is one around a statement.
 *
 * @since 0.1.0
 * @category attributes
 */
export const sessionSpan = "sql.transaction"

/**
 * A session that is open.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenSession {
  /** None before it has its connection. */
  readonly id: string | undefined
  readonly name: string
  /** Since it asked for a connection. */
  readonly age: Duration.Duration
  /** Waits for a connection, does something else than using the database, runs a statement, or commits or rolls back. */
  readonly state: "waiting" | "idle" | "statement" | "ending"
  /** The text of the statement that runs, with its placeholders. */
  readonly statement: string | undefined
}

/**
 * How the runs of one statement went. Times are in seconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface StatementFigures {
  /** With its placeholders. */
  readonly text: string
  readonly count: number
  readonly longest: number
  readonly total: number
}

/**
 * Times of the last minute, in seconds: half of them, 95 and 99 of a hundred were not longer, give or take 5 %. Zero
 * where there are none.
 *
 * @since 0.1.0
 * @category models
 */
export interface Quantiles {
  readonly count: number
  readonly p50: number
  readonly p95: number
  readonly p99: number
}

/**
 * What a database is doing, and has done since it was opened; what its pool does is `Pool.Stats`. It holds texts of
 * statements, but no parameters.
 *
 * @since 0.1.0
 * @category models
 */
export interface Activity {
  /** The oldest first. */
  readonly sessions: ReadonlyArray<OpenSession>
  /** Those that took longest at least once, the slowest first, at most 20. */
  readonly statements: ReadonlyArray<StatementFigures>
  /** Statements that failed, by the tag of their error. */
  readonly errors: Readonly<Record<string, number>>
  readonly committed: number
  /** Sessions that did not commit: by the tag of the error, or `failure`, `interrupted`, `defect` or `rollback`. */
  readonly rolledBack: Readonly<Record<string, number>>
  /** Sessions that were run again, by the tag of the error. */
  readonly retried: Readonly<Record<string, number>>
}
