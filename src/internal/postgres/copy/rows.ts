/**
 * Encodes rows in COPY's text format, as messages.
 *
 * The format: https://www.postgresql.org/docs/current/sql-copy.html
 */
import { Unusable, valuesOf } from "../../copy/elements.js"
import type { UnusableRow } from "../../copy/errors.js"
import type { CopyColumn } from "../../driver.js"
import { maxBytesPerCodeUnit } from "../protocol/writer.js"
import { copyDataType, headerLength } from "./exchanges.js"

/** The size of a message, in UTF-16 code units: large enough that a message costs little. */
const messageSize = 65_536

/** Converts a value of a column to text, or to null for NULL. Throws if it cannot be converted. */
export type EncodeValue = (value: unknown, column: number) => string | null

const special = /[\\\n\r\t]/
const specials = /[\\\n\r\t]/g
const escapes: { readonly [character: string]: string } = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" }

const escape = (text: string): string =>
  special.test(text) ? text.replace(specials, (character) => escapes[character]) : text

/** A text as a CopyData message. */
const messageOf = (text: string): Buffer => {
  const buffer = Buffer.allocUnsafe(headerLength + text.length * maxBytesPerCodeUnit)
  const length = buffer.write(text, headerLength, "utf8")
  buffer[0] = copyDataType
  buffer.writeInt32BE(4 + length, 1)
  return buffer.subarray(0, headerLength + length)
}

/** Encodes the rows of one copy. */
export class RowEncoder {
  private line = 0

  constructor(private readonly columns: ReadonlyArray<CopyColumn>, private readonly encodeValue: EncodeValue) {}

  /** The messages of rows, or why one of the rows cannot be encoded. */
  encode(rows: ReadonlyArray<unknown>): ReadonlyArray<Buffer> | UnusableRow {
    const { columns, encodeValue } = this
    const messages: Array<Buffer> = []
    let text = ""
    for (const row of rows) {
      this.line++
      const values = valuesOf(row, columns)
      if (values instanceof Unusable) {
        return { line: this.line, column: values.column, cause: values.reason }
      }
      for (let i = 0; i < values.length; i++) {
        const value = values[i]
        let encoded: string | null
        try {
          encoded = encodeValue(value, i)
        } catch (cause) {
          return { line: this.line, column: columns[i].name, cause }
        }
        const field = encoded === null ? "\\N" : escape(encoded)
        text += i === 0 ? field : `\t${field}`
      }
      text += "\n"
      if (text.length >= messageSize) {
        messages.push(messageOf(text))
        text = ""
      }
    }
    if (text !== "") {
      messages.push(messageOf(text))
    }
    return messages
  }
}

/** A chunk of data is split into messages of at most this size, in bytes. */
const maxDataSize = 1_048_576

/** The messages of data. */
export const dataMessages = (data: Uint8Array): ReadonlyArray<Buffer> => {
  const messages: Array<Buffer> = []
  for (let start = 0; start < data.length; start += maxDataSize) {
    const part = data.subarray(start, start + maxDataSize)
    const message = Buffer.allocUnsafe(headerLength + part.length)
    message[0] = copyDataType
    message.writeInt32BE(4 + part.length, 1)
    message.set(part, headerLength)
    messages.push(message)
  }
  return messages
}
