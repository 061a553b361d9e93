/**
 * Failures that a test asks for, in place of what would have happened.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Stream from "effect/Stream"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { BeginOptions, Connection, Driver, Refusal, Status } from "../driver.js"
import { type TransformRows, type Wrapped, wrapping } from "./wrapped.js"

export interface Planned {
  readonly on: "statement" | "begin" | "commit"
  readonly nth: number
  readonly matching: RegExp | undefined
  /** Of CommitOutcomeUnknown: whether it was committed. */
  readonly committed: boolean
  readonly error: DatabaseError
}

/** After these there is no connection. */
const endsConnection = ({ _tag }: DatabaseError): boolean =>
  _tag === "ConnectionLost" || _tag === "ConnectionFailed" || _tag === "CommitOutcomeUnknown"

/** Counts what happens to one database, on whatever connection, and tells which fault is due. */
class Plan {
  private readonly seen: Array<number>

  constructor(private readonly faults: ReadonlyArray<Planned>) {
    this.seen = faults.map(() => 0)
  }

  /** The first of those that are due; all of them count. */
  due(on: Planned["on"], statement = ""): Planned | undefined {
    let due: Planned | undefined
    for (const [i, fault] of this.faults.entries()) {
      if (fault.on === on && statement.search(fault.matching ?? "") >= 0 && ++this.seen[i] === fault.nth) {
        due ??= fault
      }
    }
    return due
  }
}

class Faulty implements Wrapped {
  readonly id: number

  constructor(readonly inner: Connection, private readonly plan: Plan) {
    this.id = inner.id
  }

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return this.statement(sql, this.inner.execute(sql, params, transformRows, refusal))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>, refusal?: Refusal) {
    return this.statement(sql, this.inner.executeRaw(sql, params, refusal))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, refusal?: Refusal) {
    return this.statement(sql, this.inner.executeValues(sql, params, refusal))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return this.statement(sql, this.inner.executeUnprepared(sql, params, transformRows, refusal))
  }

  executeStream(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return Stream.unwrap(
      this.statement(sql, Effect.sync(() => this.inner.executeStream(sql, params, transformRows, refusal)))
    )
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

  get rollback() {
    return this.inner.rollback
  }

  get fate() {
    return this.inner.fate
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

  commitWithin(name: string, around: BeginOptions | undefined) {
    return this.inner.commitWithin(name, around)
  }

  rollbackWithin(name: string, around: BeginOptions | undefined) {
    return this.inner.rollbackWithin(name, around)
  }

  get failStatement() {
    return this.inner.failStatement
  }

  get ping() {
    return this.inner.ping
  }

  get reset() {
    return this.inner.reset
  }

  get close() {
    return this.inner.close
  }

  destroy(): void {
    this.inner.destroy()
  }

  private statement<A>(sql: string, run: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> {
    return Effect.suspend(() => {
      const fault = this.plan.due("statement", sql)
      return fault === undefined ? run : this.fail(fault, this.inner.failStatement, toSqlError)
    })
  }

  /** With its connection a transaction is rolled back; that this has happened already spares a test the waiting. */
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

/** Puts the faults before every connection of a driver. Each database that is opened counts for itself. */
export const make = (faults: (driver: Driver) => ReadonlyArray<Planned>) => (driver: Driver): Effect.Effect<Driver> =>
  Effect.sync(() => {
    const plan = new Plan(faults(driver))
    return wrapping(
      driver,
      (connect) => (onLost, restore) => Effect.map(connect(onLost, restore), (inner) => new Faulty(inner, plan))
    )
  })
