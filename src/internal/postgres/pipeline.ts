/**
 * What is said over one connection, and in which order: first come first served.
 *
 * Inside a transaction a statement is sent while those before it are still being answered, where nothing can depend on
 * what becomes of them: whatever fails there fails all that follows.
 */
import * as Effect from "effect/Effect"
import { Receiver, type Transaction } from "./receive.js"
import type { Key } from "./transport/cancelRequest.js"
import type * as Flight from "./exchange.js"
import type { ServerError } from "./protocol/messages.js"
import { serverError } from "./pg.js"
import { StatementCache, type Preparing } from "./statementCache.js"
import { ignoreErrors, type Route } from "./transport/socket.js"
import { Cancellation, stopTimeout } from "./cancellation.js"
import type { StartupConnection } from "./startup.js"
import { Writer } from "./protocol/writer.js"

const closeTimeout = 1_000
const terminate = Buffer.from([0x58, 0, 0, 0, 4])

/** How many flights may be under way at once. */
const mostUnderWay = 64

/** What the start of a connection has found out. */
export interface Options {
  readonly wire: StartupConnection
  /** Absent where the server gave none, so that nothing can be cancelled. */
  readonly key: Key | undefined
  readonly route: Route
  /** What the server says of its settings; kept up to date. */
  readonly parameters: Map<string, string>
  readonly preparing: Preparing
}

const closedHere = (): Error => serverError("08003", "the connection is closed")

/** The code of a transaction of which a part has failed. */
const abortedTransaction = "25P02"

/** What somebody may say who may say nothing else any more. */
const rollsBack = /^\s*(?:ROLLBACK|ABORT)\b/i

const interrupted = (): ServerError =>
  serverError(abortedTransaction, "a statement of the transaction was interrupted while others of it were under way")

const endedByUser = (): ServerError =>
  serverError(abortedTransaction, "the transaction has already ended, by a statement of its own")

const endsConnection = (error: Error | undefined): error is Error =>
  error !== undefined && /^(?:57P|08|25P0[34])/.test((error as { readonly code?: string }).code ?? "")

/** Nothing that is gathered waits: what begins a message also sends it. */
const out = new Writer()

/** An established connection, below Effect. */
export class Pipeline {
  transaction: Transaction = "I"
  /** Whether a borrower left something that a rollback does not clear. */
  dirty = false
  /** Why nothing can be said any more. */
  closed: Error | undefined = undefined
  /** Why it broke, where it was not closed from here. */
  lost: Error | undefined = undefined
  /** What goes ahead of the next flight. */
  ahead: Array<Flight.Step> = []
  /** Why nothing of the transaction may run or be committed, although the server would do so. */
  refused: ServerError | undefined = undefined
  /** Whether a transaction has begun that only we may end. */
  begun = false
  /** Whether a statement of its own has ended it, and its savepoints. */
  isOver = false
  /** The savepoints that are open, or will be with what goes ahead; the innermost is the last. */
  readonly savepoints: Array<string> = []
  /** With so many savepoints was given, or with more, what could not be told of. */
  private refusedDepth = 0
  /** Called at most once, when the connection breaks without being closed from here. */
  onLost: (error: Error) => void = () => undefined
  onNotification: (channel: string, payload: string) => void = () => undefined
  readonly parameters: Map<string, string>
  private readonly wire: StartupConnection
  private readonly prepared: StatementCache
  /** Waits to be sent. */
  private readonly queue: Array<Flight.Exchange> = []
  /** Is under way; the first is being answered. */
  private readonly sent: Array<Flight.Exchange> = []
  private readonly stopping: Cancellation

  constructor(options: Options) {
    this.wire = options.wire
    this.parameters = options.parameters
    this.prepared = new StatementCache(options.preparing, options.key?.processId)
    this.stopping = new Cancellation(options.key, options.route, this.sent, {
      send: (flight) => this.send(flight),
      destroy: () => this.destroy(),
      next: () => this.next()
    })
    this.takeOver()
  }

