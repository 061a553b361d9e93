/**
 * The connections of a sandbox, which share one connection of the database.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Restore } from "../../Pool.js"
import type { BeginOptions, Connection, CopyFrom, CopySource, CopyTo, Pull, StatementGuard, Status } from "../driver.js"
import { rowStream } from "../rowStream.js"
import { bounded } from "../watchdog.js"
import type { Sandbox, Savepoint } from "./sandbox.js"
import type { TransformRows, Wrapped } from "./wrapped.js"

type Fail<E> = (error: DatabaseError) => E

let count = 0

export class SandboxConnection implements Wrapped {
  readonly id = ++count
  readonly inner: Connection
  /** The open savepoints of this connection: the one that stands for its transaction, and those inside it. */
  readonly savepoints: Array<Savepoint> = []
  closed = false
  private isRunning = false

  constructor(readonly sandbox: Sandbox) {
    this.inner = sandbox.connection
  }

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, guard?: StatementGuard) {
    return this.statement(sql, (connection) => connection.execute(sql, params, transformRows, guard))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, (connection) => connection.executeRaw(sql, params, guard))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, (connection) => connection.executeValues(sql, params, guard))
  }

  executeTexts(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, (connection) => connection.executeTexts(sql, params, guard))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, guard?: StatementGuard) {
    return this.statement(sql, (connection) => connection.executeUnprepared(sql, params, transformRows, guard))
  }

  executeStream(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return rowStream(this.cursor(sql, params), transformRows)
  }

  cursor(
    sql: string,
    params: ReadonlyArray<unknown>,
    guard?: StatementGuard
  ): Effect.Effect<Pull, never, Scope.Scope> {
    return Effect.suspend(() => {
      if (this.savepoints.length === 0) {
        return Effect.succeed(pullOnce(
          this.execute(sql, params, undefined, guard) as Effect.Effect<ReadonlyArray<object>, SqlError>
        ))
      }
      const error = this.sandbox.transactionControlError(sql)
      return error === undefined
        ? this.cursorInside(this.inner.cursor(sql, params, guard))
        : Effect.succeed<Pull>(Effect.fail(Option.some(toSqlError(error))))
    })
  }

  copyFrom<E>(request: CopyFrom, source: CopySource<E>, guard?: StatementGuard): Effect.Effect<number, SqlError | E> {
    // The source is read first: it may use other connections of the sandbox, which would wait while the copy runs.
    return Effect.flatMap(
      collect(source),
      (collected) => this.statement("", (connection) => connection.copyFrom(request, collected, guard))
    )
  }

  copyTo(request: CopyTo, guard?: StatementGuard): Effect.Effect<Pull, never, Scope.Scope> {
    return Effect.suspend(() =>
      this.savepoints.length === 0
        ? Effect.succeed(pullOnce(this.statement("", (connection) => readAll(connection.copyTo(request, guard)))))
        : this.cursorInside(this.inner.copyTo(request, guard))
    )
  }

  private cursorInside(cursor: Effect.Effect<Pull, never, Scope.Scope>): Effect.Effect<Pull, never, Scope.Scope> {
    return Effect.map(
      cursor,
      (pull): Pull => this.inside((restore) => restore(pull), (error) => Option.some(toSqlError(error)))
    )
  }

  status(): Status {
    const status = this.inner.status()
    return this.closed || status === "closed" || this.sandbox.endedError !== undefined
      ? "closed"
      : this.savepoints.length === 0
      ? "idle"
      : status
  }

  begin(options: BeginOptions): Effect.Effect<void, DatabaseError> {
    return this.outside(() =>
      Effect.map(this.sandbox.begin(this, options), (savepoint) => {
        this.savepoints.push(savepoint)
      }), identity)
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return this.inside(() => this.sandbox.commit(this.savepoints[0]), identity)
  }

  get rollback(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.savepoints.length === 0
        ? Effect.void
        : this.inside(() => this.sandbox.rollback(this.savepoints[0]), identity)
    )
  }

  /** The sandbox is never committed, so there is no outcome to look up. */
  get transactionOutcome() {
    return undefined
  }

  savepoint(name: string): Effect.Effect<void, DatabaseError> {
    return this.open({ name, owner: this, options: undefined }, this.inner.savepoint(name))
  }

  releaseSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.releaseSavepoint(name))
  }

  rollbackToSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.rollbackToSavepoint(name))
  }

  beginWithin(name: string, options: BeginOptions): Effect.Effect<void, DatabaseError> {
    return this.open({ name, owner: this, options }, this.inner.beginWithin(name, options))
  }

  commitWithin(name: string, enclosing: BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.commitWithin(name, enclosing))
  }

  rollbackWithin(name: string, enclosing: BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.rollbackWithin(name, enclosing))
  }

  get failStatement(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.savepoints.length === 0 ? Effect.void : this.inside(() => this.inner.failStatement, identity)
    )
  }

  get server() {
    return this.inner.server
  }

  get ping(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => this.closed ? Effect.fail(this.lostError()) : this.inner.ping)
  }

  get reset(): Effect.Effect<void, DatabaseError> {
    return this.rollback
  }

  markDirty(): void {
    this.inner.markDirty()
  }

  resetLater(): boolean {
    return false
  }

  get close(): Effect.Effect<void> {
    return Effect.sync(() => this.destroy())
  }

  /** Rolls back what is open, as a server does when it loses its client. */
  destroy(): void {
    this.closed = true
    const [first] = this.savepoints
    if (this.isRunning) {
      // The other connections would wait for a statement that does not end.
      this.inner.destroy()
    }
    if (first !== undefined) {
      const { sandbox } = this
      sandbox.runFork(sandbox.lock.withLock(
        () => this.savepoints.includes(first) ? "ready" : "never",
        () => Effect.ignore(sandbox.rollback(first)),
        Effect.void,
        true
      ))
    }
  }

  private lostError(): DatabaseError {
    return this.sandbox.error("ConnectionLost", "the connection is closed")
  }

  /** Runs a statement in the open transaction, or in a savepoint of its own. */
  private statement<A, E = never>(
    sql: string,
    run: (connection: Connection) => Effect.Effect<A, SqlError | E>
  ): Effect.Effect<A, SqlError | E> {
    return Effect.suspend(() => {
      const error = this.sandbox.transactionControlError(sql)
      if (error !== undefined) {
        return Effect.fail(toSqlError(error))
      }
      return this.savepoints.length > 0
        ? this.inside((restore) => restore(run(this.inner)), toSqlError)
        : this.outside((restore) => this.inOwnSavepoint(restore(run(this.inner))), toSqlError)
    })
  }

  private inOwnSavepoint<A, E>(statement: Effect.Effect<A, SqlError | E>): Effect.Effect<A, SqlError | E> {
    const { sandbox } = this
    return Effect.flatMap(
      Effect.mapError(sandbox.begin(this, {}), toSqlError),
      (savepoint) =>
        Effect.matchCauseEffect(statement, {
          onFailure: (cause) => Effect.zipRight(Effect.ignore(sandbox.rollback(savepoint)), Effect.failCause(cause)),
          onSuccess: (value) => Effect.as(Effect.mapError(sandbox.commit(savepoint), toSqlError), value)
        })
    )
  }

  private open(savepoint: Savepoint, open: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return this.inside((restore) =>
      Effect.flatMap(this.sandbox.push(savepoint, () => open), () => {
        this.savepoints.push(savepoint)
        // A caller that was interrupted meanwhile will not close the savepoint.
        return Effect.onInterrupt(restore(Effect.void), () => Effect.ignore(this.sandbox.rollback(savepoint)))
      }), identity)
  }

  private end(name: string, end: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return this.inside(() => {
      const savepoint = this.savepoints.findLast((savepoint) => savepoint.name === name)
      return savepoint === undefined
        ? Effect.fail(this.sandbox.error("InvalidStatement", `there is no savepoint ${name}`))
        : Effect.map(Effect.flatten(bounded(this.inner, end)), () => this.sandbox.pop(savepoint))
    }, identity)
  }

  /** Runs an effect once this connection's innermost savepoint is the innermost of the sandbox. */
  private inside<A, E>(effect: (restore: Restore) => Effect.Effect<A, E>, fail: Fail<E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      const lost = Effect.suspend(() => Effect.fail(fail(this.lostError())))
      const savepoint = this.savepoints.at(-1)
      return this.closed || savepoint === undefined
        ? lost
        : this.sandbox.lock.withLock(
          this.sandbox.readiness(savepoint),
          (restore) => this.whileRunning(effect(restore)),
          lost
        )
    })
  }

  /** Runs an effect once the savepoint of the session that the calling code is in is the innermost of the sandbox. */
  private outside<A, E>(effect: (restore: Restore) => Effect.Effect<A, E>, fail: Fail<E>): Effect.Effect<A, E> {
    return Effect.suspend(() =>
      this.closed
        ? Effect.fail(fail(this.lostError()))
        : this.sandbox.lock.withLock(
          this.sandbox.readiness(this.sandbox.enclosingSavepoint()),
          (restore) => this.whileRunning(effect(restore)),
          // That session has ended meanwhile.
          this.outside(effect, fail)
        )
    )
  }

  private whileRunning<A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      this.isRunning = true
      return Effect.ensuring(
        effect,
        Effect.sync(() => {
          this.isRunning = false
        })
      )
    })
  }
}

