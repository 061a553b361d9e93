/**
 * The data of the dashboard's page. Times are in milliseconds since 1970, durations in seconds.
 */
import * as Duration from "effect/Duration"
import type { Report } from "../../../Health.js"
import type { Stats } from "../../../Pool.js"
import type { Activity, OpenSession, Quantiles, RecentError, StatementFigures } from "../../../Telemetry.js"
import type { LockHolder, LockWait, Unit } from "../../monitoring.js"
import { statementId } from "./plan.js"
import type { Settings } from "./settings.js"

/** A sample of the stats. Sessions are counted since the database was opened. */
export interface Sample {
  readonly time: number
  readonly used: number
  readonly idle: number
  readonly waiting: number
  readonly committed: number
  readonly rolledBack: number
  readonly retried: number
  readonly wait: Times
  readonly use: Times
}

/** The median, the 95th and the 99th percentile of durations, or undefined without any. */
export type Times = readonly [p50: number, p95: number, p99: number] | undefined

/** Samples of the last minutes. */
export interface History {
  /** The cursor of the next request, which gets the later samples only. */
  readonly cursor: string
  /** Whether these are all samples, rather than those after the cursor of the request. */
  readonly complete: boolean
  readonly samples: ReadonlyArray<Sample>
}

/** The result of the last health check. */
export interface Health {
  readonly healthy: boolean
  readonly checked: number
  readonly latency: number
  readonly version: string | undefined
  readonly role: string | undefined
  readonly error: string | undefined
  readonly servers: ReadonlyArray<Server>
  /** The size of a SQLite file's write-ahead log, in bytes. */
  readonly walSize: number | undefined
}

/** One server. Its lag is in seconds. */
export interface Server
  extends Pick<Report["servers"][number], "state" | "role" | "reason" | "timeline" | "idle" | "used">
{
  readonly name: string
  readonly lag: number | undefined
}

/** An open session. */
export interface Session extends Omit<OpenSession, "age"> {
  readonly age: number
  /** Whether it commits, rather than rolls back, if its state is `ending`. */
  readonly isCommitting: boolean
  /** What the server says that it waits for, if that was asked while it was in this state. */
  readonly wait: Wait | undefined
}

/** What a session waits for on the server. */
export interface Wait {
  readonly event: string
  readonly lock: (Omit<LockWait, "holders"> & { readonly holders: ReadonlyArray<Holder> }) | undefined
}

/** Who holds a lock. Its session is known if it is one of this process. */
export interface Holder extends LockHolder {
  readonly session: string | undefined
  readonly sessionId: string | undefined
}

/** A statement. Its id asks for its plan. */
export interface Statement extends StatementFigures {
  readonly id: string
}

/** A table of the database's own figures, or why there are none. */
export interface Section {
  readonly id: string
  readonly title: string
  readonly columns: ReadonlyArray<readonly [name: string, unit: Unit]>
  readonly none: string
  readonly rows: ReadonlyArray<ReadonlyArray<string | number | null | undefined>>
  readonly missing: string | undefined
  readonly error: string | undefined
}

/** What was asked of the database, and when. */
export interface Examined {
  readonly time: number
  readonly sections: ReadonlyArray<Section>
}

/** What the process uses. Its uptime is in seconds, and its memory in bytes. */
export interface Process {
  readonly uptime: number
  readonly memory: number
}

/** The response to one request of the page. */
export interface Data {
  readonly time: number
  readonly dialect: string
  /** Seconds between two samples. */
  readonly interval: number
  /** How many samples are kept. */
  readonly kept: number
  readonly history: History
  readonly health: Health | undefined
  readonly pool: Stats
  /** The oldest open sessions, at most 100 of `sessionCount`. */
  readonly sessions: ReadonlyArray<Session>
  readonly sessionCount: number
  readonly statements: ReadonlyArray<Statement>
  /** Those that sqlayer executes for itself. */
  readonly ownStatements: ReadonlyArray<Statement>
  readonly recentErrors: ReadonlyArray<RecentError>
  /** Whether plans of statements can be asked for. */
  readonly explains: boolean
  /** Undefined if the page has it already, or nothing was asked yet. */
  readonly examined: Examined | undefined
  /** The settings and the process. Undefined if the page has them already. */
  readonly settings: Settings | undefined
  readonly process: Process
  readonly errors: Activity["errors"]
  readonly rolledBack: Activity["rolledBack"]
  readonly retried: Activity["retried"]
}

/** While the pool is exhausted, thousands of sessions may wait. */
const maxSessions = 100
const maxNameLength = 200

const shortened = (name: string): string => name.length > maxNameLength ? `${name.slice(0, maxNameLength)}…` : name

const sum = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((total, count) => total + count, 0)

const times = ({ count, p50, p95, p99 }: Quantiles): Times => count === 0 ? undefined : [p50, p95, p99]

export const sampleOf = (time: number, pool: Stats, activity: Activity): Sample => ({
  time,
  used: pool.used,
  idle: pool.idle,
  waiting: pool.waiting,
  committed: activity.committed,
  rolledBack: sum(activity.rolledBack),
  retried: sum(activity.retried),
  wait: times(pool.waitTime),
  use: times(pool.useTime)
})

export const healthOf = (checked: number, report: Report): Health => ({
  healthy: report.healthy,
  checked,
  latency: Duration.toSeconds(report.latency),
  version: report.version,
  role: report.role,
  error: report.healthy || report.lastError === undefined
    ? undefined
    : `${report.lastError._tag}: ${report.lastError.message}`,
  walSize: report.walSize,
  servers: report.servers.map(({ address, host, idle, lag, port, reason, role, state, timeline, used }) => ({
    name: `${host}:${port}${address === host ? "" : ` (${address})`}`,
    state,
    reason,
    role,
    timeline,
    lag: lag === undefined ? undefined : Duration.toSeconds(lag),
    idle,
    used
  }))
})

const statementsOf = (statements: ReadonlyArray<StatementFigures>): ReadonlyArray<Statement> =>
  statements.map((figures) => ({
    ...figures,
    id: statementId(figures.text),
    sessions: figures.sessions.map(({ count, name }) => ({
      name: name === undefined ? undefined : shortened(name),
      count
    }))
  }))

/** What is known of a session beside its activity. */
export type Details = (session: OpenSession) => Pick<Session, "isCommitting" | "wait">

export const nowOf = (
  pool: Stats,
  activity: Activity,
  details: Details
): Pick<
  Data,
  | "pool"
  | "sessions"
  | "sessionCount"
  | "statements"
  | "ownStatements"
  | "recentErrors"
  | "errors"
  | "rolledBack"
  | "retried"
> => ({
  pool,
  sessions: activity.sessions.slice(0, maxSessions).map((session): Session => {
    const { connectionId, id, name, state, statement } = session
    const { isCommitting, wait } = details(session)
    const age = Duration.toSeconds(session.age)
    return { id, name: shortened(name), age, state, connectionId, statement, isCommitting, wait }
  }),
  sessionCount: activity.sessions.length,
  statements: statementsOf(activity.statements),
  ownStatements: statementsOf(activity.ownStatements),
  recentErrors: activity.recentErrors.map((error) => ({
    ...error,
    session: error.session === undefined ? undefined : shortened(error.session)
  })),
  errors: activity.errors,
  rolledBack: activity.rolledBack,
  retried: activity.retried
})
