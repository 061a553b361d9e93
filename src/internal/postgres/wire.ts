/**
 * `pg`'s Connection on a socket that is already open.
 */
import { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import { Frames } from "./frames.js"
import { Protocol } from "./pg.js"
import { ignoreErrors } from "./socket.js"

/**
 * Says to the server exactly what it was given at start-up, whatever `pg` finds in the environment, and turns what
 * cannot be understood into the loss of the connection: an exception in a socket's listener would end the process.
 */
export class Wire extends Protocol {
  readonly #parameters: Record<string, string>

  constructor(socket: Socket, parameters: Record<string, string>) {
    super({ stream: socket })
    this.#parameters = parameters
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
    const frames = new Frames()
    super.attachListeners(source)
    socket.on("data", (piece: Buffer) => {
      try {
        const refusal = frames.refusal(piece)
        // What came before counts, an error above all.
        source.emit("data", refusal === undefined ? piece : piece.subarray(0, frames.accepted))
        if (refusal !== undefined) {
          throw refusal
        }
      } catch (cause) {
        this.refuse(cause as Error)
      }
    })
  }

  private refuse(cause: Error): void {
    this.emit("error", new Error(`received invalid response: ${cause.message}`, { cause }))
    this.stream.destroy()
  }

  /** `pg` believes a server that leaves out the proof that it knows the password too, or the whole authentication. */
  private watchAuthentication(): void {
    let proving = false
    let authenticated = false
    this.on("authenticationSASL", () => {
      proving = true
    })
    this.on("authenticationSASLFinal", () => {
      proving = false
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
