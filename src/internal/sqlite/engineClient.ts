/**
 * Sends the requests of one connection to its engine, in order, and tracks the state of the connection.
 *
 * A response updates the state even if its caller was interrupted meanwhile, so that the status is right afterwards too.
 * SQLite itself never waits for a lock: a request that finds the file busy is retried from here, which blocks no thread
 * and can be interrupted.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { DatabaseError } from "../../DatabaseError.js"
import { asyncInterrupt } from "../asyncInterrupt.js"
import type { BeginOptions, StatementGuard, Status } from "../driver.js"
import { type CurrentFiber, currentFiber } from "../fiber.js"
import type { Context } from "../makeError.js"
import type { CheckpointGap, CheckpointResult, ReaderTransactions, Writer } from "./checkpointGap.js"
import { abortedError, closedError, lostError, notSentError, type StatementInfo, timeoutError } from "./errors.js"
import * as EventLoop from "./eventLoop.js"
import type { Lookups } from "./lookups.js"
import {
  type ChangedSetting,
  isBusy,
  isRollbackStatement,
  maxInFlight,
  type Operation,
  type Request,
  type Run,
  runsStatement,
  transactionOver
} from "./protocol.js"
import { RequestLock, type Waiter } from "./requestLock.js"
import { fromSqlite } from "./resultCode.js"
import type { SharedSettings } from "./sharedSettings.js"
import { isDataStatement } from "./statementText.js"
import type { Completion, SentRequest, Transport } from "./transport.js"

/** The timeouts of statements. Undefined or zero is no limit, except that an undefined `lockTimeout` is 5 seconds. */
export interface Timeouts {
  readonly statementTimeout?: Duration.Duration | undefined
  readonly lockTimeout?: Duration.Duration | undefined
}

export interface Options {
  readonly transport: Transport
  /** Names the database in errors. */
  readonly description: string
  readonly timeouts: Timeouts
  /** The extensions that were loaded so far. The driver appends to it. */
  readonly extensions: ReadonlyArray<string>
  /** The settings that statements have changed so far, on any connection of the file. */
  readonly settings: SharedSettings
  /** Undefined for a database in memory. */
  readonly gap?: CheckpointGap | undefined
  /** Runs lookups on this thread. Undefined if the connection has none. */
  readonly lookups?: Lookups | undefined
  /** Whether the connection only reads, while another one writes. Default: false. */
  readonly isReader?: boolean | undefined
  /** Called at most once, when a connection that was opened is lost. */
  readonly onLost: (error: DatabaseError) => void
}

/** A cursor of the engine. */
export interface Cursor {
  readonly id: number
  /** How many transactions of the connection had ended when it was opened. */
  readonly transaction: number
}

/** How long a statement, or opening the file, waits for the lock of another connection by default. */
export const defaultLockTimeout = Duration.seconds(5)

/** The delay before the first retry of a busy request, in milliseconds. It doubles with each retry, and is jittered. */
export const minRetryDelay = 1
export const maxRetryDelay = 50

/** In milliseconds, undefined if there is no limit. */
const millisOf = (duration: Duration.Duration | undefined): number | undefined => {
  const millis = duration === undefined ? 0 : Duration.toMillis(duration)
  return millis > 0 && Number.isFinite(millis) ? millis : undefined
}

const endsTransaction = ({ _tag }: Operation): boolean => _tag === "Commit" || _tag === "Rollback" || _tag === "Reset"

const phaseOf = ({ _tag }: Operation): Context["phase"] =>
  _tag === "Open" ? "connect" : _tag === "Commit" ? "commit" : "statement"

