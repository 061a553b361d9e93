/**
 * The exchanges of COPY, whose data is transferred while they are in flight.
 *
 * The protocol: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
 */
import type { Socket } from "node:net"
import { Exchange, type Options, type Step } from "../exchange.js"
import { serverError } from "../pg.js"
import type { ServerError } from "../protocol/messages.js"
import type { Encoded, Writer } from "../protocol/writer.js"
import type { TransactionStatus } from "../receive.js"
import type { CachedStatement } from "../statementCache.js"
import { mayWrite } from "../statementText.js"
import { isInCopySource } from "./source.js"

const noValues: ReadonlyArray<Encoded> = []

const syncMessage = Buffer.from([0x53, 0, 0, 0, 4])
const copyDoneAndSync = Buffer.from([0x63, 0, 0, 0, 4, 0x53, 0, 0, 0, 4])
const copyFailType = 0x66
/** The first byte of CopyData. */
export const copyDataType = 0x64
/** The size of a message's type and length. */
export const headerLength = 5

const copyFailAndSync = (reason: string): Buffer => {
  const text = Buffer.from(`${reason}\0`)
  const message = Buffer.alloc(headerLength + text.length)
  message[0] = copyFailType
  message.writeInt32BE(message.length - 1, 1)
  text.copy(message, headerLength)
  return Buffer.concat([message, syncMessage])
}

/** What a COPY uses of its pipeline. */
export interface Channel {
  readonly stream: Socket
  /** Whether other exchanges wait for it. */
  readonly hasQueued: boolean
}

/**
 * COPY FROM STDIN. A Sync is sent exactly once: after the end of the data, or when the server reports an error before
 * that. If it were sent with the statement, as for others, the server would ignore it or not, depending on when an
 * error occurs.
 */
export class CopyIn extends Exchange {
  /** `starting`: the server has not asked for the data. `ended`: a Sync was sent, after the data or an error. */
  private state: "starting" | "copying" | "ended" = "starting"
  /** Why the copy is to fail, as soon as the server asks for the data. */
  private failReason: string | undefined = undefined
  private isDone = false
  /** Called when the server asks for the data. */
  onReady: () => void = () => undefined
  /** Identifies the copy to the statements of its source. */
  readonly identity: object = {}

  constructor(text: string, options: Options, private readonly channel: Channel) {
    super(text, options)
  }

  get isReady(): boolean {
    return this.state === "copying"
  }

  /** Before the end of the data was sent, nothing can have been committed. */
  override get executes(): boolean {
    return this.isDone
  }

  override get awaitsServer(): boolean {
    return this.state !== "copying" || this.channel.stream.writableNeedDrain
  }

  override othersWait(): ServerError | undefined {
    return isInCopySource(this.identity)
      ? serverError(
        "0A000",
        "the stream that is copied into a table cannot use the same session: its statement would wait for the end of the " +
          "copy, which waits for the stream"
      )
      : undefined
  }

  /** Sends a CopyData message, or several. Returns false if the socket's buffer is full. */
  send(messages: Buffer): boolean {
    return this.state !== "copying" || this.channel.stream.write(messages)
  }

  /** Ends the data. */
  finish(): void {
    if (this.state === "copying") {
      this.state = "ended"
      this.isDone = true
      this.channel.stream.write(copyDoneAndSync)
    }
  }

  /** Makes the copy fail. */
  fail(reason: string): void {
    if (this.state === "copying") {
      this.state = "ended"
      this.channel.stream.write(copyFailAndSync(reason))
    } else {
      this.failReason ??= reason
    }
  }

  override copyInResponse(): void {
    this.state = "copying"
    if (this.failReason === undefined) {
      this.onReady()
    } else {
      this.fail(this.failReason)
    }
  }

  override errorResponse(error: ServerError): void {
    super.errorResponse(error)
    this.sync()
  }

  override cancel(): void {
    super.cancel()
    this.fail("canceled")
  }

  override requestCancel(): void {
    super.requestCancel()
    this.fail("canceled")
  }

  override prepareRetry(outdated: CachedStatement | undefined): void {
    super.prepareRetry(outdated)
    this.state = "starting"
  }

  protected writeCommand(out: Writer): void {
    this.writeBind(out, "", undefined, this.text, noValues)
    out.execute("", 0).flush()
  }

  private sync(): void {
    if (this.state !== "ended") {
      this.state = "ended"
      this.channel.stream.write(syncMessage)
    }
  }
}

