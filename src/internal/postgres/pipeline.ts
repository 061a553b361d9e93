/**
 * The exchanges of one connection, in order, from submission to completion.
 *
 * Outside of a transaction one exchange is sent at a time. Inside of one, a statement is sent without waiting for those
 * before it (pipelining): if one fails, all that follow fail too. A text that might end the transaction is sent alone.
 */
import * as Effect from "effect/Effect"
import type { Socket } from "node:net"
import type { Settings } from "../../DatabaseConfig.js"
import type { PositionTracking } from "../driver.js"
import { Cancellation, cancelTimeout } from "./cancellation.js"
import { cleaningSteps } from "./cleaning.js"
import type { Engine } from "./engine.js"
import type * as Exchange from "./exchange.js"
import type { ReportedParameters } from "./parameters.js"
import { serverError } from "./pg.js"
import { AskPosition } from "./position.js"
import type { ServerError } from "./protocol/messages.js"
import { Writer } from "./protocol/writer.js"
import { Receiver, type TransactionStatus } from "./receive.js"
import type { StartupConnection } from "./startup.js"
import { type CachedStatement, isOutdated, type PreparePolicy, StatementCache } from "./statementCache.js"
import { endsTransactionAndGoesOn, isRollback, leavesState, mayWrite } from "./statementText.js"
import type { StatementTimeout } from "./statementTimeout.js"
import type { BeginSettings } from "./transactionSql.js"
import type { BackendKey } from "./transport/cancelRequest.js"
import type { Route } from "./transport/socket.js"
import type { TypeRegistry } from "./types/registry.js"

/** How long closing waits for the server to close its side, in milliseconds. */
const closeTimeout = 1_000
const terminateMessage = Buffer.from([0x58, 0, 0, 0, 4])

/** How many exchanges of a transaction may be in flight. */
const maxInFlight = 64

/** A connection that has started up, and how to use it. */
export interface Options {
  readonly connection: StartupConnection
  /** Undefined if the server sent none. Then nothing can be canceled. */
  readonly backendKey: BackendKey | undefined
  /** Where to send cancel requests. */
  readonly route: Route
  /** The settings that the server reports, which are kept up to date. */
  readonly parameters: ReportedParameters
  readonly preparePolicy: PreparePolicy
  readonly statementTimeout: StatementTimeout
  readonly types: TypeRegistry
  readonly engine: Engine
  /** Receives notices. If it is undefined, they are logged. */
  readonly onNotice: Settings["onNotice"]
  /** Whether the connection is cleaned after every borrower, whatever the borrower has done. */
  readonly resetAlways: boolean
  /** Settings that could not be sent at start-up, and are set with each BEGIN. */
  readonly beginSettings: BeginSettings
  /**
   * Sends an exchange that executes nothing on another connection, and calls back with the code of its error; undefined if
   * it has succeeded, null if it could not be sent.
   */
  readonly sendElsewhere: (exchange: Exchange.Exchange, onAnswer: (code: string | null | undefined) => void) => void
}

const closedByClient = (): Error => serverError("08003", "the connection is closed")

/** Why the driver itself has closed a connection, which its borrower may go on using. */
const closedBecause = (cause: string): Error => serverError("08003", `the connection was closed, because ${cause}`)

/** The tags of the commands that set or reset `search_path`, a role or the access mode. */
const settingTag = /^(?:SET|RESET|DISCARD ALL|BEGIN|START TRANSACTION)$/

/** Matches statements that may make transactions read-only. */
export const asksReadOnly = /\bread\s+only\b|read_only/i

/** PREPARE, as a statement or in the body of a function or of a DO block. */
const preparing = /\bprepare\b/i

/** in_failed_sql_transaction */
const abortedCode = "25P02"

const restoresEncoding = /\bclient_encoding\b|^\s*(?:RESET|DISCARD)\s+ALL\b/i

