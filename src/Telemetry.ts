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
import * as MetricLabel from "effect/MetricLabel"
import type { DatabaseError, Dialect } from "./DatabaseError.js"

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
 * The name of the span around a statement.
 *
 * @since 0.1.0
 * @category attributes
 */
export const statementSpan = "sql.execute"

/**
 * The name of the span around a session.
 *
 * @since 0.1.0
 * @category attributes
 */
export const sessionSpan = "sql.transaction"

/**
 * What a pool reports of itself. Times are in seconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface PoolRecorder {
  readonly connections: (idle: number, used: number) => void
  readonly pending: (requests: number) => void
  readonly limits: (max: number, idleMin: number, idleMax: number) => void
  readonly timeout: () => void
  readonly createTime: (seconds: number) => void
  readonly waitTime: (seconds: number) => void
  readonly useTime: (seconds: number) => void
}

const systemNames = { postgres: "postgresql", sqlite: "sqlite" } as const

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
 * What a database is doing, and has done since it was opened; what its pool does is `Pool.Stats`. It holds texts of statements, but no parameters.
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

/** Updates of one metric under always the same array of labels, by which Effect finds the metric's state at once. */
const labelled = (name: string, dialect: Dialect) => {
  const common = [
    MetricLabel.make("db.client.connection.pool.name", name),
    MetricLabel.make("db.system.name", systemNames[dialect])
  ]
  return <Type, In, Out>(metric: Metric.Metric<Type, In, Out>, ...labels: ReadonlyArray<MetricLabel.MetricLabel>) => {
    const all = [...common, ...labels]
    return (value: In): void => metric.unsafeUpdate(value, all)
  }
}

/** Sets a metric that is told by how much it changes. */
const settable = (add: (difference: number) => void) => {
  let last = 0
  // It is there from the beginning.
  add(0)
  return (value: number): void => {
    if (value !== last) {
      add(value - last)
      last = value
    }
  }
}

/**
 * The recorder of one pool: plain functions, so that recording suspends nobody.
 *
 * @since 0.1.0
 * @category constructors
 */
export const pool = (name: string, dialect: Dialect): PoolRecorder => {
  const of = labelled(name, dialect)
  const idleCount = settable(of(connectionCount, MetricLabel.make("db.client.connection.state", "idle")))
  const usedCount = settable(of(connectionCount, MetricLabel.make("db.client.connection.state", "used")))
  const max = settable(of(connectionMax))
  const idleMin = settable(of(connectionIdleMin))
  const idleMax = settable(of(connectionIdleMax))
  const timeouts = of(connectionTimeouts)
  return {
    connections: (idle, used) => {
      idleCount(idle)
      usedCount(used)
    },
    pending: settable(of(connectionPendingRequests)),
    limits: (most, fewestIdle, mostIdle) => {
      max(most)
      idleMin(fewestIdle)
      idleMax(mostIdle)
    },
    timeout: () => timeouts(1),
    createTime: of(connectionCreateTime),
    waitTime: of(connectionWaitTime),
    useTime: of(connectionUseTime)
  }
}

/**
 * What statements and sessions report of themselves. Times are in seconds; an error is named by its tag.
 *
 * @since 0.1.0
 * @category models
 */
export interface OperationRecorder {
  /** `error` is the tag of what the statement failed with, `interrupted` or `defect`; `code` is the error's, if any. */
  readonly operation: (seconds: number, error?: string, code?: string) => void
  readonly committed: (seconds: number) => void
  readonly rolledBack: (seconds: number, reason: string) => void
  readonly retried: (error: DatabaseError["_tag"]) => void
}

/** What the conventions ask of `db.client.operation.duration` besides the system's name, if the database has it. */
const operationAttributes = new Set(["db.namespace", "server.address", "server.port"])

/**
 * The recorder of one database's statements and sessions. Of the attributes, which are those of its spans, it takes what
 * the conventions want to see on a statement's duration.
 *
 * @since 0.1.0
 * @category constructors
 */
export const operations = (
  name: string,
  dialect: Dialect,
  attributes: ReadonlyArray<readonly [string, unknown]> = []
): OperationRecorder => {
  const of = labelled(name, dialect)
  const place = attributes.filter(([key]) => operationAttributes.has(key))
    .map(([key, value]) => MetricLabel.make(key, String(value)))
  const byReason = <Type, In, Out>(
    metric: Metric.Metric<Type, In, Out>,
    labels: ReadonlyArray<MetricLabel.MetricLabel> = []
  ) => {
    const known = new Map<string, (value: In) => void>()
    return (reason: string, value: In, code?: string): void => {
      const key = code === undefined ? reason : `${reason} ${code}`
      let update = known.get(key)
      if (update === undefined) {
        const codes = code === undefined ? [] : [MetricLabel.make(responseStatusCode, code)]
        update = of(metric, ...labels, MetricLabel.make(errorType, reason), ...codes)
        known.set(key, update)
      }
      update(value)
    }
  }
  const operation = of(operationDuration, ...place)
  const failedOperation = byReason(operationDuration, place)
  const committed = of(sessionsCommitted)
  const rolledBack = byReason(sessionsRolledBack)
  const retried = byReason(sessionsRetried)
  const duration = of(sessionDuration)
  return {
    operation: (seconds, error, code) =>
      error === undefined ? operation(seconds) : failedOperation(error, seconds, code),
    committed: (seconds) => {
      committed(1)
      duration(seconds)
    },
    rolledBack: (seconds, reason) => {
      rolledBack(reason, 1)
      duration(seconds)
    },
    retried: (error) => retried(error, 1)
  }
}
