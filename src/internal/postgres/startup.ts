/**
 * `pg`'s Connection on a socket that is already open.
 */
import { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import { Parser, type Receive } from "./protocol/parser.js"
import { Protocol, serverError } from "./pg.js"
import { ignoreErrors } from "./transport/socket.js"

/** How a server may ask for a password that it could use elsewhere. */
const unboundRequests = [
  ["authenticationCleartextPassword", "the password itself"],
  ["authenticationMD5Password", "an MD5 hash of the password"]
] as const

/** `pg` reads whole messages, with their headers. */
const headerLength = 5

/**
 * Says to the server exactly what it was given at start-up, whatever `pg` finds in the environment, and turns what
 * cannot be understood into the loss of the connection: an exception in a socket's listener would end the process.
 */
export class StartupConnection extends Protocol {
  /** Takes the server's messages: `pg`, until somebody else does. */
  receive: Receive = () => undefined
  readonly #parameters: Record<string, string>
  readonly #bound: boolean

  /** `bound`: the password is proven for this TLS connection alone, or not at all. */
  constructor(socket: Socket, parameters: Record<string, string>, bound: boolean) {
    super({ stream: socket })
    this.#parameters = parameters
    this.#bound = bound
  }

  /** Called by `pg`'s Client, which listens for `connect` only afterwards. */
  connect(): void {
    const socket = this.stream
    socket.on("error", (error) => this.emit("error", error))
    socket.on("end", () => this.emit("end"))
    socket.on("close", () => this.emit("end"))
    this.on("error", ignoreErrors)
    this.watchAuthentication()
    this.attachListeners(socket)
    process.nextTick(() => this.emit("connect"))
  }

  override startup(): void {
    super.startup(this.#parameters)
  }

  override attachListeners(socket: EventEmitter): void {
    const source = new EventEmitter()
    super.attachListeners(source)
    // A copy, since it keeps parts of a message for later.
    this.receive = (_kind, bytes, at, end) => source.emit("data", Buffer.from(bytes.subarray(at - headerLength, end)))
    const frames = new Parser((kind, bytes, at, end) => this.receive(kind, bytes, at, end))
    socket.on("data", (piece: Buffer) => {
      try {
        frames.read(piece)
      } catch (cause) {
        this.refuse(cause as Error)
      }
    })
  }

  private refuse(cause: Error): void {
    this.emit("error", new Error(`received invalid response: ${cause.message}`, { cause }))
    this.stream.destroy()
  }

  /** What `pg` would answer to the server goes nowhere, as it hears of the message only afterwards. */
  private refuseUnbound(offers: string): void {
    this.emit("error", serverError("28000", `channel_binding is require, and the server ${offers}`))
    this.stream.destroy()
  }

  /** `pg` believes a server that leaves out the proof that it knows the password too, or the whole authentication. */
  private watchAuthentication(): void {
    let proving = false
    let proven = false
    let authenticated = false
    if (this.#bound) {
      this.on("authenticationSASL", ({ mechanisms }: { readonly mechanisms: ReadonlyArray<string> }) => {
        if (!mechanisms.includes("SCRAM-SHA-256-PLUS")) {
          this.refuseUnbound("does not offer SCRAM-SHA-256-PLUS")
        }
      })
      for (const [event, what] of unboundRequests) {
        this.on(event, () => this.refuseUnbound(`asks for ${what}`))
      }
      this.on("authenticationOk", () => {
        if (!proven) {
          this.refuseUnbound("lets the user in without a proof of the password")
        }
      })
    }
    this.on("authenticationSASL", () => {
      proving = true
    })
    this.on("authenticationSASLFinal", () => {
      proving = false
      proven = true
    })
    this.on("authenticationOk", () => {
      authenticated = true
      if (proving) {
        this.refuse(new Error("it did not prove that it knows the password"))
      }
    })
    this.on("readyForQuery", () => {
      if (!authenticated) {
        this.refuse(new Error("it let nobody in and is ready all the same"))
      }
    })
  }
}
