/**
 * Encodes the messages that a client sends on an established connection.
 *
 * The format: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** A parameter value as Bind carries it: a string in text format, a buffer in binary format, null for NULL. */
export type Encoded = Buffer | string | null

const bindMessage = 0x42
const closeMessage = 0x43
const describeMessage = 0x44
const executeMessage = 0x45
const parseMessage = 0x50
const queryMessage = 0x51
const syncMessage = 0x53
const flushMessage = 0x48
const copyFailMessage = 0x66

/** Close and Describe say with this byte whether they name a prepared statement or a portal. */
const statementTarget = 0x53
const portalTarget = 0x50

/** A UTF-16 code unit takes at most three bytes in UTF-8. */
export const maxBytesPerCodeUnit = 3

const initialCapacity = 4_096
/** A buffer that grew beyond this is not kept for the next messages. */
const maxRetainedCapacity = 65_536

/**
 * Collects messages in a buffer that grows as needed. All connections can share one writer, since messages are written
 * and taken without yielding in between.
 */
export class Writer {
  private buffer = Buffer.allocUnsafe(initialCapacity)
  private offset = 0

  query(text: string): this {
    const start = this.begin(queryMessage)
    this.text(text)
    return this.end(start)
  }

  /** A parameter type of zero, or one that is left out, is inferred by the server. */
  parse(name: string, text: string, parameterTypes: ReadonlyArray<number>): this {
    const start = this.begin(parseMessage)
    this.text(name)
    this.text(text)
    this.int16(parameterTypes.length)
    for (const type of parameterTypes) {
      this.int32(type)
    }
    return this.end(start)
  }

  /** Results are requested in text format. */
  bind(portal: string, statement: string, values: ReadonlyArray<Encoded>): this {
    const start = this.begin(bindMessage)
    this.text(portal)
    this.text(statement)
    this.formatCodes(values)
    this.int16(values.length)
    for (const value of values) {
      this.value(value)
    }
    // No result format codes: all columns are text.
    this.int16(0)
    return this.end(start)
  }

  describePortal(portal: string): this {
    return this.targeted(describeMessage, portalTarget, portal)
  }

  describeStatement(statement: string): this {
    return this.targeted(describeMessage, statementTarget, statement)
  }

  /** Zero `maxRows` means no limit. */
  execute(portal: string, maxRows: number): this {
    const start = this.begin(executeMessage)
    this.text(portal)
    this.int32(maxRows)
    return this.end(start)
  }

  closePortal(portal: string): this {
    return this.targeted(closeMessage, portalTarget, portal)
  }

  closeStatement(statement: string): this {
    return this.targeted(closeMessage, statementTarget, statement)
  }

  sync(): this {
    return this.end(this.begin(syncMessage))
  }

  flush(): this {
    return this.end(this.begin(flushMessage))
  }

  copyFail(reason: string): this {
    const start = this.begin(copyFailMessage)
    this.text(reason)
    return this.end(start)
  }

  /** Drops the messages written so far, including one that was only half written. */
  reset(): void {
    this.offset = 0
  }

  /** Returns the messages written so far and starts anew. */
  take(): Buffer {
    const messages = Buffer.allocUnsafe(this.offset)
    this.buffer.copy(messages, 0, 0, this.offset)
    this.offset = 0
    if (this.buffer.length > maxRetainedCapacity) {
      this.buffer = Buffer.allocUnsafe(initialCapacity)
    }
    return messages
  }

  private targeted(message: number, target: number, name: string): this {
    const start = this.begin(message)
    this.reserve(1)
    this.buffer[this.offset++] = target
    this.text(name)
    return this.end(start)
  }

  /** One format code per value, or none where all of them are text. */
  private formatCodes(values: ReadonlyArray<Encoded>): void {
    if (!values.some((value) => typeof value === "object" && value !== null)) {
      return this.int16(0)
    }
    this.int16(values.length)
    for (const value of values) {
      this.int16(typeof value === "object" && value !== null ? 1 : 0)
    }
  }

  private value(value: Encoded): void {
    if (value === null) {
      return this.int32(-1)
    }
    if (typeof value === "string") {
      this.reserve(4 + value.length * maxBytesPerCodeUnit)
      const length = this.buffer.write(value, this.offset + 4, "utf8")
      this.buffer.writeInt32BE(length, this.offset)
      this.offset += 4 + length
      return
    }
    this.reserve(4 + value.length)
    this.buffer.writeInt32BE(value.length, this.offset)
    value.copy(this.buffer, this.offset + 4)
    this.offset += 4 + value.length
  }

  private begin(message: number): number {
    this.reserve(5)
    const start = this.offset
    this.buffer[start] = message
    this.offset = start + 5
    return start
  }

  /** Fills in the length of the message that begins at `start`. */
  private end(start: number): this {
    this.buffer.writeInt32BE(this.offset - start - 1, start + 1)
    return this
  }

  private text(value: string): void {
    this.reserve(1 + value.length * maxBytesPerCodeUnit)
    if (value.length > 0) {
      this.offset += this.buffer.write(value, this.offset, "utf8")
    }
    this.buffer[this.offset++] = 0
  }

  private int16(value: number): void {
    this.reserve(2)
    this.buffer.writeUInt16BE(value, this.offset)
    this.offset += 2
  }

  private int32(value: number): void {
    this.reserve(4)
    this.buffer.writeInt32BE(value, this.offset)
    this.offset += 4
  }

  private reserve(length: number): void {
    const needed = this.offset + length
    if (needed > this.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.buffer.length))
      this.buffer.copy(larger, 0, 0, this.offset)
      this.buffer = larger
    }
  }
}
