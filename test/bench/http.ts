/**
 * The database behind an HTTP server: one transaction for each request, with the same statements in every server.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as path from "node:path"
import type { Database } from "./databases.js"
import type { Setup, Usage } from "./httpChild.js"
import type { Kind } from "./peers.js"
import { folder, root } from "./remote.js"
import { type Section, short, table } from "./report.js"
import { median, type Plan } from "./rounds.js"
import { accounts, key } from "./workloads.js"

/** A request of the load. */
export interface Request {
  readonly method: "GET" | "POST"
  readonly path: string
  readonly body?: string
  readonly headers?: { readonly [name: string]: string }
}

/** What the clients of one run send, and for how long. */
export interface Load {
  readonly port: number
  readonly clients: number
  readonly millis: number
  readonly requests: ReadonlyArray<Request>
}

/** What the clients of one run have seen. The latencies are in milliseconds. */
export interface Seen {
  readonly requests: number
  readonly seconds: number
  readonly p50: number
  readonly p99: number
  /** The responses that are no success, and the connections that have failed. */
  readonly failures: number
}

interface Server {
  readonly name: string
  readonly module: string
  readonly entry: string
}

/** The first is the baseline of the others: Effect's router, and everything else by hand. */
const servers: ReadonlyArray<Server> = [
  { name: "HttpRouter, pg", module: "http", entry: "pgRouter" },
  { name: "HttpRouter, sqlayer", module: "http", entry: "router" },
  { name: "HttpApi, sqlayer", module: "http", entry: "api" },
  { name: "HttpRouter, @effect/sql-pg", module: "http", entry: "stockRouter" },
  { name: "Fastify, pg", module: "installed/fastify", entry: "pg" },
  { name: "Fastify, Drizzle", module: "installed/fastify", entry: "drizzle" }
]

/** The servers and the clients need packages of this folder. */
export const httpKind: Kind = {
  name: "HTTP",
  dialect: "postgres",
  module: "installed/fastify",
  entry: "pg",
  installed: true
}

const transfer = (): Request => {
  const from = key()
  const to = from % accounts + 1
  return {
    method: "POST",
    path: "/transfers",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ from, to, amount: 1 })
  }
}

const lookUp = (): Request => ({ method: "GET", path: `/accounts/${key()}` })

const works = [
  { title: "POST of five statements", request: transfer, writes: true },
  { title: "GET by key", request: lookUp, writes: false }
] as const

/** The clients alternate among this many requests. */
const differentRequests = 200

type Run = Seen & Usage

/** Starts a program of this folder that talks with its parent. */
const start = (program: string, argument: unknown): ChildProcess =>
  spawn(
    process.execPath,
    ["--expose-gc", path.join(folder, "build/test/bench", program), JSON.stringify(argument)],
    { cwd: root, stdio: ["ignore", "inherit", "inherit", "ipc"] }
  )

const nextMessage = async (child: ChildProcess, name: string): Promise<any> => {
  const done = new AbortController()
  try {
    return await Promise.race([
      once(child, "message", done).then(([message]) => message),
      once(child, "exit", done).then(() => Promise.reject(new Error(`${name}: its process ended`)))
    ])
  } finally {
    done.abort()
  }
}

const ask = (child: ChildProcess, name: string, message: "start" | "stop"): Promise<any> => {
  child.send(message)
  return nextMessage(child, name)
}

/** The clients are a process of their own, so that their CPU time is not the server's. */
const send = async (load: Load): Promise<Seen> => {
  const child = start("peers/installed/load.js", load)
  const seen: Seen = await nextMessage(child, "the clients")
  await once(child, "exit")
  return seen
}

/** A request that the clients have broken off may have been committed too. */
const check = async (database: Database, name: string, { failures, requests }: Seen, writes: boolean) => {
  if (failures > 0) {
    throw new Error(`${name}: ${failures} of ${requests} requests have failed`)
  }
  const { inserted } = await database.takeWritten()
  if (writes && inserted < requests) {
    throw new Error(`${name} has answered ${requests} requests, but the database has ${inserted} of them`)
  }
}

const spread = (values: ReadonlyArray<number>): string =>
  `${short(median(values))} (${short(Math.min(...values))} to ${short(Math.max(...values))})`

const rate = ({ requests, seconds }: Run): number => requests / seconds

const tableOf = (results: ReadonlyMap<string, ReadonlyArray<Run>>): string => {
  const [bare] = results.values()
  return table([
    ["", "requests", "CPU a request, µs", "p50, ms", "p99, ms", "peak, MB"],
    ...[...results].map(([name, runs]) => [
      name,
      spread(runs.map((run, round) => rate(run) / rate(bare[round]))),
      spread(runs.map(({ cpuMicros, requests }) => cpuMicros / requests)),
      spread(runs.map(({ p50 }) => p50)),
      spread(runs.map(({ p99 }) => p99)),
      short(Math.max(...runs.map(({ peak }) => peak)))
    ])
  ])
}

/** Measures each server in turn, each round beginning with another one, after one round to warm up. */
export const http = async (database: Database, { millis, rounds }: Plan): Promise<ReadonlyArray<Section>> => {
  const sections: Array<Section> = []
  for (const { request, title, writes } of works) {
    for (const clients of [32, 256]) {
      const children = new Map<string, { readonly child: ChildProcess; readonly port: number }>()
      const results = new Map(servers.map(({ name }): [string, Array<Run>] => [name, []]))
      try {
        for (const { entry, module, name } of servers) {
          const child = start("httpChild.js", { module, entry, url: database.url, pool: 10 } satisfies Setup)
          const { port } = await nextMessage(child, name)
          children.set(name, { child, port })
        }
        for (let round = -1; round < rounds; round++) {
          const first = (round + 1) % servers.length
          for (const { name } of [...servers.slice(first), ...servers.slice(0, first)]) {
            const { child, port } = children.get(name)!
            const load: Load = {
              port,
              clients,
              millis,
              requests: Array.from({ length: differentRequests }, request)
            }
            await ask(child, name, "start")
            const seen = await send(load)
            const usage: Usage = await ask(child, name, "stop")
            await check(database, name, seen, writes)
            if (round >= 0) {
              results.get(name)!.push({ ...seen, ...usage })
            }
          }
        }
      } finally {
        for (const { child } of children.values()) {
          child.disconnect()
        }
      }
      const heading = `Behind HTTP: ${title}, ${clients} clients`
      sections.push({ title: heading, text: tableOf(results) })
      console.log(`${heading}\n${tableOf(results)}`)
    }
  }
  return sections
}
