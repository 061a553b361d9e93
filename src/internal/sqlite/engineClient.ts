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
import type { BeginOptions, Refusal, Status } from "../driver.js"
import type { Context } from "../makeError.js"
import { abortedError, closedError, lostError, notSentError, type StatementInfo, timeoutError } from "./errors.js"
import * as EventLoop from "./eventLoop.js"
import {
  isBusy,
  isRollbackStatement,
  maxInFlight,
  type Operation,
  type Request,
  runsStatement,
  transactionOver
} from "./protocol.js"
import { RequestLock, type Waiter } from "./requestLock.js"
import { fromSqlite } from "./resultCode.js"
import { isDataStatement } from "./statementText.js"
import type { Completion, SentRequest, Transport } from "./transport.js"

/** The timeouts of statements. Undefined or zero is none, except that `lockTimeout` is 5 seconds by default. */
export interface Timeouts {
  readonly statementTimeout?: Duration.Duration | undefined
  readonly lockTimeout?: Duration.Duration | undefined
}

export interface Options {
  readonly transport: Transport
  /** Names the database in errors. */
  readonly description: string
  readonly timeouts: Timeouts
  /** How long opening may wait for another connection's lock. */
  readonly openTimeout: Duration.Duration
  /** The extensions that were loaded so far. The driver appends to it. */
  readonly extensions: ReadonlyArray<string>
  /** Called at most once, when a connection that was opened is lost. */
  readonly onLost: (error: DatabaseError) => void
}

const defaultLockTimeout = Duration.seconds(5)

/** The delay before the first retry of a busy request, in milliseconds. It doubles with each retry, and is jittered. */
const minRetryDelay = 1
const maxRetryDelay = 50

/** In milliseconds, undefined if there is no limit. */
const millisOf = (duration: Duration.Duration | undefined): number | undefined => {
  const millis = duration === undefined ? 0 : Duration.toMillis(duration)
  return millis > 0 && Number.isFinite(millis) ? millis : undefined
}

const endsTransaction = ({ _tag }: Operation): boolean => _tag === "Commit" || _tag === "Rollback" || _tag === "Reset"

const phaseOf = ({ _tag }: Operation): Context["phase"] =>
  _tag === "Open" ? "connect" : _tag === "Commit" ? "commit" : "statement"

export class EngineClient {
  /** The options of `begin`, until the transaction is committed or rolled back by a request. */
  transaction: BeginOptions | undefined
  private isOpen = false
  private isClosed = false
  private inTransaction = false
  /** Whether a statement of the transaction failed. */
  private transactionFailed = false
  private dirty = false
  /** Whether BEGIN has not been sent yet. It goes with the first statement. */
  private beginPending = false
  /** The error that BEGIN failed with. */
  private beginError: DatabaseError | undefined
  private readonly lock = new RequestLock(maxInFlight)

  constructor(private readonly options: Options) {
    options.transport.onLost((reason) => this.lose(lostError(options.description, "statement", reason, {})))
  }

  get status(): Status {
    if (this.isClosed) {
      return "closed"
    }
    if (this.beginPending || (this.inTransaction && !this.transactionFailed)) {
      return "active"
    }
    return this.transaction !== undefined ? "aborted" : this.dirty ? "dirty" : "idle"
  }

  /** From now on a loss is reported to `onLost`. */
  markOpen(): void {
    this.isOpen = true
  }

