/**
 * The exchanges of one connection, in order, from submission to completion.
 *
 * Outside of a transaction one exchange is sent at a time. Inside of one, a statement is sent without waiting for those
 * before it (pipelining), unless one of them could change what becomes of the others: if one fails there, all that follow
 * fail too.
 */
import * as Effect from "effect/Effect"
import { Cancellation, cancelTimeout } from "./cancellation.js"
import type * as Exchange from "./exchange.js"
import { serverError } from "./pg.js"
import type { ServerError } from "./protocol/messages.js"
import { Writer } from "./protocol/writer.js"
import { Receiver, type TransactionStatus } from "./receive.js"
import type { StartupConnection } from "./startup.js"
import { type PreparePolicy, StatementCache } from "./statementCache.js"
import type { BackendKey } from "./transport/cancelRequest.js"
import { ignoreErrors, type Route } from "./transport/socket.js"

/** How long closing waits for the server to close its side, in milliseconds. */
const closeTimeout = 1_000
const terminateMessage = Buffer.from([0x58, 0, 0, 0, 4])

const maxInFlight = 64

/** The result of start-up. */
export interface Options {
  readonly connection: StartupConnection
  /** Undefined if the server sent none, so that nothing can be canceled. */
  readonly backendKey: BackendKey | undefined
  /** Where to send cancel requests. */
  readonly route: Route
  /** The values of the tracked parameters, which are kept up to date. */
  readonly parameters: Map<string, string>
  readonly preparePolicy: PreparePolicy
}

const closedByClient = (): Error => serverError("08003", "the connection is closed")

/** in_failed_sql_transaction */
const abortedCode = "25P02"

/** The statements that are accepted in an aborted transaction. */
const rollbackText = /^\s*(?:ROLLBACK|ABORT)\b/i

const interruptedError = (): ServerError =>
  serverError(abortedCode, "a statement of the transaction was interrupted while others of it were under way")

const endedByStatementError = (): ServerError =>
  serverError(abortedCode, "the transaction has already ended, by a statement of its own")

/** Whether the server closes the connection after an error: operator intervention, a lost connection, a timeout. */
const endsConnection = (error: Error | undefined): error is Error =>
  error !== undefined && /^(?:57P|08|25P0[34])/.test((error as { readonly code?: string }).code ?? "")

/** Shared by all connections: messages are written and sent without a pause in between. */
const out = new Writer()

/** An established connection. Its interface is callbacks; `Sender` makes effects of them. */
export class Pipeline {
  transactionStatus: TransactionStatus = "I"
  /** Whether a statement may have left session state that a rollback does not undo. */
  isDirty = false
  /** Why nothing can be sent any more; undefined while the connection is open. */
  closeReason: Error | undefined = undefined
  /** Why the connection was lost, if it was not closed by the client. */
  lossReason: Error | undefined = undefined
  /** What is sent ahead of the next exchange. */
  pendingSteps: Array<Exchange.Step> = []
  /** Why no statement of the transaction may run and it may not be committed, although the server would allow it. */
  abortReason: ServerError | undefined = undefined
  /** Whether the driver has begun a transaction, which no statement of a user may end. */
  private ownsTransaction = false
  /** Whether a statement of a user has ended that transaction nevertheless. */
  isEndedByStatement = false
  /** The savepoints that are open, or will be after the pending steps; the innermost is the last. */
  readonly savepoints: Array<string> = []
  /** The least savepoint depth of the interrupted exchanges whose effect is unknown. */
  private abortDepth = 0
  /** Called at most once, when the connection is lost and was not closed by the client. */
  onLost: (error: Error) => void = () => undefined
  onNotification: (channel: string, payload: string) => void = () => undefined
  readonly parameters: Map<string, string>
  private readonly connection: StartupConnection
  private readonly statementCache: StatementCache
  /** Exchanges that were submitted and not sent. */
  private readonly queue: Array<Exchange.Exchange> = []
  /** Exchanges that were sent and are not complete. The server is executing the first. */
  private readonly inFlight: Array<Exchange.Exchange> = []
  private readonly cancellation: Cancellation

  constructor(options: Options) {
    this.connection = options.connection
    this.parameters = options.parameters
    this.statementCache = new StatementCache(options.preparePolicy, options.backendKey?.processId)
    this.cancellation = new Cancellation(options.backendKey, options.route, this.inFlight, {
      send: (exchange) => this.send(exchange),
      destroy: () => this.destroy(),
      sendQueued: () => this.sendQueued()
    })
    this.takeOver()
  }

  /** Whether an exchange is in flight or queued, or a cancellation is not complete. */
  get isBusy(): boolean {
    return this.inFlight.length > 0 || this.cancellation.isActive || this.queue.length > 0
  }

