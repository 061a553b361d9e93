/**
 * Rows that are sent between threads. A structured clone of objects repeats the names of the columns in each row, and
 * turns a Buffer into a Uint8Array. So the values of all rows are sent in one array, with the names once.
 */
import { bufferOf } from "./bytes.js"
import type { Batch } from "./protocol.js"

/** The rows of a result, or of a batch of one. */
interface PackedRows {
  readonly _tag: "PackedRows"
  /** The names of the columns. Undefined if rows are arrays. */
  readonly names: ReadonlyArray<string> | undefined
  /** The number of columns. */
  readonly width: number
  /** The values of all rows, one row after the other. */
  readonly values: Array<unknown>
  /** Whether there are bytes among the values. */
  readonly hasBytes: boolean
}

type Row = Record<string, unknown>

/** A property of this name would be the prototype of the object. */
const prototype = "__proto__"

const isBatch = (value: unknown): value is Batch => typeof value === "object" && value !== null && "rows" in value

const isPacked = (value: unknown): value is PackedRows =>
  typeof value === "object" && value !== null && "_tag" in value && value._tag === "PackedRows"

/**
 * Packs the rows of one statement, which have the same columns. No rows, and rows that cannot be packed, stay as they
 * are. A row whose only column is named `__proto__` has no property of its own, since better-sqlite3 assigns the value.
 */
const packRows = (rows: ReadonlyArray<unknown>): PackedRows | ReadonlyArray<unknown> => {
  const [first] = rows
  const names = Array.isArray(first) || first === undefined ? undefined : Object.keys(first as Row)
  if (first === undefined || names?.length === 0 || names?.includes(prototype) === true) {
    return rows
  }
  // Filled by `push`: an array that may have holes is cloned with the index of each element.
  const values: Array<unknown> = []
  let hasBytes = false
  const add = (value: unknown) => {
    hasBytes ||= value instanceof Uint8Array
    values.push(value)
  }
  if (names === undefined) {
    for (const row of rows as ReadonlyArray<ReadonlyArray<unknown>>) {
      row.forEach(add)
    }
  } else {
    for (const row of rows as ReadonlyArray<Row>) {
      for (const name of names) {
        add(row[name])
      }
    }
  }
  return {
    _tag: "PackedRows",
    names,
    width: names?.length ?? (first as ReadonlyArray<unknown>).length,
    values,
    hasBytes
  }
}

/** The value of a response as it is sent to another thread. */
export const pack = (value: unknown): unknown =>
  Array.isArray(value) ? packRows(value) : isBatch(value) ? { ...value, rows: packRows(value.rows) } : value

const unpackRows = ({ hasBytes, names, values, width }: PackedRows): ReadonlyArray<unknown> => {
  if (hasBytes) {
    for (let i = 0; i < values.length; i++) {
      values[i] = unpackBytes(values[i])
    }
  }
  const rows: Array<unknown> = []
  for (let i = 0; i < values.length; i += width) {
    if (names === undefined) {
      rows.push(values.slice(i, i + width))
    } else {
      const row: Row = {}
      for (let column = 0; column < width; column++) {
        row[names[column]] = values[i + column]
      }
      rows.push(row)
    }
  }
  return rows
}

const unpackBytes = (value: unknown): unknown => value instanceof Uint8Array ? bufferOf(value) : value

/** The value of a response that was sent by `pack`, with bytes in Buffers, the type that better-sqlite3 returns. */
export const unpack = (value: unknown): unknown =>
  isPacked(value)
    ? unpackRows(value)
    : isBatch(value) && isPacked(value.rows)
    ? { ...value, rows: unpackRows(value.rows) }
    : unpackBytes(value)
