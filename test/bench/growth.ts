/**
 * How cost grows with what there is more of.
 */
import type { Database } from "./databases.js"
import type { Options } from "./peer.js"
import { kinds } from "./peers.js"
import { remote } from "./remote.js"
import { short, table } from "./report.js"
import { close, measure, median, open, type Plan, type Results } from "./rounds.js"

const named = (...names: ReadonlyArray<string>) =>
  kinds.filter(({ dialect, name }) => dialect === "postgres" && names.includes(name))

const speed = (results: Results, name: string): number =>
  median(results.get(name)!.map(({ operations, seconds }) => operations / seconds))

const p99 = (results: Results, name: string): number => median(results.get(name)!.map(({ p99 }) => p99!))

interface Axis {
  readonly title: string
  readonly values: ReadonlyArray<number>
  readonly peers: ReadonlyArray<string>
  readonly at: (value: number) => { readonly concurrency: number; readonly options: Omit<Options, "url"> }
}

const axes: ReadonlyArray<Axis> = [
  {
    title: "fibers at once, on a pool of 10",
    values: [1, 3, 10, 30, 100, 300, 1_000],
    peers: ["pg", "sqlayer"],
    at: (concurrency) => ({ concurrency, options: { pool: 10, statements: 1 } })
  },
  {
    title: "connections in the pool, with 100 at once",
    values: [1, 2, 5, 10, 20, 50],
    peers: ["pg", "sqlayer"],
    at: (pool) => ({ concurrency: 100, options: { pool, statements: 1 } })
  },
  {
    title: "different statements in turn, 10 at once on a pool of 10",
    values: [1, 10, 100, 1_000, 10_000],
    peers: ["pg", "pg (named statements)", "sqlayer"],
    at: (statements) => ({ concurrency: 10, options: { pool: 10, statements } })
  }
]

const along = async (database: Database, axis: Axis, plan: Plan): Promise<string> => {
  const found: Array<Results> = []
  for (const value of axis.values) {
    const { concurrency, options } = axis.at(value)
    const remotes = await open(named(...axis.peers), "select", { ...options, url: database.url })
    found.push(await measure(remotes, database, "select", concurrency, plan))
    await close(remotes)
  }
  const [bare] = axis.peers
  const one = { speed: speed(found[0], bare), p99: p99(found[0], bare) }
  const rows = axis.values.map((value, i) => [
    String(value),
    ...axis.peers.map((name) => short(speed(found[i], name) / one.speed)),
    ...axis.peers.map((name) => short(p99(found[i], name) / one.p99))
  ])
  const heads = (what: string) => axis.peers.map((name) => `${name}: ${what}`)
  return `Select by key, by ${axis.title}; operations a second, and the time that 99 of 100 take less than, as ratios to ${bare}'s in the first line.

${table([["", ...heads("operations"), ...heads("p99")], ...rows])}`
}

const waiting = async (database: Database): Promise<string> => {
  const sessions = 10_000
  const cells: Array<string> = []
  for (const kind of named("pg", "sqlayer")) {
    const opened = await remote(kind, { url: database.url, pool: 10, statements: 1 })
    await opened.run({ work: "session", concurrency: 10, millis: 1_000, least: 1 })
    cells.push(`${short(await opened.wait(sessions) / 1_024)} kB for ${kind.name}`)
    await opened.end()
  }
  await database.done()
  return `A session that waits for a connection, of ${sessions.toLocaleString("en")} that do, takes ${
    cells.join(", ")
  }.`
}

/** Markdown. */
export const growth = async (database: Database, { millis, rounds }: Plan): Promise<string> => {
  const plan = { rounds: Math.min(rounds, 3), millis: Math.min(millis, 1_000) }
  const parts: Array<string> = []
  for (const axis of axes) {
    console.log(`How cost grows: ${axis.title}`)
    parts.push(await along(database, axis, plan))
  }
  parts.push(await waiting(database))
  return parts.join("\n\n")
}
