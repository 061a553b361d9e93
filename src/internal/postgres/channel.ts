/**
 * What is said over one connection, and in which order: one flight at a time, first come first served.
 */
import * as Effect from "effect/Effect"
import * as Cancel from "./cancel.js"
import * as Flight from "./flight.js"
import type { CommandComplete, DataRow, ParameterStatus, RowDescription } from "./pg.js"
import { serverError } from "./pg.js"
import { ignoreErrors, type Route } from "./socket.js"
import type { Wire } from "./wire.js"

/** How long may pass until what is being stopped is known to have stopped, in milliseconds. */
const stopTimeout = 500
const closeTimeout = 1_000
const terminate = Buffer.from([0x58, 0, 0, 0, 4])

/** As ReadyForQuery says: in no transaction, in one, in one that failed. */
export type Transaction = "I" | "T" | "E"

/** What the start of a connection has found out. */
export interface Options {
  readonly wire: Wire
  /** Absent where the server gave none, so that nothing can be cancelled. */
  readonly key: Cancel.Key | undefined
  readonly route: Route
  /** What the server says of its settings; kept up to date. */
  readonly parameters: Map<string, string>
}

/**
 * The settings that are kept: no more, since a server may report any number. They change when it is promoted or reloads
 * its configuration, not by what a borrower does.
 */
export const serversOwn: ReadonlySet<string> = new Set(["in_hot_standby", "default_transaction_read_only"])

const closedHere = (): Error => serverError("08003", "the connection is closed")

const endsConnection = (error: Error | undefined): error is Error =>
  error !== undefined && /^(?:57P|08|25P0[34])/.test((error as { readonly code?: string }).code ?? "")

/** An established connection, below Effect. */
export class Channel {
  transaction: Transaction = "I"
  /** Whether a borrower left something that a rollback does not clear. */
  dirty = false
  /** Why nothing can be said any more. */
  closed: Error | undefined = undefined
  /** Why it broke, where it was not closed from here. */
  lost: Error | undefined = undefined
  /** Called at most once, when the connection breaks without being closed from here. */
  onLost: (error: Error) => void = () => undefined
  onNotification: (channel: string, payload: string) => void = () => undefined
  readonly parameters: Map<string, string>
  private readonly wire: Wire
  private readonly key: Cancel.Key | undefined
  private readonly route: Route
  private readonly queue: Array<Flight.Flight> = []
  private current: Flight.Flight | undefined = undefined
  /** Nothing is sent while something is being stopped: a cancel request hits whatever runs when it arrives. */
  private held = false

  constructor(options: Options) {
    this.wire = options.wire
    this.key = options.key
    this.route = options.route
    this.parameters = options.parameters
    this.takeOver()
  }

  /** Whether something is under way or waits to be. */
  get busy(): boolean {
    return this.current !== undefined || this.held || this.queue.length > 0
  }

  submit(flight: Flight.Flight): void {
    if (this.closed !== undefined) {
      this.land(flight, this.closed)
    } else if (this.current === undefined && !this.held) {
      this.send(flight)
    } else {
      this.queue.push(flight)
    }
  }

  /** As `submit`, and destroys the connection when the answer does not come soon. */
  submitBriefly(flight: Flight.Flight): void {
    const land = flight.land
    const timer = setTimeout(() => this.destroy(), stopTimeout)
    flight.land = (lost) => {
      clearTimeout(timer)
      land(lost)
    }
    this.submit(flight)
  }

