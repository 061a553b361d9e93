/**
 * The elements of what is copied into a table: rows, or data.
 */
import type { CopyColumn } from "../driver.js"

export type Data = Uint8Array | string

export const isData = (element: unknown): element is Data =>
  typeof element === "string" || element instanceof Uint8Array

/** Why an element cannot be copied. */
export class Unusable {
  constructor(readonly reason: string, readonly column?: string) {}
}

/** The values of a row in the order of the columns. A value that is absent is not taken for NULL. */
export const valuesOf = (row: unknown, columns: ReadonlyArray<CopyColumn>): ReadonlyArray<unknown> | Unusable => {
  try {
    if (Array.isArray(row)) {
      return row.length === columns.length
        ? row
        : new Unusable(`it has ${row.length} values, and the copy has ${columns.length} columns`)
    }
    if (typeof row !== "object" || row === null) {
      return new Unusable("it is neither an array nor an object")
    }
    const values: Array<unknown> = []
    for (const { name } of columns) {
      const value = (row as { readonly [name: string]: unknown })[name]
      if (value === undefined && !(name in row)) {
        return new Unusable("it has no value for the column; write null for NULL", name)
      }
      values.push(value)
    }
    return values
  } catch {
    return new Unusable("its values cannot be read")
  }
}

const highSurrogate = /[\ud800-\udbff]$/

/** Encodes strings as UTF-8. A character may be split between two strings. */
export class Utf8Encoder {
  private rest = ""

  encode(data: Data): Uint8Array {
    if (typeof data !== "string") {
      const { rest } = this
      this.rest = ""
      return rest === "" ? data : Buffer.concat([Buffer.from(rest), data])
    }
    const text = this.rest + data
    this.rest = ""
    if (highSurrogate.test(text)) {
      this.rest = text.slice(-1)
      return Buffer.from(text.slice(0, -1))
    }
    return Buffer.from(text)
  }

  end(): Uint8Array {
    return this.encode(new Uint8Array(0))
  }
}
