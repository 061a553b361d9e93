/**
 * One level of a session: the outermost one, which has a lease on a connection, or one nested in it, which has a
 * savepoint.
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
import type { Watched } from "../telemetry/activity.js"
import { waitsForItself } from "./errors.js"
import { ConnectionLock } from "./connectionLock.js"
import { called, unnamed } from "./log.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** That a nested session has begun meanwhile, and the statement must wait until it has ended. */
const notNow: DatabaseError = new SessionClosed({ dialect: "postgres", code: "25P01", reason: "a nested session runs" })

/** What a statement does with its connection. */
type Use<A> = (connection: Connection, refusal: Refusal) => Effect.Effect<A, SqlError>

/** A connection that can be taken away from whoever holds it. */
abstract class Borrowed implements SqlConnection.Connection {
  constructor(readonly connection: Connection) {}

  /** Asked again when a statement is sent, since its fiber may have paused on the way. */
  private readonly refusesNow: Refusal = () => this.refusal() ?? (this.turn() === undefined ? undefined : notNow)

  /** Why it may no longer be used. */
  abstract refusal(): DatabaseError | undefined

  /** What a statement must wait for, if anything. */
  protected abstract turn(): Effect.Effect<void, SqlError> | undefined

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.enter((connection, refusal) => connection.execute(sql, params, transformRows, refusal))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.enter((connection, refusal) => connection.executeRaw(sql, params, refusal))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.enter((connection, refusal) => connection.executeValues(sql, params, refusal))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.enter((connection, refusal) => connection.executeUnprepared(sql, params, transformRows, refusal))
  }

  executeStream(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows
  ): Stream.Stream<unknown, SqlError> {
    return Stream.unwrap(this.enter((connection) =>
      Effect.sync(() => {
        let isOpen = false
        const refusal: Refusal = () => {
          const refused = isOpen ? this.refusal() : this.refusesNow()
          isOpen ||= refused === undefined
          return refused
        }
        return Stream.catchAll(
          connection.executeStream(sql, params, transformRows, refusal),
          (error) => error.cause === notNow ? this.executeStream(sql, params, transformRows) : Stream.fail(error)
        )
      })
    ))
  }

  /** What runs on the connection now, or when its turn comes. To be called by the fiber that runs what it gives. */
  admit<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    const turn = this.turn()
    return turn === undefined ? this.use(f) : Effect.zipRight(turn, Effect.suspend(() => this.use(f)))
  }

  private enter<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    return Effect.suspend(() => this.admit(f))
  }

  private use<A>(f: Use<A>): Effect.Effect<A, SqlError> {
    const refusal = this.refusal()
    return refusal === undefined
      ? Effect.catchAll(
        f(this.connection, this.refusesNow),
        (error) => error.cause === notNow ? Effect.suspend(() => this.admit(f)) : Effect.fail(error)
      )
      : Effect.fail(toSqlError(refusal))
  }
}

/** What `reserve` gives: free use of a connection until its scope closes. */
export class Reserved extends Borrowed {
  closed: DatabaseError | undefined = undefined

  refusal() {
    return this.closed
  }

  protected turn() {
    return undefined
  }
}

let count = 0

const prefix = `${process.pid.toString(36)}-`

export class Transaction extends Borrowed implements Service {
  readonly name: string
  readonly depth: number
  readonly root: Transaction
  readonly connectionLock = new ConnectionLock()
  readonly commitHooks: Array<Effect.Effect<void>> = []
  readonly rollbackHooks: Array<Effect.Effect<void>> = []
  /** Of the outermost session: what nested ones wanted to be done after their rollback, which has happened. */
  readonly undoneHooks: Array<Effect.Effect<void>> = []
  isRollbackOnly = false
  /** How many sessions that were acquired as a part of this one have not ended. */
  openParts = 0
  private readonly number = ++count
  private hasEnded = false
  private ended: DatabaseError | undefined = undefined
  private savepoints = 0

  constructor(
    /** The database that it belongs to. */
    readonly owner: object,
    readonly dialect: Dialect,
    readonly lease: Lease<Connection>,
    /** The outermost session, as operators see it. */
    readonly watched: Watched,
    readonly options: Options,
    /** The session of the same database that it is nested in. */
    readonly parent: Transaction | undefined,
    /** The session, of whatever database, that its code is written inside of. */
    readonly outer: Transaction | undefined
  ) {
    super(lease.connection)
    this.name = options.name ?? unnamed
    this.depth = parent === undefined ? 0 : parent.depth + 1
    this.root = parent === undefined ? this : parent.root
  }

  /** A session within this one, of the code of another one. */
  within(options: Options, outer: Transaction | undefined): Transaction {
    return new Transaction(this.owner, this.dialect, this.lease, this.watched, options, this, outer)
  }

  get id(): string {
    return prefix + this.number.toString(36)
  }

  refusal(): DatabaseError | undefined {
    if (!this.hasEnded) {
      return this.parent?.refusal()
    }
    return this.ended ??= new SessionClosed({
      dialect: this.dialect,
      code: "25P01",
      reason: `${called(this.name)} (${this.id}) has ended`
    })
  }

  /** Whether no session within it is left. */
  get isAlone(): boolean {
    return this.connectionLock.isOpen && this.openParts === 0
  }

  /** Why a fiber must not wait for its turn here: it would wait for itself. */
  inVain(fiber: FiberId.FiberId): DatabaseError | undefined {
    return this.connectionLock.holder?.fiber === fiber ? waitsForItself(this, fiber) : undefined
  }

  protected turn() {
    return this.connectionLock.isOpen ? undefined : Effect.withFiberRuntime<void, SqlError>((fiber) => {
      const refusal = this.inVain(fiber.id())
      return refusal === undefined ? this.connectionLock.pass : Effect.fail(toSqlError(refusal))
    })
  }

  /** From now on its statements fail: with SessionClosed, or with the error given. Says whether they did not before. */
  end(error?: DatabaseError): boolean {
    const ends = !this.hasEnded
    if (ends) {
      this.hasEnded = true
      this.ended = error
    }
    return ends
  }

  /** Unique in the transaction. */
  savepoint(): string {
    return `sqlayer_${++this.root.savepoints}`
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

  /** A nested session was released: what it asked for waits for the outermost commit. */
  adopt(child: Transaction): void {
    this.commitHooks.push(...child.commitHooks)
    this.rollbackHooks.push(...child.rollbackHooks)
  }
}