export class EngineClient implements Writer {
  /** The options of `begin`, until the transaction is committed or rolled back by a request. */
  transaction: BeginOptions | undefined
  /** Replaces the statement timeout of the options outside of transactions, unless it is undefined. */
  statementTimeout: Duration.Duration | undefined
  private isOpen = false
  private isClosed = false
  private inTransaction = false
  /** Whether a statement of the transaction failed. */
  private transactionFailed = false
  private dirty = false
  /** Whether BEGIN has not been sent yet. It is sent with the first statement. */
  private beginPending = false
  /** The error that BEGIN failed with. */
  private beginError: DatabaseError | undefined
  /** The id of the fiber that ran the last statement of the transaction, if the transport is synchronous. */
  private lastFiber: number | undefined
  /** How many transactions have ended. Each end closes the cursors that are open. */
  private endedTransactions = 0
  /** The version of the shared settings that the connection has. */
  private settingsVersion: number
  /** The setting that a transaction has changed, which the next reset undoes. */
  private temporarySetting: string | undefined
  private readonly lock = new RequestLock(maxInFlight)
  /** The statements of users that are in flight. */
  private readonly running = new Set<SentRequest>()
  /** Reports the transactions of a reader to the gap. */
  private readonly reader: ReaderTransactions | undefined

  constructor(private readonly options: Options) {
    this.settingsVersion = options.settings.version
    this.reader = options.isReader === true ? options.gap?.addReader(options.transport.ended) : undefined
    options.transport.onLost((reason) => this.lose(lostError(options.description, "statement", reason, {})))
  }

  get status(): Status {
    if (this.isClosed) {
      return "closed"
    }
    if (this.beginPending || (this.inTransaction && !this.transactionFailed)) {
      return "active"
    }
    return this.transaction !== undefined || this.inTransaction ? "aborted" : this.dirty ? "dirty" : "idle"
  }

  /** The setting that a transaction has changed, which the next reset undoes. Each is returned once. */
  takeTemporarySetting(): string | undefined {
    const setting = this.temporarySetting
    this.temporarySetting = undefined
    return setting
  }

  /** From now on a loss is reported to `onLost`. */
  markOpen(): void {
    this.isOpen = true
  }

  isInTransaction(): boolean {
    return this.inTransaction
  }

  checkpoint(onEnd: (result: CheckpointResult) => void): void {
    Effect.runCallback(this.perform({ _tag: "Checkpoint" }), {
      onExit: (exit) => onEnd(Exit.isSuccess(exit) ? exit.value as CheckpointResult : "busy")
    })
  }

  /** Closes without waiting. */
  destroy(): void {
    this.markClosed()
    this.options.transport.destroy()
  }

  /** Begins a transaction. BEGIN is sent with its first statement. Returns the error if it cannot begin here. */
  begin(options: BeginOptions): DatabaseError | undefined {
    if (this.isClosed) {
      return closedError(this.options.description)
    }
    if (this.inTransaction || this.transaction !== undefined) {
      return fromSqlite({ message: "cannot start a transaction within a transaction", code: "SQLITE_ERROR" }, {
        phase: "statement"
      })
    }
    this.transaction = options
    this.beginPending = true
    return undefined
  }

  /** From now on a transaction that a statement has begun can only be rolled back, like a failed one of `begin`. */
  failTransaction(): void {
    this.transactionFailed ||= this.inTransaction
  }

  perform(operation: Operation): Effect.Effect<unknown, DatabaseError> {
    return Effect.suspend(() => this.request(operation, (error) => error))
  }

  /** A cursor that is about to be opened. It exists until it is closed, or until the transaction around it ends. */
  makeCursor(id: number): Cursor {
    return { id, transaction: this.endedTransactions }
  }

  /**
   * Closes a cursor, unless it was closed with its transaction. If another request is in flight, this does not wait for
   * the engine, since the statement of that request may take long.
   */
  closeCursor({ id, transaction }: Cursor): Effect.Effect<void> {
    return Effect.suspend(() => {
      const closed = Effect.ignore(this.perform({ _tag: "FetchEnd", cursor: id, transaction }))
      return this.lock.isFree ? closed : Effect.asVoid(Effect.forkDaemon(closed))
    })
  }