/** Matches statements that may change `synchronous_commit`. */
const changesDurability = /synchronous_commit|set_config/i

/** The driver's own commands that are accepted in an aborted transaction. */
const rollbackCommand = /^ROLLBACK\b/

const interruptedError = (): ServerError =>
  serverError(abortedCode, "a statement of the transaction was interrupted while others of it were in flight")

const failedError = (): ServerError =>
  serverError(
    abortedCode,
    "the transaction has failed, so only ROLLBACK is accepted, without other statements in the same text"
  )

const sessionEndedError = (): ServerError =>
  serverError("57014", "canceling the statement because its transaction is rolled back")

const encodingError = (encoding: string): ServerError =>
  serverError(
    "0A000",
    `client_encoding was set to ${encoding}: texts are sent and read as UTF8 only, so nothing runs until it is set back`
  )

const endedByStatementError = (): ServerError =>
  serverError(abortedCode, "the transaction has already ended: one of its own statements ended it")

/** Whether the server closes the connection after an error: operator intervention, a lost connection, a timeout. */
const endsConnection = (error: Error | undefined): error is Error =>
  error !== undefined && /^(?:57P|08|25P0[34])/.test((error as { readonly code?: string }).code ?? "")

/** Shared by all connections: a message is written and sent without yielding in between. */
const out = new Writer()

/** An established connection. It calls back; `Sender` makes effects of that. */
export class Pipeline {
  transactionStatus: TransactionStatus = "I"
  /** Whether a statement may have left session state that a rollback does not undo. */
  isDirty = false
  /** Whether that state is removed ahead of the next exchange, since it is that of the last borrower. */
  isCleanedNext = false
  /** Whether statements were prepared with SQL. */
  hasPreparedBySql = false
  /** Why nothing can be sent any more; undefined while the connection is open. */
  closeReason: Error | undefined = undefined
  /** Why the connection was lost, if it was not closed by the client. */
  lossReason: Error | undefined = undefined
  /** Why the connection is to be replaced although it is open. */
  retireReason: Error | undefined = undefined
  /** The steps that are sent ahead of the next exchange. */
  pendingSteps: Array<Exchange.Step> = []
  /** Why the transaction can only be rolled back, although the server would still execute and commit it. */
  abortReason: ServerError | undefined = undefined
  /** Whether the driver has begun a transaction, which no statement of a user may end. */
  private ownsTransaction = false
  /** Whether a statement of a user has ended that transaction nevertheless. */
  isEndedByStatement = false
  /** Counts the statements of a user that were sent, apart from those of streams. */
  statements = 0
  /** Counts the transactions that have ended. */
  endedTransactions = 0
  /** Whether the server has warned that no synchronous standby has confirmed the last commit. */
  isUnconfirmed = false
  /** Whether changes of `synchronous_commit` are tracked, and whether a statement may have made one. */
  tracksDurability = false
  hasChangedDurability = false
  /** Portals to be closed ahead of the next exchange. */
  private readonly portalsToClose: Array<string> = []
  /** The savepoints that are open, or will be after the pending steps; the innermost is the last. */
  readonly savepoints: Array<string> = []
  /** The smallest savepoint depth of the interrupted exchanges whose effect is unknown. */
  private abortDepth = 0
  /** Called at most once, when the connection is lost and was not closed by the client. */
  onLost: (error: Error) => void = () => undefined
  onNotification: (channel: string, payload: string) => void = () => undefined
  /** Receives the position after each statement of a user that may have committed something by itself. */
  tracking: PositionTracking | undefined = undefined
  /** Changes with everything that the server sends, and when the connection begins to wait for an answer. */
  activity = 0
  /** Called when the connection begins to wait for an answer. */
  onWaiting: () => void = () => undefined
  /**
   * Whether default_transaction_read_only was on at start-up on a primary: by the role, or by the options of the URL.
   */
  readonly beganReadOnly: boolean
  /** Whether the transaction or the borrower has asked for read-only access. */
  isReadOnlyAsked = false
  /** Called when the server refuses to write although read-only access was not asked for. */
  onReadOnly: () => void = () => undefined
  /** Called once, when nothing can be sent any more. */
  onClosed: () => void = () => undefined
  readonly statementTimeout: StatementTimeout
  readonly types: TypeRegistry
  readonly engine: Engine
  readonly onNotice: Options["onNotice"]
  readonly beginSettings: Options["beginSettings"]
  readonly parameters: ReportedParameters
  private readonly resetAlways: boolean
  private readonly connection: StartupConnection
  /** How the server was reached. */
  readonly route: Route
  private readonly statementCache: StatementCache
  /** Exchanges that were submitted and not sent. */
  private readonly queue: Array<Exchange.Exchange> = []
  /** Exchanges that were sent and are not complete. The server is executing the first. */
  private readonly inFlight: Array<Exchange.Exchange> = []
  private readonly cancellation: Cancellation
  private readonly sendElsewhere: Options["sendElsewhere"]
  /** Whether the transaction, or the connection, may see tables and types that no other one sees. */
  private seesOwnObjects = false
  /** Whether tables or types were altered in the open transaction. */
  private hasAlteredSchema = false
  /** Exchanges that are complete and wait for their turn to be handed over. */
  private readonly handovers: Array<Exchange.Exchange> = []
  /** Whether an exchange was handed over in this turn of the event loop while others were in flight. */
  private isHandingOver = false

