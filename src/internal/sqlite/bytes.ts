/**
 * Bytes that cross between threads. A structured clone turns a Buffer into a Uint8Array.
 */
import type { Batch } from "./protocol.js"

const rowsOf = (value: unknown): ReadonlyArray<Record<string, unknown>> =>
  Array.isArray(value)
    ? value
    : typeof value === "object" && value !== null && "rows" in value
    ? (value as Batch).rows as ReadonlyArray<Record<string, unknown>>
    : []

/** Whether a result holds bytes. The worker checks this, so that the main thread need not look at every value. */
export const containsBytes = (value: unknown): boolean => {
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

/** The same result with its bytes in Buffers, the type that better-sqlite3 returns. Rows are changed in place. */
export const restoreBuffers = (value: unknown): unknown => {
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

/** The same bytes as a Uint8Array, the only view that every SQLite library binds. */
export const bytesOf = (view: ArrayBufferView): Uint8Array =>
  view instanceof Uint8Array ? view : new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

/**
 * A copy of bytes that are a part of a larger buffer, and other bytes as they are. A structured clone of a view copies the
 * whole buffer behind it.
 */
export const compact = (bytes: Uint8Array): Uint8Array =>
  bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice()
