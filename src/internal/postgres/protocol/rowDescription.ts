/**
 * Decodes rows into JavaScript values with the type parsers of `pg`.
 */
import Pg from "pg"
import { MalformedMessage, parseRowDescription, Reader } from "./messages.js"

type TypeParser = (text: string) => unknown

/** An integer of at most this many digits is exact as a number. */
const maxExactDigits = 15

const zero = 0x30
const nine = 0x39
const minus = 0x2d

/** Parses an integer from its digits without creating a string. */
const parseInteger = (bytes: Buffer, offset: number, end: number): number => {
  const from = bytes[offset] === minus ? offset + 1 : offset
  if (from === end || end - from > maxExactDigits) {
    return Number(bytes.toString("latin1", offset, end))
  }
  let value = 0
  for (let i = from; i < end; i++) {
    const digit = bytes[i]
    if (digit < zero || digit > nine) {
      return Number(bytes.toString("latin1", offset, end))
    }
    value = value * 10 + digit - zero
  }
  return from === offset ? value : -value
}

/** Rows as arrays; undefined for rows as objects. */
export type RowMode = "array" | undefined

const typeParserOf: (type: number, format: "text") => TypeParser = Pg.types.getTypeParser

/** int8, int2, int4 and oid, whose text is nothing but digits and a sign. */
const integerTypes: ReadonlySet<number> = new Set([20, 21, 23, 26])

const parseIntParsers = new WeakMap<TypeParser, boolean>()

/** Whether a parser is `pg`'s own parser for integers. An application may have replaced it with `setTypeParser`. */
const isParseInt = (parse: TypeParser): boolean => {
  const cached = parseIntParsers.get(parse)
  if (cached !== undefined) {
    return cached
  }
  const isOwn = /^function\s*\w*\(value\)\{returnparseInt\(value,10\);?\}$/.test(String(parse).replace(/\s/g, ""))
  parseIntParsers.set(parse, isOwn)
  return isOwn
}

/** Results are requested in text format. A cursor declared as BINARY is binary nevertheless. */
const rejectBinary = (): never => {
  throw new Error("a column comes in binary format")
}

/** The cache holds this many descriptions, of at most this many bytes each. */
const maxCached = 256
const maxCachedBytes = 4_096

const cache = new Map<string, RowDescription>()

/**
 * The RowDescription for a message. A server sends the same ones again and again, and reusing the object keeps the hidden
 * class of its rows, and with it the code that V8 has compiled for them.
 */
export const rowDescriptionOf = (bytes: Buffer, offset: number, end: number): RowDescription => {
  const key = bytes.toString("latin1", offset, end)
  const cached = cache.get(key)
  if (cached?.usesCurrentParsers() === true) {
    return cached
  }
  const description = new RowDescription(parseRowDescription(new Reader(bytes, offset, end)))
  if (key.length <= maxCachedBytes) {
    if (cache.size >= maxCached) {
      cache.delete(cache.keys().next().value!)
    }
    cache.set(key, description)
  }
  return description
}

const typeParserOfField = ({ dataTypeID, format }: Pg.FieldDef): TypeParser =>
  format === "text" ? typeParserOf(dataTypeID, "text") : rejectBinary

/** The columns of a result, and how to decode their values. */
export class RowDescription {
  private readonly names: ReadonlyArray<string>
  /** The type parsers when this was created. */
  private readonly typeParsers: ReadonlyArray<TypeParser>
  /** Undefined where `parseInteger` gives the same value. */
  private readonly parsers: ReadonlyArray<TypeParser | undefined>
  /** Every row begins as a copy of this object, so that all rows share one hidden class. */
  private readonly emptyRow: Record<string, null>

  constructor(readonly fields: Array<Pg.FieldDef>) {
    this.names = fields.map(({ name }) => name)
    this.typeParsers = fields.map(typeParserOfField)
    this.parsers = this.typeParsers.map((parse, i) =>
      parse === Number || (integerTypes.has(fields[i].dataTypeID) && isParseInt(parse)) ? undefined : parse
    )
    const emptyRow: Record<string, null> = Object.create(null)
    for (const name of this.names) {
      emptyRow[name] = null
    }
    this.emptyRow = { ...emptyRow }
  }

  /** False once a type of these columns has been given another parser with `setTypeParser`. */
  usesCurrentParsers(): boolean {
    return this.fields.every((field, i) => typeParserOfField(field) === this.typeParsers[i])
  }

  /** Decodes one DataRow. Throws MalformedMessage if it does not fit the columns, and whatever a type parser throws. */
  readRow(rowMode: RowMode, bytes: Buffer, offset: number, end: number): object {
    if (end - offset < 2 || bytes.readInt16BE(offset) !== this.names.length) {
      throw new MalformedMessage("it sent a row of other columns than it had described")
    }
    return rowMode === "array" ? this.readArray(bytes, offset + 2, end) : this.readObject(bytes, offset + 2, end)
  }

  private readObject(bytes: Buffer, from: number, end: number): object {
    const { names } = this
    const row: Record<string, unknown> = { ...this.emptyRow }
    let offset = from
    for (let i = 0; i < names.length; i++) {
      const length = valueLength(bytes, offset, end)
      offset += 4
      row[names[i]] = this.readValue(i, bytes, offset, length)
      offset += Math.max(0, length)
    }
    return row
  }

  private readArray(bytes: Buffer, from: number, end: number): ReadonlyArray<unknown> {
    const row: Array<unknown> = []
    let offset = from
    for (let i = 0; i < this.parsers.length; i++) {
      const length = valueLength(bytes, offset, end)
      offset += 4
      row[i] = this.readValue(i, bytes, offset, length)
      offset += Math.max(0, length)
    }
    return row
  }

  private readValue(column: number, bytes: Buffer, offset: number, length: number): unknown {
    if (length < 0) {
      return null
    }
    const parse = this.parsers[column]
    return parse === undefined
      ? parseInteger(bytes, offset, offset + length)
      : parse(bytes.toString("utf8", offset, offset + length))
  }
}

/** The length of the value whose length field is at `offset`; -1 for NULL. */
const valueLength = (bytes: Buffer, offset: number, end: number): number => {
  const length = offset + 4 <= end ? bytes.readInt32BE(offset) : -2
  if (length < -1 || offset + 4 + length > end) {
    throw new MalformedMessage("it sent a row that is too short")
  }
  return length
}

/** Decodes a DataRow without its RowDescription: every value as text. */
export const readTextRow = (bytes: Buffer, from: number, end: number): ReadonlyArray<string | null> => {
  const reader = new Reader(bytes, from, end)
  return Array.from({ length: reader.int16() }, () => {
    const length = valueLength(bytes, reader.offset, end)
    const offset = reader.offset + 4
    reader.offset = offset + Math.max(0, length)
    return length < 0 ? null : bytes.toString("utf8", offset, reader.offset)
  })
}
