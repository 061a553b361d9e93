/**
 * The metrics and span attributes of sqlayer. They follow OpenTelemetry's semantic conventions for database clients
 * (https://opentelemetry.io/docs/specs/semconv/database/), with sqlayer's own metrics, named `sqlayer.…`, for sessions,
 * servers, readers and SQLite's WAL.
 *
 * Durations are in seconds. No metric and no log entry holds the parameters of statements, and spans hold them only
 * with the option `spanParameters`.
 *
 * Every metric has the attributes `db.client.connection.pool.name` and `db.system.name`. Metrics of pools with the same
 * name add up.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricKey from "effect/MetricKey"
import type * as MetricKeyType from "effect/MetricKeyType"
import type { DatabaseError } from "./DatabaseError.js"

/** The bucket boundaries, in seconds, that the conventions advise for `db.client.operation.duration`. */
const boundaries = MetricBoundaries.fromIterable([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10])

/** Sets the unit of a metric. Effect's OpenTelemetry exporter reads it from the tag `unit`. */
const withUnit = <Type extends MetricKeyType.MetricKeyType.Untyped>(unit: string, key: MetricKey.MetricKey<Type>) =>
  Metric.fromMetricKey(MetricKey.tagged(key, "unit", unit))

const durationHistogram = (name: string, description: string): Metric.Metric.Histogram<number> =>
  withUnit("s", MetricKey.histogram(name, boundaries, description))

/** OpenTelemetry's Counter: it only increases. */
const counter = (name: string, unit: string, description: string): Metric.Metric.Counter<number> =>
  withUnit(unit, MetricKey.counter(name, { description, incremental: true }))

/** OpenTelemetry's UpDownCounter. It is not a gauge, so that pools with the same name add up. */
const upDownCounter = (name: string, unit: string, description: string): Metric.Metric.Counter<number> =>
  withUnit(unit, MetricKey.counter(name, { description, incremental: false }))

/**
 * The number of open connections, by the attribute `db.client.connection.state`: `idle` (including those that are being
 * pinged) or `used` (including those that are being reset).
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCount = upDownCounter(
  "db.client.connection.count",
  "{connection}",
  "The number of connections that are currently in the state described by the state attribute"
)

/**
 * The maximum number of open connections: the pool's size and its maximum overflow. Zero once the pool has shut down.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionMax = upDownCounter(
  "db.client.connection.max",
  "{connection}",
  "The maximum number of open connections allowed"
)

/**
 * The number of connections that stay open however long they are idle, once they were opened: the pool's `min`. Zero
 * once the pool has shut down.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMin = upDownCounter(
  "db.client.connection.idle.min",
  "{connection}",
  "The minimum number of idle open connections allowed"
)

/**
 * The maximum number of idle connections: the pool's maximum, or its size where those beyond it are closed when they
 * are returned. Zero once the pool has shut down.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionIdleMax = upDownCounter(
  "db.client.connection.idle.max",
  "{connection}",
  "The maximum number of idle open connections allowed"
)

/**
 * The number of fibers that are waiting for a connection.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionPendingRequests = upDownCounter(
  "db.client.connection.pending_requests",
  "{request}",
  "The number of current pending requests for an open connection"
)

/**
 * The number of waits that ended with PoolTimeout.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionTimeouts = counter(
  "db.client.connection.timeouts",
  "{timeout}",
  "The number of connection timeouts that have occurred trying to obtain a connection from the pool"
)

/**
 * The time it took to open a connection, in seconds. Failed attempts are not recorded.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionCreateTime = durationHistogram(
  "db.client.connection.create_time",
  "The time it took to create a new connection"
)

/**
 * The time it took to check out a connection, in seconds: zero for one that was idle. Waits that got no connection are
 * not recorded.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionWaitTime = durationHistogram(
  "db.client.connection.wait_time",
  "The time it took to obtain an open connection from the pool"
)

/**
 * The time between checking out a connection and returning it, in seconds.
 *
 * @since 0.1.0
 * @category metrics
 */
