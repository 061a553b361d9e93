/**
 * How cost grows with the concurrency, the size of the pool, the number of statements, the width of rows, and the number of
 * waiting sessions.
 */
import type { Database } from "./databases.js"
import type { Options, Work } from "./peer.js"
import { kinds } from "./peers.js"
import { remote } from "./remote.js"
import { short, table } from "./report.js"
import { close, measure, median, open, type Plan, type Results } from "./rounds.js"
import { defaults } from "./workloads.js"

const named = (...names: ReadonlyArray<string>) =>
  kinds.filter(({ dialect, name }) => dialect === "postgres" && names.includes(name))

const speed = (results: Results, name: string): number =>
  median(results.get(name)!.map(({ operations, seconds }) => operations / seconds))

const p99 = (results: Results, name: string): number => median(results.get(name)!.map(({ p99 }) => p99!))

interface Axis {
  readonly work: Work
  readonly title: string
  readonly values: ReadonlyArray<number>
  readonly peers: ReadonlyArray<string>
  readonly at: (value: number) => { readonly concurrency: number; readonly options?: Partial<Options> }
}

const axes: ReadonlyArray<Axis> = [
  {
    work: "select",
    title: "Select by key, by number of concurrent fibers, on a pool of 10",
    values: [1, 3, 10, 30, 100, 300, 1_000],
    peers: ["pg", "sqlayer"],
    at: (concurrency) => ({ concurrency })
  },
  {
    work: "select",
    title: "Select by key, by size of the pool, with 100 concurrent fibers",
    values: [1, 2, 5, 10, 20, 50],
    peers: ["pg", "sqlayer"],
    at: (pool) => ({ concurrency: 100, options: { pool } })
  },
  {
    work: "select",
    title: "Select by key, by number of different statements, with 10 concurrent fibers on a pool of 10",
    values: [1, 10, 100, 1_000, 10_000],
    peers: ["pg", "pg (named statements)", "sqlayer"],
    at: (statements) => ({ concurrency: 10, options: { statements } })
  },
  {
    work: "wide",
    title: "Read 1,000 rows, by number of columns, with 10 concurrent fibers on a pool of 10",
    values: [1, 5, 20, 100],
    peers: ["pg", "pg (named statements)", "sqlayer"],
    at: (columns) => ({ concurrency: 10, options: { columns } })
  }
]

const measureAxis = async (database: Database, axis: Axis, plan: Plan): Promise<string> => {
  const results: Array<Results> = []
  for (const value of axis.values) {
    const { concurrency, options } = axis.at(value)
    const remotes = await open(named(...axis.peers), axis.work, { ...defaults, ...options, url: database.url })
    results.push(await measure(remotes, database, axis.work, concurrency, plan))
    await close(remotes)
  }
  const [bare] = axis.peers
  const baseline = { speed: speed(results[0], bare), p99: p99(results[0], bare) }
  const rows = axis.values.map((value, i) => [
    String(value),
    ...axis.peers.map((name) => short(speed(results[i], name) / baseline.speed)),
    ...axis.peers.map((name) => short(p99(results[i], name) / baseline.p99))
  ])
  const headings = (measure: string) => axis.peers.map((name) => `${name}: ${measure}`)
  return `${axis.title}; operations per second and 99th percentile of the latency, relative to ${bare} in the first row.

${table([["", ...headings("operations"), ...headings("p99")], ...rows])}`
}

const waitingSessions = async (database: Database): Promise<string> => {
  const sessions = 10_000
  const cells: Array<string> = []
  for (const kind of named("pg", "sqlayer")) {
    const opened = await remote(kind, { ...defaults, url: database.url })
    await opened.run({ work: "session", concurrency: 10, millis: 1_000, minOperations: 1 })
    cells.push(`${short(await opened.wait(sessions) / 1_024)} kB for ${kind.name}`)
    await opened.end()
  }
  await database.takeWritten()
  return `Memory per waiting session, with ${sessions.toLocaleString("en")} sessions waiting for a connection: ${
    cells.join(", ")
  }.`
}

/** The tables, as Markdown. */
export const growth = async (database: Database, { millis, rounds }: Plan): Promise<string> => {
  const plan = { rounds: Math.min(rounds, 3), millis: Math.min(millis, 1_000) }
  const parts: Array<string> = []
  for (const axis of axes) {
    console.log(`How cost grows: ${axis.title.toLowerCase()}`)
    parts.push(await measureAxis(database, axis, plan))
  }
  parts.push(await waitingSessions(database))
  return parts.join("\n\n")
}