  constructor(options: Options) {
    this.connection = options.connection
    this.route = options.route
    this.onNotice = options.onNotice
    this.parameters = options.parameters
    this.beganReadOnly = options.parameters.get("default_transaction_read_only") === "on" &&
      options.parameters.get("in_hot_standby") !== "on"
    this.statementTimeout = options.statementTimeout
    this.types = options.types
    this.engine = options.engine
    this.beginSettings = options.beginSettings
    this.resetAlways = options.resetAlways
    this.sendElsewhere = options.sendElsewhere
    this.statementCache = new StatementCache(options.preparePolicy, options.backendKey?.processId)
    this.cancellation = new Cancellation(options.backendKey, options.route, this.inFlight, {
      send: (exchange) => this.send(exchange),
      destroy: () => this.destroy(closedBecause("the server did not cancel a statement in time")),
      sendQueued: () => this.sendQueued()
    })
    this.takeOver()
  }

  /** Whether an exchange is in flight or queued, or a cancellation is not complete. */
  get isBusy(): boolean {
    return this.inFlight.length > 0 || this.cancellation.isActive || this.queue.length > 0
  }

  /** The exchange that the server is executing. */
  get current(): Exchange.Exchange | undefined {
    return this.inFlight.at(0)
  }

  /** Whether an answer of the server is awaited. */
  get isWaiting(): boolean {
    return this.inFlight.length > 0 && this.inFlight[0].awaitsServer
  }

  /** Whether exchanges wait for those in flight. */
  get hasQueued(): boolean {
    return this.queue.length > 0
  }

  /** The socket, for the data of COPY. */
  get stream(): Socket {
    return this.connection.stream
  }

  /** Reports the connection as lost. Its borrower may go on using it. */
  retire(reason: Error): void {
    if (this.closeReason === undefined && this.retireReason === undefined) {
      this.retireReason = reason
      this.onLost(reason)
    }
  }

  /** Ends a connection whose server has sent nothing for too long, and does not answer on another connection either. */
  loseSilent(millis: number): void {
    const seconds = (millis / 1_000).toFixed(1)
    this.lose(serverError("08006", `the server has said nothing for ${seconds} seconds and does not answer`))
  }

  /** Ends the connection, and fails its exchanges. */
  lose(reason: Error): void {
    this.onConnectionLost(reason)
  }