  /** Closes the database. Later requests fail. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isClosed) {
      return Effect.void
    }
    this.markClosed()
    return Effect.ignore(this.requestAsync({ _tag: "Close" }, (error) => error, {}))
  })

  /**
   * Performs an operation. The call itself may perform it, if the transport is synchronous, so the effect that it returns
   * must be run exactly once and at once. `guard` is asked right before the request is sent.
   */
  request<E>(
    operation: Operation,
    fail: (error: DatabaseError) => E,
    statement: StatementInfo = operation as StatementInfo,
    guard?: StatementGuard
  ): Effect.Effect<unknown, E> {
    const { transport } = this.options
    if (!transport.synchronous) {
      const rows = guard === undefined && operation._tag === "Run" ? this.lookUp(operation) : undefined
      return rows === undefined ? this.requestAsync(operation, fail, statement, guard) : Exit.succeed(rows)
    }
    const fiber = guard === undefined ? undefined : currentFiber()
    if (!this.lock.isFree || operation._tag === "Backup" || this.waitsForIteration(fiber)) {
      return this.requestAsync(operation, fail, statement, guard, fiber)
    }
    const refused = guard?.refusal()
    if (refused !== undefined) {
      return Exit.fail(fail(refused))
    }
    const local = this.respondLocally(operation)
    if (local !== undefined) {
      return Exit.mapError(local, fail)
    }
    const request = this.makeRequest(operation)
    const wasInTransaction = this.inTransaction
    if (guard !== undefined) {
      guard.isSent = true
    }
    this.recordFiber(fiber)
    let exit: Effect.Effect<unknown, E> | undefined
    transport.send(request, this.timeoutOf(operation), (completion) => {
      const error = this.handleCompletion(request, statement, completion)
      exit = error === undefined
        ? Exit.succeed(completion._tag === "Responded" ? completion.response.value : undefined)
        : this.canRetry(request, wasInTransaction, error)
        ? undefined
        : Exit.fail(fail(this.applyFailure(request, error, true)))
    })
    if (exit !== undefined) {
      return exit
    }
    if (guard !== undefined) {
      guard.isSent = false
    }
    return this.requestAsync(operation, fail, statement, guard, fiber)
  }

  /**
   * The rows of a lookup. Undefined if the engine has to run the statement: in a transaction, while the connection has
   * state that another connection does not have, and if statements have blocked this thread for too long.
   */
  private lookUp(run: Run): ReadonlyArray<unknown> | undefined {
    const { extensions, lookups, settings } = this.options
    return lookups !== undefined && run.cached && run.form !== "raw" && this.status === "idle" && this.lock.isFree &&
        settings.version === 0 && extensions.length === 0 && !EventLoop.isBlocked()
      ? lookups.run(run)
      : undefined
  }

