/**
 * `pg`'s Connection on a socket that is already open.
 */
import { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import { Protocol } from "./pg.js"
import { ignoreErrors } from "./socket.js"

const authentication = 0x52
const errorResponse = 0x45
const greetings: ReadonlySet<number> = new Set([authentication, errorResponse, 0x4e, 0x76])
const longestGreeting = 30_000

/**
 * Whether the first thing the server said can be PostgreSQL's. What speaks another protocol would otherwise be waited
 * for until the timeout, since its text reads as the announcement of a very long message.
 */
const isGreeting = (chunk: Buffer): boolean => {
  if (!greetings.has(chunk[0])) {
    return false
  }
  if (chunk.length < 5) {
    return true
  }
  const length = chunk.readUInt32BE(1)
  if (length < 8 || length > longestGreeting) {
    return false
  }
  // The parser would look for the end of an error's fields forever.
  return chunk[0] !== errorResponse || chunk.length <= length || chunk[length] === 0
}

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
    this.attachListeners(socket)
    process.nextTick(() => this.emit("connect"))
  }

  override startup(): void {
    super.startup(this.#parameters)
  }

  override attachListeners(socket: EventEmitter): void {
    const source = new EventEmitter()
    let greeted = false
    super.attachListeners(source)
    socket.on("data", (chunk: Buffer) => {
      try {
        if (!greeted) {
          greeted = true
          if (!isGreeting(chunk)) {
            throw new Error("it does not speak PostgreSQL's protocol")
          }
        }
        source.emit("data", chunk)
      } catch (cause) {
        this.emit("error", new Error(`received invalid response: ${(cause as Error).message}`, { cause }))
        this.stream.destroy()
      }
    })
  }
}