  /** Cancels an exchange that runs for longer than its statement timeout. If that takes too long, the connection is lost. */
  timeOut(exchange: Exchange.Exchange, millis: number): void {
    if (exchange.isCanceled || exchange.isCancelRequested) {
      return
    }
    const ranFor = `it ran for ${Math.round(millis)} milliseconds, and the server did not end it`
    exchange.timeoutError = serverError("57014", `canceling statement due to statement timeout: ${ranFor}`)
    setTimeout(() => {
      if (!exchange.isComplete) {
        this.onConnectionLost(serverError("08006", `statement timeout: ${ranFor}, not even after a cancel request`))
      }
    }, cancelTimeout)
    this.cancellation.cancelAll([exchange])
  }

  submit(exchange: Exchange.Exchange): void {
    exchange.savepointDepth = this.savepoints.length
    exchange.steps = this.pendingSteps
    this.pendingSteps = []
    if (this.closeReason !== undefined) {
      this.complete(exchange, this.closeReason)
    } else if (this.abortReason !== undefined && !this.isAllowedWhenAborted(exchange)) {
      this.refuse(exchange, this.abortReason)
    } else if (this.parameters.foreignEncoding !== undefined && this.needsEncoding(exchange)) {
      this.refuse(exchange, encodingError(this.parameters.foreignEncoding))
    } else if (this.queue.length === 0 && this.canSend(exchange)) {
      this.send(exchange)
    } else {
      const refusal = this.inFlight.at(0)?.othersWait()
      if (refusal === undefined) {
        this.queue.push(exchange)
      } else {
        this.refuse(exchange, refusal)
      }
    }
  }

  /** Submits an exchange, and destroys the connection if it is not complete in time after it was sent. */
  submitWithTimeout(exchange: Exchange.Exchange): void {
    this.limit(exchange, cancelTimeout)
    this.submit(exchange)
  }

  /**
   * Submits an exchange that follows the one in flight, ahead of those that wait, with a limit as `submitWithTimeout`. It
   * takes no pending steps.
   */
  submitNext(exchange: Exchange.Exchange, timeout: number): void {
    this.limit(exchange, timeout)
    if (this.closeReason === undefined) {
      this.queue.unshift(exchange)
    } else {
      this.complete(exchange, this.closeReason)
    }
  }

  /** Destroys the connection if an exchange is not complete in time after it was sent. */
  private limit(exchange: Exchange.Exchange, timeout: number): void {
    const { onComplete } = exchange
    let timer: NodeJS.Timeout | undefined = undefined
    exchange.onSent = () => {
      clearTimeout(timer)
      timer = setTimeout(() => this.destroy(closedBecause("the server did not answer in time")), timeout)
    }
    exchange.onComplete = (lost) => {
      clearTimeout(timer)
      onComplete(lost)
    }
  }

