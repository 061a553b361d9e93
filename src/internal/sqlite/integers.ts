/**
 * Integers of SQLite, which have 64 bits, as numbers. A number holds those of up to 53 bits; others are an error instead of
 * a rounded number.
 *
 * Reading integers as bigints is exact, and a little slower. So rows that can be read twice are read with numbers
 * first, and again with bigints if a number is so large that it may be a rounded integer.
 */
import { SqliteError } from "./binding.js"

const max = Number.MAX_SAFE_INTEGER
/** No integer of 64 bits is beyond it, so a larger number is a REAL. */
const maxInteger = 2 ** 63

type Row = Record<string, unknown> | Array<unknown>

const isSuspect = (value: unknown): boolean =>
  typeof value === "number" && (value > max || value < -max) && value <= maxInteger && value >= -maxInteger

/** Whether a number in the rows may be a rounded integer. */
export const mayBeRounded = (rows: ReadonlyArray<unknown>): boolean => {
  for (const row of rows as ReadonlyArray<Row>) {
    if (Array.isArray(row)) {
      for (let i = 0; i < row.length; i++) {
        if (isSuspect(row[i])) {
          return true
        }
      }
    } else {
      for (const name in row) {
        if (isSuspect(row[name])) {
          return true
        }
      }
    }
  }
  return false
}

/** The error of an integer that a number cannot hold. It does not contain the integer. */
export const tooLarge = (subject: string): SqliteError =>
  new SqliteError(`${subject} is an integer that is too large for a number: read it with SafeIntegers`, "SQLITE_RANGE")

/** A bigint as a number, if a number can hold it. */
export const toExactNumber = (value: bigint): number | bigint => {
  const number = Number(value)
  return number > max || number < -max ? value : number
}

/** Reads rows one by one. `check` is called between them, and may throw. */
export const readEach = (rows: Iterable<unknown>, check: () => void): Array<unknown> => {
  const read: Array<unknown> = []
  for (const row of rows) {
    check()
    read.push(row)
  }
  return read
}

type Columns = () => ReadonlyArray<{ readonly name: string }>

const numberOf = (value: unknown, name: () => string | undefined): unknown => {
  if (typeof value !== "bigint") {
    return value
  }
  const number = toExactNumber(value)
  if (typeof number === "bigint") {
    throw tooLarge(`a value of the column "${name()}"`)
  }
  return number
}

/**
 * Converts the bigints of a row to numbers, in place. Throws if an integer is too large; if the row is an array,
 * `columns` gives the column's name for the error.
 */
export const toNumbers = (row: unknown, columns: Columns): unknown => {
  if (Array.isArray(row)) {
    for (let i = 0; i < row.length; i++) {
      row[i] = numberOf(row[i], () => columns()[i]?.name)
    }
  } else {
    const values = row as Record<string, unknown>
    for (const name in values) {
      values[name] = numberOf(values[name], () => name)
    }
  }
  return row
}

/** The rows of an iterator that reads bigints, with numbers. */
export const iterateNumbers = (rows: IterableIterator<unknown>, columns: Columns): IterableIterator<unknown> => {
  const iterator: IterableIterator<unknown> = {
    next: () => {
      const { done, value } = rows.next()
      if (done === true) {
        return { done, value: undefined }
      }
      try {
        return { done: false, value: toNumbers(value, columns) }
      } catch (error) {
        rows.return?.()
        throw error
      }
    },
    return: () => {
      rows.return?.()
      return { done: true, value: undefined }
    },
    [Symbol.iterator]: () => iterator
  }
  return iterator
}