/** Set before a COPY TO in a transaction, so that canceling it does not fail the transaction. */
const savepoint = "sqlayer_copy"
const savepointStep: Step = { text: `SAVEPOINT ${savepoint}` }
const releaseText = `RELEASE SAVEPOINT ${savepoint}`
export const rollbackToSavepoint = `ROLLBACK TO SAVEPOINT ${savepoint}; ${releaseText}`

/** The size of the buffers that data is collected in, in bytes. */
const bufferSize = 65_536
/** While more than this is not consumed, the socket is paused. In bytes. */
const maxBuffered = 4 * bufferSize

/** COPY TO STDOUT. Its data is kept until it is taken. */
export class CopyOut extends Exchange {
  /** Called when data has arrived. */
  onData: () => void = () => undefined
  /** Whether it was sent in a transaction, with a savepoint. */
  hasSavepoint = false
  private chunks: Array<Buffer> = []
  private buffer: Buffer | undefined = undefined
  private used = 0
  private size = 0
  private isPaused = false
  /** Whether all of the data is read, however much is not consumed: another exchange waits, or the server is to stop. */
  private isUnbounded = false
  private isDiscarding = false
  private isNotifying = false

  constructor(
    text: string,
    /** The text with the values of the parameters. */
    private readonly inlined: string,
    private readonly query: string,
    options: Options,
    private readonly channel: Channel
  ) {
    super(text, options)
  }

  override get executes(): boolean {
    return mayWrite(this.query)
  }

  override get awaitsServer(): boolean {
    return !this.isPaused
  }

  override beforeSend(status: TransactionStatus): void {
    this.hasSavepoint = status !== "I" || this.beginsTransaction
    if (this.hasSavepoint) {
      this.steps = [...this.steps, savepointStep]
    }
    super.beforeSend(status)
  }

  override othersWait(): undefined {
    this.isUnbounded = true
    this.resume()
  }

  override copyOutResponse(): void {
    // The data follows.
  }

  override copyData(bytes: Buffer, offset: number, end: number): void {
    if (this.isDiscarding) {
      return
    }
    const length = end - offset
    if (length > bufferSize) {
      this.completeBuffer()
      this.chunks.push(Buffer.from(bytes.subarray(offset, end)))
    } else {
      if (this.buffer !== undefined && this.used + length > bufferSize) {
        this.completeBuffer()
      }
      this.buffer ??= Buffer.allocUnsafeSlow(bufferSize)
      bytes.copy(this.buffer, this.used, offset, end)
      this.used += length
    }
    this.size += length
    if (this.size > maxBuffered && !this.isPaused && !this.isUnbounded && !this.channel.hasQueued) {
      this.isPaused = true
      this.channel.stream.pause()
    }
    if (!this.isNotifying) {
      this.isNotifying = true
      // What has arrived with this message is taken together with it.
      queueMicrotask(() => {
        this.isNotifying = false
        this.onData()
      })
    }
  }

  /** Takes the data that has arrived. */
  take(): ReadonlyArray<Uint8Array> {
    this.completeBuffer()
    const taken = this.chunks
    this.chunks = []
    this.size = 0
    this.resume()
    return taken
  }

  /** Ignores the data from now on. */
  discard(): void {
    this.isDiscarding = true
    this.isUnbounded = true
    this.take()
  }

  /** Ignores the command tag of RELEASE SAVEPOINT, which follows that of the COPY. */
  override commandComplete(tag: string): void {
    if (this.result.commandTag === undefined) {
      super.commandComplete(tag)
    }
  }

  override cancel(): void {
    super.cancel()
    this.discard()
  }

  override requestCancel(): void {
    super.requestCancel()
    this.othersWait()
  }

  protected writeCommand(out: Writer): void {
    this.writeBind(out, "", undefined, this.inlined, noValues)
    out.execute("", 0)
    if (this.hasSavepoint) {
      this.writeBind(out, "", undefined, releaseText, noValues)
      out.execute("", 0)
    }
    out.sync()
  }

  private completeBuffer(): void {
    if (this.buffer !== undefined && this.used > 0) {
      this.chunks.push(this.buffer.subarray(0, this.used))
    }
    this.buffer = undefined
    this.used = 0
  }

  private resume(): void {
    if (this.isPaused) {
      this.isPaused = false
      this.channel.stream.resume()
    }
  }
}