  /** Cancels an exchange. One that is only queued is removed without effect. `timeout` is that of `Cancellation.cancel`. */
  cancel(exchange: Exchange.Exchange, timeout: number): Effect.Effect<void> {
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
      this.cancellation.cancel(exchange, () => resume(Effect.void), timeout)
    })
  }

  /**
   * Cancels the statements that run in a transaction or a savepoint that is about to be rolled back, and drops those that
   * were not sent. `depth` is the number of savepoints that remain.
   */
  cancelStatements(depth: number): void {
    const isInside = ({ options, savepointDepth }: Exchange.Exchange): boolean =>
      options.user && savepointDepth >= depth
    this.refuseQueued(isInside, this.abortReason ?? sessionEndedError())
    this.cancellation.cancelAll(this.inFlight.filter(isInside))
  }

  /** Whether statements of a user, apart from those of streams, were sent since `count`, or will be. */
  hasStatementsSince(count: number): boolean {
    return this.statements !== count || this.queue.some(({ options }) => options.user)
  }

  /** Closes a portal of the current transaction with the next exchange. The end of the transaction closes it too. */
  closePortal(name: string): void {
    if (this.transactionStatus !== "I") {
      this.portalsToClose.push(name)
    }
  }

  /** Closes the connection at once. A statement that is running is canceled, so that it does not keep its locks. */
  destroy(reason: Error = closedByClient()): void {
    if (this.closeReason === undefined) {
      this.cancellation.cancelInBackground()
    }
    this.closeWith(reason)
  }

  /** Sends Terminate, and waits a limited time for the server to close. Destroys a connection that is busy. */
  readonly close: Effect.Effect<void> = Effect.async<void>((resume) => {
    const socket = this.connection.stream
    if (this.closeReason !== undefined || this.isBusy) {
      this.destroy()
      return resume(Effect.void)
    }
    this.closeReason = closedByClient()
    this.onClosed()
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
    if (this.transactionStatus === "E" && this.endsFailedTransaction(exchange)) {
      return this.refuse(exchange, failedError())
    }
    if (exchange.isNeeded?.() === false) {
      return this.complete(exchange, undefined)
    }
    if (exchange.options.user && !exchange.isPortal) {
      this.statements++
    }
    if (this.inFlight.length === 0) {
      this.activity++
      // While an answer is awaited, and only then, the connection keeps the process alive.
      this.connection.stream.ref()
      this.onWaiting()
    }
    this.inFlight.push(exchange)
    try {
      exchange.beforeSend(this.transactionStatus)
      if (this.isCleanedNext && this.inFlight.length === 1 && this.transactionStatus === "I") {
        exchange.cleanFirst(cleaningSteps(this.hasPreparedBySql))
      }
      for (const portal of this.portalsToClose.splice(0)) {
        out.closePortal(portal)
      }
      exchange.write(out, this.statementCache)
      if (this.tracking !== undefined && this.mayCommitAlone(exchange) && exchange.acceptsFollower) {
        exchange.follower = new AskPosition(this.tracking())
        this.inFlight.push(exchange.follower)
        exchange.follower.write(out, this.statementCache)
      }
      this.flush()
    } catch (cause) {
      // The next connection must not send what was written so far.
      out.reset()
      this.onConnectionLost(cause as Error)
    }
  }

  /** Whether a statement of a user, outside of any transaction, may write something. */
  private mayCommitAlone({ executes, options, text }: Exchange.Exchange): boolean {
    return options.user && executes && this.transactionStatus === "I" && mayWrite(text)
  }

  /**
   * In an aborted transaction a user's statement may only roll back, and none may run once a statement has ended it.
   */
  private isAllowedWhenAborted({ options, text }: Exchange.Exchange): boolean {
    return options.user ? !this.isEndedByStatement && isRollback(text) : rollbackCommand.test(text)
  }

  /**
   * Whether an exchange may carry text, and so needs UTF-8. One that rolls back or sets client_encoding back does not.
   */
  private needsEncoding({ options, text }: Exchange.Exchange): boolean {
    return options.user && !this.isCleanedNext && !isRollback(text) && !restoresEncoding.test(text)
  }

  /** Whether a text ends the driver's failed transaction, so that the rest of the text would run outside of any. */
  private endsFailedTransaction({ options, text }: Exchange.Exchange): boolean {
    return options.user && this.ownsTransaction && endsTransactionAndGoesOn(text)
  }

  /** Completes the queued exchanges that are not to be sent. */
  private refuseQueued(isRefused: (exchange: Exchange.Exchange) => boolean, reason: ServerError): void {
    const refused = this.queue.filter(isRefused)
    const remaining = this.queue.filter((exchange) => !refused.includes(exchange))
    this.queue.splice(0, this.queue.length, ...remaining)
    this.pendingSteps = [...refused.flatMap(({ steps }) => steps), ...this.pendingSteps]
    for (const exchange of refused) {
      exchange.steps = []
      this.refuse(exchange, reason)
    }
  }

  /** Completes an exchange that is not sent. Its steps go to the next. */
  private refuse(exchange: Exchange.Exchange, reason: ServerError): void {
    this.pendingSteps = [...exchange.steps, ...this.pendingSteps]
    exchange.steps = []
    exchange.error = reason
    this.complete(exchange, undefined)
  }

  private flush(): void {
    this.connection.stream.write(out.take())
  }

  private sendQueued(): void {
    while (this.queue.length > 0 && this.closeReason === undefined && this.canSend(this.queue[0])) {
      this.send(this.queue.shift()!)
    }
  }

  /** Removes an exchange that was not sent. Its steps go to the next one. */
  private removeFromQueue(exchange: Exchange.Exchange): void {
    const index = this.queue.indexOf(exchange)
    if (index < 0) {
      return
    }
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
    this.refuseQueued(({ options }) => options.user || options.commit !== undefined, reason)
  }

  private complete(exchange: Exchange.Exchange, lost: Error | undefined): void {
    exchange.isComplete = true
    try {
      exchange.onComplete(lost)
    } catch {
      // The exchange has its result, or is canceled. A callback that throws leaves the connection in an unknown state.
      this.destroy()
    }
  }

  /**
   * Completes an exchange that the server has answered. The answers of a transaction may arrive together. Then one is
   * handed over in each turn of the event loop, so that what the fiber of the first does, such as interrupting the
   * second that has lost a race, happens before the second has its result.
   */
  private handOver(exchange: Exchange.Exchange): void {
    if (this.isHandingOver && (exchange.options.user || this.handovers.at(0)?.isBeingChecked !== true)) {
      exchange.isComplete = true
      this.handovers.push(exchange)
      return
    }
    if (this.inFlight.length > 0 && exchange.options.user) {
      this.isHandingOver = true
      setImmediate(this.handOverNext)
    }
    this.complete(exchange, undefined)
  }

  /** Hands an exchange over. If positions are tracked and it may have committed something, its position comes first. */
  private handOverWithPosition(exchange: Exchange.Exchange): void {
    const { follower } = exchange
    if (follower instanceof AskPosition && !follower.isComplete) {
      follower.onComplete = () => {
        follower.onPosition(follower.position)
        this.handOver(exchange)
      }
      return
    }
    if (
      this.tracking !== undefined &&
      (this.mayCommitAlone(exchange) || exchange.endsTransaction || exchange.options.commit === true)
    ) {
      this.tracking()(undefined)
    }
    this.handOver(exchange)
  }

  private readonly handOverNext = (): void => {
    if (this.handovers.at(0)?.isBeingChecked === true) {
      return
    }
    const exchange = this.handovers.shift()
    if (exchange === undefined) {
      this.isHandingOver = false
    } else {
      setImmediate(this.handOverNext)
      this.complete(exchange, undefined)
    }
  }

  /**
   * Finds out whether a statement of a transaction could not be bound only because its prepared statement was outdated,
   * and then hands it over. The exchanges after it, which fail because it has failed, wait for that.
   */
  private checkAndHandOver(exchange: Exchange.Exchange, statement: CachedStatement, bindOnly: Exchange.Exchange): void {
    const { error } = exchange
    exchange.isBeingChecked = true
    exchange.isComplete = true
    this.handovers.push(exchange)
    if (!this.isHandingOver) {
      this.isHandingOver = true
      setImmediate(this.handOverNext)
    }
    this.sendElsewhere(bindOnly, (code) => {
      exchange.isBeingChecked = false
      if (isOutdated(error?.code, code, this.seesOwnObjects)) {
        exchange.isOutdated = true
        this.statementCache.invalidate(statement)
      }
      if (this.handovers.at(0) === exchange) {
        setImmediate(this.handOverNext)
      }
    })
  }

  private onReadyForQuery(status: TransactionStatus): void {
    this.transactionStatus = status
    if (status === "I") {
      this.portalsToClose.length = 0
      this.endedTransactions++
      this.statementCache.transactionEnded()
      if (this.pendingSteps.length === 0) {
        this.statementTimeout.transactionEnded()
      }
    }
    const exchange = this.inFlight.at(0)
    if (exchange === undefined) {
      return this.onConnectionLost(serverError("08P01", "the server sent ReadyForQuery without a request"))
    }
    if (!exchange.hasResponse) {
      return this.onConnectionLost(serverError("08P01", "the server sent ReadyForQuery without answering the request"))
    }
    exchange.readyForQuery()
    if (status === "I" && !this.ownsTransaction && this.abortReason?.code === abortedCode) {
      this.abortReason = undefined
    }
    if (exchange.continueAfterSteps(out)) {
      return this.flush()
    }
    if (exchange.cleaned === false) {
      // The server has skipped it, so it has not run with the state of the last borrower.
      this.engine.cleaningRejected(exchange.error?.code)
      exchange.error = serverError("08006", `the connection could not be cleaned: ${exchange.error?.message ?? ""}`)
      return this.onConnectionLost(exchange.error)
    }
    this.inFlight.shift()
    this.recordSessionState(exchange)
    const { error, repeatedFor } = exchange
    const unbound = error === undefined ? undefined : exchange.unboundStatement
    const mayBeOutdated = error !== undefined && unbound !== undefined &&
      this.statementCache.forgetOnError(error, unbound)
    if (error !== undefined && this.handleError(exchange, error, mayBeOutdated)) {
      return this.send(exchange)
    }
    if (error === undefined && repeatedFor !== undefined) {
      this.statementCache.invalidate(repeatedFor)
    }
    this.trackTransaction(exchange)
    const bindOnly = mayBeOutdated && !exchange.isOutdated && !exchange.isCanceled ? exchange.bindOnly() : undefined
    if (unbound === undefined || bindOnly === undefined || status === "I") {
      this.handOverWithPosition(exchange)
    } else {
      this.checkAndHandOver(exchange, unbound, bindOnly)
    }
    this.cancellation.advance()
    if (!this.isBusy && this.closeReason === undefined) {
      this.connection.stream.unref()
    }
  }

  /** Notes that the state of the last borrower was removed. */
  cleaned(): void {
    if (this.hasPreparedBySql) {
      this.statementCache.clear()
    }
    this.isCleanedNext = false
    this.isDirty = false
    this.parameters.cleaned()
    this.hasPreparedBySql = false
    this.statementTimeout.reset()
  }

  private recordSessionState(exchange: Exchange.Exchange): void {
    if (exchange.cleaned === true && this.isCleanedNext) {
      this.cleaned()
    }
    if (exchange.options.user) {
      this.hasChangedDurability ||= this.tracksDurability && changesDurability.test(exchange.text)
      const leaves = exchange.makesDirty || (exchange.executes && leavesState(exchange.text))
      this.isDirty ||= leaves || this.resetAlways
      this.hasPreparedBySql ||= leaves && preparing.test(exchange.text)
      this.statementTimeout.statementCompleted(exchange, leaves)
    }
    if (this.transactionStatus === "I" && this.parameters.isChanged) {
      this.isDirty = true
    }
    if (exchange.invalidatesStatements) {
      this.statementCache.clear()
    }
    this.seesOwnObjects = exchange.definesObjects ||
      (this.seesOwnObjects && (this.transactionStatus !== "I" || this.isDirty))
    if (exchange.altersSchema || (this.hasAlteredSchema && this.transactionStatus === "I")) {
      // Other connections see it when its transaction has ended.
      this.statementCache.schemaChanged()
      this.hasAlteredSchema = this.transactionStatus !== "I"
    }
    this.trackPath(exchange)
  }

  /** Tracks whether an exchange has changed `search_path`, the role or the access mode. */
  private trackPath({ error, options, result, steps, text }: Exchange.Exchange): void {
    if (error !== undefined) {
      return
    }
    for (const step of steps) {
      this.statementCache.executed(step.text, step.values)
    }
    if (settingTag.test(result.commandTag ?? "") || text.includes("set_config")) {
      this.statementCache.executed(text, options.params)
      this.isReadOnlyAsked ||= options.user && asksReadOnly.test(text)
    }
  }

  /** Returns whether to send the exchange again without prepared statements: one was invalid, and nothing was done. */
  private handleError(exchange: Exchange.Exchange, error: ServerError, mayBeOutdated: boolean): boolean {
    if (exchange.usesNamedStatement && !exchange.isBound) {
      const isInvalid = this.statementCache.invalidateOnError(error, exchange.unboundStatement)
      if (
        (isInvalid || mayBeOutdated) && this.transactionStatus === "I" && exchange.didNothing && !exchange.isCanceled
      ) {
        exchange.prepareRetry(isInvalid ? undefined : exchange.unboundStatement)
        return true
      }
      exchange.isOutdated = isInvalid
    }
    if (exchange.beginsTransaction && this.transactionStatus === "I") {
      this.abortTransaction(error)
    }
    if (error.code === "57014" && exchange.timeoutError !== undefined) {
      exchange.error = exchange.timeoutError
    } else if (error.code === "57014" && this.abortReason !== undefined) {
      // The cancel request for another exchange of the transaction has hit this one.
      exchange.error = this.abortReason
    }
    return false
  }

  /** Tracks the driver's transaction. If a user's statement has ended it, no further statement of it runs. */
  private trackTransaction(exchange: Exchange.Exchange): void {
    const isIdle = this.transactionStatus === "I"
    if (exchange.endsTransaction && !isIdle) {
      // It has begun another one.
      this.endedTransactions++
      this.portalsToClose.length = 0
    }
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
    this.onClosed()
    this.connection.stream.destroy()
    for (const exchange of this.handovers.splice(0)) {
      this.complete(exchange, undefined)
    }
    for (const exchange of [...this.inFlight.splice(0), ...this.queue.splice(0)]) {
      if (
        this.tracking !== undefined && exchange.isSent && (exchange.options.user || exchange.options.commit === true)
      ) {
        this.tracking()(undefined)
      }
      this.complete(exchange, reason)
    }
    this.cancellation.connectionClosed()
    return true
  }

  private onConnectionLost(error: Error): void {
    const lastError = this.inFlight.at(0)?.error
    const reason = endsConnection(lastError) ? lastError : error
    if (this.closeReason === undefined) {
      this.lossReason = reason
      this.closeWith(reason)
      this.types.clear()
      try {
        if (this.retireReason === undefined) {
          this.onLost(reason)
        }
      } catch {
        // This runs in a listener of the socket, where an exception would end the process.
      }
    }
  }

  /** Receives what the server sends, from the end of start-up on. */
  private takeOver(): void {
    const { connection } = this
    connection.onError = (error) => this.onConnectionLost(error)
    connection.onEnd = () => this.onConnectionLost(serverError("08006", "the server closed the connection"))
    connection.stream.on("data", () => {
      this.activity++
    })
    connection.stream.unref()
    const receiver = new Receiver(this.inFlight, this.parameters, this.types.rowDescriptions, {
      onReadyForQuery: (status) => this.onReadyForQuery(status),
      onNotification: (channel, payload) => this.onNotification(channel, payload),
      onCopyIn: (exchange) => {
        exchange.copyInResponse(out)
        this.flush()
      },
      onUnconfirmed: () => {
        this.isUnconfirmed = true
      },
      onLost: (error) => this.onConnectionLost(error)
    })
    connection.onMessage = (type, bytes, offset, end) => receiver.receive(type, bytes, offset, end)
  }
}