  /** Waits for the connection, for the response, and for the locks of other connections. */
  private requestAsync<E>(
    operation: Operation,
    fail: (error: DatabaseError) => E,
    statement: StatementInfo,
    guard?: StatementGuard,
    fiber?: CurrentFiber
  ): Effect.Effect<unknown, E> {
    return asyncInterrupt<unknown, E>((resume) => {
      const refused = guard?.refusal()
      if (refused !== undefined) {
        return resume(Exit.fail(fail(refused)))
      }
      const { gap, timeouts, transport } = this.options
      const reader = this.beginPending ? this.reader : undefined
      const readerFiber = reader === undefined ? undefined : currentFiber()?.id().id
      let sent: SentRequest | undefined
      let retryTimer: NodeJS.Timeout | undefined
      let endWait: (() => void) | undefined
      let deadline = Number.POSITIVE_INFINITY
      let done = false
      let canceled = false
      let onDone: (() => void) | undefined

      const complete = (exit: Exit.Exit<unknown, E>) => {
        done = true
        try {
          // Before the release, which may perform the request of another fiber synchronously.
          resume(exit)
        } finally {
          this.lock.release(waiter)
          onDone?.()
        }
      }
      const setSent = (isSent: boolean) => {
        if (guard !== undefined) {
          guard.isSent = isSent
        }
      }
      const attempt = (retryDelay: number) => {
        const local = operation._tag === "Close" ? undefined : this.respondLocally(operation)
        if (local !== undefined) {
          return complete(Exit.mapError(local, fail))
        }
        const request = this.makeRequest(operation)
        if (reader !== undefined && request.begin !== undefined) {
          if (waitForGap(retryDelay)) {
            return
          }
          reader.began(readerFiber)
        }
        const wasInTransaction = this.inTransaction
        let completed = false
        setSent(true)
        this.recordFiber(fiber)
        const sending = transport.send(request, this.timeoutOf(operation), (completion) => {
          completed = true
          if (sent !== undefined) {
            this.running.delete(sent)
            sent = undefined
          }
          const error = this.handleCompletion(request, statement, completion)
          if (error === undefined) {
            return complete(Exit.succeed(completion._tag === "Responded" ? completion.response.value : undefined))
          }
          const hadNoEffect = completion._tag === "NotSent" || this.canRetry(request, wasInTransaction, error)
          if (hadNoEffect) {
            setSent(false)
          }
          const remaining = deadline - performance.now()
          if (!canceled && remaining > 0 && hadNoEffect && completion._tag !== "NotSent") {
            retryTimer = setTimeout(
              () => attempt(Math.min(retryDelay * 2, maxRetryDelay)),
              Math.min(retryDelay * (1 + Math.random()) / 2, remaining)
            )
          } else {
            complete(
              Exit.fail(fail(completion._tag === "NotSent" ? error : this.applyFailure(request, error, !canceled)))
            )
          }
        })
        if (!completed) {
          sent = sending
          if (guard !== undefined) {
            this.running.add(sending)
          }
        }
      }
      /** Waits for a gap, once, and for no longer than the lock timeout and the statement timeout. */
      const waitForGap = (retryDelay: number): boolean => {
        if (gap === undefined || endWait !== undefined || this.transaction?.isEnclosed === true) {
          return false
        }
        const onEnd = () => {
          clearTimeout(retryTimer)
          endWait?.()
          const refused = guard?.refusal()
          if (refused !== undefined) {
            complete(Exit.fail(fail(refused)))
          } else {
            attempt(retryDelay)
          }
        }
        endWait = gap.wait(readerFiber, onEnd)
        if (endWait === undefined) {
          return false
        }
        const maxWait = Math.min(deadline - performance.now(), this.timeoutOf(operation) ?? Infinity)
        if (maxWait < Infinity) {
          retryTimer = setTimeout(onEnd, maxWait)
        }
        return true
      }
      const waiter: Waiter = {
        shared: this.canShare(operation),
        onAcquired: () => {
          const lockTimeout = millisOf(this.transaction?.lockTimeout ?? timeouts.lockTimeout ?? defaultLockTimeout)
          if (lockTimeout !== undefined) {
            deadline = performance.now() + lockTimeout
          }
          if (transport.synchronous && this.waitsForIteration(fiber)) {
            EventLoop.onNextIteration(() => {
              if (!canceled) {
                attempt(minRetryDelay)
              }
            })
          } else {
            attempt(minRetryDelay)
          }
        }
      }
      this.lock.acquire(waiter)
      return Effect.async<void>((resume) => {
        canceled = true
        if (!done && sent === undefined) {
          // The request has done nothing: it was not sent, or has found the file locked.
          clearTimeout(retryTimer)
          endWait?.()
          this.lock.release(waiter)
        }
        if (done || sent === undefined) {
          resume(Effect.void)
        } else if (sent.cancel()) {
          setSent(false)
          resume(Effect.void)
        } else {
          onDone = () => resume(Effect.void)
        }
      })
    })
  }

  /**
   * Whether a request of a synchronous transport waits for the next iteration of the event loop. It does if the event
   * loop was blocked for too long, or if another fiber has run the last statement of the transaction. What that fiber
   * causes, such as the interruption of this one when it has won a race, then happens before this statement runs.
   */
  private waitsForIteration(fiber: CurrentFiber): boolean {
    return EventLoop.isBlocked() ||
      (fiber !== undefined && this.lastFiber !== undefined && this.lastFiber !== fiber.id().id &&
        !EventLoop.runsSynchronously())
  }

