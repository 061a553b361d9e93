/**
 * Bytes of parameters and results.
 */

export const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The same bytes as a Uint8Array, the only view that every SQLite library binds. */
export const bytesOf = (view: ArrayBufferView): Uint8Array =>
  view instanceof Uint8Array ? view : new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

/**
 * A copy of bytes that are a part of a larger buffer, and other bytes as they are. A structured clone of a view copies
 * its whole buffer.
 */
export const compact = (bytes: Uint8Array): Uint8Array =>
  bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice()
