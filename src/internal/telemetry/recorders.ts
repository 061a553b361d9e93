/**
 * How pools, statements and sessions keep the metrics: plain functions, so that recording suspends nobody.
 */
import type * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"

/** What a pool reports of itself. Times are in seconds. */
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

/** The recorder of one pool. */
export const pool = (name: string, dialect: Dialect): PoolRecorder => {
  const of = labelled(name, dialect)
  const idleCount = settable(of(Telemetry.connectionCount, MetricLabel.make("db.client.connection.state", "idle")))
  const usedCount = settable(of(Telemetry.connectionCount, MetricLabel.make("db.client.connection.state", "used")))
  const max = settable(of(Telemetry.connectionMax))
  const idleMin = settable(of(Telemetry.connectionIdleMin))
  const idleMax = settable(of(Telemetry.connectionIdleMax))
  const timeouts = of(Telemetry.connectionTimeouts)
  return {
    connections: (idle, used) => {
      idleCount(idle)
      usedCount(used)
    },
    pending: settable(of(Telemetry.connectionPendingRequests)),
    limits: (most, fewestIdle, mostIdle) => {
      max(most)
      idleMin(fewestIdle)
      idleMax(mostIdle)
    },
    timeout: () => timeouts(1),
    createTime: of(Telemetry.connectionCreateTime),
    waitTime: of(Telemetry.connectionWaitTime),
    useTime: of(Telemetry.connectionUseTime)
  }
}

/** What statements and sessions report of themselves. Times are in seconds; an error is named by its tag. */
export interface OperationRecorder {
  /** `error` is the tag of what the statement failed with, `interrupted` or `defect`; `code` is the error's, if any. */
  readonly operation: (seconds: number, error?: string, code?: string) => void
  readonly committed: (seconds: number) => void
  readonly rolledBack: (seconds: number, reason: string) => void
  readonly retried: (error: DatabaseError["_tag"]) => void
}

/** So many codes of errors get figures of their own, since a statement may raise any code; the others are told by tag. */
const mostCodes = 100

/** What the conventions ask of `db.client.operation.duration` besides the system's name, if the database has it. */
const operationAttributes = new Set(["db.namespace", "server.address", "server.port"])

/**
 * The recorder of one database's statements and sessions. Of the attributes, which are those of its spans, it takes what
 * the conventions want to see on a statement's duration.
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
    return (reason: string, value: In, given?: string): void => {
      const code = known.size < mostCodes || known.has(`${reason} ${given}`) ? given : undefined
      const key = code === undefined ? reason : `${reason} ${code}`
      let update = known.get(key)
      if (update === undefined) {
        const codes = code === undefined ? [] : [MetricLabel.make(Telemetry.responseStatusCode, code)]
        update = of(metric, ...labels, MetricLabel.make(Telemetry.errorType, reason), ...codes)
        known.set(key, update)
      }
      update(value)
    }
  }
  const operation = of(Telemetry.operationDuration, ...place)
  const failedOperation = byReason(Telemetry.operationDuration, place)
  const committed = of(Telemetry.sessionsCommitted)
  const rolledBack = byReason(Telemetry.sessionsRolledBack)
  const retried = byReason(Telemetry.sessionsRetried)
  const duration = of(Telemetry.sessionDuration)
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