export const connectionUseTime = durationHistogram(
  "db.client.connection.use_time",
  "The time between borrowing a connection and returning it to the pool"
)

/**
 * The duration of statements, in seconds, including the wait for a connection if the statement runs outside of a
 * session, and for a stream the time until it ends.
 *
 * A statement that failed has the attributes `error.type` (the tag of the DatabaseError, `interrupted` or `defect`)
 * and, if it failed with a DatabaseError, `db.response.status_code` (its code). `db.namespace`, `server.address` and
 * `server.port` are set if they are known, and so are `db.query.summary`, `db.operation.name`, `db.collection.name` and
 * `db.stored_procedure.name`, for at most 500 different summaries.
 *
 * @since 0.1.0
 * @category metrics
 */
export const operationDuration = durationHistogram(
  "db.client.operation.duration",
  "Duration of database client operations"
)

/**
 * The number of sessions that committed. A nested session counts as part of the outermost one.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsCommitted = counter("sqlayer.session.committed", "{session}", "The number of committed sessions")

/**
 * The number of sessions that did not commit, by the attribute `error.type`: the tag of a DatabaseError, `failure` for
 * another error, `interrupted`, `defect`, or `rollback` if the session was rolled back without an error. Each attempt
 * of a session that is retried is counted. A `readOnly` session that was interrupted, for example because the client
 * disconnected, is not counted: it had nothing to commit.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRolledBack = counter(
  "sqlayer.session.rolled_back",
  "{session}",
  "The number of sessions that were not committed"
)

/**
 * The number of times a session was retried, by the attribute `error.type`: the tag of the retryable DatabaseError.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionsRetried = counter("sqlayer.session.retried", "{session}", "The number of retries of sessions")

/**
 * With readers: the number of `readOnly` sessions that got a connection, by the attributes `target` (`replica` or
 * `primary`) and `reason`. The reasons for a replica are
 *
 * - `fresh`: it had replayed what the session has to see
 * - `waited`: it had replayed that after a wait
 *
 * and those for the primary
 *
 * - `option`, `isolation`: the session's options ask for it
 * - `behind`: no reader had replayed what the session has to see within `readerWait`
 * - `lag`: all readers are farther behind than `readerMaxLag`
 * - `history`: what the session has to see is on another cluster or timeline than the readers
 * - `unknown`: the session follows a commit whose position is not known
 * - `unavailable`: no reader can be connected to
 * - `failed`: a reader failed, or canceled the session for a conflict with recovery, before it had answered a statement
 *
 * @since 0.1.0
 * @category metrics
 */
export const readerSessions = counter(
  "sqlayer.reader.sessions",
  "{session}",
  "The number of read-only sessions by where they ran"
)

/**
 * How long sessions waited for a reader to replay what they have to see, in seconds. Sessions that did not wait are not
 * recorded.
 *
 * @since 0.1.0
 * @category metrics
 */
export const causalityWait = durationHistogram("sqlayer.causality.wait", "The time sessions waited for a fresh reader")

/**
 * With several servers: the number of open connections to each, by the attributes `server.address`, `server.port` and
 * `sqlayer.server.role` (`writer`, `standby` or `unknown`), which is what the server was when the connection was
 * opened.
 *
 * @since 0.1.0
 * @category metrics
 */
export const serverConnections = upDownCounter(
  "sqlayer.server.connections",
  "{connection}",
  "The number of open connections to a server"
)

/**
 * How far a standby is behind its primary, in seconds, by the attributes `server.address` and `server.port`. It is
 * measured every `hostRecheck` while the database is used. For a standby that does not answer it is the last measured
 * lag plus the time since then; for a host with several addresses, the largest lag. It is 0 once the server is the
 * primary, and once the database is closed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const replicaLag = withUnit(
  "s",
  MetricKey.gauge("sqlayer.replica.lag", { description: "How far a standby is behind its primary" })
)

/**
 * The time between the loss of the server that can be written to and the moment that one was found again, in seconds. A
 * restart of a single server counts as well.
 *
 * @since 0.1.0
 * @category metrics
 */
