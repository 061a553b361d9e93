/**
 * Compares sqlayer with the bare client libraries, stock @effect/sql and other libraries. Each peer does the same work in
 * a process of its own; the results are printed as tables and drawn as an SVG.
 *
 * `npm run bench -- --quick` takes a minute, and uses only what `npm ci` has installed. `--peers=pg,sqlayer` and
 * `--only=select,session` restrict the peers and the work; the bare library always runs. `--only=growth` measures how
 * cost grows, and `--only=start` how long an application takes to start. `--rounds` and `--millis` set the number of rounds
 * and the duration of each. `--write` writes the results into docs/performance.md.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { parseArgs } from "node:util"
import * as Databases from "./databases.js"
import { growth } from "./growth.js"
import { install } from "./install.js"
import { type Kind, kinds } from "./peers.js"
import { plot } from "./plot.js"
import { root } from "./remote.js"
import { type Column, summary, tables } from "./report.js"
import { close, measure, open, type Plan } from "./rounds.js"
import { start } from "./start.js"
import { type Dialect, workloads } from "./workloads.js"

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    peers: { type: "string" },
    only: { type: "string" },
    rounds: { type: "string" },
    millis: { type: "string" }
  }
})
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

const columnsOf = async (
  dialect: Dialect,
  database: Databases.Database,
  kinds: ReadonlyArray<Kind>
): Promise<ReadonlyArray<Column>> => {
  const columns: Array<Column> = []
  for (const { concurrencies, quick: isQuick, title, work } of workloads[dialect]) {
    if (only === undefined ? quick && !isQuick : !only.includes(work)) {
      continue
    }
    const remotes = await open(kinds, work, { url: database.url, pool: 10, statements: 1 })
    for (const concurrency of concurrencies) {
      const results = await measure(remotes, database, work, concurrency, plan)
      const column: Column = { dialect: dialects[dialect], title, concurrency, work, results }
      console.log(summary(column))
      columns.push(column)
    }
    await close(remotes)
  }
  return columns
}

install(chosen)
const columns: Array<Column> = []
let growthTables = ""
const startTables: Array<string> = []
for (const [dialect, make] of [["postgres", Databases.postgres], ["sqlite", Databases.sqlite]] as const) {
  const database = await make()
  try {
    columns.push(...await columnsOf(dialect, database, chosen.filter((kind) => kind.dialect === dialect)))
    if (dialect === "postgres" && (only === undefined ? !quick : only.includes("growth"))) {
      growthTables = await growth(database, plan)
    }
    if (only === undefined ? !quick : only.includes("start")) {
      const installed = chosen.filter((kind) => kind.dialect === dialect && kind.installed).map(({ name }) => name)
      startTables.push(start(dialect, database.url, Number(values.rounds ?? 15), installed))
    }
  } finally {
    await database.close()
  }
}

const text = [tables(columns), growthTables, ...startTables].filter((part) => part !== "").join("\n\n")
console.log(`\n${text}`)
const build = path.join(root, "build")
fs.mkdirSync(build, { recursive: true })
const raw = columns.map((column) => ({ ...column, results: Object.fromEntries(column.results) }))
fs.writeFileSync(path.join(build, "bench.json"), JSON.stringify(raw, null, 1))
const docs = path.join(root, "docs")
fs.writeFileSync(path.join(values.write ? docs : build, "performance.svg"), plot(columns))
if (values.write) {
  const page = path.join(docs, "performance.md")
  const markers = /(<!-- measured -->\n)[\s\S]*(<!-- \/measured -->)/
  fs.writeFileSync(
    page,
    fs.readFileSync(page, "utf8").replace(markers, (_, begin, end) => `${begin}\n${text}\n\n${end}`)
  )
}