  /**
   * Stops a flight whose answer nobody waits for any more. One that waits its turn is dropped. One that was sent is
   * cancelled if it is a user's statement, and is over when the server has answered it and has closed the socket of the
   * cancel request, so that the signal has been sent, and has answered once more, so that it has arrived. When all this
   * takes too long, the connection is destroyed.
   */
  stop(flight: Flight.Flight): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      if (flight.landed) {
        return resume(Effect.void)
      }
      if (!flight.sent) {
        this.queue.splice(this.queue.indexOf(flight), 1)
        return resume(Effect.void)
      }
      let over = false
      let requested = false
      let signalled = false
      const finish = (): void => {
        if (!over) {
          over = true
          clearTimeout(timer)
          this.held = false
          this.next()
          resume(Effect.void)
        }
      }
      const timer = setTimeout(() => {
        this.destroy()
        finish()
      }, stopTimeout)
      const step = (): void => {
        if (this.closed !== undefined) {
          finish()
        } else if (flight.landed && !requested) {
          giveUp()
          finish()
        } else if (flight.landed && signalled) {
          const barrier = Flight.simple("", { user: false })
          barrier.land = finish
          this.send(barrier)
        }
      }
      this.held = true
      flight.abandon()
      flight.land = step
      const giveUp = !flight.options.user || this.key === undefined ? () => undefined : Cancel.request(
        this.route,
        this.key,
        () => {
          requested = true
        },
        () => {
          signalled = requested
          step()
        }
      )
    })
  }

  /** The status is closed when it returns. */
  destroy(): void {
    this.finish(closedHere())
  }

  /** Says goodbye, unless something is under way, and waits for the end for a limited time. */
  readonly close: Effect.Effect<void> = Effect.async<void>((resume) => {
    const socket = this.wire.stream
    if (this.closed !== undefined || this.busy) {
      this.destroy()
      return resume(Effect.void)
    }
    this.closed = closedHere()
    const timer = setTimeout(() => socket.destroy(), closeTimeout)
    socket.once("close", () => {
      clearTimeout(timer)
      resume(Effect.void)
    })
    socket.end(terminate)
    // An interruption is no reason to wait longer.
    return Effect.sync(() => socket.destroy())
  })

  private send(flight: Flight.Flight): void {
    this.current = flight
    flight.sent = true
    flight.write(this.wire)
  }

  private next(): void {
    if (this.current === undefined && !this.held && this.closed === undefined) {
      const flight = this.queue.shift()
      if (flight !== undefined) {
        this.send(flight)
      }
    }
  }

  private land(flight: Flight.Flight, lost: Error | undefined): void {
    flight.landed = true
    flight.land(lost)
  }

  private ready(transaction: Transaction): void {
    this.transaction = transaction
    const flight = this.current
    this.current = undefined
    if (flight === undefined) {
      return this.lose(serverError("08P01", "the server was ready without having been asked"))
    }
    if (flight.options.user && flight.dirties) {
      this.dirty = true
    }
    this.land(flight, undefined)
    this.next()
  }

  /** The end of the connection: everything under way and waiting lands. */
  private finish(reason: Error): boolean {
    if (this.closed !== undefined) {
      return false
    }
    this.closed = reason
    this.wire.stream.destroy()
    const flights = this.current === undefined ? this.queue.splice(0) : [this.current, ...this.queue.splice(0)]
    this.current = undefined
    for (const flight of flights) {
      this.land(flight, reason)
    }
    return true
  }

  private lose(error: Error): void {
    const said = this.current?.error
    const reason = endsConnection(said) ? said : error
    if (this.finish(reason)) {
      this.lost = reason
      this.onLost(reason)
    }
  }

  private during(name: string): Flight.Flight | undefined {
    if (this.current === undefined) {
      this.lose(serverError("08P01", `the server sent ${name} without having been asked`))
    }
    return this.current
  }

  // pg's Client has done its part when the connection is ready. From here on it would get in the way: it takes a flight
  // for over at its error, which is before the server is ready again, and knows neither flights nor their order.
  private takeOver(): void {
    const wire = this.wire
    wire.removeAllListeners()
    wire.on("error", (error: Error) => this.lose(error))
    wire.on("end", () => this.lose(serverError("08006", "the server closed the connection")))
    wire.stream.on("error", ignoreErrors)
    wire.on("readyForQuery", (message: { readonly status: Transaction }) => this.ready(message.status))
    wire.on("rowDescription", (message: RowDescription) => this.during("rowDescription")?.rowDescription(message))
    wire.on("dataRow", (message: DataRow) => this.during("dataRow")?.dataRow(message))
    wire.on("commandComplete", (message: CommandComplete) => this.during("commandComplete")?.commandComplete(message))
    wire.on("copyInResponse", () => this.during("copyInResponse")?.copyIn(wire))
    wire.on("portalSuspended", () => {
      const flight = this.during("portalSuspended")
      if (flight !== undefined) {
        flight.suspended = true
      }
    })
    wire.on("errorMessage", (error: Error & { readonly code?: string }) => {
      // An error that nobody asked for is the server's last word: it shuts down, or the transaction idled too long. One
      // without a code is the parser's own: it does not know the message.
      if (this.current === undefined || error.code === undefined) {
        this.lose(error)
      } else {
        this.current.errorResponse(error)
      }
    })
    wire.on("parameterStatus", (message: ParameterStatus) => {
      if (serversOwn.has(message.parameterName)) {
        this.parameters.set(message.parameterName, message.parameterValue)
      } else if (this.current?.options.user === true) {
        this.current.dirties = true
      }
    })
    wire.on(
      "notification",
      (message: { readonly channel: string; readonly payload: string }) =>
        this.onNotification(message.channel, message.payload)
    )
  }
}
