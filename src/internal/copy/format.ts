/**
 * The options of a copy.
 */
import type { CopyFormat } from "../driver.js"

interface Options {
  readonly format?: "text" | "csv" | "binary" | undefined
  readonly header?: boolean | undefined
  readonly delimiter?: string | undefined
  readonly null?: string | undefined
}

/** Characters that the text format has another meaning for. */
const reservedInText = /[\\.a-z0-9]/
const lineEnd = /[\r\n]/

/** The format that the options describe, or why there is none. */
export const formatOf = (options: Options): CopyFormat | string => {
  const { delimiter, format = "text", header = false, null: nullText } = options
  if (format !== "text" && format !== "csv" && format !== "binary") {
    return "format is text, csv or binary"
  }
  if (format === "binary" && (header || delimiter !== undefined || nullText !== undefined)) {
    return "the binary format has no header, no delimiter and no text for NULL"
  }
  const hasDelimiter = delimiter === undefined || (
    typeof delimiter === "string" && /^[\0-\x7f]$/.test(delimiter) && !lineEnd.test(delimiter) &&
    !(format === "csv" ? delimiter === "\"" : reservedInText.test(delimiter))
  )
  if (!hasDelimiter) {
    return `delimiter is a single character of ASCII that the format ${format} has no other meaning for`
  }
  const separator = delimiter ?? (format === "csv" ? "," : "\t")
  return nullText === undefined || (
      typeof nullText === "string" && !lineEnd.test(nullText) && !nullText.includes(separator) &&
      !(format === "csv" && nullText.includes("\""))
    )
    ? { format, header, delimiter, null: nullText }
    : "null must be text on one line, without the delimiter"
}

/** Whether rows can be copied, and not only data. They can if there are no options. */
export const acceptsRows = ({ delimiter, format, header, null: nullText }: CopyFormat): boolean =>
  format === "text" && !header && delimiter === undefined && nullText === undefined
