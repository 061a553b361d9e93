/**
 * A connection that its holder may use for a limited time: that of a session, or a reserved one.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type DatabaseError, isDatabaseError, SessionClosed, toSqlError } from "../../DatabaseError.js"
import type { Restore } from "../../Pool.js"
import { AsyncInterrupt, registerMasked } from "../asyncInterrupt.js"
import type { Connection, Pull, StatementGuard } from "../driver.js"
import { type CurrentFiber, currentFiber, isInterrupted } from "../fiber.js"
import { type Interruptibility, interruptibilityOfMask } from "./interruptibility.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** Opens a cursor on a connection. */
export type OpenCursor = (connection: Connection, guard?: StatementGuard) => Effect.Effect<Pull, never, Scope.Scope>

/**
 * The refusal of a statement that is about to be sent while a nested session has taken the connection lock. The
 * statement then waits for the lock, so this never reaches the caller.
 */
const connectionLocked: DatabaseError = new SessionClosed({
  dialect: "postgres",
  code: "25P01",
  reason: "a nested session runs"
})

/** Runs a statement on its connection, with `restore`. An AsyncInterrupt needs no further uninterruptible region. */
const runOn = <A>(
  connection: Connection,
  f: (connection: Connection) => Effect.Effect<A, SqlError>,
  restore: Restore
): Effect.Effect<A, SqlError> => {
  const statement = f(connection)
  return statement instanceof AsyncInterrupt ? registerMasked(restore, statement.register) : restore(statement)
}

export abstract class BorrowedConnection implements SqlConnection.Connection {
  /** Why the connection may not be used any more. */
  abstract refusal(): DatabaseError | undefined

  /** The wait for the connection lock, undefined if it is free. Must be called by the fiber that runs the statement. */
  abstract waitForLock(): Effect.Effect<void, SqlError> | undefined

  /** The connection. Undefined if it has to be taken first, and its transaction begun. */
  protected abstract begunConnection(): Connection | undefined

  /** Takes the connection and begins the transaction. Must be run uninterruptibly, with the `restore` of that region. */
  protected abstract beginConnection(restore: Restore): Effect.Effect<Connection, DatabaseError>

  /** Whether a failed statement can still move the transaction to another connection, since none was answered yet. */
  protected get isTentative(): boolean {
    return false
  }

  /** Whether the session that it belongs to was interrupted. */
  get isInterrupted(): boolean {
    return false
  }

  /** Called when a statement was answered, so that the transaction does not move any more. */
  protected answered(): void {}

  /** Whether a statement that has failed on a connection is to be run again, since the transaction has moved to another. */
  protected moves(_connection: Connection, _error: unknown): boolean {
    return false
  }

  /**
   * Called when a statement was interrupted after it was sent, so that its result is not known: keeps the transaction from
   * being committed.
   */
  protected abstract statementInterrupted(): Effect.Effect<void> | undefined

