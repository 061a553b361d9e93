/**
 * How pools, statements and sessions update the metrics: plain functions, so that recording does not suspend a fiber.
 */
import type * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"
import type { Observer, Server } from "../cluster/servers.js"
import { dialectOf } from "../config/dialectOf.js"
import type { QuerySummary } from "./querySummary.js"

/** Updates the metrics of one pool. Durations are in seconds. */
export interface PoolRecorder {
  readonly connections: (idle: number, used: number) => void
  readonly pending: (requests: number) => void
  readonly limits: (max: number, idleMin: number, idleMax: number) => void
  readonly timeout: () => void
  readonly createTime: (seconds: number) => void
  readonly waitTime: (seconds: number) => void
  readonly useTime: (seconds: number) => void
}

/**
 * Makes update functions of metrics, labelled with the pool and the system. The array of labels is the same for each
 * update, because Effect finds the state of a metric faster by an array that it has seen.
 */
const labelled = (
  name: string,
  dialect: Dialect,
  attributes: ReadonlyArray<readonly [name: string, value: unknown]> = []
) => {
  const common = [
    MetricLabel.make("db.client.connection.pool.name", name),
    MetricLabel.make("db.system.name", dialectOf(dialect).systemName),
    ...attributes.map(([key, value]) => MetricLabel.make(key, String(value)))
  ]
  return <Type, In, Out>(metric: Metric.Metric<Type, In, Out>, ...labels: ReadonlyArray<MetricLabel.MetricLabel>) => {
    const all = [...common, ...labels]
    return (value: In): void => metric.unsafeUpdate(value, all)
  }
}

/** Makes a function that sets a metric to a value from a function that adds to it. */
const settable = (add: (difference: number) => void) => {
  let current = 0
  // So that the metric exists from the start.
  add(0)
  return (value: number): void => {
    if (value !== current) {
      add(value - current)
      current = value
    }
  }
}

/** Makes the recorder of one pool. */
export const pool = (
  name: string,
  dialect: Dialect,
  attributes?: ReadonlyArray<readonly [name: string, value: unknown]>
): PoolRecorder => {
  const update = labelled(name, dialect, attributes)
  const idleCount = settable(update(Telemetry.connectionCount, MetricLabel.make("db.client.connection.state", "idle")))
  const usedCount = settable(update(Telemetry.connectionCount, MetricLabel.make("db.client.connection.state", "used")))
  const setMax = settable(update(Telemetry.connectionMax))
  const setIdleMin = settable(update(Telemetry.connectionIdleMin))
  const setIdleMax = settable(update(Telemetry.connectionIdleMax))
  const addTimeouts = update(Telemetry.connectionTimeouts)
  return {
    connections: (idle, used) => {
      idleCount(idle)
      usedCount(used)
    },
    pending: settable(update(Telemetry.connectionPendingRequests)),
    limits: (max, idleMin, idleMax) => {
      setMax(max)
      setIdleMin(idleMin)
      setIdleMax(idleMax)
    },
    timeout: () => addTimeouts(1),
    createTime: update(Telemetry.connectionCreateTime),
    waitTime: update(Telemetry.connectionWaitTime),
    useTime: update(Telemetry.connectionUseTime)
  }
}

/**
 * Why a session runs where it does. On a replica: `fresh`, or `waited` if it was not at first. On the primary: what the
 * session's options ask for (`option`, `isolation`); `behind`, `lag` and `history` as in Staleness; `unknown` if it follows a
 * commit whose position is not known; `unavailable` if no reader can be connected to; `failed` if one failed before it had
 * answered.
 */
export type RouteReason =
  | "fresh"
  | "waited"
  | "option"
  | "isolation"
  | "behind"
  | "lag"
  | "history"
  | "unknown"
  | "unavailable"
  | "failed"

/** Counts sessions by where they run, and records waits, in seconds. */
export interface RouteRecorder {
  readonly routed: (target: "replica" | "primary", reason: RouteReason) => void
  readonly waited: (seconds: number) => void
}

/** Makes the recorder of where the `readOnly` sessions of one database run. */
export const routes = (name: string, dialect: Dialect): RouteRecorder => {
  const update = labelled(name, dialect)
  const updates = new Map<string, (value: number) => void>()
  return {
    routed: (target, reason) => {
      const key = `${target} ${reason}`
      let add = updates.get(key)
      if (add === undefined) {
        add = update(Telemetry.readerSessions, MetricLabel.make("target", target), MetricLabel.make("reason", reason))
        updates.set(key, add)
      }
      add(1)
    },
    waited: update(Telemetry.causalityWait)
  }
}

/** Records the WAL of a SQLite file: its size in bytes, and the attempts to empty it. */
export interface WalRecorder {
  readonly size: (bytes: number) => void
  readonly gap: (outcome: "emptied" | "readers" | "busy") => void
}

/** Makes the recorder of the WAL of one database. */
export const wal = (name: string, dialect: Dialect): WalRecorder => {
  const update = labelled(name, dialect)
  return {
    size: update(Telemetry.walSize),
    gap: (outcome) => update(Telemetry.walGaps, MetricLabel.make("outcome", outcome))(1)
  }
}

