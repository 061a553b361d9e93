/**
 * What sqlayer tells an operator: metrics and span attributes, named as OpenTelemetry's semantic conventions for
 * database clients name them (https://opentelemetry.io/docs/specs/semconv/database/), and sqlayer's own for sessions.
 * Times are in seconds. No metric or attribute ever holds a parameter of a statement.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricLabel from "effect/MetricLabel"
import type { DatabaseError, Dialect } from "./DatabaseError.js"

/** The boundaries, in seconds, that the conventions advise for `db.client.operation.duration`. */
const boundaries = MetricBoundaries.fromIterable([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10])

/**
 * Connections by `db.client.connection.state`: `idle` or `used`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCount = Metric.gauge("db.client.connection.count", {
  description: "The connections that are in the state that the attribute names"
})

/**
 * The most connections that the pool opens.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionMax = Metric.gauge("db.client.connection.max", {
  description: "The most connections that are open"
})

/**
 * The fewest idle connections that the pool keeps.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMin = Metric.gauge("db.client.connection.idle.min", {
  description: "The fewest idle connections that are kept"
})

/**
 * The most idle connections that the pool keeps.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMax = Metric.gauge("db.client.connection.idle.max", {
  description: "The most idle connections that are kept"
})

/**
 * Fibers that wait for a connection.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionPendingRequests = Metric.gauge("db.client.connection.pending_requests", {
  description: "The requests that wait for a connection"
})

/**
 * Waits for a connection that ran out.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionTimeouts = Metric.counter("db.client.connection.timeouts", {
  description: "The waits for a connection that ran out",
  incremental: true
})

/**
 * What it took to open a connection, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCreateTime = Metric.histogram(
  "db.client.connection.create_time",
  boundaries,
  "The seconds that it took to open a connection"
)

/**
 * How long a fiber waited for a connection, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionWaitTime = Metric.histogram(
  "db.client.connection.wait_time",
  boundaries,
  "The seconds that it took to get a connection from the pool"
)

/**
 * How long a connection was checked out, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionUseTime = Metric.histogram(
  "db.client.connection.use_time",
  boundaries,
  "The seconds between taking a connection and giving it back"
)

/**
 * How long a statement took, in seconds; `error.type` is the tag of the error of one that failed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const operationDuration = Metric.histogram(
  "db.client.operation.duration",
  boundaries,
  "The seconds that a statement took"
)

/**
 * Sessions that committed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsCommitted = Metric.counter("sqlayer.session.committed", {
  description: "The sessions that committed",
  incremental: true
})

/**
 * Sessions that did not commit; `error.type` is the tag of the error, `interrupted`, `defect` or `rollback`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRolledBack = Metric.counter("sqlayer.session.rolled_back", {
  description: "The sessions that did not commit",
  incremental: true
})

/**
 * Sessions that were run again after a retryable error, whose tag is `error.type`.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRetried = Metric.counter("sqlayer.session.retried", {
  description: "The sessions that were run again",
  incremental: true
})

/**
 * How long a session took from asking for a connection to giving it back, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionDuration = Metric.histogram(
  "sqlayer.session.duration",
  boundaries,
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

/**
 * The recorder of one pool: plain functions, so that recording suspends nobody.
 *
 * @since 0.1.0
 * @category constructors
 */
export const pool = (name: string, dialect: Dialect): PoolRecorder => {
  const of = labelled(name, dialect)
  const idleCount = of(connectionCount, MetricLabel.make("db.client.connection.state", "idle"))
  const usedCount = of(connectionCount, MetricLabel.make("db.client.connection.state", "used"))
  const max = of(connectionMax)
  const idleMin = of(connectionIdleMin)
  const idleMax = of(connectionIdleMax)
  const timeouts = of(connectionTimeouts)
  return {
    connections: (idle, used) => {
      idleCount(idle)
      usedCount(used)
    },
    pending: of(connectionPendingRequests),
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
  readonly operation: (seconds: number, error: DatabaseError["_tag"] | undefined) => void
  readonly committed: (seconds: number) => void
  readonly rolledBack: (seconds: number, reason: string) => void
  readonly retried: (error: DatabaseError["_tag"]) => void
}

/**
 * The recorder of one database's statements and sessions.
 *
 * @since 0.1.0
 * @category constructors
 */
export const operations = (name: string, dialect: Dialect): OperationRecorder => {
  const of = labelled(name, dialect)
  const byError = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) => {
    const known = new Map<string, (value: In) => void>()
    return (error: string, value: In): void => {
      let update = known.get(error)
      if (update === undefined) {
        update = of(metric, MetricLabel.make(errorType, error))
        known.set(error, update)
      }
      update(value)
    }
  }
  const operation = of(operationDuration)
  const failedOperation = byError(operationDuration)
  const committed = of(sessionsCommitted)
  const rolledBack = byError(sessionsRolledBack)
  const retried = byError(sessionsRetried)
  const duration = of(sessionDuration)
  return {
    operation: (seconds, error) => error === undefined ? operation(seconds) : failedOperation(error, seconds),
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