/** The other connections would have to wait while rows are read one by one, so all rows are read at once. */
const pullOnce = (read: Effect.Effect<ReadonlyArray<object>, SqlError>): Pull => {
  let isRead = false
  return Effect.suspend(() =>
    isRead ? Effect.fail(Option.none()) : Effect.map(Effect.mapError(read, Option.some), (rows) => {
      isRead = true
      return rows
    })
  )
}

const readAll = (
  cursor: Effect.Effect<Pull, never, Scope.Scope>
): Effect.Effect<ReadonlyArray<object>, SqlError> =>
  Effect.scoped(Effect.flatMap(cursor, (pull) => {
    const all: Array<object> = []
    const next: Effect.Effect<ReadonlyArray<object>, SqlError> = Effect.matchEffect(pull, {
      onFailure: (error) => Option.isNone(error) ? Effect.succeed(all) : Effect.fail(error.value),
      onSuccess: (read) => {
        all.push(...read)
        return next
      }
    })
    return next
  }))

/** Reads a source to its end, and gives one that repeats it. */
const collect = <E>(source: CopySource<E>): Effect.Effect<CopySource<E>> =>
  Effect.suspend(() => {
    const chunks: Array<ReadonlyArray<unknown>> = []
    const next: Effect.Effect<CopySource<E>> = Effect.matchCauseEffect(source, {
      onFailure: (end) =>
        Effect.succeed(Effect.suspend(() => {
          const chunk = chunks.shift()
          return chunk === undefined ? Effect.failCause(end) : Effect.succeed(chunk)
        })),
      onSuccess: (chunk) => {
        chunks.push(chunk)
        return next
      }
    })
    return next
  })