  submit(exchange: Exchange.Exchange): void {
    exchange.savepointDepth = this.savepoints.length
    exchange.steps = this.pendingSteps
    this.pendingSteps = []
    if (this.closeReason !== undefined) {
      this.complete(exchange, this.closeReason)
    } else if (this.abortReason !== undefined && !rollbackText.test(exchange.text)) {
      this.pendingSteps = [...exchange.steps]
      exchange.error = this.abortReason
      this.complete(exchange, undefined)
    } else if (this.queue.length === 0 && this.canSend(exchange)) {
      this.send(exchange)
    } else {
      this.queue.push(exchange)
    }
  }

  /** Submits an exchange, and destroys the connection if it is not complete in time. */
  submitWithTimeout(exchange: Exchange.Exchange): void {
    const { onComplete } = exchange
    const timer = setTimeout(() => this.destroy(), cancelTimeout)
    exchange.onComplete = (lost) => {
      clearTimeout(timer)
      onComplete(lost)
    }
    this.submit(exchange)
  }

  /** Cancels an exchange. One that is only queued is removed without effect. */
  cancel(exchange: Exchange.Exchange): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      if (exchange.isComplete) {
        return resume(Effect.void)
      }
      if (!exchange.isSent) {
        this.removeFromQueue(exchange)
        return resume(Effect.void)
      }
      if (this.inFlight.length > 1) {
        // Whether this one took effect will not be known, so nothing of its transaction may be committed.
        const depth = this.abortReason === undefined
          ? exchange.savepointDepth
          : Math.min(exchange.savepointDepth, this.abortDepth)
        this.abortTransaction(interruptedError())
        this.abortDepth = depth
      }
      this.cancellation.cancel(exchange, () => resume(Effect.void))
    })
  }

  /** Closes the connection at once. */
  destroy(): void {
    this.closeWith(closedByClient())
  }

  /** Sends Terminate, and waits a limited time for the server to close. Destroys a connection that is busy. */
  readonly close: Effect.Effect<void> = Effect.async<void>((resume) => {
    const socket = this.connection.stream
    if (this.closeReason !== undefined || this.isBusy) {
      this.destroy()
      return resume(Effect.void)
    }
    this.closeReason = closedByClient()
    const timer = setTimeout(() => socket.destroy(), closeTimeout)
    socket.once("close", () => {
      clearTimeout(timer)
      resume(Effect.void)
    })
    socket.end(terminateMessage)
    return Effect.sync(() => socket.destroy())
  })

  private canSend(exchange: Exchange.Exchange): boolean {
    if (this.cancellation.isActive) {
      return false
    }
    return this.inFlight.length === 0 || (
      this.transactionStatus === "T" && this.inFlight.length < maxInFlight && exchange.isPipelinable() &&
      this.inFlight.every((other) => other.isPipelinable())
    )
  }

  private send(exchange: Exchange.Exchange): void {
    this.inFlight.push(exchange)
    try {
      exchange.write(out, this.statementCache)
      this.flush()
    } catch (cause) {
      // The next connection must not send what was written so far.
      out.reset()
      this.onConnectionLost(cause as Error)
    }
  }

  private flush(): void {
    this.connection.stream.write(out.take())
  }

  private sendQueued(): void {
    while (this.queue.length > 0 && this.closeReason === undefined && this.canSend(this.queue[0])) {
      this.send(this.queue.shift()!)
    }
  }

  /** Its steps go to the exchange behind it. */
  private removeFromQueue(exchange: Exchange.Exchange): void {
    const index = this.queue.indexOf(exchange)
    this.queue.splice(index, 1)
    const following = this.queue.at(index)
    if (exchange.steps.length === 0) {
      return
    }
    if (following === undefined) {
      this.pendingSteps = [...exchange.steps, ...this.pendingSteps]
    } else {
      following.steps = [...exchange.steps, ...following.steps]
    }
  }

  /** Forgets a savepoint and those inside of it: it is about to be released, or rolled back to. */
  leaveSavepoint(name: string, isRolledBack: boolean): void {
    const index = this.savepoints.lastIndexOf(name)
    if (index < 0) {
      return
    }
    this.savepoints.splice(index)
    if (isRolledBack && this.transactionStatus !== "I" && this.abortDepth > index) {
      // Everything whose effect is unknown was inside of it.
      this.abortReason = undefined
    }
  }

  /** Forgets the transaction, since it is about to be rolled back. */
  resetTransaction(): void {
    this.discardPendingSteps()
    this.abortReason = undefined
    this.ownsTransaction = false
    this.isEndedByStatement = false
  }

  /** Forgets savepoints and what was not sent, since the transaction ends or was never begun on the server. */
  discardPendingSteps(): void {
    this.pendingSteps = []
    this.savepoints.length = 0
  }

  /** Until it is rolled back, no statement of the transaction runs and it is not committed. */
  private abortTransaction(reason: ServerError): void {
    this.abortReason = reason
    for (const exchange of this.queue.splice(0)) {
      if (exchange.options.user || exchange.options.commit === true) {
        this.pendingSteps.push(...exchange.steps)
        exchange.error = reason
        this.complete(exchange, undefined)
      } else {
        this.queue.push(exchange)
      }
    }
  }

  private complete(exchange: Exchange.Exchange, lost: Error | undefined): void {
    exchange.isComplete = true
    exchange.onComplete(lost)
  }

  private onReadyForQuery(status: TransactionStatus): void {
    this.transactionStatus = status
    const exchange = this.inFlight.at(0)
    if (exchange === undefined) {
      return this.onConnectionLost(serverError("08P01", "the server was ready without having been asked"))
    }
    if (!exchange.hasResponse) {
      return this.onConnectionLost(serverError("08P01", "the server was ready without having answered"))
    }
    exchange.readyForQuery()
    if (status === "I" && !this.ownsTransaction && this.abortReason?.code === abortedCode) {
      this.abortReason = undefined
    }
    if (exchange.continueAfterSteps(out)) {
      return this.flush()
    }
    this.inFlight.shift()
    this.recordSessionState(exchange)
    if (exchange.error !== undefined && this.handleError(exchange, exchange.error)) {
      return this.send(exchange)
    }
    this.trackTransaction(exchange)
    this.complete(exchange, undefined)
    this.cancellation.advance()
  }

  private recordSessionState(exchange: Exchange.Exchange): void {
    if (exchange.options.user && exchange.makesDirty) {
      this.isDirty = true
    }
    if (exchange.invalidatesStatements) {
      this.statementCache.clear()
    }
  }

  /** Returns whether to send the exchange again without prepared statements: one was invalid, and nothing was done. */
  private handleError(exchange: Exchange.Exchange, error: ServerError): boolean {
    const isInvalidStatement = exchange.usesNamedStatement && this.statementCache.invalidateOnError(error)
    if (isInvalidStatement && this.transactionStatus === "I" && exchange.didNothing && !exchange.isCanceled) {
      exchange.prepareRetry()
      return true
    }
    if (exchange.beginsTransaction && this.transactionStatus === "I") {
      this.abortTransaction(error)
    }
    if (error.code === "57014" && this.abortReason !== undefined) {
      // The cancel request for another exchange of the transaction has hit this one.
      exchange.error = this.abortReason
    }
    return false
  }

  /** Tracks the driver's transaction. If a user's statement has ended it, no further statement of it runs. */
  private trackTransaction(exchange: Exchange.Exchange): void {
    const isIdle = this.transactionStatus === "I"
    this.ownsTransaction ||= exchange.beginsTransaction && !(isIdle && exchange.error !== undefined)
    if (!exchange.options.user) {
      this.ownsTransaction &&= !isIdle
    } else if (this.ownsTransaction && (isIdle || exchange.endsTransaction)) {
      this.isEndedByStatement = true
      this.abortTransaction(endedByStatementError())
      this.abortDepth = 0
    }
  }

  /** Closes the connection and completes every exchange. Returns false if it was closed before. */
  private closeWith(reason: Error): boolean {
    if (this.closeReason !== undefined) {
      return false
    }
    this.closeReason = reason
    this.connection.stream.destroy()
    for (const exchange of [...this.inFlight.splice(0), ...this.queue.splice(0)]) {
      this.complete(exchange, reason)
    }
    this.cancellation.connectionClosed()
    return true
  }

  private onConnectionLost(error: Error): void {
    const lastError = this.inFlight.at(0)?.error
    const reason = endsConnection(lastError) ? lastError : error
    if (this.closeWith(reason)) {
      this.lossReason = reason
      this.onLost(reason)
    }
  }

  /**
   * Replaces `pg`'s Client, which was needed for start-up only: it treats a query as complete at its error and not at
   * ReadyForQuery, and cannot pipeline.
   */
  private takeOver(): void {
    const { connection } = this
    connection.removeAllListeners()
    connection.on("error", (error: Error) => this.onConnectionLost(error))
    connection.on("end", () => this.onConnectionLost(serverError("08006", "the server closed the connection")))
    connection.stream.on("error", ignoreErrors)
    const receiver = new Receiver(this.inFlight, this.parameters, {
      onReadyForQuery: (status) => this.onReadyForQuery(status),
      onNotification: (channel, payload) => this.onNotification(channel, payload),
      onCopyIn: (exchange) => {
        exchange.copyInResponse(out)
        this.flush()
      },
      onLost: (error) => this.onConnectionLost(error)
    })
    connection.onMessage = (type, bytes, offset, end) => receiver.receive(type, bytes, offset, end)
  }
}
