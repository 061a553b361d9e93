/**
 * A connection as the rest of sqlayer sees it.
 */
import type * as SqlError from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Stream from "effect/Stream"
import Pg from "pg"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type * as Driver from "../driver.js"
import { make as makeError } from "../makeError.js"
import * as Bulk from "./bulk.js"
import { Sender } from "./send.js"
import type { Pipeline } from "./pipeline.js"
import * as Fate from "./transactionOutcome.js"
import type * as Flight from "./exchange.js"
import * as Flights from "./exchanges.js"
import { resultOf, serverError } from "./pg.js"
import * as Portal from "./portal.js"
import * as Statements from "./execute.js"
import * as Transaction from "./transactionSql.js"

type TransformRows = (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

const internal: Flight.Options = { user: false }

/** Over a channel whose connection is established. */
export class Connection implements Driver.Connection {
  readonly id: number
  readonly #channel: Pipeline
  readonly #calls: Sender
  readonly #elsewhere: (restore: Driver.Restore) => Effect.Effect<Driver.Connection, DatabaseError>
  #portals = 0
  #transaction: Fate.Transaction | undefined = undefined

  /** `elsewhere` connects to the same server. */
  constructor(
    channel: Pipeline,
    id: number,
    description: string,
    elsewhere: (restore: Driver.Restore) => Effect.Effect<Driver.Connection, DatabaseError>
  ) {
    this.#channel = channel
    this.#calls = new Sender(channel, description)
    this.#elsewhere = elsewhere
    this.id = id
  }

  /** Calls once when the connection breaks without being closed from here; at once if it has broken already. */
  onLost(f: (error: DatabaseError) => void): void {
    const channel = this.#channel
    channel.onLost = (error) => f(this.#calls.refusal(error))
    if (channel.lost !== undefined) {
      channel.onLost(channel.lost)
    }
  }

  onNotification(f: (channel: string, payload: string) => void): void {
    this.#channel.onNotification = f
  }

  /** What the server last said of a setting that it reports. */
  parameter(name: string): string | undefined {
    return this.#channel.parameters.get(name)
  }

  execute(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    refusal?: Driver.Refusal
  ) {
    return this.#rows(sql, params, { params, user: true, prepare: true }, transformRows, refusal)
  }

  executeUnprepared(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    refusal?: Driver.Refusal
  ) {
    return this.#rows(sql, params, { params, user: true }, transformRows, refusal)
  }

  executeRaw(
    sql: string,
    params: ReadonlyArray<unknown>,
    refusal?: Driver.Refusal
  ): Effect.Effect<unknown, SqlError.SqlError> {
    return Statements.run(this.#calls, {
      sql,
      params,
      options: { params, user: true, prepare: true },
      refusal,
      finish: ({ answer, answers }) => Effect.succeed(answers?.map(resultOf) ?? resultOf(answer))
    })
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, refusal?: Driver.Refusal) {
    const options: Flight.Options = { params, user: true, prepare: true, rowMode: "array" }
    const finish = Statements.rowsOf<ReadonlyArray<unknown>>
    return Statements.run(this.#calls, { sql, params, options, refusal, finish })
  }

  executeStream(
    text: string,
    values: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    refusal?: Driver.Refusal
  ): Stream.Stream<object, SqlError.SqlError> {
    return Stream.suspend(() => {
      const [sql, params] = Bulk.planOf(values)?.byValue() ?? [text, values]
      const portal = `sqlayer_${++this.#portals}`
      const options = { params, user: true }
      return Portal.stream({
        transformRows,
        status: () => {
          const { ahead, busy, transaction } = this.#channel
          return busy ? "busy" : transaction === "I" && ahead.length === 0 ? "outside" : "inside"
        },
        open: (rows) =>
          this.#calls.fly(
            () => Flights.openPortal(portal, sql, this.#calls.encode(sql, params), rows, options),
            (flight) => Effect.succeed(Portal.batchOf(flight)),
            toSqlError,
            refusal
          ),
        read: (columns, rows) => this.#calls.ask(Flights.readPortal(portal, columns, sql, rows, options), refusal),
        close: this.#calls.briefly(() => Flights.closePortal(portal)),
        wait: Effect.mapError(this.ping, toSqlError),
        begin: Effect.mapError(this.begin({}), toSqlError),
        commit: this.commit,
        rollback: this.#undo(this.#calls.briefly(() => Flights.query("ROLLBACK", internal)))
      })
    })
  }

  status(): Driver.Status {
    const channel = this.#channel
    if (channel.closed !== undefined) {
      return "closed"
    }
    if (channel.transaction === "E" || channel.refused !== undefined) {
      return "aborted"
    }
    // What is still under way may yet begin a transaction.
    return this.#isOpen ? "active" : channel.dirty ? "dirty" : "idle"
  }

  /** Nothing is sent yet: the first statement takes it along. */
  begin(options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    return this.#ahead(() => {
      this.#transaction = undefined
      const steps = Transaction.beginSteps(options)
      if (options.verified === true) {
        const onRow: Flight.Step["onRow"] = (values) => {
          this.#transaction = Fate.transaction(values)
        }
        steps.push({ text: Fate.identify, onRow })
      }
      return steps
    })
  }

  get fate(): Effect.Effect<Driver.Fate, DatabaseError> | undefined {
    return this.#transaction === undefined ? undefined : Fate.ask(this.#elsewhere, this.#transaction)
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      // It ends the savepoints too.
      const begins = this.#channel.ahead.some((step) => step.begins === true)
      this.#channel.forget()
      return begins ? Effect.void : this.#calls.fly(
        () => Flights.query("COMMIT", { user: false, commit: true }),
        ({ answer }) =>
          answer.tag === "ROLLBACK"
            ? Effect.fail(makeError("TransactionAborted", {
              dialect: "postgres",
              code: "25P02",
              reason:
                "the server rolled the transaction back when it was asked to commit, because a statement of it had " +
                "failed before"
            }))
            : Effect.void,
        identity
      )
    })
  }

  get rollback(): Effect.Effect<void, DatabaseError> {
    return this.#undo(this.#command("ROLLBACK"))
  }

  savepoint(name: string): Effect.Effect<void, DatabaseError> {
    const text = `SAVEPOINT ${Pg.escapeIdentifier(name)}`
    return Effect.suspend(() => {
      if (name.includes("\0")) {
        return Effect.fail(this.#calls.refusal(serverError("42602", "a savepoint's name may not hold a NUL character")))
      }
      // What is under way may fail, and the savepoint with it: then it must not be rolled back to.
      const made = this.status() === "active" && !this.#channel.busy
        ? this.#ahead(() => [{ text }])
        : this.#command(text)
      return this.#opens(name, made)
    })
  }

  releaseSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    const quoted = Pg.escapeIdentifier(name)
    return Effect.suspend(() => {
      const channel = this.#channel
      channel.leave(name, false)
      if (this.#forget(quoted)) {
        return Effect.void
      }
      // It cannot fail where nothing else has, so it need not be waited for.
      return this.status() === "active" && !channel.busy
        ? this.#ahead(() => [{ text: `RELEASE SAVEPOINT ${quoted}` }])
        : this.#command(`RELEASE SAVEPOINT ${quoted}`)
    })
  }

  rollbackToSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    const quoted = Pg.escapeIdentifier(name)
    return Effect.suspend(() => {
      const channel = this.#channel
      channel.leave(name, true)
      if (channel.isOver && channel.refused !== undefined) {
        return Effect.fail(this.#calls.refusal(channel.refused))
      }
      return this.#forget(quoted)
        ? Effect.void
        : this.#command(`ROLLBACK TO SAVEPOINT ${quoted}; RELEASE SAVEPOINT ${quoted}`)
    })
  }

  beginWithin(name: string, options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const access = options.readOnly === true ? "; SET LOCAL transaction_read_only = on" : ""
    return this.#opens(
      name,
      this.#command(`SAVEPOINT ${Pg.escapeIdentifier(name)}${access}; ${Transaction.limitsText(options)}`)
    )
  }

  commitWithin(name: string, around: Driver.BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    const checked = this.#calls.fly(
      () => Flights.query(`SET CONSTRAINTS ALL IMMEDIATE; ${Transaction.initiallyDeferred}`, internal),
      ({ answer }) => Effect.succeed(answer.rows as ReadonlyArray<{ readonly names: string | null }>),
      identity
    )
    return Effect.flatMap(checked, (rows) => {
      const names = rows.at(0)?.names
      const deferred = names === null || names === undefined ? "" : `; SET CONSTRAINTS ${names} DEFERRED`
      const settings = around === undefined ? Transaction.resetText : Transaction.limitsText(around)
      this.#channel.leave(name, false)
      return this.#command(`${settings}; RELEASE SAVEPOINT ${Pg.escapeIdentifier(name)}${deferred}`)
    })
  }

  /** The server itself puts back what was set since the savepoint. */
  rollbackWithin(name: string): Effect.Effect<void, DatabaseError> {
    return this.rollbackToSavepoint(name)
  }

  get failStatement(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.status() === "active"
        ? Effect.catchTag(this.#command("SELECT 1/0"), "InvalidData", () => Effect.void)
        : Effect.void
    )
  }

  get ping(): Effect.Effect<void, DatabaseError> {
    return this.#command("")
  }

  get reset(): Effect.Effect<void, DatabaseError> {
    return Effect.flatMap(this.rollback, () =>
      Effect.suspend(() => {
        const channel = this.#channel
        if (channel.closed !== undefined) {
          return Effect.fail(this.#calls.refusal(channel.closed))
        }
        return channel.dirty
          ? Effect.map(this.#command("DISCARD ALL"), () => {
            channel.dirty = false
          })
          : Effect.void
      }))
  }

  get close(): Effect.Effect<void> {
    return this.#channel.close
  }

  destroy(): void {
    this.#channel.destroy()
  }

  toJSON(): unknown {
    return { _id: "sqlayer/PostgresConnection", id: this.id, status: this.status() }
  }

  #rows(
    sql: string,
    params: ReadonlyArray<unknown>,
    options: Flight.Options,
    transformRows: TransformRows,
    refusal: Driver.Refusal | undefined
  ): Effect.Effect<ReadonlyArray<object>, SqlError.SqlError> {
    const rows = Statements.run(this.#calls, { sql, params, options, refusal, finish: Statements.rowsOf<object> })
    return transformRows === undefined ? rows : Effect.map(rows, transformRows)
  }

  /** Whether a transaction is open, or will be with what is said next. */
  get #isOpen(): boolean {
    const { ahead, busy, transaction } = this.#channel
    return transaction !== "I" || busy || ahead.length > 0
  }

  /** Rolls back what is open. With its connection the transaction has ended too. */
  #undo(rollback: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      this.#channel.abandon()
      return this.#channel.closed === undefined && this.#isOpen ? rollback : Effect.void
    })
  }

  /** Sends something along with whatever comes next. */
  #ahead(steps: () => ReadonlyArray<Flight.Step>): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const channel = this.#channel
      if (channel.closed !== undefined) {
        return Effect.fail(this.#calls.refusal(channel.closed))
      }
      channel.ahead.push(...steps())
      return Effect.void
    })
  }

  #opens(savepoint: string, made: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return Effect.map(made, () => {
      this.#channel.savepoints.push(savepoint)
    })
  }

  /** Takes back a savepoint that was never sent, with all that was to follow it. */
  #forget(quoted: string): boolean {
    const { ahead } = this.#channel
    const at = ahead.findIndex(({ text }) => text === `SAVEPOINT ${quoted}`)
    if (at >= 0) {
      ahead.splice(at)
    }
    return at >= 0
  }

  #command(text: string): Effect.Effect<void, DatabaseError> {
    return this.#calls.fly(() => Flights.query(text, internal), () => Effect.void, identity)
  }
}
