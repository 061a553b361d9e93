/**
 * Cancels exchanges so that a cancel request never hits a later one.
 *
 * The server signals the process of a connection, whatever that is executing when the signal arrives. So nothing is sent
 * from the cancel request until three things have happened: the canceled exchange is complete, the server has closed the
 * socket of the cancel request (the signal is sent), and one more round trip is answered (the signal has arrived). If that
 * takes too long, the connection is destroyed.
 */
import type * as Exchange from "./exchange.js"
import * as Exchanges from "./exchanges.js"
import * as CancelRequest from "./transport/cancelRequest.js"
import type { Route } from "./transport/socket.js"

/** How long a cancellation may take before the connection is destroyed, in milliseconds. */
export const cancelTimeout = 500

/**
 * The same in a session that goes on, which does not lose its connection because the network is slow. There is a limit
 * nevertheless: a cancel request may be lost, and then the statement runs to its end, which may be hours away.
 */
export const unhurriedTimeout = 10_000

/** What a cancellation does with its connection. */
interface Actions {
  readonly send: (exchange: Exchange.Exchange) => void
  readonly destroy: () => void
  /** Sends queued exchanges as far as they may be sent. */
  readonly sendQueued: () => void
}

/** A canceled exchange that was not complete, and the callback for when its cancellation is complete. */
interface Pending {
  readonly exchange: Exchange.Exchange
  readonly onCanceled: () => void
}

/** A cancel request that may hit what the connection is executing. */
interface Request {
  readonly target: Exchange.Exchange
  isSent: boolean
  /** Whether the server has sent the signal, or the request could not be sent. */
  isComplete: boolean
  giveUp: () => void
}

const noop = (): void => undefined

export class Cancellation {
  private pending: ReadonlyArray<Pending> = []
  private request: Request | undefined = undefined
  /** Whether a signal may still arrive: `needed` until the round trip that rules it out is sent, then its exchange. */
  private barrier: "none" | "needed" | Exchange.Exchange = "none"

  constructor(
    /** Undefined if the server sent none. Then nothing can be canceled. */
    private readonly backendKey: CancelRequest.BackendKey | undefined,
    private readonly route: Route,
    /** The exchanges that were sent and are not complete. The server is executing the first. */
    private readonly inFlight: ReadonlyArray<Exchange.Exchange>,
    private readonly actions: Actions
  ) {}

  /** While this is true nothing may be sent. */
  get isActive(): boolean {
    return this.pending.length > 0 || this.request !== undefined || this.barrier !== "none"
  }

  /**
   * Cancels an exchange that was sent and is not complete. If it is not being executed yet, it is canceled when its
   * turn comes, and `onCanceled` is called at once: the transaction cannot be committed any more, so its effects are
   * rolled back. If the cancellation takes longer than `timeout`, in milliseconds, the connection is destroyed.
   */
  cancel(exchange: Exchange.Exchange, onCanceled: () => void, timeout: number): void {
    exchange.cancel()
    exchange.onComplete = noop
    if (exchange !== this.inFlight[0]) {
      this.pending = [...this.pending, { exchange, onCanceled: noop }]
      return onCanceled()
    }
    const timer = setTimeout(() => this.actions.destroy(), timeout)
    const pending: Pending = {
      exchange,
      onCanceled: () => {
        clearTimeout(timer)
        onCanceled()
      }
    }
    this.pending = [...this.pending, pending]
    this.advance()
  }

  /**
   * Cancels exchanges whose results are still delivered. Nothing is sent until they are complete and cannot be hit any
   * more.
   */
  cancelAll(exchanges: ReadonlyArray<Exchange.Exchange>): void {
    const added = exchanges.filter((exchange) => !exchange.isCancelRequested && !exchange.isCanceled)
    if (added.length === 0) {
      return
    }
    const timer = setTimeout(() => this.actions.destroy(), cancelTimeout)
    const onCanceled = (): void => clearTimeout(timer)
    for (const exchange of added) {
      exchange.requestCancel()
    }
    this.pending = [
      ...this.pending,
      ...added.map((exchange, i) => ({ exchange, onCanceled: i === added.length - 1 ? onCanceled : noop }))
    ]
    this.advance()
  }

  /** Cancels what the server is executing, without waiting for it: the connection is about to be closed. */
  cancelInBackground(): void {
    const current = this.inFlight.at(0)
    if (current?.options.user === true && this.backendKey !== undefined && this.request === undefined) {
      CancelRequest.send(this.route, this.backendKey, noop, noop)
    }
  }

  /** Takes the next step. To be called whenever an exchange has completed. */
  advance(): void {
    const { request } = this
    if (request !== undefined) {
      if (!request.target.isComplete || (request.isSent && !request.isComplete)) {
        return
      }
      this.request = undefined
      if (request.isSent) {
        this.barrier = "needed"
      } else {
        request.giveUp()
      }
    }
    const current = this.inFlight.at(0)
    if (this.barrier === "needed" && current === undefined) {
      return this.sendBarrier()
    }
    if (typeof this.barrier === "object" && this.barrier.isComplete) {
      this.barrier = "none"
    }
    if (this.barrier === "none") {
      this.settle(({ exchange }) => exchange.isComplete)
    }
    if (
      current !== undefined && ((current.isCanceled && current.options.user) || current.isCancelRequested) &&
      this.backendKey !== undefined
    ) {
      this.request = this.sendRequest(this.backendKey, current)
    }
    this.actions.sendQueued()
  }

  /** The connection is closed, and with it everything is complete. */
  connectionClosed(): void {
    this.request = undefined
    this.barrier = "none"
    this.settle(() => true)
  }

  private settle(isSettled: (pending: Pending) => boolean): void {
    if (this.pending.length > 0) {
      const settled = this.pending.filter(isSettled)
      this.pending = this.pending.filter((pending) => !isSettled(pending))
      settled.forEach(({ onCanceled }) => onCanceled())
    }
  }

  /** A round trip that executes nothing: a signal that arrives before its end has no effect. */
  private sendBarrier(): void {
    const exchange = Exchanges.query("", { user: false })
    this.barrier = exchange
    this.actions.send(exchange)
  }

  private sendRequest(backendKey: CancelRequest.BackendKey, target: Exchange.Exchange): Request {
    const request: Request = { target, isSent: false, isComplete: false, giveUp: noop }
    request.giveUp = CancelRequest.send(
      this.route,
      backendKey,
      () => {
        request.isSent = true
      },
      () => {
        request.isComplete = true
        if (this.request === request) {
          this.advance()
        }
      }
    )
    return request
  }
}
