/**
 * Stopping what runs on a connection, so that whatever stops it never hits what comes later.
 *
 * A user's statement is cancelled. It is over when the server has answered it and has closed the socket of the cancel
 * request, so that the signal has been sent, and has answered once more, so that it has arrived. When all this takes too
 * long, the connection is destroyed.
 */
import * as Cancel from "./transport/cancelRequest.js"
import type * as Flight from "./exchange.js"
import * as Flights from "./exchanges.js"
import type { Route } from "./transport/socket.js"

/** How long may pass until what is being stopped is known to have stopped, in milliseconds. */
export const stopTimeout = 500

/** What it does with its connection. */
interface Line {
  readonly send: (flight: Flight.Exchange) => void
  readonly destroy: () => void
  /** Sends what waits, if it may be sent now. */
  readonly next: () => void
}

/** A flight that is being stopped, and what is done when it has. */
interface Stop {
  readonly flight: Flight.Exchange
  readonly finish: () => void
}

/** A request to cancel a flight, or whatever else runs when it arrives. */
interface Request {
  readonly target: Flight.Exchange
  isSent: boolean
  /** The server has sent the signal, or the request could not be sent. */
  isOver: boolean
  giveUp: () => void
}

const nothing = (): void => undefined

export class Cancellation {
  private stops: ReadonlyArray<Stop> = []
  private request: Request | undefined = undefined
  /** Whether a signal may still arrive, and whether an answer is awaited before which it will have. */
  private barrier: "none" | "owed" | "sent" = "none"

  constructor(
    /** Absent where nothing can be cancelled. */
    private readonly key: Cancel.Key | undefined,
    private readonly route: Route,
    /** What is under way; the first is being answered. */
    private readonly sent: ReadonlyArray<Flight.Exchange>,
    private readonly line: Line
  ) {}

  /** A cancel request hits whatever runs when it arrives, so nothing may be sent meanwhile. */
  get isBusy(): boolean {
    return this.stops.length > 0 || this.request !== undefined || this.barrier !== "none"
  }

  /**
   * Stops a flight that was sent and has not landed. Where others run before it, which are not to be disturbed, it
   * finishes at once: their transaction must be undone, and what this one will have done with it.
   */
  stop(flight: Flight.Exchange, finish: () => void): void {
    flight.abandon()
    flight.land = nothing
    if (flight !== this.sent[0]) {
      this.stops = [...this.stops, { flight, finish: nothing }]
      return finish()
    }
    const timer = setTimeout(() => this.line.destroy(), stopTimeout)
    const stop: Stop = {
      flight,
      finish: () => {
        clearTimeout(timer)
        finish()
      }
    }
    this.stops = [...this.stops, stop]
    this.proceed()
  }

  /** Goes on once something has landed. */
  proceed(): void {
    const { request } = this
    if (request !== undefined) {
      if (!request.target.landed || (request.isSent && !request.isOver)) {
        return
      }
      this.request = undefined
      if (request.isSent) {
        this.barrier = "owed"
      } else {
        request.giveUp()
      }
    }
    const first = this.sent.at(0)
    if (this.barrier === "owed" && first === undefined) {
      return this.raiseBarrier()
    }
    if (this.barrier === "none") {
      this.finish(({ flight }) => flight.landed)
    }
    if (first?.abandoned === true && first.options.user && this.key !== undefined) {
      this.request = this.cancel(this.key, first)
    }
    this.line.next()
  }

  /** The connection is gone, and all that ran on it. */
  end(): void {
    this.request = undefined
    this.barrier = "none"
    this.finish(() => true)
  }

  private finish(isOver: (stop: Stop) => boolean): void {
    if (this.stops.length > 0) {
      const over = this.stops.filter(isOver)
      this.stops = this.stops.filter((stop) => !isOver(stop))
      over.forEach(({ finish }) => finish())
    }
  }

  private raiseBarrier(): void {
    const flight = Flights.query("", { user: false })
    flight.land = () => {
      this.barrier = "none"
    }
    this.barrier = "sent"
    this.line.send(flight)
  }

  private cancel(key: Cancel.Key, target: Flight.Exchange): Request {
    const request: Request = { target, isSent: false, isOver: false, giveUp: nothing }
    request.giveUp = Cancel.request(
      this.route,
      key,
      () => {
        request.isSent = true
      },
      () => {
        request.isOver = true
        if (this.request === request) {
          this.proceed()
        }
      }
    )
    return request
  }
}
