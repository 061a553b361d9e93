/**
 * What the server's messages say, apart from rows.
 *
 * Their layout: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */
import Pg from "pg"

/** The kinds of messages that a server sends once a connection is established. */
export const kinds = {
  parseComplete: 0x31,
  bindComplete: 0x32,
  closeComplete: 0x33,
  notification: 0x41,
  commandComplete: 0x43,
  dataRow: 0x44,
  error: 0x45,
  copyIn: 0x47,
  copyOut: 0x48,
  emptyQuery: 0x49,
  notice: 0x4e,
  parameterStatus: 0x53,
  rowDescription: 0x54,
  readyForQuery: 0x5a,
  copyDone: 0x63,
  copyData: 0x64,
  noData: 0x6e,
  portalSuspended: 0x73,
  parameterDescription: 0x74
} as const

/** A message that ends before what it announces. */
export class Malformed extends Error {}

/** Reads one message from its front to its end. */
export class Reader {
  constructor(private readonly bytes: Buffer, public at: number, private readonly end: number) {}

  text(): string {
    const zero = this.bytes.indexOf(0, this.at)
    if (zero === -1 || zero >= this.end) {
      throw new Malformed("it sent a text without an end")
    }
    const text = this.bytes.toString("utf8", this.at, zero)
    this.at = zero + 1
    return text
  }

  int16(): number {
    this.need(2)
    this.at += 2
    return this.bytes.readInt16BE(this.at - 2)
  }

  int32(): number {
    this.need(4)
    this.at += 4
    return this.bytes.readInt32BE(this.at - 4)
  }

  uint32(): number {
    return this.int32() >>> 0
  }

  private need(length: number): void {
    if (this.at + length > this.end) {
      throw new Malformed("it sent a message that is too short")
    }
  }
}

/** The columns of the rows to come, as `pg` has them. */
export const fieldsOf = (cursor: Reader): Array<Pg.FieldDef> =>
  Array.from({ length: Math.max(0, cursor.int16()) }, () => ({
    name: cursor.text(),
    tableID: cursor.uint32(),
    columnID: cursor.int16(),
    dataTypeID: cursor.uint32(),
    dataTypeSize: cursor.int16(),
    dataTypeModifier: cursor.int32(),
    format: cursor.int16() === 0 ? "text" : "binary"
  }))

/** The types of a statement's parameters. */
export const typesOf = (cursor: Reader): ReadonlyArray<number> =>
  Array.from({ length: cursor.int16() & 0xffff }, () => cursor.uint32())

/** Fields of an error by their letters, as `pg` calls them. */
const errorFields: { readonly [letter: string]: string } = {
  S: "severity",
  C: "code",
  D: "detail",
  H: "hint",
  P: "position",
  p: "internalPosition",
  q: "internalQuery",
  W: "where",
  s: "schema",
  t: "table",
  c: "column",
  d: "dataType",
  n: "constraint",
  F: "file",
  L: "line",
  R: "routine"
}

/** An error of the server. */
export interface ServerError extends Error {
  /** Every server gives one. */
  readonly code?: string | undefined
  readonly routine?: string | undefined
}

/** What the server says of an error. That it has an end is known. */
export const errorOf = (bytes: Buffer, at: number, end: number): ServerError => {
  const cursor = new Reader(bytes, at, end)
  const fields: Record<string, string> = {}
  let message = ""
  while (bytes[cursor.at] !== 0) {
    const letter = String.fromCharCode(bytes[cursor.at++])
    const text = cursor.text()
    if (letter === "M") {
      message = text
    } else if (errorFields[letter] !== undefined) {
      fields[errorFields[letter]] = text
    }
  }
  return Object.assign(new Pg.DatabaseError(message, end - at, "error"), fields)
}

/** The tag of a command that has completed. */
export const tagOf = (bytes: Buffer, at: number, end: number): string => bytes.toString("latin1", at, end - 1)
