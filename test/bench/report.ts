/**
 * The results as Markdown tables.
 */
import type { Measurement } from "./peer.js"
import type { Kind } from "./peers.js"
import { median, type Results } from "./rounds.js"
import type { Workload } from "./workloads.js"

/** One workload at one concurrency: a group of columns in a table. */
export interface Column {
  readonly dialect: string
  readonly workload: Workload
  readonly concurrency: number
  /** By peer; the first is the bare library, the baseline of the ratios. */
  readonly results: Results
}

/** A part of the report, which the page has under a heading of its own. */
export interface Section {
  readonly title: string
  readonly text: string
}

export interface Ratio {
  readonly median: number
  readonly min: number
  readonly max: number
}

const speed = (measurement: Measurement): number => measurement.operations / measurement.seconds

/** The speed of each peer relative to the bare library in the same round. */
export const ratios = ({ results }: Column): ReadonlyMap<string, Ratio> => {
  const [bare] = results.values()
  return new Map([...results].map(([name, rounds]) => {
    const all = rounds.map((measurement, round) => speed(measurement) / speed(bare[round]))
    return [name, { median: median(all), min: Math.min(...all), max: Math.max(...all) }]
  }))
}

/** Rounded to three significant digits, with at most three decimals. */
export const short = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toFixed(3)

const distance = ({ delay }: Workload): string => delay === undefined ? "" : `, ${delay} ms away`

/** The name of a column, for the terminal and the plot. */
export const heading = ({ concurrency, workload }: Column): string =>
  `${workload.title}, ${concurrency} at once${distance(workload)}`

/** A line of progress for the terminal. */
export const summary = (column: Column): string =>
  `${column.dialect}, ${heading(column)}: ${
    [...ratios(column)].map(([name, { median }]) => `${name} ${short(median)}`).join(", ")
  }`

export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)))
  const line = (cells: ReadonlyArray<string>) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`
  return [line(rows[0]), line(widths.map((width) => "-".repeat(width))), ...rows.slice(1).map(line)].join("\n")
}

const medianOf = (rounds: ReadonlyArray<Measurement>, field: (measurement: Measurement) => number | null): string => {
  const values = rounds.map(field).filter((value) => value !== null)
  return values.length === 0 ? blank : short(median(values))
}

const blank = "–"

/** The speed, the CPU time and the 99th percentile of a peer, or why it has none. */
const cellsOf = (column: Column) => {
  const speeds = ratios(column)
  return ({ name, without }: Kind): ReadonlyArray<string> => {
    const rounds = column.results.get(name)
    const ratio = speeds.get(name)
    if (rounds === undefined || ratio === undefined || rounds.length === 0) {
      return [without?.[column.workload.work] ?? "failed", "", ""]
    }
    const { max, median, min } = ratio
    return [
      `${short(median)} (${short(min)} to ${short(max)})`,
      medianOf(rounds, ({ cpuMicros, operations }) => cpuMicros === null ? null : cpuMicros / operations),
      medianOf(rounds, ({ p99 }) => p99)
    ]
  }
}

const sectionTitle = ({ dialect, workload }: Column): string =>
  workload.delay === undefined
    ? `${dialect}: ${workload.title}`
    : `${dialect}, ${workload.delay} ms away in each direction`

/** A table for each kind of work, and for each distance of the database. */
export const sections = (columns: ReadonlyArray<Column>, kinds: ReadonlyArray<Kind>): ReadonlyArray<Section> =>
  [...new Set(columns.map(sectionTitle))].map((title) => {
    const own = columns.filter((column) => sectionTitle(column) === title)
    const peers = kinds.filter(({ name, without }) =>
      own.some(({ results, workload }) => results.has(name) || without?.[workload.work] !== undefined)
    )
    const headings = own.flatMap(({ concurrency, workload }) => {
      const label = workload.delay === undefined ? `@${concurrency}` : `${workload.title} @${concurrency}`
      return [`${label}: speed`, "CPU, µs", "p99, ms"]
    })
    const last = own[own.length - 1].results
    const cells = own.map(cellsOf)
    return {
      title,
      text: table([
        ["", ...headings, "peak, MB"],
        ...peers.map((kind) =>
          [kind.name].concat(
            ...cells.map((cellsOfKind) => cellsOfKind(kind)),
            medianOf(last.get(kind.name) ?? [], ({ peak }) => peak)
          )
        )
      ])
    }
  })
