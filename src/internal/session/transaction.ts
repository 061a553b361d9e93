/**
 * One level of a session: the outermost one, which leases a connection, or one nested in it, which is a savepoint.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import * as Stream from "effect/Stream"
import { type DatabaseError, type Dialect, SessionClosed, toSqlError } from "../../DatabaseError.js"
import type { Lease } from "../../Pool.js"
import type { Options, Service } from "../../Session.js"
import type { Connection, Refusal } from "../driver.js"
import type { SessionActivity } from "../telemetry/activity.js"
import { ConnectionLock } from "./connectionLock.js"
import { selfDeadlock } from "./errors.js"
import { defaultName, sessionLabel } from "./log.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** The refusal of a statement that has to wait for the connection lock after all. It never reaches the caller. */
const connectionLocked: DatabaseError = new SessionClosed({
  dialect: "postgres",
  code: "25P01",
  reason: "a nested session runs"
})

/** Runs a statement on a connection, which calls `refusal` right before it sends the statement. */
type Use<A> = (connection: Connection, refusal: Refusal) => Effect.Effect<A, SqlError>

/** A connection that its holder may use for a limited time. */
abstract class RevocableConnection implements SqlConnection.Connection {
  constructor(readonly connection: Connection) {}

  /** Called when a statement is sent, since its fiber may have been suspended since it was admitted. */
  private readonly refusalOnSend: Refusal = () =>
    this.refusal() ?? (this.waitForLock() === undefined ? undefined : connectionLocked)

  /** Why it may not be used any more. */
  abstract refusal(): DatabaseError | undefined

  /** Waits for the connection lock, if a statement has to. Must be called by the fiber that runs the statement. */
  protected abstract waitForLock(): Effect.Effect<void, SqlError> | undefined

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.suspendUse((connection, refusal) => connection.execute(sql, params, transformRows, refusal))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.suspendUse((connection, refusal) => connection.executeRaw(sql, params, refusal))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.suspendUse((connection, refusal) => connection.executeValues(sql, params, refusal))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.suspendUse((connection, refusal) => connection.executeUnprepared(sql, params, transformRows, refusal))
  }

  executeStream(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows
  ): Stream.Stream<unknown, SqlError> {
    return Stream.unwrap(this.suspendUse((connection) =>
      Effect.sync(() => {
        let isOpen = false
        // Only the first batch waits for the lock: a stream that is open can be read while a nested session runs.
        const refusal: Refusal = () => {
          const refused = isOpen ? this.refusal() : this.refusalOnSend()
          isOpen ||= refused === undefined
          return refused
        }
        return Stream.catchAll(
          connection.executeStream(sql, params, transformRows, refusal),
          (error) =>
            error.cause === connectionLocked ? this.executeStream(sql, params, transformRows) : Stream.fail(error)
        )
      })
    ))
  }

  /** Uses the connection, if need be after waiting for the lock. Must be called by the fiber that runs the result. */
  useConnection<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    const wait = this.waitForLock()
    return wait === undefined ? this.use(f) : Effect.zipRight(wait, Effect.suspend(() => this.use(f)))
  }

  private suspendUse<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    return Effect.suspend(() => this.useConnection(f))
  }

  private use<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    const refusal = this.refusal()
    return refusal === undefined
      ? Effect.catchAll(
        f(this.connection, this.refusalOnSend),
        (error) => error.cause === connectionLocked ? this.suspendUse(f) : Effect.fail(error)
      )
      : Effect.fail(toSqlError(refusal))
  }
}

/** The connection that `reserve` gives, until its scope closes. */
export class Reserved extends RevocableConnection {
  closed: DatabaseError | undefined = undefined

  refusal() {
    return this.closed
  }

  protected waitForLock() {
    return undefined
  }
}

let count = 0

const idPrefix = `${process.pid.toString(36)}-`

export class Transaction extends RevocableConnection implements Service {
  readonly name: string
  /** 0 is the outermost. */
  readonly depth: number
  readonly outermost: Transaction
  readonly connectionLock = new ConnectionLock()
  readonly commitHooks: Array<Effect.Effect<void>> = []
  readonly rollbackHooks: Array<Effect.Effect<void>> = []
  /** Of the outermost: the rollback hooks of nested ones that were rolled back, to be run whatever becomes of it. */
  readonly nestedRollbackHooks: Array<Effect.Effect<void>> = []
  isRollbackOnly = false
  /** How many handles that joined this transaction are open. */
  openJoined = 0
  private readonly number = ++count
  private hasEnded = false
  private endError: DatabaseError | undefined = undefined
  private savepoints = 0

  constructor(
    /** Identifies the database that it belongs to. */
    readonly database: object,
    readonly dialect: Dialect,
    readonly lease: Lease<Connection>,
    /** The record of the outermost session in telemetry. */
    readonly activity: SessionActivity,
    readonly options: Options,
    /** The session of the same database that it is nested in. */
    readonly parent: Transaction | undefined,
    /** The session, of any database, that encloses it in the program. */
    readonly enclosing: Transaction | undefined
  ) {
    super(lease.connection)
    this.name = options.name ?? defaultName
    this.depth = parent === undefined ? 0 : parent.depth + 1
    this.outermost = parent === undefined ? this : parent.outermost
  }

  /** A transaction nested in this one. */
  child(options: Options, enclosing: Transaction | undefined): Transaction {
    return new Transaction(this.database, this.dialect, this.lease, this.activity, options, this, enclosing)
  }

  get id(): string {
    return idPrefix + this.number.toString(36)
  }

  refusal(): DatabaseError | undefined {
    if (!this.hasEnded) {
      return this.parent?.refusal()
    }
    return this.endError ??= new SessionClosed({
      dialect: this.dialect,
      code: "25P01",
      reason: `${sessionLabel(this.name)} (${this.id}) has ended`
    })
  }

  /** Whether a session nested in this one, or a handle that joined it, is open. */
  get hasOpenChildren(): boolean {
    return !this.connectionLock.isFree || this.openJoined > 0
  }

  /** The error of a fiber that must not wait for the lock, since it holds it by a handle. */
  selfDeadlock(fiber: FiberId.FiberId): DatabaseError | undefined {
    return this.connectionLock.holder?.fiber === fiber ? selfDeadlock(this, fiber) : undefined
  }

  protected waitForLock() {
    return this.connectionLock.isFree ? undefined : Effect.withFiberRuntime<void, SqlError>((fiber) => {
      const refusal = this.selfDeadlock(fiber.id())
      return refusal === undefined ? this.connectionLock.waitUntilFree : Effect.fail(toSqlError(refusal))
    })
  }

  /** Makes its statements fail from now on, with `error` or SessionClosed. Returns false if they did before. */
  end(error?: DatabaseError): boolean {
    const isFirst = !this.hasEnded
    if (isFirst) {
      this.hasEnded = true
      this.endError = error
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

  /** Takes over the hooks of a nested session that was released, which depend on this one's outcome now. */
  adoptHooks(child: Transaction): void {
    this.commitHooks.push(...child.commitHooks)
    this.rollbackHooks.push(...child.rollbackHooks)
  }
}
