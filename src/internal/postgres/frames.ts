/**
 * Where one message of the server ends and the next one begins, seen before `pg` reads them: it would wait for a length
 * that no message has, and look for the end of an error that has none for ever.
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

/** As ReadyForQuery says: in no transaction, in one, in one that failed. */
const statuses: ReadonlySet<number> = new Set([0x49, 0x54, 0x45])

/** Of an error or a notice: before a field, within one, or behind the last. */
type Fields = "before" | "within" | "behind"

/** Follows what one server says, however it is cut into pieces. */
export class Frames {
  /** How much of the last piece belongs to messages that came before what was refused. */
  accepted = 0
  private readonly header = Buffer.alloc(headerLength)
  private held = 0
  private kind = 0
  /** How much of the message is still to come, without its header. */
  private missing = 0
  private fields: Fields = "before"
  private greeted = false
  private ready = false

  /** Why the next piece cannot be what PostgreSQL says. After a refusal there is nothing more to follow. */
  refusal(piece: Buffer): Error | undefined {
    this.accepted = 0
    try {
      this.follow(piece)
      return undefined
    } catch (error) {
      return error as Error
    }
  }

  private follow(piece: Buffer): void {
    for (let at = 0; at < piece.length;) {
      at = this.missing > 0 ? this.body(piece, at) : this.head(piece, at)
      if (this.missing === 0 && this.held === 0) {
        this.accepted = at
      }
    }
  }

  private head(piece: Buffer, at: number): number {
    if (this.held === 0 && piece.length - at >= headerLength) {
      this.begin(piece[at], piece.readUInt32BE(at + 1))
      return at + headerLength
    }
    const taken = piece.copy(this.header, this.held, at, at + headerLength - this.held)
    this.held += taken
    this.greets(this.header[0])
    if (this.held === headerLength) {
      this.held = 0
      this.begin(this.header[0], this.header.readUInt32BE(1))
    }
    return at + taken
  }

  private greets(kind: number): void {
    if (!this.greeted && !greetings.has(kind)) {
      throw new Error("it does not speak PostgreSQL's protocol")
    }
  }

  private begin(kind: number, length: number): void {
    this.greets(kind)
    if (!this.greeted && (length < 8 || length > longestOfShort)) {
      throw new Error("it does not speak PostgreSQL's protocol")
    }
    if (length < 4 || length > (this.ready && long.has(kind) ? longest : longestOfShort)) {
      throw new Error(`it announced a message of ${length} bytes`)
    }
    this.greeted = true
    this.kind = kind
    this.missing = length - 4
    this.fields = "before"
    if ((kind === readyForQuery && length !== headerLength) || (this.hasFields && this.missing === 0)) {
      throw new Error("it sent a message of the wrong length")
    }
  }

  private get hasFields(): boolean {
    return this.kind === errorResponse || this.kind === noticeResponse
  }

  private body(piece: Buffer, at: number): number {
    const end = Math.min(piece.length, at + this.missing)
    this.missing -= end - at
    if (this.kind === readyForQuery) {
      if (!statuses.has(piece[at])) {
        throw new Error("it is ready in a state that there is not")
      }
      this.ready = true
    } else if (this.hasFields) {
      this.walk(piece, at, end)
    }
    return end
  }

  /** A field is a letter and a text that ends with a zero; a zero in place of the letter ends the message. */
  private walk(piece: Buffer, from: number, to: number): void {
    for (let at = from; at < to; at++) {
      if (this.fields === "behind") {
        throw new Error("it sent an error that goes on behind its end")
      }
      if (this.fields === "within") {
        // Looked for at once, since a notice may be long.
        const zero = piece.indexOf(0, at)
        if (zero === -1 || zero >= to) {
          break
        }
        at = zero
        this.fields = "before"
      } else {
        this.fields = piece[at] === 0 ? "behind" : "within"
      }
    }
    if (this.missing === 0 && this.fields !== "behind") {
      throw new Error("it sent an error without an end")
    }
  }
}
