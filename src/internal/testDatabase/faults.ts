/**
 * Injects the failures that a test plans.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type {
  BeginOptions,
  Connection,
  CopyFrom,
  CopySource,
  CopyTo,
  Driver,
  Freshness,
  PositionTracking,
  Pull,
  StatementGuard,
  Status
} from "../driver.js"
import { rowStream } from "../rowStream.js"
import { type TransformRows, type Wrapped, wrapping } from "./wrapped.js"

/** A failure that a test plans. */
export interface Planned {
  readonly on: "statement" | "begin" | "commit"
  /** Which operation fails, counted from 1 over all connections of the database. */
  readonly nth: number
  /** The statements that count. Undefined: all. */
  readonly matching: RegExp | undefined
  /** Whether a commit that fails with CommitOutcomeUnknown is committed. */
  readonly committed: boolean
  readonly error: DatabaseError
}

/** Whether the connection is lost with this error. */
const endsConnection = ({ _tag }: DatabaseError): boolean =>
  _tag === "ConnectionLost" || _tag === "ConnectionFailed" || _tag === "CommitOutcomeUnknown"

/** Counts the operations of one database, over all of its connections, and finds the fault that is due. */
class Plan {
  private readonly counts: Array<number>

  constructor(private readonly faults: ReadonlyArray<Planned>) {
    this.counts = faults.map(() => 0)
  }

  /** The first fault that is due. Every fault that matches counts the operation. */
  due(on: Planned["on"], statement = ""): Planned | undefined {
    let due: Planned | undefined
    for (const [i, fault] of this.faults.entries()) {
      if (fault.on === on && statement.search(fault.matching ?? "") >= 0 && ++this.counts[i] === fault.nth) {
        due ??= fault
      }
    }
    return due
  }
}

class FaultyConnection implements Wrapped {
  readonly id: number

