/**
 * What a pool serves under five times as much work as it can do, beside what it serves without overload. The sessions hold
 * their connection for a fixed time in which they cost nothing, so that the result does not depend on the machine.
 */
import type { Arrivals, Served } from "./arrivals.js"
import { kinds } from "./peers.js"
import { remote } from "./remote.js"
import { short, table } from "./report.js"
import { defaults } from "./workloads.js"

const pool = 10
const hold = 250
/** The sessions that the pool serves in a second at most. */
const capacity = pool * 1_000 / hold
const factor = 5

const measurePeer = async (name: string, url: string, timeout: number, arrivals: Arrivals["arrivals"]) => {
  const kind = kinds.find((kind) => kind.dialect === "postgres" && kind.name === name)!
  const opened = await remote(kind, { ...defaults, url, pool, timeout })
  const without = await opened.arrive({ arrivals: "closed", count: pool, hold, timeout, seconds: 6 })
  const count = arrivals === "open"
    ? factor * capacity
    // So many that each would wait for five times the timeout.
    : factor * capacity * timeout / 1_000
  const overloaded = await opened.arrive({ arrivals, count, hold, timeout, seconds: Math.max(10, 4 * timeout / 1_000) })
  await opened.end()
  return row(name, timeout, arrivals, without, overloaded)
}

const row = (
  name: string,
  timeout: number,
  arrivals: Arrivals["arrivals"],
  without: Served,
  { cpu, early, p50, p99, refused, served }: Served
): ReadonlyArray<string> => [
  `${timeout / 1_000} s`,
  arrivals,
  name,
  `${(100 * served / without.served).toFixed(0)} %`,
  short(p50 / 1_000),
  short(p99 / 1_000),
  refused.toFixed(0),
  early.toFixed(0),
  `${(100 * cpu).toFixed(0)} %`
]

/** The table, as Markdown. */
export const overload = async (url: string, timeouts: ReadonlyArray<number>): Promise<string> => {
  const rows: Array<ReadonlyArray<string>> = []
  for (const timeout of timeouts) {
    console.log(`Overload: a timeout of ${timeout / 1_000} s`)
    for (const arrivals of ["open", "closed"] as const) {
      rows.push(...await Promise.all(["pg", "sqlayer"].map((name) => measurePeer(name, url, timeout, arrivals))))
    }
  }
  return `Sessions that hold one of ${pool} connections for ${hold} ms, ${factor} times as many as these can serve: ${
    factor * capacity
  } arrive per second (open), or as many clients come back as soon as they are served or refused as would wait for ${factor} times the timeout (closed). Each process is given four times the timeout, of which the second half is measured. Served: beside ten clients that never wait.

${
    table([
      ["timeout", "arrivals", "", "served", "wait: p50, s", "wait: p99, s", "refused, 1/s", "of them early", "CPU"],
      ...rows
    ])
  }`
}
