/**
 * The results as Markdown tables.
 */
import type { Measurement, Work } from "./peer.js"
import { median, type Results } from "./rounds.js"

/** One workload at one concurrency: a column of the tables. */
export interface Column {
  readonly dialect: string
  readonly title: string
  readonly concurrency: number
  readonly work: Work
  /** By peer; the first is the bare library, the baseline of the ratios. */
  readonly results: Results
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

const heading = ({ concurrency, title }: Column): string =>
  concurrency === 1 ? title : `${title}, ${concurrency} at once`

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

const medianOf = (field: (measurement: Measurement) => number | null) => (column: Column) => {
  const cells = new Map<string, string>()
  for (const [name, rounds] of column.results) {
    const values = rounds.map(field).filter((value) => value !== null)
    if (values.length > 0) {
      cells.set(name, short(median(values)))
    }
  }
  return cells
}

const measures: ReadonlyArray<{
  readonly title: string
  readonly cells: (column: Column) => ReadonlyMap<string, string>
}> = [
  {
    title: "operations per second, relative to the first row in the same round: median (minimum to maximum)",
    cells: (column) =>
      new Map([...ratios(column)].map(([name, { max, median, min }]) => [
        name,
        `${short(median)} (${short(min)} to ${short(max)})`
      ]))
  },
  {
    title: "CPU time per operation in the client's process, in microseconds",
    cells: medianOf(({ cpuMicros, operations }) => cpuMicros === null ? null : cpuMicros / operations)
  },
  { title: "median latency, in milliseconds", cells: medianOf(({ p50 }) => p50) },
  { title: "99th percentile of the latency, in milliseconds", cells: medianOf(({ p99 }) => p99) },
  { title: "peak memory of the client's process, in megabytes", cells: medianOf(({ peak }) => peak) }
]

const blank = "–"

/** The tables of all dialects, as Markdown. */
export const tables = (columns: ReadonlyArray<Column>): string =>
  [...new Set(columns.map(({ dialect }) => dialect))].flatMap((dialect) => {
    const own = columns.filter((column) => column.dialect === dialect)
    const names = [...new Set(own.flatMap(({ results }) => [...results.keys()]))]
    return measures.map(({ cells, title }) => {
      const valuesByPeer = own.map(cells)
      return `${dialect}: ${title}.\n\n${
        table([
          ["", ...own.map(heading)],
          ...names.map((name) => [name].concat(valuesByPeer.map((column) => column.get(name) ?? blank)))
        ])
      }`
    })
  }).join("\n\n")
