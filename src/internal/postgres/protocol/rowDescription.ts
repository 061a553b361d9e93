/**
 * Decodes rows into JavaScript values.
 */
import type PgModule from "pg"
import { isMalformed, MalformedMessage, parseRowDescription, Reader } from "./messages.js"
import { keepText, pgParserOf, readerOf, readText, type TypeParser, type ValueReader } from "./valueReaders.js"

/** Where the parsers of types come from. */
export interface TypeParsers {
  /** Undefined for a type that the server has to be asked for. */
  readonly parserOf: (oid: number) => TypeParser | undefined
  /** The types among these that the server has to be asked for. */
  readonly unknownOf: (oids: ReadonlyArray<number>) => ReadonlyArray<number>
}

/** Rows as arrays, or as arrays in which dates and times are left as text; undefined for rows as objects. */
export type RowMode = "array" | "texts" | undefined

/** date, timestamp, timestamptz and interval, and their arrays. */
const timeTypes: ReadonlySet<number> = new Set([1082, 1114, 1184, 1186, 1182, 1115, 1185, 1187])

/** Results are requested in text format. A cursor declared as BINARY is binary nevertheless. */
const rejectBinary = (): never => {
  throw new Error("a column comes in binary format")
}

/** The cache holds this many descriptions, of at most this many bytes each. */
const maxCached = 256
const maxCachedBytes = 4_096

/**
 * The row descriptions of one database. A server sends the same ones again and again, and reusing the object keeps the
 * hidden class of its rows, and with it the code that V8 has compiled for them.
 */
export class RowDescriptions {
  private readonly cache = new Map<string, RowDescription>()

  constructor(private readonly types: TypeParsers) {}

  /** The RowDescription for a message. */
  get(bytes: Buffer, offset: number, end: number): RowDescription {
    const { cache } = this
    const key = bytes.toString("latin1", offset, end)
    const cached = cache.get(key)
    if (cached?.usesCurrentParsers() === true) {
      return cached
    }
    const description = this.make(parseRowDescription(new Reader(bytes, offset, end)))
    if (key.length <= maxCachedBytes) {
      if (cache.size >= maxCached) {
        cache.delete(cache.keys().next().value!)
      }
      cache.set(key, description)
    }
    return description
  }

  make(fields: Array<PgModule.FieldDef>): RowDescription {
    return new RowDescription(fields, this.types)
  }

  clear(): void {
    this.cache.clear()
  }
}

/** The parser of `pg`, which an application may replace at any time. */
const replaceableParserOf = ({ dataTypeID, format }: PgModule.FieldDef): TypeParser =>
  format === "text" ? pgParserOf(dataTypeID, "text") : rejectBinary

/** The columns of a result, and how to decode their values. */
export class RowDescription {
  private readonly names: ReadonlyArray<string>
  /** The parsers of `pg` when this was created. */
  private readonly replaceableParsers: ReadonlyArray<TypeParser>
  private readonly parsers: ReadonlyArray<TypeParser>
  private readonly readers: ReadonlyArray<ValueReader>
  /** The readers that leave dates and times as text; undefined until a row is read in this mode. */
  private textReaders: ReadonlyArray<ValueReader> | undefined = undefined
  /** Every row begins as a copy of this object, so that all rows share one hidden class. */
  private readonly emptyRow: Record<string, null>

  /** The types whose values are text because the server has to be asked for them; undefined if there is none. */
  readonly unknownTypes: ReadonlyArray<number> | undefined

  constructor(readonly fields: Array<PgModule.FieldDef>, private readonly types: TypeParsers) {
    this.names = fields.map(({ name }) => name)
    this.replaceableParsers = fields.map(replaceableParserOf)
    const unknownTypes = types.unknownOf([...new Set(fields.map(({ dataTypeID }) => dataTypeID))])
    this.unknownTypes = unknownTypes.length === 0 ? undefined : unknownTypes
    this.parsers = fields.map(({ dataTypeID, format }) =>
      format === "text" ? types.parserOf(dataTypeID) ?? keepText : rejectBinary
    )
    this.readers = fields.map(({ dataTypeID }, i) => readerOf(dataTypeID, this.parsers[i]))
    const emptyRow: Record<string, null> = Object.create(null)
    for (const name of this.names) {
      emptyRow[name] = null
    }
    this.emptyRow = { ...emptyRow }
  }

