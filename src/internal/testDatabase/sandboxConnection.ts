/**
 * One of the connections of a sandbox, which share the physical one.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Restore } from "../../Pool.js"
import type { BeginOptions, Connection, Refusal, Status } from "../driver.js"
import { briefly } from "../session/commit.js"
import type { Frame, Sandbox } from "./sandbox.js"
import type { TransformRows, Wrapped } from "./wrapped.js"

type Fail<E> = (error: DatabaseError) => E

let count = 0

export class Virtual implements Wrapped {
  readonly id = ++count
  readonly inner: Connection
  /** What is open here: the transaction, and the savepoints in it. */
  readonly frames: Array<Frame> = []
  closed = false
  private running = false

  constructor(readonly sandbox: Sandbox) {
    this.inner = sandbox.physical
  }

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return this.statement(sql, (connection) => connection.execute(sql, params, transformRows, refusal))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>, refusal?: Refusal) {
    return this.statement(sql, (connection) => connection.executeRaw(sql, params, refusal))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, refusal?: Refusal) {
    return this.statement(sql, (connection) => connection.executeValues(sql, params, refusal))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return this.statement(sql, (connection) => connection.executeUnprepared(sql, params, transformRows, refusal))
  }

  executeStream(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows, refusal?: Refusal) {
    return Stream.suspend((): Stream.Stream<unknown, SqlError> => {
      if (this.frames.length === 0) {
        // Nobody else could speak while rows are read one by one, so all are read at once.
        return Stream.unwrap(Effect.map(this.execute(sql, params, transformRows, refusal), Stream.fromIterable))
      }
      const refused = this.sandbox.refused(sql)
      return refused === undefined
        ? Stream.fromPull(Effect.map(
          Stream.toPull(this.inner.executeStream(sql, params, transformRows, refusal)),
          (rows) => this.inside((restore) => restore(rows), (error) => Option.some(toSqlError(error)))
        ))
        : Stream.fail(toSqlError(refused))
    })
  }

  status(): Status {
    const status = this.inner.status()
    return this.closed || status === "closed" || this.sandbox.over !== undefined
      ? "closed"
      : this.frames.length === 0
      ? "idle"
      : status
  }

  begin(options: BeginOptions): Effect.Effect<void, DatabaseError> {
    return this.outside(() =>
      Effect.map(this.sandbox.begin(this, options), (frame) => {
        this.frames.push(frame)
      }), identity)
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return this.inside(() => this.sandbox.commit(this.frames[0]), identity)
  }

  get rollback(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.frames.length === 0 ? Effect.void : this.inside(() => this.sandbox.rollback(this.frames[0]), identity)
    )
  }

  /** Nothing is ever committed, so there is nothing to find out. */
  get fate() {
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

  commitWithin(name: string, around: BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.commitWithin(name, around))
  }

  rollbackWithin(name: string, around: BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    return this.end(name, this.inner.rollbackWithin(name, around))
  }

  get failStatement(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.frames.length === 0 ? Effect.void : this.inside(() => this.inner.failStatement, identity)
    )
  }

  get ping(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => this.closed ? Effect.fail(this.lost()) : this.inner.ping)
  }

  get reset(): Effect.Effect<void, DatabaseError> {
    return this.rollback
  }

  get close(): Effect.Effect<void> {
    return Effect.sync(() => this.destroy())
  }

  /** What is open is rolled back, as a server does that loses its client. */
  destroy(): void {
    this.closed = true
    const [first] = this.frames
    if (this.running) {
      // It does not answer, and the others would wait for it.
      this.inner.destroy()
    }
    if (first !== undefined) {
      const { sandbox } = this
      sandbox.run(sandbox.turns.take(
        () => this.frames.includes(first) ? "ready" : "gone",
        () => Effect.ignore(sandbox.rollback(first)),
        Effect.void,
        true
      ))
    }
  }

  private lost(): DatabaseError {
    return this.sandbox.error("ConnectionLost", "the connection is closed")
  }

  /** In a transaction it is part of that; outside it has a savepoint of its own. */
  private statement<A>(
    sql: string,
    run: (connection: Connection) => Effect.Effect<A, SqlError>
  ): Effect.Effect<A, SqlError> {
    return Effect.suspend(() => {
      const refusal = this.sandbox.refused(sql)
      if (refusal !== undefined) {
        return Effect.fail(toSqlError(refusal))
      }
      return this.frames.length > 0
        ? this.inside((restore) => restore(run(this.inner)), toSqlError)
        : this.outside((restore) => this.alone(restore(run(this.inner))), toSqlError)
    })
  }

  private alone<A>(statement: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> {
    const { sandbox } = this
    return Effect.flatMap(
      Effect.mapError(sandbox.begin(this, {}), toSqlError),
      (frame) =>
        Effect.matchCauseEffect(statement, {
          onFailure: (cause) => Effect.zipRight(Effect.ignore(sandbox.rollback(frame)), Effect.failCause(cause)),
          onSuccess: (value) => Effect.as(Effect.mapError(sandbox.commit(frame), toSqlError), value)
        })
    )
  }

  private open(frame: Frame, open: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return this.inside((restore) =>
      Effect.flatMap(this.sandbox.push(frame, () => open), () => {
        this.frames.push(frame)
        // Whoever was interrupted meanwhile does not know that it is open.
        return Effect.onInterrupt(restore(Effect.void), () => Effect.ignore(this.sandbox.rollback(frame)))
      }), identity)
  }

  private end(name: string, end: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return this.inside(() => {
      const frame = this.frames.findLast((frame) => frame.name === name)
      return frame === undefined
        ? Effect.fail(this.sandbox.error("InvalidStatement", `there is no savepoint ${name}`))
        : Effect.map(Effect.flatten(briefly(this.inner, end)), () => this.sandbox.pop(frame))
    }, identity)
  }

  /** When what is open here is what was opened last of all. */
  private inside<A, E>(effect: (restore: Restore) => Effect.Effect<A, E>, fail: Fail<E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      const lost = Effect.suspend(() => Effect.fail(fail(this.lost())))
      const frame = this.frames.at(-1)
      return this.closed || frame === undefined
        ? lost
        : this.sandbox.turns.take(this.sandbox.readiness(frame), (restore) => this.runs(effect(restore)), lost)
    })
  }

  /** When what is open last is what the code that asks is written inside of. */
  private outside<A, E>(effect: (restore: Restore) => Effect.Effect<A, E>, fail: Fail<E>): Effect.Effect<A, E> {
    return Effect.suspend(() =>
      this.closed
        ? Effect.fail(fail(this.lost()))
        : this.sandbox.turns.take(
          this.sandbox.readiness(this.sandbox.surrounding()),
          (restore) => this.runs(effect(restore)),
          // That has ended meanwhile.
          this.outside(effect, fail)
        )
    )
  }

  private runs<A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      this.running = true
      return Effect.ensuring(
        effect,
        Effect.sync(() => {
          this.running = false
        })
      )
    })
  }
}
