/**
 * One level of a session: the outermost one, which leases a connection, or one nested in it, which is a savepoint. Either
 * begins with its first statement.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import { type DatabaseError, type Dialect, isDatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Lease, Restore } from "../../Pool.js"
import { type DefaultOptions, type Options, type Service, Session } from "../../Session.js"
import type { Track } from "../cluster/causality.js"
import type { Route } from "../cluster/route.js"
import type { Connection } from "../driver.js"
import { type CurrentFiber, isInterrupted } from "../fiber.js"
import { FifoLock } from "../fifoLock.js"
import { raceFirst } from "../raceFirst.js"
import type { SessionActivity } from "../telemetry/activity.js"
import { BorrowedConnection } from "./borrowedConnection.js"
import { ConnectionLock } from "./connectionLock.js"
import { readFromNested, selfDeadlock, sessionEnded, statementInterrupted } from "./errors.js"
import { defaultName } from "./log.js"
import type { Reserved } from "./reserved.js"

let count = 0

const idPrefix = `${process.pid.toString(36)}-`

const noListener = (): void => undefined

/** What a transaction is made of. */
export interface TransactionOptions {
  /** Identifies the database that it belongs to. */
  readonly database: object
  readonly dialect: Dialect
  /** What telemetry shows of the outermost session. */
  readonly activity: SessionActivity
  readonly options: Options
  /** The defaults that were merged into the options. */
  readonly defaults?: DefaultOptions | undefined
  /** The session of the same database that it is nested in. */
  readonly parent: Transaction | undefined
  /** The session or reserved connection, of any database, that encloses it in the program. */
  readonly enclosing: Enclosing
  /** Only for an outermost one: where it runs, if it may run on replicas. */
  readonly route?: Route | undefined
  /** Only for an outermost one: the commits that it has to see, and the histories that record its own. */
  readonly track?: Track | undefined
  /**
   * Begins the transaction with its first statement, and gives its connection. Must be run uninterruptibly, with the
   * `restore` of that region.
   */
  readonly begin: (transaction: Transaction, restore: Restore) => Effect.Effect<Connection, DatabaseError>
}

/** What encloses a session in the program: another session, or a reserved connection. */
export type Enclosing = Transaction | Reserved | undefined

export class Transaction extends BorrowedConnection implements Service {
  readonly database: object
  readonly dialect: Dialect
  readonly activity: SessionActivity
  readonly options: Options
  readonly defaults: DefaultOptions | undefined
  readonly parent: Transaction | undefined
  readonly enclosing: Enclosing
  readonly route: Route | undefined
  readonly track: Track | undefined
  readonly name: string
  /** 0 is the outermost. */
  readonly depth: number
  readonly outermost: Transaction
  readonly connectionLock = new ConnectionLock()
  readonly commitHooks: Array<Effect.Effect<void>> = []
  readonly rollbackHooks: Array<Effect.Effect<void>> = []
  /** Only of the outermost one: the rollback hooks of nested ones that were rolled back. They run in any case. */
  readonly nestedRollbackHooks: Array<Effect.Effect<void>> = []
  isRollbackOnly = false
  /** How many handles that joined this transaction are open. */
  openJoined = 0
  /** Only of the outermost one: the lease on its connection, from its first statement on. */
  lease: Lease<Connection> | undefined = undefined
  /** The connection, once the transaction has begun. */
  connection: Connection | undefined = undefined
  /** Why nothing of this transaction can be committed any more, although it has not ended. */
  abortReason: DatabaseError | undefined = undefined
  /** The last failure of a statement of this transaction, other than that the transaction is aborted already. */
  failure: DatabaseError | undefined = undefined
  /** The fiber that it runs in. Undefined if its interruption does not end it, and for a handle, which has none. */
  fiber: CurrentFiber = undefined
  /** The error of the last attempt to begin it that failed. */
  beginError: DatabaseError | undefined = undefined
  private readonly begin: TransactionOptions["begin"]
  private readonly beginLock = new FifoLock()
  /** How many attempts to begin it have failed. */
  private failedBegins = 0
  private readonly number = ++count
  private hasEnded = false
  private onEnd: () => void = noListener
  private endError: DatabaseError | undefined = undefined
  private savepoints = 0

  constructor(
    { activity, begin, database, defaults, dialect, enclosing, options, parent, route, track }: TransactionOptions
  ) {
    super()
    this.database = database
    this.dialect = dialect
    this.activity = activity
    this.options = options
    this.defaults = defaults
    this.parent = parent
    this.enclosing = enclosing
    this.route = route
    this.track = track
    this.begin = begin
    this.name = options.name ?? defaultName
    this.depth = parent === undefined ? 0 : parent.depth + 1
    this.outermost = parent === undefined ? this : parent.outermost
  }

  /** A transaction nested in this one. */
  child(options: Options, enclosing: Enclosing, begin: TransactionOptions["begin"]): Transaction {
    const { activity, database, dialect } = this
    return new Transaction({ database, dialect, activity, options, parent: this, enclosing, begin })
  }

  get id(): string {
    return idPrefix + this.number.toString(36)
  }

  /** Why it, or a session around it, has ended. Undefined while all of them are open. */
  endReason(): DatabaseError | undefined {
    const parentReason = this.endError === undefined ? this.parent?.endReason() : undefined
    return this.hasEnded ? this.endError ??= parentReason ?? sessionEnded(this) : parentReason
  }

  refusal(): DatabaseError | undefined {
    return this.endReason() ?? this.abortReason ?? this.parent?.refusal()
  }

