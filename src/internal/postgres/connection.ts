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
import { make as makeError } from "../failure.js"
import { stoppable } from "../stoppable.js"
import * as Bulk from "./bulk.js"
import type { Channel } from "./channel.js"
import * as Fate from "./fate.js"
import * as Flight from "./flight.js"
import { prepareValue, resultOf, serverError } from "./pg.js"
import * as Portal from "./portal.js"
import { fromPostgres } from "./sqlState.js"
import * as Transaction from "./transaction.js"
import type { Encoded } from "./writer.js"

type TransformRows = (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** More than this the protocol cannot count. */
const maxParams = 65_535

/** How long a stream that ends early waits for rows that it has asked for, in milliseconds. */
const settleTimeout = 500

const internal: Flight.Options = { user: false }

/** Over a channel whose connection is established. */
export class Connection implements Driver.Connection {
  readonly id: number
  readonly #channel: Channel
  readonly #description: string
  readonly #elsewhere: (restore: Driver.Restore) => Effect.Effect<Driver.Connection, DatabaseError>
  #portals = 0
  #transaction: Fate.Transaction | undefined = undefined

  /** `elsewhere` connects to the same server. */
  constructor(
    channel: Channel,
    id: number,
    description: string,
    elsewhere: (restore: Driver.Restore) => Effect.Effect<Driver.Connection, DatabaseError>
  ) {
    this.#channel = channel
    this.#elsewhere = elsewhere
    this.#description = description
    this.id = id
  }

  /** Calls once when the connection breaks without being closed from here; at once if it has broken already. */
  onLost(f: (error: DatabaseError) => void): void {
    const channel = this.#channel
    const description = this.#description
    channel.onLost = (error) => f(fromPostgres(error, { phase: "statement", description }))
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
    const rows = this.#statement(sql, params, { params, user: true, prepare: true }, refusal, rowsOf<object>)
    return transformRows === undefined ? rows : Effect.map(rows, transformRows)
  }

  executeUnprepared(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    refusal?: Driver.Refusal
  ) {
    const rows = this.#statement(sql, params, { params, user: true }, refusal, rowsOf<object>)
    return transformRows === undefined ? rows : Effect.map(rows, transformRows)
  }

  executeRaw(
    sql: string,
    params: ReadonlyArray<unknown>,
    refusal?: Driver.Refusal
  ): Effect.Effect<unknown, SqlError.SqlError> {
    return this.#statement(
      sql,
      params,
      { params, user: true, prepare: true },
      refusal,
      (flight) => Effect.succeed(flight.answers?.map(resultOf) ?? resultOf(flight.answer))
    )
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, refusal?: Driver.Refusal) {
    const options: Flight.Options = { params, user: true, prepare: true, rowMode: "array" }
    return this.#statement(sql, params, options, refusal, rowsOf<ReadonlyArray<unknown>>)
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
          this.#fly(
            () => Flight.openPortal(portal, sql, this.#encode(sql, params), rows, options),
            Effect.succeed,
            toSqlError,
            refusal
          ),
        read: (columns, rows) => this.#ask(Flight.readPortal(portal, columns, sql, rows, options), refusal),
        close: this.#briefly(() => Flight.closePortal(portal)),
        wait: Effect.mapError(this.ping, toSqlError),
        begin: Effect.mapError(this.begin({}), toSqlError),
        commit: this.commit,
        rollback: Effect.suspend(() => {
          this.#channel.forget()
          return this.#briefly(() => Flight.query("ROLLBACK", internal))
        })
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
      return begins ? Effect.void : this.#fly(
        () => Flight.query("COMMIT", { user: false, commit: true }),
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
    return Effect.suspend(() => {
      const channel = this.#channel
      channel.forget()
      channel.refused = undefined
      // With its connection the transaction has ended too.
      return channel.closed === undefined && this.#isOpen ? this.#command("ROLLBACK") : Effect.void
    })
  }

  savepoint(name: string): Effect.Effect<void, DatabaseError> {
    const text = `SAVEPOINT ${Pg.escapeIdentifier(name)}`
    return Effect.suspend(() => {
      if (name.includes("\0")) {
        return Effect.fail(this.#refusal(serverError("42602", "a savepoint's name may not hold a NUL character")))
      }
      // What is under way may fail, and the savepoint with it: then it must not be rolled back to.
      const made = this.status() === "active" && !this.#channel.busy
        ? this.#ahead(() => [{ text }])
        : this.#command(text)
      return Effect.map(made, () => {
        this.#channel.savepoints.push(name)
      })
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
      this.#channel.leave(name, true)
      return this.#forget(quoted)
        ? Effect.void
        : this.#command(`ROLLBACK TO SAVEPOINT ${quoted}; RELEASE SAVEPOINT ${quoted}`)
    })
  }

  beginWithin(name: string, options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const access = options.readOnly === true ? "; SET LOCAL transaction_read_only = on" : ""
    return Effect.map(
      this.#command(`SAVEPOINT ${Pg.escapeIdentifier(name)}${access}; ${Transaction.limitsText(options)}`),
      () => {
        this.#channel.savepoints.push(name)
      }
    )
  }

  commitWithin(name: string, around: Driver.BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    const checked = this.#fly(
      () => Flight.query(`SET CONSTRAINTS ALL IMMEDIATE; ${Transaction.initiallyDeferred}`, internal),
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
          return Effect.fail(this.#refusal(channel.closed))
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

  /** Whether a transaction is open, or will be with what is said next. */
  get #isOpen(): boolean {
    const { ahead, busy, transaction } = this.#channel
    return transaction !== "I" || busy || ahead.length > 0
  }

  /** Sends something along with whatever comes next. */
  #ahead(steps: () => ReadonlyArray<Flight.Step>): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const channel = this.#channel
      if (channel.closed !== undefined) {
        return Effect.fail(this.#refusal(channel.closed))
      }
      channel.ahead.push(...steps())
      return Effect.void
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
    return this.#fly(() => Flight.query(text, internal), () => Effect.void, identity)
  }

  #statement<A>(
    sql: string,
    params: ReadonlyArray<unknown>,
    options: Flight.Options,
    refusal: Driver.Refusal | undefined,
    finish: (flight: Flight.Flight) => Effect.Effect<A, SqlError.SqlError>
  ): Effect.Effect<A, SqlError.SqlError> {
    const plan = Bulk.planOf(params)
    return plan === undefined
      ? this.#fly(() => Flight.statement(sql, this.#encode(sql, params), options), finish, toSqlError, refusal)
      : this.#manyRows(plan, sql, params, options, refusal, finish)
  }

  #manyRows<A>(
    plan: Bulk.Plan,
    sql: string,
    params: ReadonlyArray<unknown>,
    options: Flight.Options,
    refusal: Driver.Refusal | undefined,
    finish: (flight: Flight.Flight) => Effect.Effect<A, SqlError.SqlError>
  ): Effect.Effect<A, SqlError.SqlError> {
    const described = this.#fly(
      () => {
        this.#encode(plan.single, [])
        return Flight.describeParameters(plan.single, { user: true })
      },
      ({ types }) => Effect.succeed(Bulk.typesOf(plan, types)),
      toSqlError,
      refusal
    )
    return Effect.flatMap(described, (types) => {
      const [text, values] = types === undefined ? plan.byValue() : [sql, params]
      // For an error, which must not show any value.
      const shown = {
        ...options,
        get params() {
          return plan.byValue()[1]
        }
      }
      return this.#fly(
        () => {
          const encoded = this.#encode(text, values)
          return types === undefined
            ? Flight.statement(text, encoded, options)
            : Flight.typedStatement(text, encoded, types, shown)
        },
        finish,
        toSqlError,
        refusal
      )
    })
  }

  /** Throws the DatabaseError. */
  #encode(statement: string, params: ReadonlyArray<unknown>): ReadonlyArray<Encoded> {
    const refuse = (code: string, reason: string): never => {
      throw fromPostgres(serverError(code, reason), { phase: "statement", statement, params })
    }
    // What the protocol cannot say would put the server out of step with us.
    if (statement.includes("\0")) {
      refuse("42601", "a statement may not hold a NUL character")
    }
    if (params.length > maxParams) {
      refuse("54023", `a statement may have ${maxParams} parameters, and was given ${params.length}`)
    }
    return params.map((param, i) => {
      try {
        return encoded(prepareValue(param))
      } catch (cause) {
        const known = fromPostgres(cause, { phase: "statement" })
        // What a value's own code says may be the value.
        return refuse(
          "22023",
          `parameter $${i + 1} cannot be sent: ${known._tag === "InvalidData" ? known.reason : "its conversion failed"}`
        )
      }
    })
  }

  #fly<A, E>(
    make: () => Flight.Flight,
    finish: (flight: Flight.Flight) => Effect.Effect<A, E>,
    fail: (error: DatabaseError) => E,
    refusal?: Driver.Refusal
  ): Effect.Effect<A, E> {
    const channel = this.#channel
    return stoppable<A, E>((resume) => {
      const refused = refusal?.()
      if (refused !== undefined) {
        return resume(Effect.fail(fail(refused)))
      }
      let flight: Flight.Flight
      try {
        flight = make()
      } catch (error) {
        return resume(Effect.fail(fail(error as DatabaseError)))
      }
      flight.land = (lost) =>
        resume(
          lost === undefined && flight.error === undefined
            ? finish(flight)
            : Effect.fail(fail(this.#failure(flight, lost)))
        )
      channel.submit(flight)
      return channel.stop(flight)
    })
  }

  /** Sends what is waited for later. */
  #ask(flight: Flight.Flight, refusal: Driver.Refusal | undefined): Portal.Asked {
    const channel = this.#channel
    const refused = refusal?.()
    let answer: Effect.Effect<Flight.Flight, SqlError.SqlError> | undefined = undefined
    let told = (): void => undefined
    let took = Infinity
    const since = performance.now()
    flight.land = (lost) => {
      took = performance.now() - since
      answer = lost === undefined && flight.error === undefined
        ? Effect.succeed(flight)
        : Effect.fail(toSqlError(this.#failure(flight, lost)))
      told()
    }
    if (refused === undefined) {
      channel.submit(flight)
    } else {
      answer = Effect.fail(toSqlError(refused))
    }
    return {
      answer: stoppable((resume) => {
        if (answer !== undefined) {
          return resume(answer)
        }
        told = () => resume(answer!)
        return channel.stop(flight)
      }),
      took: () => took,
      settle: Effect.async<void>((resume) => {
        if (answer !== undefined) {
          return resume(Effect.void)
        }
        const timer = setTimeout(() => resume(channel.stop(flight)), settleTimeout)
        told = () => {
          clearTimeout(timer)
          resume(Effect.void)
        }
      })
    }
  }

  /** For finalizers, which cannot be interrupted. */
  #briefly(make: () => Flight.Flight): Effect.Effect<void, DatabaseError> {
    return Effect.async<void, DatabaseError>((resume) => {
      const flight = make()
      flight.land = (lost) =>
        resume(
          lost === undefined && flight.error === undefined ? Effect.void : Effect.fail(this.#failure(flight, lost))
        )
      this.#channel.submitBriefly(flight)
    })
  }

  #refusal(cause: Error): DatabaseError {
    return fromPostgres(cause, { phase: "statement", description: this.#description })
  }

  #failure(flight: Flight.Flight, lost: Error | undefined): DatabaseError {
    const { commit, params, user } = flight.options
    return fromPostgres(flight.error ?? lost, {
      phase: commit === true && flight.sent && lost !== undefined ? "commit" : "statement",
      description: this.#description,
      statement: user ? flight.text : undefined,
      params,
      canceled: false
    })
  }
}

/** A value's own conversion may give anything. */
const encoded = (value: unknown): Encoded => {
  if (value === null || typeof value === "string" || Buffer.isBuffer(value)) {
    return value
  }
  throw new TypeError("its conversion gave nothing that can be sent")
}

const rowsOf = <Row extends object>({ answer, answers }: Flight.Flight): Effect.Effect<ReadonlyArray<Row>> =>
  // Several statements at once have several answers.
  Effect.succeed<ReadonlyArray<object>>(answers?.map(({ rows }) => rows) ?? answer.rows) as Effect.Effect<
    ReadonlyArray<Row>
  >