  /** The refusal of a statement at the moment it is sent, since its fiber may have been suspended on the way there. */
  readonly refusalOnSend = (): DatabaseError | undefined =>
    this.refusal() ?? (this.waitForLock() === undefined ? undefined : connectionLocked)

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.runStatement((connection, guard) => connection.execute(sql, params, transformRows, guard))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.runStatement((connection, guard) => connection.executeRaw(sql, params, guard))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.runStatement((connection, guard) => connection.executeValues(sql, params, guard))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.runStatement((connection, guard) => connection.executeUnprepared(sql, params, transformRows, guard))
  }

  /** Each batch waits as a statement does: while a nested session runs, none is read. */
  executeStream(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows
  ): Stream.Stream<unknown, SqlError> {
    return this.stream((connection, guard) => connection.cursor(sql, params, guard), transformRows)
  }

  /** Streams the rows of a cursor. */
  stream(open: OpenCursor, transformRows: TransformRows): Stream.Stream<unknown, SqlError> {
    return Stream.fromPull(Effect.map(Effect.scope, (scope) => {
      const guard = this.makeGuard()
      let isExhausted = false
      let cursor: Pull | undefined = undefined
      let openedOn: Connection | undefined = undefined
      const abandon = Effect.suspend(() =>
        guard.isSent && guard.mayWrite && !isExhausted ? this.statementInterrupted() ?? Effect.void : Effect.void
      )
      const pullFrom = (connection: Connection): Pull =>
        cursor !== undefined && connection === openedOn ? cursor : Effect.flatMap(
          Effect.zipRight(
            Scope.addFinalizerExit(scope, (exit) => Exit.isInterrupted(exit) ? abandon : Effect.void),
            Scope.extend(open(connection, guard), scope)
          ),
          (opened) => {
            openedOn = connection
            return cursor = opened
          }
        )
      return Effect.matchCauseEffect(Effect.onInterrupt(this.pull(pullFrom), () => abandon), {
        onSuccess: (rows) =>
          Effect.succeed(Chunk.unsafeFromArray<unknown>(transformRows === undefined ? rows : transformRows(rows))),
        onFailure: (cause) => {
          isExhausted ||= !Cause.isInterrupted(cause)
          return Effect.failCause(cause)
        }
      })
    }))
  }

  /**
   * Uses the connection, after waiting for the connection lock if need be. Runs the effect of `f` with `restore`. Must
   * be called by the fiber that runs the result, and run uninterruptibly, with the `restore` of that region.
   */
  useConnection<A>(
    f: (connection: Connection) => Effect.Effect<A, SqlError>,
    restore: Restore
  ): Effect.Effect<A, SqlError> {
    const wait = this.waitForLock()
    return wait === undefined
      ? this.use(f, restore)
      : Effect.flatMap(restore(wait), () => this.use(f, restore))
  }

  /**
   * To be called in an uninterruptible region when a statement has ended. Returns an effect that is to be run then, if
   * any. If the fiber was interrupted meanwhile, the statement counts as interrupted even if it has succeeded, since
   * the fiber does not see the result.
   */
  statementEnded(
    guard: StatementGuard,
    fiber: CurrentFiber,
    { isInterruptible }: Interruptibility
  ): Effect.Effect<void> | undefined {
    return guard.isSent && isInterruptible && isInterrupted(fiber)
      ? this.statementInterrupted()
      : undefined
  }

  private makeGuard(): StatementGuard {
    return { refusal: this.refusalOnSend, wait: () => this.waitForLock(), isSent: false, mayWrite: true, session: this }
  }

  /** Runs a statement, whose result is not known if its fiber is interrupted after it was sent. */
  runStatement<A>(
    f: (connection: Connection, guard: StatementGuard) => Effect.Effect<A, SqlError>
  ): Effect.Effect<A, SqlError> {
    return Effect.uninterruptibleMask((restore) => {
      const fiber = currentFiber()
      const guard = this.makeGuard()
      return Effect.onExit(
        this.useConnection((connection) => f(connection, guard), restore),
        () => this.statementEnded(guard, fiber, interruptibilityOfMask(restore)) ?? Effect.void
      )
    })
  }

  private use<A>(
    f: (connection: Connection) => Effect.Effect<A, SqlError>,
    restore: Restore
  ): Effect.Effect<A, SqlError> {
    const refusal = this.refusal()
    if (refusal !== undefined) {
      return Effect.fail(toSqlError(refusal))
    }
    const run = (connection: Connection): Effect.Effect<A, SqlError> =>
      this.isTentative ? this.useTentatively(connection, f, restore) : runOn(connection, f, restore)
    const connection = this.begunConnection()
    return Effect.catchAll(
      connection === undefined
        ? Effect.matchEffect(this.beginConnection(restore), {
          onFailure: (error) => Effect.fail(toSqlError(error)),
          onSuccess: run
        })
        : run(connection),
      (error) =>
        error.cause === connectionLocked
          ? this.useConnection(f, restore)
          : Effect.fail(this.withEndReason(error))
    )
  }

  private useTentatively<A>(
    connection: Connection,
    f: (connection: Connection) => Effect.Effect<A, SqlError>,
    restore: Restore
  ): Effect.Effect<A, SqlError> {
    return Effect.matchEffect(runOn(connection, f, restore), {
      onSuccess: (value) => {
        this.answered()
        return Effect.succeed(value)
      },
      onFailure: (error) =>
        error.cause !== connectionLocked && this.moves(connection, error.cause)
          ? this.useConnection(f, restore)
          : Effect.fail(error)
    })
  }

  /** A statement that is canceled because its session ends fails with the reason of that end. */
  private withEndReason(error: SqlError): SqlError {
    const reason = isDatabaseError(error.cause) && error.cause._tag === "StatementCanceled" ? this.refusal() : undefined
    return reason === undefined ? error : toSqlError(reason)
  }

  /** Reads a batch as `useConnection` runs a statement. */
  private pull(open: (connection: Connection) => Pull): Pull {
    const rowsOrEnd = Effect.uninterruptibleMask((restore) =>
      this.useConnection((connection) =>
        Effect.catchAll(
          open(connection),
          (error) => Option.isNone(error) ? Effect.succeed(undefined) : Effect.fail(error.value)
        ), restore)
    )
    return Effect.matchEffect(rowsOrEnd, {
      onSuccess: (rows) => rows === undefined ? Effect.fail(Option.none()) : Effect.succeed(rows),
      onFailure: (error) => Effect.fail(Option.some(error))
    })
  }
}
