/**
 * Decodes the messages that a server sends on an established connection, apart from rows.
 *
 * The format: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */
import type PgModule from "pg"

/** The first byte of each message that a server sends on an established connection. */
export const messageTypes = {
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

/** A message whose content contradicts its type or its length. */
export class MalformedMessage extends Error {}

/**
 * Whether an error is a MalformedMessage. Does not throw, whatever was thrown: a proxy may throw when it is examined.
 */
export const isMalformed = (error: unknown): error is MalformedMessage => {
  try {
    return error instanceof MalformedMessage
  } catch {
    return false
  }
}

/** Reads the fields of one message in order. Throws MalformedMessage where a field exceeds the message. */
export class Reader {
  constructor(private readonly bytes: Buffer, public offset: number, private readonly end: number) {}

  text(): string {
    const zero = this.bytes.indexOf(0, this.offset)
    if (zero === -1 || zero >= this.end) {
      throw new MalformedMessage("it sent a string without its final zero byte")
    }
    const text = this.bytes.toString("utf8", this.offset, zero)
    this.offset = zero + 1
    return text
  }

  int16(): number {
    this.need(2)
    this.offset += 2
    return this.bytes.readInt16BE(this.offset - 2)
  }

  int32(): number {
    this.need(4)
    this.offset += 4
    return this.bytes.readInt32BE(this.offset - 4)
  }

  uint32(): number {
    return this.int32() >>> 0
  }

  private need(length: number): void {
    if (this.offset + length > this.end) {
      throw new MalformedMessage("it sent a message that is too short")
    }
  }
}

/** RowDescription, in the form of `pg`. */
export const parseRowDescription = (reader: Reader): Array<PgModule.FieldDef> =>
  Array.from({ length: Math.max(0, reader.int16()) }, () => ({
    name: reader.text(),
    tableID: reader.uint32(),
    columnID: reader.int16(),
    dataTypeID: reader.uint32(),
    dataTypeSize: reader.int16(),
    dataTypeModifier: reader.int32(),
    format: reader.int16() === 0 ? "text" : "binary"
  }))

/** ParameterDescription: the type of each parameter of a statement. */
export const parseParameterDescription = (reader: Reader): ReadonlyArray<number> =>
  Array.from({ length: reader.int16() & 0xffff }, () => reader.uint32())

/** The property of `pg`'s DatabaseError for each field type of ErrorResponse. */
const errorFields: { readonly [type: string]: string } = {
  S: "severity",
  // The same, not localized; it follows S.
  V: "severity",
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

/** An ErrorResponse, in the form of `pg`'s DatabaseError. PostgreSQL always sends severity and code. */
export interface ServerError extends Error {
  readonly code?: string | undefined
  readonly severity?: string | undefined
  readonly detail?: string | undefined
  readonly hint?: string | undefined
  readonly position?: string | undefined
  readonly where?: string | undefined
  readonly schema?: string | undefined
  readonly table?: string | undefined
  readonly column?: string | undefined
  readonly dataType?: string | undefined
  readonly constraint?: string | undefined
  readonly routine?: string | undefined
}

/** The error, in the form that `pg` gives it. */
export class ResponseError extends Error {
  override readonly name = "error"

  constructor(message: string, readonly length: number) {
    super(message)
  }
}

/** ErrorResponse or NoticeResponse. The parser has checked that the fields are terminated. */
export const parseErrorFields = (bytes: Buffer, offset: number, end: number): ServerError => {
  const reader = new Reader(bytes, offset, end)
  const fields: Record<string, string> = {}
  let message = ""
  while (bytes[reader.offset] !== 0) {
    const type = String.fromCharCode(bytes[reader.offset++])
    const text = reader.text()
    if (type === "M") {
      message = text
    } else if (errorFields[type] !== undefined) {
      fields[errorFields[type]] = text
    }
  }
  return Object.assign(new ResponseError(message, end - offset), fields)
}

/** CommandComplete: the command tag. */
export const parseCommandTag = (bytes: Buffer, offset: number, end: number): string =>
  bytes.toString("latin1", offset, end - 1)
