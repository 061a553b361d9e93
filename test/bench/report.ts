/**
 * What was found, in words.
 */
import type { Figures, Work } from "./peer.js"
import { median, type Results } from "./rounds.js"

/** One work, done by so many at once. */
export interface Column {
  readonly dialect: string
  readonly title: string
  readonly concurrency: number
  readonly work: Work
  /** The bare library's are the first. */
  readonly results: Results
}

export interface Ratio {
  readonly median: number
  readonly lowest: number
  readonly highest: number
}

const speed = (figures: Figures): number => figures.operations / figures.seconds

/** To the bare library, in the same round. */
export const ratios = ({ results }: Column): ReadonlyMap<string, Ratio> => {
  const [bare] = results.values()
  return new Map([...results].map(([name, rounds]) => {
    const all = rounds.map((figures, round) => speed(figures) / speed(bare[round]))
    return [name, { median: median(all), lowest: Math.min(...all), highest: Math.max(...all) }]
  }))
}

/** Three digits, as far as they say something. */
export const short = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toFixed(3)

const heading = ({ concurrency, title }: Column): string =>
  concurrency === 1 ? title : `${title}, ${concurrency} at once`

/** A line for whoever watches. */
export const summary = (column: Column): string =>
  `${column.dialect}, ${heading(column)}: ${
    [...ratios(column)].map(([name, { median }]) => `${name} ${short(median)}`).join(", ")
  }`

export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)))
  const line = (cells: ReadonlyArray<string>) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`
  return [line(rows[0]), line(widths.map((width) => "-".repeat(width))), ...rows.slice(1).map(line)].join("\n")
}

const medianOf = (field: (figures: Figures) => number | null) => (column: Column) => {
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
    title: "operations a second, as a ratio to the first in the same round: the median (lowest to highest)",
    cells: (column) =>
      new Map([...ratios(column)].map(([name, { highest, lowest, median }]) => [
        name,
        `${short(median)} (${short(lowest)} to ${short(highest)})`
      ]))
  },
  {
    title: "microseconds of CPU time an operation, in the client's process",
    cells: medianOf(({ cpuMicros, operations }) => cpuMicros === null ? null : cpuMicros / operations)
  },
  { title: "milliseconds an operation, half of them take less", cells: medianOf(({ p50 }) => p50) },
  { title: "milliseconds an operation, 99 of 100 take less", cells: medianOf(({ p99 }) => p99) },
  { title: "megabytes of memory, the client's process at its most", cells: medianOf(({ peak }) => peak) }
]

const blank = "–"

/** Markdown. */
export const tables = (columns: ReadonlyArray<Column>): string =>
  [...new Set(columns.map(({ dialect }) => dialect))].flatMap((dialect) => {
    const own = columns.filter((column) => column.dialect === dialect)
    const names = [...new Set(own.flatMap(({ results }) => [...results.keys()]))]
    return measures.map(({ cells, title }) => {
      const found = own.map(cells)
      return `${dialect}: ${title}.\n\n${
        table([
          ["", ...own.map(heading)],
          ...names.map((name) => [name].concat(found.map((column) => column.get(name) ?? blank)))
        ])
      }`
    })
  }).join("\n\n")
