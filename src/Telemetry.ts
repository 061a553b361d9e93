/**
 * What sqlayer tells an operator: metrics and span attributes, named as OpenTelemetry's semantic conventions for
 * database clients name them (https://opentelemetry.io/docs/specs/semconv/database/), and sqlayer's own for sessions.
 * Times are in seconds. No metric or attribute ever holds a parameter of a statement.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
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

const labelled = (name: string, dialect: Dialect) => <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) =>
  metric.pipe(
    Metric.tagged("db.client.connection.pool.name", name),
    Metric.tagged("db.system.name", systemNames[dialect])
  )

/**
 * The recorder of one pool: plain functions, so that recording suspends nobody.
 *
 * @since 0.1.0
 * @category constructors
 */
export const pool = (name: string, dialect: Dialect): PoolRecorder => {
  const tagged = labelled(name, dialect)
  const count = tagged(connectionCount)
  const idleCount = Metric.tagged(count, "db.client.connection.state", "idle")
  const usedCount = Metric.tagged(count, "db.client.connection.state", "used")
  const pendingRequests = tagged(connectionPendingRequests)
  const max = tagged(connectionMax)
  const idleMin = tagged(connectionIdleMin)
  const idleMax = tagged(connectionIdleMax)
  const timeouts = tagged(connectionTimeouts)
  const createTime = tagged(connectionCreateTime)
  const waitTime = tagged(connectionWaitTime)
  const useTime = tagged(connectionUseTime)
  return {
    connections: (idle, used) => {
      idleCount.unsafeUpdate(idle, [])
      usedCount.unsafeUpdate(used, [])
    },
    pending: (requests) => pendingRequests.unsafeUpdate(requests, []),
    limits: (most, fewestIdle, mostIdle) => {
      max.unsafeUpdate(most, [])
      idleMin.unsafeUpdate(fewestIdle, [])
      idleMax.unsafeUpdate(mostIdle, [])
    },
    timeout: () => timeouts.unsafeUpdate(1, []),
    createTime: (seconds) => createTime.unsafeUpdate(seconds, []),
    waitTime: (seconds) => waitTime.unsafeUpdate(seconds, []),
    useTime: (seconds) => useTime.unsafeUpdate(seconds, [])
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
  const tagged = labelled(name, dialect)
  const byError = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) => {
    const known = new Map<string, Metric.Metric<Type, In, Out>>()
    return (error: string) => {
      let found = known.get(error)
      if (found === undefined) {
        found = Metric.tagged(metric, errorType, error)
        known.set(error, found)
      }
      return found
    }
  }
  const operation = tagged(operationDuration)
  const failedOperation = byError(operation)
  const committed = tagged(sessionsCommitted)
  const rolledBack = byError(tagged(sessionsRolledBack))
  const retried = byError(tagged(sessionsRetried))
  const duration = tagged(sessionDuration)
  return {
    operation: (seconds, error) =>
      (error === undefined ? operation : failedOperation(error)).unsafeUpdate(seconds, []),
    committed: (seconds) => {
      committed.unsafeUpdate(1, [])
      duration.unsafeUpdate(seconds, [])
    },
    rolledBack: (seconds, reason) => {
      rolledBack(reason).unsafeUpdate(1, [])
      duration.unsafeUpdate(seconds, [])
    },
    retried: (error) => retried(error).unsafeUpdate(1, [])
  }
}
