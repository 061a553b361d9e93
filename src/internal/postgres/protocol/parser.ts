/**
 * Cuts what the server says into its messages, and refuses what PostgreSQL never says before anybody reads it: whoever
 * believed a length that no message has would wait for it, or look for the end of an error that has none for ever.
 */

const headerLength = 5
const errorResponse = 0x45
const noticeResponse = 0x4e
const readyForQuery = 0x5a

/** What the server can say first: authentication, an error, a notice, or another version of the protocol. */
const greetings: ReadonlySet<number> = new Set([0x52, errorResponse, noticeResponse, 0x76])

/** As libpq has it: what is none of rows, their description, copied data, errors, notices and notifications is short. */
const long: ReadonlySet<number> = new Set([0x44, 0x54, 0x64, errorResponse, noticeResponse, 0x41])
const longestOfShort = 30_000
/** More than this PostgreSQL itself cannot hold at once. */
const longest = 0x3fff_ffff

/** What is set aside for a message whose rest is still to come, however long it says that it is. */
const firstReserve = 65_536

const nothing = Buffer.alloc(0)

/** Takes a message: its kind, and where its body begins and ends in the bytes, which are used again afterwards. */
export type Receive = (kind: number, bytes: Buffer, at: number, end: number) => void

/** Follows what one server says, however it is cut into pieces. */
export class Parser {
  /** The beginning of a message whose end has not come yet. */
  private held = nothing
  private heldLength = 0
  private greeted = false
  private ready = false

  constructor(private readonly receive: Receive) {}

  /** Throws at what cannot be; what came before was received. Afterwards there is nothing more to follow. */
  read(piece: Buffer): void {
    let at = this.heldLength > 0 ? this.complete(piece) : 0
    while (piece.length - at >= headerLength) {
      const end = at + this.announced(piece, at)
      if (end > piece.length) {
        break
      }
      this.pass(piece, at, end)
      at = end
    }
    if (at < piece.length) {
      this.greets(piece[at])
      this.hold(piece, at, piece.length)
    }
  }

  /** Adds to the message that is held what belongs to it, and says how much that was. */
  private complete(piece: Buffer): number {
    let at = 0
    if (this.heldLength < headerLength) {
      at = this.hold(piece, 0, headerLength - this.heldLength)
      if (this.heldLength < headerLength) {
        return at
      }
    }
    const length = this.announced(this.held, 0)
    at = this.hold(piece, at, at + length - this.heldLength)
    if (this.heldLength === length) {
      this.heldLength = 0
      this.pass(this.held, 0, length)
      if (this.held.length > firstReserve) {
        this.held = nothing
      }
    }
    return at
  }

  /** Takes over up to an end, as far as there is something, and says how far that was. */
  private hold(piece: Buffer, from: number, to: number): number {
    const end = Math.min(to, piece.length)
    const length = this.heldLength + end - from
    if (length > this.held.length) {
      const larger = Buffer.allocUnsafe(Math.max(length, 2 * this.held.length, firstReserve))
      this.held.copy(larger, 0, 0, this.heldLength)
      this.held = larger
    }
    piece.copy(this.held, this.heldLength, from, end)
    this.heldLength = length
    return end
  }

  private greets(kind: number): void {
    if (!this.greeted && !greetings.has(kind)) {
      throw new Error("it does not speak PostgreSQL's protocol")
    }
  }

  /** How long a message is whose header is there. */
  private announced(bytes: Buffer, at: number): number {
    const kind = bytes[at]
    const length = bytes.readUInt32BE(at + 1)
    this.greets(kind)
    if (!this.greeted && (length < 8 || length > longestOfShort)) {
      throw new Error("it does not speak PostgreSQL's protocol")
    }
    if (length < 4 || (length > longestOfShort && (length > longest || !this.ready || !long.has(kind)))) {
      throw new Error(`it announced a message of ${length} bytes`)
    }
    if (kind === readyForQuery && length !== headerLength) {
      throw new Error("it sent a message of the wrong length")
    }
    this.greeted = true
    return 1 + length
  }

  private pass(bytes: Buffer, start: number, end: number): void {
    const kind = bytes[start]
    const at = start + headerLength
    if (kind === readyForQuery) {
      if (!statuses.has(bytes[at])) {
        throw new Error("it is ready in a state that there is not")
      }
      this.ready = true
    } else if (kind === errorResponse || kind === noticeResponse) {
      checkFields(bytes, at, end)
    }
    this.receive(kind, bytes, at, end)
  }
}

/** As ReadyForQuery says: in no transaction, in one, in one that failed. */
const statuses: ReadonlySet<number> = new Set([0x49, 0x54, 0x45])

/** A field is a letter and a text that ends with a zero; a zero in place of the letter ends the message. */
const checkFields = (bytes: Buffer, from: number, end: number): void => {
  let at = from
  while (at < end && bytes[at] !== 0) {
    const zero = bytes.indexOf(0, at + 1)
    if (zero === -1 || zero >= end) {
      break
    }
    at = zero + 1
  }
  if (at >= end || bytes[at] !== 0) {
    throw new Error("it sent an error without an end")
  }
  if (at + 1 !== end) {
    throw new Error("it sent an error that goes on behind its end")
  }
}
