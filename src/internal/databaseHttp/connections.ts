/**
 * The connections of an HTTP server of Node, and the requests that run on them.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import * as Net from "node:net"
import type { NodeServer } from "../../DatabaseHttp.js"
import { NodeTls } from "../nodeTls.js"
import { acceptQueueLength } from "./acceptQueue.js"

/**
 * Milliseconds between two checks, and how many checks may find a connection idle: a second in all. If a connection is
 * closed just when its client sends a request, the client gets an error. So a connection on which requests follow each
 * other is closed with the next response instead. Checks are counted rather than time, because data that has arrived is
 * read before each check, also after the event loop was blocked.
 */
const checkInterval = 100
const maxIdleChecks = 10

/**
 * How many turns of the event loop the listener may stay open for connections that wait to be accepted. Each turn
 * accepts all of them, so further turns are needed only if the queue is that of another listener on the same port.
 */
const maxAcceptTurns = 100

interface ConnectionState {
  /** The requests that run on it. A web socket counts as one until its connection is closed. */
  running: number
  /** The response to the last pipelined request. */
  lastResponse: ServerResponse | undefined
  bytesRead: number
  idleChecks: number
}

/** A request that runs. */
interface Running {
  readonly socket: Net.Socket
  /** Undefined for a request to upgrade the connection. */
  readonly response: ServerResponse | undefined
  fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
}

const clientOf = ({ remoteAddress, remotePort }: Net.Socket): string => `${remoteAddress} ${remotePort}`

/** Makes a response close its connection. Responses to requests that were pipelined after it would be lost. */
const askToClose = (response: ServerResponse | undefined): void => {
  if (response?.headersSent === false) {
    response.setHeader("connection", "close")
  }
}

const keepOpen = (response: ServerResponse | undefined): void => {
  if (response?.headersSent === false) {
    response.removeHeader("connection")
  }
}

export class Connections {
  private readonly states = new Map<Net.Socket, ConnectionState>()
  private readonly requests = new Map<object, Running>()
  private isClosing = false
  private timer: NodeJS.Timeout | undefined = undefined
  private onAllClosed: () => void = () => undefined

  private readonly server: Server

  constructor(nodeServer: NodeServer) {
    const server = nodeServer as Server
    this.server = server
    const onConnection = (socket: Net.Socket): void => {
      this.states.set(socket, { running: 0, lastResponse: undefined, bytesRead: 0, idleChecks: 0 })
      socket.on("close", () => this.closed(socket))
    }
    server.prependListener("connection", onConnection)
    if (server instanceof NodeTls.Server) {
      // The socket of a request over TLS is not the one that was accepted, which only counts until the handshake is over.
      const handshakes = new Map<string, Net.Socket>()
      server.prependListener("connection", (socket: Net.Socket) => {
        const client = clientOf(socket)
        handshakes.set(client, socket)
        socket.on("close", () => {
          if (handshakes.get(client) === socket) {
            handshakes.delete(client)
          }
        })
      })
      server.prependListener("secureConnection", (socket: Net.Socket) => {
        const client = clientOf(socket)
        onConnection(socket)
        this.states.delete(handshakes.get(client)!)
        handshakes.delete(client)
      })
    }
    server.prependListener("request", (request: IncomingMessage, response: ServerResponse) => {
      response.on("close", this.start(request, request.socket, response))
    })
    server.prependListener("upgrade", (request: IncomingMessage, socket: Net.Socket) => {
      socket.on("close", this.start(request, socket, undefined))
    })
  }

  /** Records the fiber that runs a request. */
  runs(request: object, fiber: Fiber.RuntimeFiber<unknown, unknown>): void {
    const running = this.requests.get(request)
    if (running !== undefined) {
      running.fiber = fiber
    }
  }

  /** Closes the connection of a response that cannot be completed. */
  breakOff(request: object): Effect.Effect<void> {
    return Effect.sync(() => this.requests.get(request)?.socket.destroy())
  }

  /**
   * Stops accepting connections, as soon as none waits to be accepted. From then on each response closes its connection, and
   * connections that stay idle are closed.
   */
  readonly closeListener: Effect.Effect<void> = Effect.async((resume, signal) => {
    const close = (): void => {
      if (!this.isClosing) {
        this.stopListening()
        resume(Effect.void)
      }
    }
    // Node accepts waiting connections in the phase of the event loop before that of immediates.
    const tryToClose = (turns: number): void => {
      if (signal.aborted || turns === maxAcceptTurns || acceptQueueLength(this.server.address()) === 0) {
        close()
      } else {
        setImmediate(tryToClose, turns + 1)
      }
    }
    setImmediate(tryToClose, 1)
    return Effect.sync(close)
  })

  /** Waits until all connections are closed. */
  readonly allClosed: Effect.Effect<void> = Effect.async((resume) => {
    this.onAllClosed = () => resume(Effect.void)
    this.closed(undefined)
  })

  /** Interrupts the running requests, and breaks off those whose response has begun. Returns the number of both. */
  interruptRunning(): number {
    const running = Array.from(this.requests.values())
    for (const { fiber, response, socket } of running) {
      if (response?.headersSent === true) {
        socket.destroy()
      } else {
        fiber?.unsafeInterruptAsFork(FiberId.none)
      }
    }
    return running.length
  }

  /** Stops listening, and closes what is still open, at once. */
  readonly close: Effect.Effect<void> = Effect.sync(() => {
    if (!this.isClosing) {
      this.stopListening()
    }
    clearInterval(this.timer)
    for (const socket of this.states.keys()) {
      socket.destroy()
    }
  })

  private stopListening(): void {
    this.isClosing = true
    for (const { lastResponse } of this.states.values()) {
      askToClose(lastResponse)
    }
    if (this.server.listening) {
      // The method of node:http closes idle connections at once, on which requests may be on their way.
      Net.Server.prototype.close.call(this.server)
    }
    this.timer = setInterval(() => this.closeIdle(), checkInterval)
  }

  /** Called when a request begins. Returns the function that is to be called when it ends. */
  private start(request: object, socket: Net.Socket, response: ServerResponse | undefined): () => void {
    const state = this.states.get(socket)
    this.requests.set(request, { socket, response, fiber: undefined })
    if (state !== undefined) {
      state.running++
      if (this.isClosing) {
        keepOpen(state.lastResponse)
        askToClose(response)
      }
      state.lastResponse = response
    }
    return () => {
      this.requests.delete(request)
      if (state !== undefined) {
        state.running--
        if (state.running === 0) {
          state.lastResponse = undefined
        }
      }
    }
  }

  private closeIdle(): void {
    for (const [socket, state] of this.states) {
      const isIdle = state.running === 0 && state.bytesRead === socket.bytesRead
      state.bytesRead = socket.bytesRead
      state.idleChecks = isIdle ? state.idleChecks + 1 : 0
      if (state.idleChecks > maxIdleChecks) {
        socket.destroySoon()
      }
    }
  }

  private closed(socket: Net.Socket | undefined): void {
    if (socket !== undefined) {
      this.states.delete(socket)
    }
    if (this.states.size === 0) {
      this.onAllClosed()
    }
  }
}
