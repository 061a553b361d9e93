/**
 * From rows on the wire to rows of JavaScript, with `pg`'s own types.
 */
import Pg from "pg"
import { Reader, fieldsOf, Malformed } from "./messages.js"

type Parse = (text: string) => unknown

/** No number of fewer digits is beyond what a number holds exactly. */
const longestInteger = 15

const zero = 0x30
const nine = 0x39
const minus = 0x2d

/** A text of digits as a number, without a string in between. */
const integer = (bytes: Buffer, at: number, end: number): number => {
  const from = bytes[at] === minus ? at + 1 : at
  if (from === end || end - from > longestInteger) {
    return Number(bytes.toString("latin1", at, end))
  }
  let value = 0
  for (let i = from; i < end; i++) {
    const digit = bytes[i]
    if (digit < zero || digit > nine) {
      return Number(bytes.toString("latin1", at, end))
    }
    value = value * 10 + digit - zero
  }
  return from === at ? value : -value
}

/** Rows as objects, or as arrays. */
export type RowMode = "array" | undefined

const parserOf: (type: number, format: "text") => Parse = Pg.types.getTypeParser

/** int8, int2, int4, oid: of nothing but digits. */
const integerTypes: ReadonlySet<number> = new Set([20, 21, 23, 26])

/** The parsers of which it is known whether they are. */
const parseInts = new WeakMap<Parse, boolean>()

/** Whether it is `pg`'s own parser of whole numbers, in place of which an application may have put another. */
const isParseInt = (parse: Parse): boolean => {
  const known = parseInts.get(parse)
  if (known !== undefined) {
    return known
  }
  const is = /^function\s*\w*\(value\)\{returnparseInt\(value,10\);?\}$/.test(String(parse).replace(/\s/g, ""))
  parseInts.set(parse, is)
  return is
}

/** Nobody asks for it but a binary cursor. */
const refuseBinary = (): never => {
  throw new Error("a column comes in binary format")
}

/** How many descriptions are remembered, and of how many bytes at most. */
const most = 256
const longest = 4_096

const known = new Map<string, RowDescription>()

/**
 * What a server says of columns. It says the same time and again, and rows of one shape are built faster: what is
 * compiled for a shape is thrown away together with it.
 */
export const columnsOf = (bytes: Buffer, at: number, end: number): RowDescription => {
  const said = bytes.toString("latin1", at, end)
  const before = known.get(said)
  if (before?.isCurrent() === true) {
    return before
  }
  const columns = new RowDescription(fieldsOf(new Reader(bytes, at, end)))
  if (said.length <= longest) {
    if (known.size >= most) {
      known.delete(known.keys().next().value!)
    }
    known.set(said, columns)
  }
  return columns
}

const parserOfField = ({ dataTypeID, format }: Pg.FieldDef): Parse =>
  format === "text" ? parserOf(dataTypeID, "text") : refuseBinary

/** What a server said of its columns, and how their values are read. */
export class RowDescription {
  private readonly names: ReadonlyArray<string>
  /** As they were when this was made. */
  private readonly given: ReadonlyArray<Parse>
  /** Undefined for whole numbers. */
  private readonly parsers: ReadonlyArray<Parse | undefined>
  /** Every row begins as a copy of it, and so all of them have one shape. */
  private readonly empty: Record<string, null>

  constructor(readonly fields: Array<Pg.FieldDef>) {
    this.names = fields.map(({ name }) => name)
    this.given = fields.map(parserOfField)
    this.parsers = this.given.map((parse, i) =>
      parse === Number || (integerTypes.has(fields[i].dataTypeID) && isParseInt(parse)) ? undefined : parse
    )
    const empty: Record<string, null> = Object.create(null)
    for (const name of this.names) {
      empty[name] = null
    }
    this.empty = { ...empty }
  }

  /** Whether no type has got another parser since. */
  isCurrent(): boolean {
    return this.fields.every((field, i) => parserOfField(field) === this.given[i])
  }

  /** One row; throws Malformed where it is none, and what a type's parser throws. */
  read(rowMode: RowMode, bytes: Buffer, at: number, end: number): object {
    if (end - at < 2 || bytes.readInt16BE(at) !== this.names.length) {
      throw new Malformed("it sent a row of other columns than it had described")
    }
    return rowMode === "array" ? this.array(bytes, at + 2, end) : this.object(bytes, at + 2, end)
  }

  private object(bytes: Buffer, from: number, end: number): object {
    const { names } = this
    const row: Record<string, unknown> = { ...this.empty }
    let at = from
    for (let i = 0; i < names.length; i++) {
      const length = lengthAt(bytes, at, end)
      at += 4
      row[names[i]] = this.value(i, bytes, at, length)
      at += Math.max(0, length)
    }
    return row
  }

  private array(bytes: Buffer, from: number, end: number): ReadonlyArray<unknown> {
    const row: Array<unknown> = []
    let at = from
    for (let i = 0; i < this.parsers.length; i++) {
      const length = lengthAt(bytes, at, end)
      at += 4
      row[i] = this.value(i, bytes, at, length)
      at += Math.max(0, length)
    }
    return row
  }

  private value(column: number, bytes: Buffer, at: number, length: number): unknown {
    if (length < 0) {
      return null
    }
    const parse = this.parsers[column]
    return parse === undefined ? integer(bytes, at, at + length) : parse(bytes.toString("utf8", at, at + length))
  }
}

/** The length of the value that begins here, or -1 for NULL. */
const lengthAt = (bytes: Buffer, at: number, end: number): number => {
  const length = at + 4 <= end ? bytes.readInt32BE(at) : -2
  if (length < -1 || at + 4 + length > end) {
    throw new Malformed("it sent a row that is too short")
  }
  return length
}

/** A row of which nothing but the texts is wanted. */
export const textsOf = (bytes: Buffer, from: number, end: number): ReadonlyArray<string | null> => {
  const cursor = new Reader(bytes, from, end)
  return Array.from({ length: cursor.int16() }, () => {
    const length = lengthAt(bytes, cursor.at, end)
    const at = cursor.at + 4
    cursor.at = at + Math.max(0, length)
    return length < 0 ? null : bytes.toString("utf8", at, cursor.at)
  })
}