  private recordFiber(fiber: CurrentFiber): void {
    if (fiber !== undefined && (this.transaction !== undefined || this.inTransaction)) {
      this.lastFiber = fiber.id().id
    }
  }

  /** Cancels the statements of users that are in flight. They fail, unless they complete first. */
  cancelStatements(): void {
    for (const sent of this.running) {
      sent.cancel()
    }
  }

  /**
   * Whether an operation may be in flight together with others. Only in a transaction that has its locks: elsewhere it
   * may find the file busy, and its retry would come after later requests.
   */
  private canShare(operation: Operation): boolean {
    return operation._tag === "Run" && this.transaction !== undefined && !this.beginPending &&
      this.timeoutOf(operation) === undefined && isDataStatement(operation.sql)
  }

  private timeoutOf(operation: Operation): number | undefined {
    return runsStatement(operation)
      ? millisOf(
        this.transaction?.statementTimeout ?? this.statementTimeout ?? this.options.timeouts.statementTimeout
      )
      : undefined
  }

  private makeRequest(operation: Operation): Request {
    const { extensions, settings } = this.options
    const begins = this.beginPending &&
      (operation._tag === "Run" || operation._tag === "RunMany" || operation._tag === "Fetch")
    return {
      operation,
      begin: begins
        ? {
          readOnly: this.transaction?.readOnly === true,
          extensions,
          settings: settings.after(this.settingsVersion),
          settingsVersion: settings.version
        }
        : undefined,
      requiresTransaction: (this.transaction === undefined ? this.transactionFailed : !this.beginPending) &&
        (runsStatement(operation) || operation._tag === "Commit"),
      transactionFailed: this.transactionFailed
    }
  }

  /** The result of an operation that the engine need not perform, undefined for all others. */
  private respondLocally(operation: Operation): Exit.Exit<void, DatabaseError> | undefined {
    const noTransaction = this.transaction === undefined && !this.inTransaction
    if (operation._tag === "FetchEnd" && operation.transaction !== this.endedTransactions) {
      return Exit.void
    }
    if (this.isClosed || noTransaction) {
      return operation._tag === "Rollback"
        ? Exit.void
        : this.isClosed
        ? Exit.fail(closedError(this.options.description))
        : undefined
    }
    if (this.beginError !== undefined && (runsStatement(operation) || operation._tag === "Commit")) {
      return Exit.fail(this.beginError)
    }
    const notBegun = this.beginPending || this.beginError !== undefined
    if (notBegun && (operation._tag === "Commit" || operation._tag === "Rollback")) {
      this.clearTransaction()
      return Exit.void
    }
    return undefined
  }

  private clearTransaction(): void {
    this.transaction = undefined
    this.beginPending = false
    this.beginError = undefined
    this.lastFiber = undefined
  }

  /** Applies the completion of a request. Loses the connection if that throws, since its state is unknown then. */
  private handleCompletion(
    request: Request,
    statement: StatementInfo,
    completion: Completion
  ): DatabaseError | undefined {
    const commits = request.operation._tag === "Commit" || (!this.inTransaction && request.begin === undefined)
    try {
      return this.applyCompletion(request, statement, completion)
    } catch {
      const error = lostError(
        this.options.description,
        commits ? "commit" : "statement",
        "the response to a request could not be handled",
        {}
      )
      this.lose(error)
      return error
    }
  }