  /** Closes without waiting. */
  destroy(): void {
    this.isClosed = true
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

  perform(operation: Operation): Effect.Effect<unknown, DatabaseError> {
    return Effect.suspend(() => this.request(operation, (error) => error))
  }

  /** Closes the database. Later requests fail. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isClosed) {
      return Effect.void
    }
    this.isClosed = true
    return Effect.ignore(this.requestAsync({ _tag: "Close" }, (error) => error, {}))
  })

  /**
   * Performs an operation. The call itself may perform it, if the transport is synchronous, so the effect that it returns
   * must be run exactly once and at once. `refusal` is checked right before the request is sent.
   */
  request<E>(
    operation: Operation,
    fail: (error: DatabaseError) => E,
    statement: StatementInfo = operation as StatementInfo,
    refusal?: Refusal
  ): Effect.Effect<unknown, E> {
    const { transport } = this.options
    if (!transport.synchronous || !this.lock.isFree || operation._tag === "Backup" || EventLoop.isBlocked()) {
      return this.requestAsync(operation, fail, statement, refusal)
    }
    const refused = refusal?.()
    if (refused !== undefined) {
      return Exit.fail(fail(refused))
    }
    const local = this.respondLocally(operation)
    if (local !== undefined) {
      return Exit.mapError(local, fail)
    }
    const request = this.makeRequest(operation)
    const wasInTransaction = this.inTransaction
    let exit: Effect.Effect<unknown, E> | undefined
    transport.send(request, this.timeoutOf(operation), (completion) => {
      const error = this.applyCompletion(request, statement, completion)
      exit = error === undefined
        ? Exit.succeed(completion._tag === "Responded" ? completion.response.value : undefined)
        : this.canRetry(request, wasInTransaction, error)
        ? undefined
        : Exit.fail(fail(this.applyFailure(request, error, true)))
    })
    return exit ?? this.requestAsync(operation, fail, statement, refusal)
  }

  /** Waits for the connection, for the response, and for the locks of other connections. */
  private requestAsync<E>(
    operation: Operation,
    fail: (error: DatabaseError) => E,
    statement: StatementInfo,
    refusal?: Refusal
  ): Effect.Effect<unknown, E> {
    return asyncInterrupt<unknown, E>((resume) => {
      const refused = refusal?.()
      if (refused !== undefined) {
        return resume(Exit.fail(fail(refused)))
      }
      const { openTimeout, timeouts, transport } = this.options
      let sent: SentRequest | undefined
      let retryTimer: NodeJS.Timeout | undefined
      let deadline = Number.POSITIVE_INFINITY
      let done = false
      let canceled = false
      let onDone: (() => void) | undefined

      const complete = (exit: Exit.Exit<unknown, E>) => {
        done = true
        // First, so that this fiber goes on before one whose request is performed synchronously by the release.
        resume(exit)
        this.lock.release(waiter)
        onDone?.()
      }
      const attempt = (retryDelay: number) => {
        const local = operation._tag === "Close" ? undefined : this.respondLocally(operation)
        if (local !== undefined) {
          return complete(Exit.mapError(local, fail))
        }
        const request = this.makeRequest(operation)
        const wasInTransaction = this.inTransaction
        let completed = false
        const sending = transport.send(request, this.timeoutOf(operation), (completion) => {
          completed = true
          sent = undefined
          const error = this.applyCompletion(request, statement, completion)
          if (error === undefined) {
            return complete(Exit.succeed(completion._tag === "Responded" ? completion.response.value : undefined))
          }
          const remaining = deadline - performance.now()
          if (!canceled && remaining > 0 && this.canRetry(request, wasInTransaction, error)) {
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
        }
      }
      const waiter: Waiter = {
        shared: this.canShare(operation),
        onAcquired: () => {
          const lockTimeout = millisOf(
            operation._tag === "Open"
              ? openTimeout
              : this.transaction?.lockTimeout ?? timeouts.lockTimeout ?? defaultLockTimeout
          )
          if (lockTimeout !== undefined) {
            deadline = performance.now() + lockTimeout
          }
          if (transport.synchronous && EventLoop.isBlocked()) {
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
          if (retryTimer !== undefined) {
            this.applyLockTimeout(operation)
          }
          clearTimeout(retryTimer)
          this.lock.release(waiter)
        }
        if (done || sent === undefined || sent.cancel()) {
          resume(Effect.void)
        } else {
          onDone = () => resume(Effect.void)
        }
      })
    })
  }

  /**
   * Whether an operation may be in flight together with others. Only in a transaction that has its locks: elsewhere one
   * may find the file busy, and its retry would come after the requests behind it.
   */
  private canShare(operation: Operation): boolean {
    return operation._tag === "Run" && this.transaction !== undefined && !this.beginPending &&
      this.timeoutOf(operation) === undefined && isDataStatement(operation.sql)
  }

  private timeoutOf(operation: Operation): number | undefined {
    return runsStatement(operation)
      ? millisOf(this.transaction?.statementTimeout ?? this.options.timeouts.statementTimeout)
      : undefined
  }

  private makeRequest(operation: Operation): Request {
    const { extensions } = this.options
    const begins = this.beginPending && (operation._tag === "Run" || operation._tag === "Fetch")
    return {
      operation,
      begin: begins ? { readOnly: this.transaction?.readOnly === true, extensions } : undefined,
      requiresTransaction: this.transaction !== undefined && !this.beginPending &&
        (runsStatement(operation) || operation._tag === "Commit"),
      transactionFailed: this.transactionFailed
    }
  }

  /** The result of an operation that the engine need not perform, undefined for all others. */
  private respondLocally(operation: Operation): Exit.Exit<void, DatabaseError> | undefined {
    const noTransaction = this.transaction === undefined && !this.inTransaction
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
      return notSentError(statement)
    }
    const { dirty, failure, inTransaction, transactionBegun, transactionFailed } = completion.response
    this.inTransaction = inTransaction
    // A request that was already in flight does not know of a lock timeout that failed the transaction here.
    this.transactionFailed = transactionFailed ||
      (this.transactionFailed && inTransaction && !(failure === undefined && isRollbackStatement(operation)))
    this.dirty = dirty
    if (begin !== undefined && transactionBegun) {
      this.beginPending = false
    }
    if (!inTransaction && endsTransaction(operation)) {
      this.clearTransaction()
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
    const error = fromSqlite(failure, {
      phase: phaseOf(operation),
      description,
      statement: statement.sql,
      params: statement.params
    })
    if (error._tag === "ConnectionLost" || error._tag === "CommitOutcomeUnknown") {
      this.lose(error)
    }
    return error
  }

  /**
   * Applies a failure that is not retried. If BEGIN failed, the transaction's later statements and its commit fail with
   * the same error, unless the caller was interrupted and did not learn of it: then the next statement begins it.
   */
  private applyFailure({ begin, operation }: Request, error: DatabaseError, reported: boolean): DatabaseError {
    if (begin === undefined || !this.beginPending) {
      if (isBusy(error.code)) {
        this.applyLockTimeout(operation)
      }
    } else if (reported) {
      this.beginPending = false
      this.beginError = error
    }
    return error
  }

  /** A statement that gives up waiting for a lock fails its transaction. */
  private applyLockTimeout(operation: Operation): void {
    this.transactionFailed ||= this.inTransaction && this.transaction !== undefined && runsStatement(operation)
  }

  /** Whether a request failed because of another connection's lock, without having done or read anything. */
  private canRetry({ begin, operation }: Request, wasInTransaction: boolean, error: DatabaseError): boolean {
    const expectedInTransaction = wasInTransaction || (begin !== undefined && !this.beginPending)
    return !this.isClosed && this.inTransaction === expectedInTransaction && operation._tag !== "FetchNext" &&
      isBusy(error.code) && (error._tag === "LockTimeout" || !this.inTransaction)
  }

  private lose(error: DatabaseError): void {
    if (!this.isClosed) {
      this.isClosed = true
      this.options.transport.destroy()
      if (this.isOpen) {
        this.options.onLost(error)
      }
    }
  }
}
