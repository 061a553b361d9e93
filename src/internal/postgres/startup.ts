/**
 * `pg`'s Connection for start-up and authentication, on a socket that is already open.
 */
import { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import { textOf } from "../mask.js"
import { PgConnection, serverError } from "./pg.js"
import { isMalformed, MalformedMessage } from "./protocol/messages.js"
import { type MessageHandler, Parser } from "./protocol/parser.js"
import { ignoreErrors } from "./transport/socket.js"

/** Authentication requests without channel binding: a server in the middle could use the answer elsewhere. */
const unboundRequests = [
  ["authenticationCleartextPassword", "the password itself"],
  ["authenticationMD5Password", "an MD5 hash of the password"]
] as const

/** `pg` expects messages with their headers. */
const headerLength = 5

/**
 * Sends exactly the start-up parameters that it is given, where `pg` would add some from the environment. Invalid messages
 * and messages out of order become the event `error`, since an exception in a socket's listener would end the process.
 */
export class StartupConnection extends PgConnection {
  /** Receives the server's messages: `pg` at first, the pipeline after start-up. */
  onMessage: MessageHandler = () => undefined
  /** What `onMessage` is during start-up. */
  private startupHandler: MessageHandler | undefined = undefined

  /** `requiresChannelBinding`: authentication fails unless it is bound to the TLS connection (SCRAM-SHA-256-PLUS). */
  constructor(
    socket: Socket,
    private readonly parameters: Record<string, string>,
    private readonly requiresChannelBinding: boolean
  ) {
    super({ stream: socket })
  }

  /** Called by `pg`'s Client, which starts to listen for `connect` after the call. */
  connect(): void {
    const socket = this.stream
    socket.on("error", (error) => this.emit("error", error))
    socket.on("end", () => this.emit("end"))
    socket.on("close", () => this.emit("end"))
    this.on("error", ignoreErrors)
    this.checkAuthentication()
    this.attachListeners(socket)
    process.nextTick(() => this.emit("connect"))
  }

  override startup(): void {
    super.startup(this.parameters)
  }

  override attachListeners(socket: EventEmitter): void {
    const source = new EventEmitter()
    super.attachListeners(source)
    // `pg` keeps parts of a message for later, and the socket's buffer is reused.
    this.startupHandler = (_type, bytes, offset, end) =>
      source.emit("data", Buffer.from(bytes.subarray(offset - headerLength, end)))
    this.onMessage = this.startupHandler
    const parser = new Parser((type, bytes, offset, end) => this.onMessage(type, bytes, offset, end))
    socket.on("data", (chunk: Buffer) => {
      try {
        parser.parse(chunk)
      } catch (cause) {
        this.reject(cause)
      }
    })
  }

  private reject(cause: unknown): void {
    // What else is thrown while the answers of statements are handled is not shown, since it may hold values.
    const isShown = isMalformed(cause) || this.onMessage === this.startupHandler
    const reason = isShown ? textOf(cause) : "it could not be handled"
    this.emit("error", new Error(`received invalid response: ${reason}`))
    this.stream.destroy()
  }

  /** Runs before `pg`'s own listeners: what they write to the socket is not sent any more. */
  private rejectUnbound(reason: string): void {
    this.emit("error", serverError("28000", `channel_binding is require, and the server ${reason}`))
    this.stream.destroy()
  }

  /** Checks what `pg` does not: that a server completes SCRAM, which proves that it knows the password, and in order. */
  private checkAuthentication(): void {
    let awaitsProof = false
    let hasProof = false
    let isAuthenticated = false
    if (this.requiresChannelBinding) {
      this.on("authenticationSASL", ({ mechanisms }: { readonly mechanisms: ReadonlyArray<string> }) => {
        if (!mechanisms.includes("SCRAM-SHA-256-PLUS")) {
          this.rejectUnbound("does not offer SCRAM-SHA-256-PLUS")
        }
      })
      for (const [event, request] of unboundRequests) {
        this.on(event, () => this.rejectUnbound(`asks for ${request}`))
      }
      this.on("authenticationOk", () => {
        if (!hasProof) {
          this.rejectUnbound("lets the user in without a proof of the password")
        }
      })
    }
    this.on("authenticationSASL", () => {
      awaitsProof = true
    })
    this.on("authenticationSASLFinal", () => {
      awaitsProof = false
      hasProof = true
    })
    this.on("authenticationOk", () => {
      isAuthenticated = true
      if (awaitsProof) {
        this.reject(new MalformedMessage("it did not prove that it knows the password"))
      }
    })
    this.on("readyForQuery", () => {
      if (!isAuthenticated) {
        this.reject(new MalformedMessage("it let nobody in and is ready all the same"))
      }
    })
  }
}
