/**
 * Reads rows from the text and CSV formats of PostgreSQL's COPY, for databases that have no COPY.
 *
 * The formats: https://www.postgresql.org/docs/current/sql-copy.html
 */
import type { CopyFormat } from "../driver.js"

/** A row of data. */
export interface DataRow {
  readonly values: ReadonlyArray<string | null>
  /** The line that it ends on, counted from 1. */
  readonly line: number
}

/** Data that is not in the format. */
export class MalformedData {
  constructor(readonly line: number, readonly reason: string) {}
}

/** Reads data in pieces of any size. */
export interface DataReader {
  /** The rows that are complete. Throws MalformedData. */
  readonly push: (data: string) => ReadonlyArray<DataRow>
  /** The row without an end of line, if there is one. */
  readonly end: () => ReadonlyArray<DataRow>
}

/** The states of the CSV reader: outside of quotes, inside, and after a quote inside, which may be the first of two. */
const outside = 0
const inside = 1
const afterQuote = 2

const csvReader = ({ delimiter = ",", null: nullText = "" }: CopyFormat): DataReader => {
  let state = outside
  let line = 1
  let field = ""
  let isQuoted = false
  let values: Array<string | null> = []
  let hasData = false
  let carriageReturn = ""

  const endField = (): void => {
    values.push(!isQuoted && field === nullText ? null : field)
    field = ""
    isQuoted = false
  }
  const endRow = (rows: Array<DataRow>): void => {
    if (!isQuoted && field.endsWith("\r")) {
      field = field.slice(0, -1)
    }
    endField()
    rows.push({ values, line })
    values = []
    hasData = false
  }
  return {
    push: (pushed) => {
      const rows: Array<DataRow> = []
      // A carriage return belongs to the line feed that may follow it.
      const all = carriageReturn + pushed
      carriageReturn = all.endsWith("\r") ? "\r" : ""
      const data = carriageReturn === "" ? all : all.slice(0, -1)
      let start = 0
      for (let i = 0; i < data.length; i++) {
        const character = data[i]
        if (state === inside) {
          if (character === "\"") {
            field += data.slice(start, i)
            state = afterQuote
          } else if (character === "\n") {
            line++
          }
          continue
        }
        if (state === afterQuote) {
          state = outside
          start = i
          if (character === "\"") {
            // Two quotes stand for one, which is the first character of what follows.
            state = inside
            continue
          }
        }
        if (character === delimiter) {
          field += data.slice(start, i)
          endField()
          start = i + 1
          hasData = true
        } else if (character === "\n") {
          field += isQuoted ? data.slice(start, i).replace(/\r$/, "") : data.slice(start, i)
          endRow(rows)
          line++
          start = i + 1
        } else if (character === "\"") {
          field += data.slice(start, i)
          start = i + 1
          isQuoted = true
          state = inside
          hasData = true
        }
      }
      if (state !== afterQuote && start < data.length) {
        field += data.slice(start)
        hasData = true
      }
      return rows
    },
    end: () => {
      if (state === inside) {
        throw new MalformedData(line, "unterminated CSV quoted field")
      }
      const rows: Array<DataRow> = []
      if (hasData) {
        endRow(rows)
      }
      return rows
    }
  }
}

const letters: { readonly [letter: string]: string } = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" }

const escape = /\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|([^]))/g

const unescape = (text: string): string =>
  text.replace(escape, (_, hex?: string, octal?: string, other?: string) =>
    hex !== undefined
      ? String.fromCharCode(Number.parseInt(hex, 16))
      : octal !== undefined
      ? String.fromCharCode(Number.parseInt(octal, 8) & 0xff)
      : letters[other!] ?? other!)

/** Whether a line's end belongs to its data, since it is escaped. */
const endsEscaped = (line: string): boolean => {
  let count = 0
  while (line[line.length - 1 - count] === "\\") {
    count++
  }
  return count % 2 === 1
}

const textReader = ({ delimiter = "\t", null: nullText = "\\N" }: CopyFormat): DataReader => {
  let rest = ""
  let line = 0
  let hasEnded = false

  /** Splits a line at the delimiters that are not escaped. */
  const split = (text: string): ReadonlyArray<string> => {
    if (!text.includes("\\")) {
      return text.split(delimiter)
    }
    const fields: Array<string> = []
    let field = ""
    for (const part of text.split(delimiter)) {
      field += part
      if (endsEscaped(part)) {
        field += delimiter
      } else {
        fields.push(field)
        field = ""
      }
    }
    return field === "" ? fields : [...fields, field]
  }
  const read = (text: string): DataRow => {
    const content = text.endsWith("\r") ? text.slice(0, -1) : text
    const values = split(content).map((field) =>
      field === nullText ? null : field.includes("\\") ? unescape(field) : field
    )
    return { values, line }
  }
  const push = (data: string): ReadonlyArray<DataRow> => {
    const rows: Array<DataRow> = []
    const lines = (rest + data).split("\n")
    let current = ""
    for (const [i, part] of lines.entries()) {
      current += part
      if (i === lines.length - 1) {
        break
      }
      line++
      if (endsEscaped(part)) {
        current += "\n"
        continue
      }
      hasEnded ||= current === "\\." || current === "\\.\r"
      if (!hasEnded) {
        rows.push(read(current))
      }
      current = ""
    }
    // The lines of an unfinished row are counted again.
    line -= current.split("\n").length - 1
    rest = current
    return rows
  }
  return {
    push,
    end: () => rest === "" ? [] : push("\n")
  }
}

export const makeReader = (format: CopyFormat): DataReader =>
  format.format === "csv" ? csvReader(format) : textReader(format)
