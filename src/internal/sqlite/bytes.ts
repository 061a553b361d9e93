/**
 * Bytes between threads: a Buffer arrives as a Uint8Array.
 */
import type { Batch } from "./protocol.js"

const rowsOf = (value: unknown): ReadonlyArray<Record<string, unknown>> =>
  Array.isArray(value)
    ? value
    : typeof value === "object" && value !== null && "rows" in value
    ? (value as Batch).rows as ReadonlyArray<Record<string, unknown>>
    : []

/** Whether a result holds bytes, which is asked where the time is no matter. */
export const holdsBytes = (value: unknown): boolean => {
  if (value instanceof Uint8Array) {
    return true
  }
  for (const row of rowsOf(value)) {
    for (const key in row) {
      if (row[key] instanceof Uint8Array) {
        return true
      }
    }
  }
  return false
}

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The same result with its bytes in Buffers, as better-sqlite3 gives them. */
export const withBuffers = (value: unknown): unknown => {
  if (value instanceof Uint8Array) {
    return bufferOf(value)
  }
  for (const row of rowsOf(value)) {
    for (const key in row) {
      const cell = row[key]
      if (cell instanceof Uint8Array) {
        row[key] = bufferOf(cell)
      }
    }
  }
  return value
}

/** A parameter without the rest of the memory that it is a part of: a message takes all of it along. */
export const compact = (param: unknown): unknown =>
  ArrayBuffer.isView(param) && param.byteLength !== param.buffer.byteLength
    ? new Uint8Array(param.buffer, param.byteOffset, param.byteLength).slice()
    : param