/** The attributes of a server: its host as the URL has it. */
export const serverAttributes = ({ host, port }: Server): ReadonlyArray<readonly [string, string | number]> =>
  host.startsWith("/")
    ? [["server.address", `${host}/.s.PGSQL.${port}`]]
    : [["server.address", host], ["server.port", port]]

/** Makes the recorder of the servers of one database. */
export const servers = (name: string, dialect: Dialect): Observer => {
  const update = labelled(name, dialect)
  const labelsOf = (server: Server) =>
    serverAttributes(server).map(([key, value]) => MetricLabel.make(key, String(value)))
  const failover = update(Telemetry.failoverDuration)
  return {
    failover: (millis) => failover(millis / 1_000),
    lag: (server, millis) => update(Telemetry.replicaLag, ...labelsOf(server))(millis / 1_000),
    connected: (server) => {
      const role = MetricLabel.make(Telemetry.serverRole, server.role)
      const add = update(Telemetry.serverConnections, ...labelsOf(server), role)
      add(1)
      return () => add(-1)
    }
  }
}

/** Updates the metrics of one database's statements and sessions. Durations are in seconds. */
export interface OperationRecorder {
  /**
   * A statement has ended. If it failed, `error` is the tag of its DatabaseError, `interrupted` or `defect`, and `code` is
   * the code of the DatabaseError.
   */
  readonly operation: (seconds: number, query: QuerySummary, error?: string, code?: string) => void
  readonly committed: (seconds: number) => void
  /** `reason` is a value of `error.type`, as Telemetry.sessionsRolledBack lists them. */
  readonly rolledBack: (seconds: number, reason: string) => void
  /** A session that only reads was interrupted: it counts neither as committed nor as rolled back. */
  readonly readInterrupted: (seconds: number) => void
  readonly retried: (error: DatabaseError["_tag"]) => void
}

/**
 * How many distinct failures are labelled with their summary, error and code. A statement can raise any code, and each
 * distinct label is a time series of its own. Further failures are counted by `error.type` alone.
 */
const maxFailures = 500

/** The attributes that the conventions require on `db.client.operation.duration` where they are known. */
const operationAttributes = new Set(["db.namespace", "server.address", "server.port"])

/** The labels of a statement. There are not many of them, as there are not many distinct summaries. */
const queryLabels = ({ collection, operation, procedure, summary }: QuerySummary) =>
  [
    ["db.query.summary", summary === "" ? undefined : summary],
    ["db.operation.name", operation],
    ["db.collection.name", collection],
    ["db.stored_procedure.name", procedure]
  ].flatMap(([key, value]) => key === undefined || value === undefined ? [] : [MetricLabel.make(key, value)])

/**
 * Makes the recorder of one database's statements and sessions. `attributes` are the attributes of its spans; those in
 * `operationAttributes` become labels of the duration of statements.
 */
export const operations = (
  name: string,
  dialect: Dialect,
  attributes: ReadonlyArray<readonly [string, unknown]>
): OperationRecorder => {
  const update = labelled(name, dialect)
  const serverLabels = attributes.filter(([key]) => operationAttributes.has(key))
    .map(([key, value]) => MetricLabel.make(key, String(value)))
  const byErrorType = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>) => {
    const updates = new Map<string, (value: In) => void>()
    return (errorType: string, value: In): void => {
      const updateKey = updates.get(errorType) ?? update(metric, MetricLabel.make(Telemetry.errorType, errorType))
      updates.set(errorType, updateKey)
      updateKey(value)
    }
  }
  const durationOf = (...labels: ReadonlyArray<MetricLabel.MetricLabel>) =>
    update(Telemetry.operationDuration, ...serverLabels, ...labels)
  const successes = new Map<string, (seconds: number) => void>()
  const succeeded = (query: QuerySummary, seconds: number): void => {
    let updateKey = successes.get(query.summary)
    if (updateKey === undefined) {
      updateKey = durationOf(...queryLabels(query))
      successes.set(query.summary, updateKey)
    }
    updateKey(seconds)
  }
  const failures = new Map<string, (seconds: number) => void>()
  const failed = (query: QuerySummary, seconds: number, errorType: string, code = ""): void => {
    const full = `${errorType} ${code} ${query.summary}`
    const isFull = failures.size < maxFailures || failures.has(full)
    const key = isFull ? full : errorType
    let updateKey = failures.get(key)
    if (updateKey === undefined) {
      const codeLabels = code === "" ? [] : [MetricLabel.make(Telemetry.responseStatusCode, code)]
      updateKey = durationOf(
        ...(isFull ? [...queryLabels(query), ...codeLabels] : []),
        MetricLabel.make(Telemetry.errorType, errorType)
      )
      failures.set(key, updateKey)
    }
    updateKey(seconds)
  }
  const committed = update(Telemetry.sessionsCommitted)
  const rolledBack = byErrorType(Telemetry.sessionsRolledBack)
  const retried = byErrorType(Telemetry.sessionsRetried)
  const duration = update(Telemetry.sessionDuration)
  return {
    operation: (seconds, query, error, code) =>
      error === undefined ? succeeded(query, seconds) : failed(query, seconds, error, code),
    committed: (seconds) => {
      committed(1)
      duration(seconds)
    },
    rolledBack: (seconds, reason) => {
      rolledBack(reason, 1)
      duration(seconds)
    },
    readInterrupted: duration,
    retried: (error) => retried(error, 1)
  }
}