  /** Updates the state of the connection, and returns the error if the request failed. */
  private applyCompletion(
    { begin, operation }: Request,
    statement: StatementInfo,
    completion: Completion
  ): DatabaseError | undefined {
    const { description } = this.options
    if (completion._tag === "Lost") {
      const phase = completion.committing ? "commit" : operation._tag === "Open" ? "connect" : "statement"
      const error = lostError(description, phase, completion.reason, statement)
      this.lose(error)
      return completion.timedOut ? timeoutError(statement) : error
    }
    if (completion._tag === "NotSent") {
      if (begin !== undefined) {
        this.reader?.ended()
      }
      return notSentError(statement)
    }
    const { dirty, failure, inTransaction, setting, transactionBegun, transactionFailed, walSize } = completion.response
    this.inTransaction = inTransaction
    // If a lock timeout fails the transaction while a request is in flight, its response does not show that failure.
    this.transactionFailed = transactionFailed ||
      (this.transactionFailed && inTransaction && !(failure === undefined && isRollbackStatement(operation)))
    this.dirty = dirty
    if (!inTransaction) {
      this.lastFiber = undefined
    }
    if (endsTransaction(operation)) {
      this.endedTransactions++
    }
    if (begin !== undefined && transactionBegun) {
      this.beginPending = false
      this.settingsVersion = begin.settingsVersion
    }
    if (setting !== undefined) {
      this.recordSetting(setting)
    }
    if (!inTransaction && endsTransaction(operation)) {
      this.clearTransaction()
    }
    if (!inTransaction) {
      this.reader?.ended()
      if (walSize !== undefined) {
        this.options.gap?.written(this, walSize)
      }
    }
    if (failure === undefined) {
      return undefined
    }
    if (failure.code === transactionOver) {
      return abortedError(failure.message, statement)
    }
    if (completion.timedOut && failure.code === "SQLITE_INTERRUPT") {
      return timeoutError(statement)
    }
    const params = operation._tag === "RunMany" ? operation.rows[failure.row ?? -1] : statement.params
    const error = fromSqlite(failure, {
      phase: phaseOf(operation),
      description,
      statement: statement.sql,
      params: failure.values.length === 0 ? params : failure.values.concat(params ?? []),
      line: failure.row === undefined ? undefined : statement.lines?.[failure.row]
    })
    if (error._tag === "ConnectionLost" || error._tag === "CommitOutcomeUnknown") {
      this.lose(error)
    }
    return error
  }

  /** Outside of a transaction a changed setting holds for all connections, and inside until the connection is reset. */
  private recordSetting(setting: ChangedSetting): void {
    const { settings } = this.options
    if (this.dirty && this.inTransaction) {
      this.temporarySetting = setting.key
    } else {
      const isCurrent = settings.version === this.settingsVersion
      settings.record(setting)
      if (isCurrent) {
        this.settingsVersion = settings.version
      }
    }
  }

  /**
   * Applies a failure that is not retried. If BEGIN failed, the transaction's later statements and its commit fail with
   * the same error, unless the caller was interrupted and did not learn of it: then the next statement begins it.
   */
  private applyFailure({ begin, operation }: Request, error: DatabaseError, reported: boolean): DatabaseError {
    if (reported && begin !== undefined && this.beginPending) {
      this.beginPending = false
      this.beginError = error
    } else if (reported && isBusy(error.code)) {
      // A statement that gives up waiting for a lock fails its transaction.
      this.transactionFailed ||= this.inTransaction && this.transaction !== undefined && runsStatement(operation)
    }
    return error
  }

  /** Whether a request failed because of another connection's lock, without having done or read anything. */
  private canRetry({ begin, operation }: Request, wasInTransaction: boolean, error: DatabaseError): boolean {
    const expectedInTransaction = wasInTransaction || (begin !== undefined && !this.beginPending)
    return !this.isClosed && this.inTransaction === expectedInTransaction && operation._tag !== "FetchNext" &&
      operation._tag !== "Open" &&
      isBusy(error.code) && (error._tag === "LockTimeout" || !this.inTransaction)
  }

  /** The lookups are closed before the engine: the connection that closes the file last empties the WAL. */
  private markClosed(): void {
    this.isClosed = true
    this.options.lookups?.close()
    this.options.gap?.closed(this)
  }

  private lose(error: DatabaseError): void {
    if (!this.isClosed) {
      this.markClosed()
      this.options.transport.destroy()
      if (this.isOpen) {
        this.options.onLost(error)
      }
    }
  }
}
