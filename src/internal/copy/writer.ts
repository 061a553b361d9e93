/**
 * Writes rows in the text and CSV formats of PostgreSQL's COPY, for databases that have no COPY.
 *
 * The formats: https://www.postgresql.org/docs/current/sql-copy.html
 */
import type { CopyFormat } from "../driver.js"

const escapes: { readonly [character: string]: string } = {
  "\\": "\\\\",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\v": "\\v"
}

const special = /[\\\b\f\n\r\t\v]/
const specials = /[\\\b\f\n\r\t\v]/g

/** A row's values as text, or null for NULL. Returns the line with its end. */
export type WriteRow = (values: ReadonlyArray<string | null>) => string

const textWriter = ({ delimiter = "\t", null: nullText = "\\N" }: CopyFormat): WriteRow => {
  const write = (value: string | null): string => {
    if (value === null) {
      return nullText
    }
    const escaped = special.test(value) ? value.replace(specials, (character) => escapes[character]) : value
    return delimiter !== "\t" && escaped.includes(delimiter) ? escaped.replaceAll(delimiter, `\\${delimiter}`) : escaped
  }
  return (values) => `${values.map(write).join(delimiter)}\n`
}

const csvWriter = ({ delimiter = ",", null: nullText = "" }: CopyFormat): WriteRow => {
  const mustQuote = (value: string, isOnly: boolean): boolean =>
    value === nullText || value.includes(delimiter) || /["\n\r]/.test(value) || (isOnly && value === "\\.")
  return (values) =>
    `${
      values.map((value) =>
        value === null
          ? nullText
          : mustQuote(value, values.length === 1)
          ? `"${value.replaceAll("\"", "\"\"")}"`
          : value
      ).join(delimiter)
    }\n`
}

export const makeWriter = (format: CopyFormat): WriteRow =>
  format.format === "csv" ? csvWriter(format) : textWriter(format)