export const failoverDuration = durationHistogram(
  "sqlayer.failover.duration",
  "The time without a server that can be written to"
)

/**
 * The size of the WAL of a SQLite file, in bytes. It is recorded at most once a second, after commits.
 *
 * @since 0.1.0
 * @category metrics
 */
export const walSize = withUnit(
  "By",
  MetricKey.gauge("sqlayer.sqlite.wal.size", { description: "The size of the write-ahead log of a file" })
)

/**
 * The number of times that new read-only sessions of a SQLite file were held back so that its WAL could be emptied, by
 * the attribute `outcome`: `emptied`, `readers` (read-only sessions that were open did not end in time), or `busy`
 * (another process, or another database of this process, was using the file).
 *
 * @since 0.1.0
 * @category metrics
 */
export const walGaps = counter(
  "sqlayer.sqlite.wal.gaps",
  "{gap}",
  "The number of gaps made to empty the write-ahead log"
)

/**
 * The time from the beginning of a session until its connection is returned, in seconds. Each attempt of a session that
 * is retried is recorded.
 *
 * @since 0.1.0
 * @category metrics
 */
export const sessionDuration = durationHistogram("sqlayer.session.duration", "The duration of sessions")

/**
 * The span attribute and metric attribute for the kind of failure: the tag of a DatabaseError, or one of the other
 * values that `sessionsRolledBack` and `operationDuration` list.
 *
 * @since 0.1.0
 * @category attributes
 */
export const errorType = "error.type"

/**
 * The span attribute and metric attribute for the code of a failed statement: an SQLSTATE of PostgreSQL, or the name of
 * an extended result code of SQLite.
 *
 * @since 0.1.0
 * @category attributes
 */
export const responseStatusCode = "db.response.status_code"

/**
 * The prefix of the span attributes for a statement's parameters, which are set with the option `spanParameters`. A dot
 * and the index of the parameter, from 0, follow.
 *
 * @since 0.1.0
 * @category attributes
 */
export const queryParameter = "db.query.parameter"

/**
 * The name of the span around a statement with the option `spanNames: "effect-sql"`. Without it, the span is named by
 * the statement's `db.query.summary`. The span is made only if the application provides a tracer and tracing is
 * enabled, since Effect's default tracer exports nothing.
 *
 * @since 0.1.0
 * @category attributes
 */
export const statementSpan = "sql.execute"

/**
 * The name of the span around a session. It is made under the same condition as `statementSpan`.
 *
 * @since 0.1.0
 * @category attributes
 */
export const sessionSpan = "sql.transaction"

/**
 * The span attribute and metric attribute for the role of a server: `writer` or `standby`, and on `serverConnections`
 * also `unknown`. Spans have it if the role is known, as it is with several servers.
 *
 * @since 0.1.0
 * @category attributes
 */
export const serverRole = "sqlayer.server.role"

/**
 * A session that is open. A nested session is part of the outermost one.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenSession {
  /** The session's id, as `Session.id` gives it. */
  readonly id: string | undefined
  /** The `name` option of the session. Default: `session`. */
  readonly name: string
  /** The time since it began, which may be long before its first statement took a connection. */
  readonly age: Duration.Duration
  /**
   * - `waiting`: its first statement waits for a connection
   * - `statement`: at least one of its statements is running
   * - `ending`: it commits or rolls back
   * - `idle`: it runs no statement; if it has run one it holds a connection, as `idle in transaction` of
   *   pg_stat_activity
   */
  readonly state: "waiting" | "idle" | "statement" | "ending"
  /**
   * The connection that it holds: the process id of its backend on PostgreSQL, as pg_stat_activity shows it, or the
   * connection's number on SQLite. Undefined before its first statement. Behind a pooler it is the number that the
   * pooler reports.
   */
  readonly connectionId: number | undefined
  /**
   * The text of the running statement with its placeholders, at most 2,000 characters; the one that started last if
   * there are several. Undefined in any other state.
   */
  readonly statement: string | undefined
}

