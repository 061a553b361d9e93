/**
 * Compares sqlayer with the bare client libraries, stock @effect/sql and other libraries. Each peer does the same work in
 * a process of its own; the results are printed as tables and drawn as an SVG. See `usage`.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { parseArgs } from "node:util"
import * as Databases from "./databases.js"
import { delayed } from "./delay.js"
import { growth } from "./growth.js"
import { http, httpKind } from "./http.js"
import { install } from "./install.js"
import { overload } from "./overload.js"
import { type Kind, kinds } from "./peers.js"
import { plot } from "./plot.js"
import { root } from "./remote.js"
import { type Column, type Section, sections, summary } from "./report.js"
import { close, measure, open, type Plan } from "./rounds.js"
import { start } from "./start.js"
import { copied, defaults, type Dialect, streamable, type Workload, workloads } from "./workloads.js"

const usage = `npm run bench -- [options]

Everything takes about two hours; --quick takes a minute, and uses only what \`npm ci\` has installed.

  --quick            fewer kinds of work, three short rounds, and only the peers that need no installation
  --peers=pg,sqlayer only these peers; the bare library always runs
  --only=select,...  only this: ${[...new Set(workloads.postgres.map(({ work }) => work))].join(", ")},
                     delay (through a proxy that delays each direction by 1 and 5 ms),
                     http (one transaction for each request of an HTTP server; installs Fastify),
                     growth (how cost grows), overload (five times as much work as the pool can do; 6 minutes),
                     start (how long an application takes to start)
  --rounds=5         the number of rounds
  --millis=2000      the duration of each round of each peer
  --write            writes the tables into docs/performance.md, each in place of the one that is there
  --help             this text`

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
    peers: { type: "string" },
    only: { type: "string" },
    rounds: { type: "string" },
    millis: { type: "string" }
  }
})
if (values.help) {
  console.log(usage)
  process.exit()
}
const { quick } = values
const plan: Plan = {
  rounds: Number(values.rounds ?? (quick ? 3 : 5)),
  millis: Number(values.millis ?? (quick ? 300 : 2_000))
}
const only = values.only?.split(",")
const peers = values.peers?.split(",")

const dialects = { postgres: "PostgreSQL", sqlite: "SQLite" } as const
const first = (dialect: Dialect) => kinds.find((kind) => kind.dialect === dialect)

const hasName = (name: string) => (kind: Kind) => name === kind.name || name === kind.name.replace(/ \(.*/, "")
const unknown = peers?.find((name) => !kinds.some(hasName(name)))
if (unknown !== undefined) {
  throw new Error(`unknown peer ${unknown}; the peers are ${kinds.map(({ name }) => name).join(", ")}`)
}

const chosen = kinds.filter((kind) => {
  const selected = peers === undefined ? !quick || kind.quick : peers.some((name) => hasName(name)(kind))
  if (!selected && kind !== first(kind.dialect)) {
    return false
  }
  const missing = kind.missing?.()
  if (missing !== undefined) {
    console.log(`${kind.name} is left out: ${missing}`)
  }
  return missing === undefined
})
const kindsOf = (dialect: Dialect) => chosen.filter((kind) => kind.dialect === dialect)

/** The concurrencies at which a workload is measured. */
const concurrenciesOf = ({ concurrencies, delay, quick: quickOnes, work }: Workload): ReadonlyArray<number> =>
  only === undefined
    ? quick ? quickOnes : concurrencies
    : only.includes(delay === undefined ? work : "delay")
    ? concurrencies
    : []

/** Whether to measure what takes long and is not a workload. */
const measures = (name: string): boolean => only === undefined ? !quick : only.includes(name)

/** Streams read all items, what is copied is a part of them, and the rest reads few. */
const itemsFor = (dialect: Dialect): number =>
  workloads[dialect].some((workload) => workload.work === "stream" && concurrenciesOf(workload).length > 0)
    ? streamable
    : copied

const columnsOf = async (dialect: Dialect, database: Databases.Database): Promise<ReadonlyArray<Column>> => {
  const columns: Array<Column> = []
  for (const workload of workloads[dialect]) {
    const concurrencies = concurrenciesOf(workload)
    if (concurrencies.length === 0) {
      continue
    }
    const { delay, work } = workload
    const far = delay === undefined ? undefined : await delayed(database.url, delay)
    const remotes = await open(kindsOf(dialect), work, { ...defaults, url: far?.url ?? database.url })
    for (const concurrency of concurrencies) {
      const results = await measure(remotes, database, work, concurrency, plan)
      const column: Column = { dialect: dialects[dialect], workload, concurrency, results }
      console.log(summary(column))
      columns.push(column)
    }
    await close(remotes)
    await far?.close()
  }
  return columns
}

install(measures("http") ? [...chosen, httpKind] : chosen)
const columns: Array<Column> = []
const report: Array<Section> = []
for (const [dialect, make] of [["postgres", Databases.postgres], ["sqlite", Databases.sqlite]] as const) {
  const database = await make(itemsFor(dialect))
  try {
    const own = await columnsOf(dialect, database)
    columns.push(...own)
    report.push(...sections(own, kindsOf(dialect)))
    if (dialect === "postgres" && measures("growth")) {
      report.push({ title: "How cost grows", text: await growth(database, plan) })
    }
    if (dialect === "postgres" && measures("overload")) {
      report.push({ title: "Overload", text: await overload(database.url, quick ? [1_000] : [1_000, 3_000, 30_000]) })
    }
    if (dialect === "postgres" && measures("http")) {
      report.push(...await http(database, plan))
    }
    if (measures("start")) {
      const installed = kindsOf(dialect).filter((kind) => kind.installed).map(({ name }) => name)
      const text = start(dialect, database.url, Number(values.rounds ?? 15), installed)
      report.push({ title: `Starts: ${dialects[dialect]}`, text })
    }
  } finally {
    await database.close()
  }
}

const textOf = ({ text, title }: Section): string => `### ${title}\n\n${text}`

/** Replaces the sections of the page that are in the report, and adds those that it does not have yet. */
const mergeInto = (page: string): string =>
  page.replace(/(?<=<!-- measured -->\n)[\s\S]*(?=<!-- \/measured -->)/, (measured) => {
    const merged = new Map(
      measured.split(/^### /m).slice(1).map((section): [string, string] => {
        const [title] = section.split("\n", 1)
        return [title, `### ${section.trimEnd()}`]
      })
    )
    for (const section of report) {
      merged.set(section.title, textOf(section))
    }
    return `\n${[...merged.values()].join("\n\n")}\n\n`
  })

console.log(`\n${report.map(textOf).join("\n\n")}`)
const build = path.join(root, "build")
fs.mkdirSync(build, { recursive: true })
const raw = columns.map(({ concurrency, dialect, results, workload: { delay, title, work } }) => ({
  dialect,
  work,
  title,
  delay,
  concurrency,
  results: Object.fromEntries(results)
}))
fs.writeFileSync(path.join(build, "bench.json"), JSON.stringify(raw, null, 1))
fs.writeFileSync(path.join(build, "performance.svg"), plot(columns))
if (values.write) {
  const docs = path.join(root, "docs")
  const page = path.join(docs, "performance.md")
  fs.writeFileSync(page, mergeInto(fs.readFileSync(page, "utf8")))
  if (only === undefined) {
    fs.writeFileSync(path.join(docs, "performance.svg"), plot(columns))
  }
}