  /** Whether something is under way or waits to be. */
  get busy(): boolean {
    return this.sent.length > 0 || this.stopping.isBusy || this.queue.length > 0
  }

  submit(flight: Flight.Exchange): void {
    flight.depth = this.savepoints.length
    flight.steps = this.ahead
    this.ahead = []
    if (this.closed !== undefined) {
      this.land(flight, this.closed)
    } else if (this.refused !== undefined && !rollsBack.test(flight.text)) {
      this.ahead = [...flight.steps]
      flight.error = this.refused
      this.land(flight, undefined)
    } else if (this.queue.length === 0 && this.maySend(flight)) {
      this.send(flight)
    } else {
      this.queue.push(flight)
    }
  }

  /** As `submit`, and destroys the connection when the answer does not come soon. */
  submitBriefly(flight: Flight.Exchange): void {
    const land = flight.land
    const timer = setTimeout(() => this.destroy(), stopTimeout)
    flight.land = (lost) => {
      clearTimeout(timer)
      land(lost)
    }
    this.submit(flight)
  }

  /** Stops a flight whose answer nobody waits for any more. One that waits its turn is dropped. */
  stop(flight: Flight.Exchange): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      if (flight.landed) {
        return resume(Effect.void)
      }
      if (!flight.sent) {
        this.withdraw(flight)
        return resume(Effect.void)
      }
      if (this.sent.length > 1) {
        // Nobody could say what of this one was done, so nothing of its transaction may be committed.
        const depth = this.refused === undefined ? flight.depth : Math.min(flight.depth, this.refusedDepth)
        this.refuse(interrupted())
        this.refusedDepth = depth
      }
      this.stopping.stop(flight, () => resume(Effect.void))
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

  private maySend(flight: Flight.Exchange): boolean {
    if (this.stopping.isBusy) {
      return false
    }
    return this.sent.length === 0 || (
      this.transaction === "T" && this.sent.length < mostUnderWay && flight.isPlain() &&
      this.sent.every((other) => other.isPlain())
    )
  }

  private send(flight: Flight.Exchange): void {
    this.sent.push(flight)
    try {
      flight.write(out, this.prepared)
      this.flush()
    } catch (cause) {
      // Half of a message must reach nobody.
      out.reset()
      this.lose(cause as Error)
    }
  }

  private flush(): void {
    this.wire.stream.write(out.take())
  }

  private next(): void {
    while (this.queue.length > 0 && this.closed === undefined && this.maySend(this.queue[0])) {
      this.send(this.queue.shift()!)
    }
  }

  /** What was to go ahead of a flight that is not sent goes ahead of what follows. */
  private withdraw(flight: Flight.Exchange): void {
    const at = this.queue.indexOf(flight)
    this.queue.splice(at, 1)
    const follower = this.queue.at(at)
    if (flight.steps.length === 0) {
      return
    }
    if (follower === undefined) {
      this.ahead = [...flight.steps, ...this.ahead]
    } else {
      follower.steps = [...flight.steps, ...follower.steps]
    }
  }

  /** A savepoint is left, and those within it, by rolling back to it or not. */
  leave(savepoint: string, isUndone: boolean): void {
    const at = this.savepoints.lastIndexOf(savepoint)
    if (at < 0) {
      return
    }
    this.savepoints.splice(at)
    if (isUndone && this.transaction !== "I" && this.refusedDepth > at) {
      // All that could not be told of was within it.
      this.refused = undefined
    }
  }

  /** Whatever becomes of the transaction, it is not ours any more. */
  abandon(): void {
    this.forget()
    this.refused = undefined
    this.begun = false
    this.isOver = false
  }

  /** The transaction is over, or nothing of it was ever sent. */
  forget(): void {
    this.ahead = []
    this.savepoints.length = 0
  }