/**
 * The durations of one statement since the database was opened.
 *
 * @since 0.1.0
 * @category models
 */
export interface StatementFigures {
  /**
   * The text of the statement with its placeholders, at most 2,000 characters. Texts that differ only in the length of
   * a list are one statement, with one element in the list: `IN ($1, $2)` is `IN ($1)`, and `VALUES ($1), ($2)` is
   * `VALUES ($1)`.
   */
  readonly text: string
  /** The number of runs, including those that failed. */
  readonly count: number
  /** The duration of the longest run, in seconds. */
  readonly longest: number
  /** The duration that 95 of 100 runs do not exceed, in seconds, with an error of at most 5 %. */
  readonly p95: number
  /** The total duration of all runs, in seconds. */
  readonly total: number
  /**
   * The names of the sessions that run it, with the number of runs, most first. A name that is undefined stands for
   * runs outside of a session. The first five names are kept; the runs of all further ones are counted under the name
   * `others`.
   */
  readonly sessions: ReadonlyArray<{ readonly name: string | undefined; readonly count: number }>
}

/**
 * An error with which statements, or sessions themselves, have failed. It contains no values.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecentError {
  /** When it happened last, in milliseconds since 1970. */
  readonly time: number
  /** How often it happened in sessions of this name with this statement. */
  readonly count: number
  /** The tag of the DatabaseError. */
  readonly error: DatabaseError["_tag"]
  /** Its SQLSTATE, or the name of an extended result code of SQLite. */
  readonly code: string
  /** Its message, in which values are masked, at most 2,000 characters. */
  readonly message: string
  /** The name of the session. Undefined outside of a session. */
  readonly session: string | undefined
  /** The id of the session in which it happened last. Undefined outside of a session. */
  readonly sessionId: string | undefined
  /**
   * The text of the statement with its placeholders, at most 2,000 characters. Undefined if no statement failed but the
   * session itself: at its commit, or by its timeout.
   */
  readonly statement: string | undefined
}

/**
 * Quantiles of the durations recorded within the last minute (50 to 60 seconds), in seconds. Their error is at most 5 %
 * between a microsecond and about three minutes; longer durations count as three minutes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Quantiles {
  /** The number of durations. */
  readonly count: number
  /** The median. Zero, as the others, if there are no durations. */
  readonly p50: number
  /** The 95th percentile. */
  readonly p95: number
  /** The 99th percentile. */
  readonly p99: number
}

/**
 * What a database is doing, and what it has done since it was opened. `Pool.Stats` has the same for its pool. It
 * contains the texts of statements, but no parameters.
 *
 * @since 0.1.0
 * @category models
 */
export interface Activity {
  /** The open sessions, oldest first. */
  readonly sessions: ReadonlyArray<OpenSession>
  /**
   * Up to 20 statements with the longest single run, slowest first. At most 100 distinct statements are kept, so those
   * that are not among the slowest may have lost their count.
   */
  readonly statements: ReadonlyArray<StatementFigures>
  /** The same for the statements that sqlayer executes for itself, such as those that record migrations. */
  readonly ownStatements: ReadonlyArray<StatementFigures>
  /** The last 50 different errors of statements and sessions, latest first. Interruptions are not included. */
  readonly recentErrors: ReadonlyArray<RecentError>
  /** The number of statements that failed, by the tag of the DatabaseError. Interrupted statements are not counted. */
  readonly errors: Readonly<Record<string, number>>
  /** The number of sessions that committed. */
  readonly committed: number
  /** The number of sessions that did not commit, as `sessionsRolledBack` counts them by the values of `error.type`. */
  readonly rolledBack: Readonly<Record<string, number>>
  /** The number of times a session was retried, by the tag of the DatabaseError. */
  readonly retried: Readonly<Record<string, number>>
}
