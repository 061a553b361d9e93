/**
 * Writes a table between the markers of docs/compatibility.md.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { root } from "./documented.js"

export type Row = ReadonlyArray<string>

/** A table, and the marker that names its place: `<!-- runtimes -->` to `<!-- /runtimes -->`. */
export interface Table {
  readonly marker: string
  readonly head: Row
  readonly rows: ReadonlyArray<Row>
}

const render = ({ head, rows }: Table): string => {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i].length)))
  const line = (row: Row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")
}

/** The name of a row, without the version behind it. */
const nameOf = (row: Row): string => row[0].replace(/ \(.*\)$/, "")

/** The rows of a table as it is now, without those that have been run again. */
const keptRows = (text: string, rows: ReadonlyArray<Row>): ReadonlyArray<Row> =>
  text.split("\n").filter((line) => line.startsWith("| ")).slice(2)
    .map((line) => line.slice(2, -2).split(" | ").map((cell) => cell.trim()))
    .filter((old) => !rows.some((row) => nameOf(row) === nameOf(old)))

/** Writes a table. A row that it does not have, and the file has, stays. */
export const writeTable = (table: Table): void => {
  const file = Path.join(root, "docs", "compatibility.md")
  const text = Fs.readFileSync(file, "utf8")
  const [start, end] = [`<!-- ${table.marker} -->`, `<!-- /${table.marker} -->`]
  const [from, to] = [text.indexOf(start), text.indexOf(end)]
  if (from < 0 || to < from) {
    throw new Error(`docs/compatibility.md has no place for ${table.marker}`)
  }
  const rows = [...keptRows(text.slice(from, to), table.rows), ...table.rows].sort((a, b) => a[0] < b[0] ? -1 : 1)
  if (rows.length > 0) {
    const rendered = render({ ...table, rows })
    Fs.writeFileSync(file, `${text.slice(0, from + start.length)}\n\n${rendered}\n\n${text.slice(to)}`)
  }
}