  /** Nothing more of the transaction is run, nor is it committed, until it is rolled back. */
  private refuse(error: ServerError): void {
    this.refused = error
    for (const flight of this.queue.splice(0)) {
      if (flight.options.user || flight.options.commit === true) {
        this.ahead.push(...flight.steps)
        flight.error = error
        this.land(flight, undefined)
      } else {
        this.queue.push(flight)
      }
    }
  }

  private land(flight: Flight.Exchange, lost: Error | undefined): void {
    flight.landed = true
    flight.land(lost)
  }

  private ready(transaction: Transaction): void {
    this.transaction = transaction
    const flight = this.sent.at(0)
    if (flight === undefined) {
      return this.lose(serverError("08P01", "the server was ready without having been asked"))
    }
    if (!flight.isAnswered) {
      return this.lose(serverError("08P01", "the server was ready without having answered"))
    }
    flight.ended()
    if (transaction === "I" && !this.begun && this.refused?.code === abortedTransaction) {
      this.refused = undefined
    }
    if (flight.follow(out)) {
      return this.flush()
    }
    this.sent.shift()
    this.judge(flight)
    if (flight.error !== undefined && this.again(flight)) {
      return this.send(flight)
    }
    this.watch(flight)
    this.land(flight, undefined)
    this.stopping.proceed()
  }

  /** Whether our transaction has begun, or has ended; where a statement of its own has ended it, nothing more is run. */
  private watch(flight: Flight.Exchange): void {
    const isOutside = this.transaction === "I"
    this.begun ||= flight.begins && !(isOutside && flight.error !== undefined)
    if (!flight.options.user) {
      this.begun &&= !isOutside
    } else if (this.begun && (isOutside || flight.endsTransaction)) {
      this.isOver = true
      this.refuse(endedByUser())
      this.refusedDepth = 0
    }
  }

  /** What a flight leaves behind. */
  private judge(flight: Flight.Exchange): void {
    if (flight.options.user && flight.dirties) {
      this.dirty = true
    }
    if (flight.forgets) {
      this.prepared.clear()
    }
  }

  /** Whether a flight that has failed only because of a name, and has done nothing, is sent once more, without one. */
  private again(flight: Flight.Exchange): boolean {
    const error = flight.error!
    const mistaken = flight.isNamed && this.prepared.mistaken(error)
    if (mistaken && this.transaction === "I" && flight.isUntouched && !flight.abandoned) {
      flight.renew()
      return true
    }
    if (flight.begins && this.transaction === "I") {
      this.refuse(error)
    }
    if (error.code === "57014" && this.refused !== undefined) {
      // What was to stop another one has stopped this one.
      flight.error = this.refused
    }
    return false
  }

  /** The end of the connection: everything under way and waiting lands. */
  private finish(reason: Error): boolean {
    if (this.closed !== undefined) {
      return false
    }
    this.closed = reason
    this.wire.stream.destroy()
    for (const flight of [...this.sent.splice(0), ...this.queue.splice(0)]) {
      this.land(flight, reason)
    }
    this.stopping.end()
    return true
  }

  private lose(error: Error): void {
    const said = this.sent.at(0)?.error
    const reason = endsConnection(said) ? said : error
    if (this.finish(reason)) {
      this.lost = reason
      this.onLost(reason)
    }
  }

  // pg's Client has done its part when the connection is ready. From here on it would get in the way: it takes a flight
  // for over at its error, which is before the server is ready again, and knows neither flights nor their order.
  private takeOver(): void {
    const wire = this.wire
    wire.removeAllListeners()
    wire.on("error", (error: Error) => this.lose(error))
    wire.on("end", () => this.lose(serverError("08006", "the server closed the connection")))
    wire.stream.on("error", ignoreErrors)
    const answers = new Receiver(this.sent, this.parameters, {
      ready: (transaction) => this.ready(transaction),
      notified: (channel, payload) => this.onNotification(channel, payload),
      copyIn: (flight) => {
        flight.copyIn(out)
        this.flush()
      },
      lose: (error) => this.lose(error)
    })
    wire.receive = (kind, bytes, at, end) => answers.receive(kind, bytes, at, end)
  }
}
