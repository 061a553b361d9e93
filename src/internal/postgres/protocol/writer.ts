/**
 * The messages that are sent once a connection is established, gathered into one piece.
 *
 * Their layout: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** A parameter as it goes over the wire. */
export type Encoded = Buffer | string | null

const bindMessage = 0x42
const closeMessage = 0x43
const describeMessage = 0x44
const executeMessage = 0x45
const parseMessage = 0x50
const queryMessage = 0x51
const syncMessage = 0x53
const copyFailMessage = 0x66

/** What a message about a statement or a portal names it as. */
const statementKind = 0x53
const portalKind = 0x50

/** A UTF-16 unit has at most three bytes in UTF-8. */
const longestUnit = 3

/** Used by one connection at a time, from the first message to `take`. */
export class Writer {
  private bytes = Buffer.allocUnsafe(4_096)
  private at = 0

  query(text: string): this {
    const start = this.begin(queryMessage)
    this.text(text)
    return this.end(start)
  }

  /** A type of zero is for the server to find, as those are that are not given. */
  parse(name: string, text: string, types: ReadonlyArray<number>): this {
    const start = this.begin(parseMessage)
    this.text(name)
    this.text(text)
    this.int16(types.length)
    for (const type of types) {
      this.int32(type)
    }
    return this.end(start)
  }

  bind(portal: string, name: string, values: ReadonlyArray<Encoded>): this {
    const start = this.begin(bindMessage)
    this.text(portal)
    this.text(name)
    this.formats(values)
    this.int16(values.length)
    for (const value of values) {
      this.value(value)
    }
    // All columns as text.
    this.int16(0)
    return this.end(start)
  }

  describePortal(portal: string): this {
    return this.about(describeMessage, portalKind, portal)
  }

  describeStatement(name: string): this {
    return this.about(describeMessage, statementKind, name)
  }

  /** Zero rows are all. */
  execute(portal: string, rows: number): this {
    const start = this.begin(executeMessage)
    this.text(portal)
    this.int32(rows)
    return this.end(start)
  }

  closePortal(portal: string): this {
    return this.about(closeMessage, portalKind, portal)
  }

  closeStatement(name: string): this {
    return this.about(closeMessage, statementKind, name)
  }

  sync(): this {
    return this.end(this.begin(syncMessage))
  }

  copyFail(reason: string): this {
    const start = this.begin(copyFailMessage)
    this.text(reason)
    return this.end(start)
  }

  /** Forgets what was gathered. */
  reset(): void {
    this.at = 0
  }

  /** What was gathered; the writer begins anew. */
  take(): Buffer {
    const taken = Buffer.allocUnsafe(this.at)
    this.bytes.copy(taken, 0, 0, this.at)
    this.at = 0
    if (this.bytes.length > 65_536) {
      this.bytes = Buffer.allocUnsafe(4_096)
    }
    return taken
  }

  private about(message: number, kind: number, name: string): this {
    const start = this.begin(message)
    this.reserve(1)
    this.bytes[this.at++] = kind
    this.text(name)
    return this.end(start)
  }

  /** One code for each value, or none where all of them are text. */
  private formats(values: ReadonlyArray<Encoded>): void {
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
      this.reserve(4 + value.length * longestUnit)
      const length = this.bytes.write(value, this.at + 4, "utf8")
      this.bytes.writeInt32BE(length, this.at)
      this.at += 4 + length
      return
    }
    this.reserve(4 + value.length)
    this.bytes.writeInt32BE(value.length, this.at)
    value.copy(this.bytes, this.at + 4)
    this.at += 4 + value.length
  }

  private begin(message: number): number {
    this.reserve(5)
    const start = this.at
    this.bytes[start] = message
    this.at = start + 5
    return start
  }

  private end(start: number): this {
    this.bytes.writeInt32BE(this.at - start - 1, start + 1)
    return this
  }

  private text(value: string): void {
    this.reserve(1 + value.length * longestUnit)
    if (value.length > 0) {
      this.at += this.bytes.write(value, this.at, "utf8")
    }
    this.bytes[this.at++] = 0
  }

  private int16(value: number): void {
    this.reserve(2)
    this.bytes.writeUInt16BE(value, this.at)
    this.at += 2
  }

  private int32(value: number): void {
    this.reserve(4)
    this.bytes.writeInt32BE(value, this.at)
    this.at += 4
  }

  private reserve(length: number): void {
    const needed = this.at + length
    if (needed > this.bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.bytes.length))
      this.bytes.copy(larger, 0, 0, this.at)
      this.bytes = larger
    }
  }
}