  constructor(
    readonly inner: Connection,
    private readonly plan: Plan,
    private readonly copyText: Driver["copyText"]
  ) {
    this.id = inner.id
  }

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, guard?: StatementGuard) {
    return this.statement(sql, this.inner.execute(sql, params, transformRows, guard), guard)
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, this.inner.executeRaw(sql, params, guard), guard)
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, this.inner.executeValues(sql, params, guard), guard)
  }

  executeTexts(sql: string, params: ReadonlyArray<unknown>, guard?: StatementGuard) {
    return this.statement(sql, this.inner.executeTexts(sql, params, guard), guard)
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, guard?: StatementGuard) {
    return this.statement(sql, this.inner.executeUnprepared(sql, params, transformRows, guard), guard)
  }

  executeStream(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return rowStream(this.cursor(sql, params), transformRows)
  }

  cursor(
    sql: string,
    params: ReadonlyArray<unknown>,
    guard?: StatementGuard
  ): Effect.Effect<Pull, never, Scope.Scope> {
    return this.withFaults(sql, this.inner.cursor(sql, params, guard), guard)
  }

  copyFrom<E>(request: CopyFrom, source: CopySource<E>, guard?: StatementGuard): Effect.Effect<number, SqlError | E> {
    const copied = this.inner.copyFrom(request, source, guard)
    return Effect.zipRight(this.statement(this.copyText.from(request), Effect.void, guard), copied)
  }

  copyTo(request: CopyTo, guard?: StatementGuard): Effect.Effect<Pull, never, Scope.Scope> {
    return this.withFaults(this.copyText.to(request), this.inner.copyTo(request, guard), guard)
  }

  status(): Status {
    return this.inner.status()
  }

  begin(options: BeginOptions): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const fault = this.plan.due("begin")
      return fault === undefined ? this.inner.begin(options) : this.fail(fault, Effect.void, identity)
    })
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const fault = this.plan.due("commit")
      return fault === undefined
        ? this.inner.commit
        : this.fail(fault, fault.committed ? this.inner.commit : this.inner.rollback, identity)
    })
  }

  get commitWithPosition() {
    const { commitWithPosition } = this.inner
    return commitWithPosition === undefined ? undefined : Effect.suspend(() => {
      const fault = this.plan.due("commit")
      return fault === undefined
        ? commitWithPosition
        : this.fail(fault, fault.committed ? this.inner.commit : this.inner.rollback, identity)
    })
  }

  get beginOnReplica() {
    const { inner } = this
    return inner.beginOnReplica === undefined ?
      undefined :
      (options: BeginOptions, required: Freshness) =>
        Effect.suspend(() => {
          const fault = this.plan.due("begin")
          return fault === undefined
            ? inner.beginOnReplica!(options, required)
            : this.fail(fault, Effect.void, identity)
        })
  }

  get staleness() {
    const { inner } = this
    return inner.staleness === undefined ? undefined : (required: Freshness) => inner.staleness!(required)
  }

  get position() {
    return this.inner.position
  }

  trackPositions(tracking: PositionTracking | undefined): void {
    this.inner.trackPositions?.(tracking)
  }

  get rollback() {
    return this.inner.rollback
  }

  get transactionOutcome() {
    return this.inner.transactionOutcome
  }

  savepoint(name: string) {
    return this.inner.savepoint(name)
  }

  releaseSavepoint(name: string) {
    return this.inner.releaseSavepoint(name)
  }

  rollbackToSavepoint(name: string) {
    return this.inner.rollbackToSavepoint(name)
  }

  beginWithin(name: string, options: BeginOptions) {
    return this.inner.beginWithin(name, options)
  }

  commitWithin(name: string, enclosing: BeginOptions | undefined) {
    return this.inner.commitWithin(name, enclosing)
  }

  rollbackWithin(name: string, enclosing: BeginOptions | undefined) {
    return this.inner.rollbackWithin(name, enclosing)
  }

  get failStatement() {
    return this.inner.failStatement
  }

  get ping() {
    return this.inner.ping
  }

  get server() {
    return this.inner.server
  }

  get reset() {
    return this.inner.reset
  }

  markDirty() {
    this.inner.markDirty()
  }

  resetLater() {
    return this.inner.resetLater()
  }

  get close() {
    return this.inner.close
  }

  destroy(): void {
    this.inner.destroy()
  }

  /** A cursor that counts as one statement, with its first pull. */
  private withFaults(
    sql: string,
    cursor: Effect.Effect<Pull, never, Scope.Scope>,
    guard: StatementGuard | undefined
  ): Effect.Effect<Pull, never, Scope.Scope> {
    return Effect.map(cursor, (pull) => {
      let isCounted = false
      return Effect.suspend((): Pull => {
        if (isCounted || guard?.refusal() !== undefined) {
          return pull
        }
        isCounted = true
        return Effect.zipRight(Effect.mapError(this.statement(sql, Effect.void, guard), Option.some), pull)
      })
    })
  }

  private statement<A>(
    sql: string,
    run: Effect.Effect<A, SqlError>,
    guard: StatementGuard | undefined
  ): Effect.Effect<A, SqlError> {
    return Effect.suspend(() => {
      // A statement that has to wait, or may not run any more, is not sent, and does not count.
      const fault = guard?.refusal() === undefined ? this.plan.due("statement", sql) : undefined
      return fault === undefined ? run : this.fail(fault, this.inner.failStatement, toSqlError)
    })
  }

  /**
   * Fails with the error, after `before`. An error that ends the connection also rolls back, so that the test need not wait
   * until the server notices that its client is gone.
   */
  private fail<E>(
    { committed, error }: Planned,
    before: Effect.Effect<void, DatabaseError>,
    fail: (error: DatabaseError) => E
  ): Effect.Effect<never, E> {
    const ended = Effect.zipRight(
      committed ? before : this.inner.rollback,
      Effect.sync(() => this.inner.destroy())
    )
    return Effect.zipRight(
      Effect.mapError(endsConnection(error) ? ended : before, fail),
      Effect.suspend(() => Effect.fail(fail(error)))
    )
  }
}

/** Wraps every connection of a driver with the planned faults. Each database that is opened counts on its own. */
export const make = (faults: (driver: Driver) => ReadonlyArray<Planned>) => (driver: Driver): Effect.Effect<Driver> =>
  Effect.sync(() => {
    const plan = new Plan(faults(driver))
    return wrapping(
      driver,
      (connect) => (onLost, restore) =>
        Effect.map(connect(onLost, restore), (inner) => new FaultyConnection(inner, plan, driver.copyText))
    )
  })