  /** Whether it, or a session around it, was interrupted, by its timeout or otherwise. */
  override get isInterrupted(): boolean {
    return isInterrupted(this.fiber) || this.parent?.isInterrupted === true
  }

  /** Whether a session nested in this one, or a handle that joined it, is open. */
  get hasOpenChildren(): boolean {
    return !this.connectionLock.isFree || this.openJoined > 0
  }

  /** The error of a fiber that would wait for itself, since it holds the lock through a handle. */
  selfDeadlock(fiber: FiberId.FiberId): DatabaseError | undefined {
    return this.connectionLock.holder?.fiber === fiber ? selfDeadlock(this, fiber) : undefined
  }

  /**
   * Begins the transaction unless it has begun. Statements that start together begin it once, and fail together if it
   * cannot begin, so that none of them waits for a connection for longer than the pool's timeout. Must be called by the fiber
   * that runs the result, and run uninterruptibly, with the `restore` of that region.
   */
  beginConnection(restore: Restore): Effect.Effect<Connection, DatabaseError> {
    const { failedBegins } = this
    const begin = (): Effect.Effect<Connection, DatabaseError> => {
      const begun = this.begunConnection()
      const error = this.refusal() ?? (this.failedBegins > failedBegins ? this.beginError : undefined)
      return error !== undefined
        ? Effect.fail(error)
        : begun !== undefined
        ? Effect.succeed(begun)
        : this.begin(this, restore)
    }
    const beginAndRelease = (): Effect.Effect<Connection, DatabaseError> =>
      Effect.matchCauseEffect(Effect.suspend(begin), {
        onFailure: (cause) => {
          const failure = Cause.failureOption(cause)
          if (Option.isSome(failure)) {
            this.failedBegins++
            this.beginError = failure.value
          }
          this.beginLock.release()
          return Effect.failCause(cause)
        },
        onSuccess: (connection) => {
          this.beginLock.release()
          return Effect.succeed(connection)
        }
      })
    return this.beginLock.tryAcquire()
      ? beginAndRelease()
      : Effect.flatMap(this.beginLock.acquire(restore), beginAndRelease)
  }

  /** Runs a wait of `begin`, which fails as soon as this transaction, or one around it, has ended. */
  untilEnd<A, E, R>(wait: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return raceFirst(
      wait,
      Effect.async<never>((resume) =>
        this.whenEnded(() => resume(Effect.fail(this.endReason()) as Effect.Effect<never>))
      )
    )
  }

  /** Calls `f` when it ends, or at once if it has. Replaces the function of an earlier call. */
  whenEnded(f: () => void): void {
    this.onEnd = f
    if (this.hasEnded) {
      f()
    }
  }

  /** Waits until no statement is beginning the transaction. */
  get beginSettled(): Effect.Effect<void> {
    return this.beginLock.waitUntilFree
  }

  /** Makes its statements fail from now on, with `error` or SessionClosed. Returns false if they did before. */
  end(error?: DatabaseError): boolean {
    const isFirst = !this.hasEnded
    if (isFirst) {
      this.hasEnded = true
      this.endError = error
      this.onEnd()
    }
    return isFirst
  }

  /** A savepoint name that is unique in the transaction. */
  nextSavepoint(): string {
    return `sqlayer_${++this.outermost.savepoints}`
  }

  afterCommit(effect: Effect.Effect<void>): void {
    this.commitHooks.push(effect)
  }

  afterRollback(effect: Effect.Effect<void>): void {
    this.rollbackHooks.push(effect)
  }

  rollbackOnly(): void {
    this.isRollbackOnly = true
  }

  /** Takes over the hooks of a nested session that was released: they now depend on the outcome of this one. */
  adoptHooks(child: Transaction): void {
    this.commitHooks.push(...child.commitHooks)
    this.rollbackHooks.push(...child.rollbackHooks)
  }

  override waitForLock() {
    return this.connectionLock.isFree ? undefined : Effect.withFiberRuntime<void, SqlError>((fiber) => {
      const current = fiber.currentContext.unsafeMap.get(Session.key)
      const refusal = this.selfDeadlock(fiber.id()) ??
        (current instanceof Transaction && current.isNestedIn(this) ? readFromNested(this, current) : undefined)
      return refusal === undefined ? this.connectionLock.waitUntilFree : Effect.fail(toSqlError(refusal))
    })
  }

  /** A nested transaction has to begin anew when the outermost one has moved to another connection. */
  protected begunConnection() {
    return this.connection === this.outermost.connection ? this.connection : undefined
  }

  override get isTentative(): boolean {
    return this.outermost.route?.isTentative === true
  }

  protected override answered(): void {
    this.outermost.route?.noteAnswered()
  }

  protected override moves(connection: Connection, error: unknown): boolean {
    const { outermost } = this
    const { connection: current, lease, route } = outermost
    if (this.refusal() !== undefined || route === undefined) {
      return false
    }
    if (current !== connection) {
      // A concurrent statement has moved it.
      return true
    }
    if (!route.isTentative || !isDatabaseError(error) || !route.noteFailed(error)) {
      return false
    }
    outermost.lease = undefined
    outermost.connection = undefined
    lease?.giveBack()
    return true
  }

  override statementInterrupted() {
    this.abortReason ??= statementInterrupted(this)
    return undefined
  }

  private isNestedIn(other: Transaction): boolean {
    return this.parent === other || this.parent?.isNestedIn(other) === true
  }
}
