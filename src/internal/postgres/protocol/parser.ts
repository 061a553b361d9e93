/**
 * Splits the bytes that a server sends into messages. Messages that PostgreSQL never sends are rejected at once:
 * nothing waits for the rest of a message of an impossible length, or searches for the end of an error that has none.
 */

import { MalformedMessage } from "./messages.js"

const headerLength = 5
const errorResponse = 0x45
const noticeResponse = 0x4e
const readyForQuery = 0x5a

/** What a server may send first: authentication, an error, a notice, or NegotiateProtocolVersion. */
const firstMessages: ReadonlySet<number> = new Set([0x52, errorResponse, noticeResponse, 0x76])

/**
 * As in libpq, only DataRow, RowDescription, CopyData, ErrorResponse, NoticeResponse and NotificationResponse may exceed
 * 30,000 bytes (VALID_LONG_MESSAGE_TYPE in fe-protocol3.c).
 */
const longMessages: ReadonlySet<number> = new Set([0x44, 0x54, 0x64, errorResponse, noticeResponse, 0x41])
const maxShortLength = 30_000
/** PostgreSQL cannot allocate more than this at once (MaxAllocSize). */
const maxLength = 0x3fff_ffff

/** The initial buffer for an incomplete message, whatever length it announces. */
const initialCapacity = 65_536

const empty = Buffer.alloc(0)

/**
 * The answer of a server, of any version, that cannot start a process for a connection: an error of protocol 2, which
 * has no length and no code (report_fork_failure_to_client in postmaster.c). In protocol 3 a zero byte follows `E`.
 */
const plainError = /^E([^\0]+)\n\0$/
/** cannot_connect_now */
const plainErrorCode = "57P03"

/** Receives a message: its type, and where its body begins and ends in `bytes`, which are reused after the call. */
export type MessageHandler = (type: number, bytes: Buffer, offset: number, end: number) => void

/** Reassembles the messages of one server from chunks of any size. */
export class Parser {
  /** The first `partialLength` bytes hold the beginning of a message whose rest has not arrived. */
  private partial = empty
  private partialLength = 0
  /** Whether the first message was accepted as one of PostgreSQL's. */
  private hasStarted = false
  /** Whether a ReadyForQuery has arrived, which is the end of start-up. */
  private isReady = false

  constructor(private readonly onMessage: MessageHandler) {}

  /** Passes on each message that is complete. Throws at an invalid one, after which the parser cannot be used. */
  parse(chunk: Buffer): void {
    if (!this.hasStarted && this.partialLength === 0 && chunk[0] === errorResponse && chunk.at(-1) === 0) {
      const text = plainError.exec(chunk.toString())?.[1]
      if (text !== undefined) {
        const fields = Buffer.from(`SFATAL\0VFATAL\0C${plainErrorCode}\0M${text}\0\0`)
        return this.onMessage(errorResponse, fields, 0, fields.length)
      }
    }
    let offset = this.partialLength > 0 ? this.completePartial(chunk) : 0
    while (chunk.length - offset >= headerLength) {
      const end = offset + this.messageLength(chunk, offset)
      if (end > chunk.length) {
        break
      }
      this.emit(chunk, offset, end)
      offset = end
    }
    if (offset < chunk.length) {
      this.checkFirstMessage(chunk[offset])
      this.appendPartial(chunk, offset, chunk.length)
    }
  }

  /** Completes the partial message as far as the chunk allows. Returns the number of bytes consumed. */
  private completePartial(chunk: Buffer): number {
    let offset = 0
    if (this.partialLength < headerLength) {
      offset = this.appendPartial(chunk, 0, headerLength - this.partialLength)
      if (this.partialLength < headerLength) {
        return offset
      }
    }
    const length = this.messageLength(this.partial, 0)
    offset = this.appendPartial(chunk, offset, offset + length - this.partialLength)
    if (this.partialLength === length) {
      this.partialLength = 0
      this.emit(this.partial, 0, length)
      if (this.partial.length > initialCapacity) {
        this.partial = empty
      }
    }
    return offset
  }

  /** Appends the chunk's bytes up to `to`, or up to the chunk's end. Returns where it stopped. */
  private appendPartial(chunk: Buffer, from: number, to: number): number {
    const end = Math.min(to, chunk.length)
    const length = this.partialLength + end - from
    if (length > this.partial.length) {
      const larger = Buffer.allocUnsafe(Math.max(length, 2 * this.partial.length, initialCapacity))
      this.partial.copy(larger, 0, 0, this.partialLength)
      this.partial = larger
    }
    chunk.copy(this.partial, this.partialLength, from, end)
    this.partialLength = length
    return end
  }

  private checkFirstMessage(type: number): void {
    if (!this.hasStarted && !firstMessages.has(type)) {
      throw new MalformedMessage("it does not speak PostgreSQL's protocol")
    }
  }

  /** The length of the message whose header is at `offset`, with its type byte. */
  private messageLength(bytes: Buffer, offset: number): number {
    const type = bytes[offset]
    const length = bytes.readUInt32BE(offset + 1)
    this.checkFirstMessage(type)
    if (!this.hasStarted && (length < 8 || length > maxShortLength)) {
      throw new MalformedMessage("it does not speak PostgreSQL's protocol")
    }
    if (length < 4 || (length > maxShortLength && (length > maxLength || !this.isReady || !longMessages.has(type)))) {
      throw new MalformedMessage(`it announced a message of ${length} bytes`)
    }
    if (type === readyForQuery && length !== headerLength) {
      throw new MalformedMessage("it sent a message of the wrong length")
    }
    this.hasStarted = true
    return 1 + length
  }

  private emit(bytes: Buffer, start: number, end: number): void {
    const type = bytes[start]
    const offset = start + headerLength
    if (type === readyForQuery) {
      if (!transactionStatuses.has(bytes[offset])) {
        throw new MalformedMessage("it sent ReadyForQuery with an unknown transaction status")
      }
      this.isReady = true
    } else if (type === errorResponse || type === noticeResponse) {
      checkErrorFields(bytes, offset, end)
    }
    this.onMessage(type, bytes, offset, end)
  }
}

/** The transaction status of ReadyForQuery: I (idle), T (in a transaction), E (in a failed transaction). */
const transactionStatuses: ReadonlySet<number> = new Set([0x49, 0x54, 0x45])

/** A field is a type byte and a text that ends with a zero. A zero in place of the type byte ends the message. */
const checkErrorFields = (bytes: Buffer, from: number, end: number): void => {
  let offset = from
  while (offset < end && bytes[offset] !== 0) {
    const zero = bytes.indexOf(0, offset + 1)
    if (zero === -1 || zero >= end) {
      break
    }
    offset = zero + 1
  }
  if (offset >= end || bytes[offset] !== 0) {
    throw new MalformedMessage("it sent an error without its final zero byte")
  }
  if (offset + 1 !== end) {
    throw new MalformedMessage("it sent an error with bytes after its final zero byte")
  }
}