  /** False once a type of these columns has become known, or has been given another parser with `setTypeParser`. */
  usesCurrentParsers(): boolean {
    const { unknownTypes } = this
    return this.fields.every((field, i) => replaceableParserOf(field) === this.replaceableParsers[i]) &&
      (unknownTypes === undefined || this.types.unknownOf(unknownTypes).length === unknownTypes.length)
  }

  /** Parses, in place, the values that rows of these columns have as text. Throws UnreadableValue if a type parser throws. */
  parseTexts(rowMode: RowMode, types: ReadonlyArray<number>, rows: ReadonlyArray<object>): void {
    this.fields.forEach(({ dataTypeID, name }, i) => {
      const parse = this.parsers[i]
      // Of several columns with the same name, the row has the last.
      if (
        !types.includes(dataTypeID) ||
        (rowMode === undefined && this.names.lastIndexOf(name) !== i)
      ) {
        return
      }
      const key = rowMode === undefined ? name : i
      try {
        for (const row of rows as ReadonlyArray<Record<string | number, unknown>>) {
          const text = row[key]
          if (typeof text === "string") {
            row[key] = parse(text)
          }
        }
      } catch (error) {
        throw unreadable(this.fields[i], error)
      }
    })
  }

  /** Decodes one DataRow. Throws MalformedMessage if it does not fit the columns, and UnreadableValue if a type parser throws. */
  readRow(rowMode: RowMode, bytes: Buffer, offset: number, end: number): object {
    if (end - offset < 2 || bytes.readInt16BE(offset) !== this.names.length) {
      throw new MalformedMessage("it sent a row whose columns do not match their description")
    }
    return rowMode === undefined
      ? this.readObject(bytes, offset + 2, end)
      : this.readArray(rowMode === "texts" ? this.readersOfTexts() : this.readers, bytes, offset + 2, end)
  }

  private readersOfTexts(): ReadonlyArray<ValueReader> {
    return this.textReaders ??= this.readers.map((reader, i) =>
      timeTypes.has(this.fields[i].dataTypeID) ? readText : reader
    )
  }

  private readObject(bytes: Buffer, from: number, end: number): object {
    const { names, readers } = this
    const row: Record<string, unknown> = { ...this.emptyRow }
    let offset = from
    let i = 0
    try {
      for (; i < names.length; i++) {
        const length = valueLength(bytes, offset, end)
        offset += 4
        row[names[i]] = length < 0 ? null : readers[i](bytes, offset, offset + length)
        offset += Math.max(0, length)
      }
    } catch (error) {
      throw unreadable(this.fields[i], error)
    }
    return row
  }

  private readArray(
    readers: ReadonlyArray<ValueReader>,
    bytes: Buffer,
    from: number,
    end: number
  ): ReadonlyArray<unknown> {
    const row: Array<unknown> = []
    let offset = from
    let i = 0
    try {
      for (; i < readers.length; i++) {
        const length = valueLength(bytes, offset, end)
        offset += 4
        row[i] = length < 0 ? null : readers[i](bytes, offset, offset + length)
        offset += Math.max(0, length)
      }
    } catch (error) {
      throw unreadable(this.fields[i], error)
    }
    return row
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

/** The failure of a type parser. What the parser has thrown may contain the value. */
export class UnreadableValue {
  constructor(readonly field: PgModule.FieldDef, readonly cause: unknown) {}
}

const unreadable = (field: PgModule.FieldDef, error: unknown): unknown =>
  isMalformed(error) ? error : new UnreadableValue(field, error)

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
