/**
 * What the dashboard's page is told. Times of day are milliseconds since 1970, durations are seconds.
 */
import * as Duration from "effect/Duration"
import type { Report } from "../../../Health.js"
import type { Stats } from "../../../Pool.js"
import type { Activity, OpenSession, Quantiles, StatementFigures } from "../../../Telemetry.js"

/** The figures at one moment. Sessions and errors are counted since the database was opened. */
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

/** Half, 95 and 99 of a hundred were not longer; undefined where there were none. */
export type Times = readonly [p50: number, p95: number, p99: number] | undefined

/** A part of the history. */
export interface History {
  /** What to ask with, to be given only what comes after this. */
  readonly cursor: string
  /** This is all there is, and not what came after the cursor that was asked with. */
  readonly complete: boolean
  readonly samples: ReadonlyArray<Sample>
}

/** Whether the database answers, as far as it was looked at lately. */
export interface Health {
  readonly healthy: boolean
  readonly checked: number
  readonly latency: number
  readonly version: string | undefined
  readonly role: string | undefined
  readonly error: string | undefined
}

/** An open session. */
export interface Session extends Omit<OpenSession, "age"> {
  readonly age: number
}

/** The answer to one request of the page. */
export interface Data {
  readonly time: number
  readonly dialect: string
  /** Seconds between samples, and how many of them are kept. */
  readonly interval: number
  readonly kept: number
  readonly history: History
  readonly health: Health | undefined
  readonly pool: Stats
  /** The oldest of them, and how many there are. */
  readonly sessions: ReadonlyArray<Session>
  readonly sessionCount: number
  readonly statements: ReadonlyArray<StatementFigures>
  readonly errors: Activity["errors"]
  readonly rolledBack: Activity["rolledBack"]
  readonly retried: Activity["retried"]
}

/** Where the pool is exhausted, thousands of sessions may wait. */
const mostSessions = 100
const longestName = 200

const shortened = (name: string): string => name.length > longestName ? `${name.slice(0, longestName)}…` : name

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
    : `${report.lastError._tag}: ${report.lastError.message}`
})

export const nowOf = (
  pool: Stats,
  activity: Activity
): Pick<Data, "pool" | "sessions" | "sessionCount" | "statements" | "errors" | "rolledBack" | "retried"> => ({
  pool,
  sessions: activity.sessions.slice(0, mostSessions).map(({ age, id, name, state, statement }) => ({
    id,
    name: shortened(name),
    age: Duration.toSeconds(age),
    state,
    statement
  })),
  sessionCount: activity.sessions.length,
  statements: activity.statements,
  errors: activity.errors,
  rolledBack: activity.rolledBack,
  retried: activity.retried
})
