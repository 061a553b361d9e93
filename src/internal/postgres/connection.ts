/**
 * A connection as the rest of sqlayer sees it.
 */
import type * as SqlError from "@effect/sql/SqlError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Stream from "effect/Stream"
import Pg from "pg"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type * as Driver from "../driver.js"
import { make as makeError } from "../failure.js"
import { stoppable } from "../stoppable.js"
import type { Channel } from "./channel.js"
import * as Fate from "./fate.js"
import * as Flight from "./flight.js"
import { prepareValue, type RowMode, serverError } from "./pg.js"
import * as Portal from "./portal.js"
import { fromPostgres } from "./sqlState.js"

type TransformRows = (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** More than this the protocol cannot count. */
const maxParams = 65_535

const internal: Flight.Options = { user: false }

const isolationLevels = {
  "read uncommitted": "READ UNCOMMITTED",
  "read committed": "READ COMMITTED",
  "repeatable read": "REPEATABLE READ",
  "serializable": "SERIALIZABLE"
} as const

/** Zero is no limit for the server as for us; what is less than a millisecond is not rounded down to it. */
export const milliseconds = (duration: Duration.Duration): number =>
  Duration.isFinite(duration) ? Math.min(Math.ceil(Duration.toMillis(duration)), 2_147_483_647) : 0

const beginText = (options: Driver.BeginOptions): string => {
  const isolation = options.isolation === undefined ? "" : ` ISOLATION LEVEL ${isolationLevels[options.isolation]}`
  const access = options.readOnly === undefined ? "" : options.readOnly ? " READ ONLY" : " READ WRITE"
  const deferrable = options.deferrable === undefined ? "" : options.deferrable ? " DEFERRABLE" : " NOT DEFERRABLE"
  const statementTimeout = options.statementTimeout === undefined
    ? ""
    : `; SET LOCAL statement_timeout = ${milliseconds(options.statementTimeout)}`
  const lockTimeout = options.lockTimeout === undefined
    ? ""
    : `; SET LOCAL lock_timeout = ${milliseconds(options.lockTimeout)}`
  return `BEGIN${isolation}${access}${deferrable}${statementTimeout}${lockTimeout}`
}

const limitText = (name: string, limit: Duration.Duration | undefined): string =>
  `SET LOCAL ${name} ${limit === undefined ? "TO DEFAULT" : `= ${milliseconds(limit)}`}`

const limitsText = (options: Driver.BeginOptions): string =>
  `${limitText("statement_timeout", options.statementTimeout)}; ${limitText("lock_timeout", options.lockTimeout)}`

/** What would end with its transaction, or be cleared from the connection before others get it. */
const resetText = "RESET ALL; RESET SESSION AUTHORIZATION; RESET ROLE"

/** Those that a transaction begins with as deferred; all others begin as immediate. */
const initiallyDeferred =
  "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ') AS names " +
  "FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred"

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

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    const rows = this.#statement(sql, params, undefined, rowsOf<object>)
    return transformRows === undefined ? rows : Effect.map(rows, transformRows)
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.execute(sql, params, transformRows)
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>): Effect.Effect<unknown, SqlError.SqlError> {
    return this.#statement(sql, params, undefined, (flight) => Effect.succeed(flight.results ?? flight.result))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.#statement(sql, params, "array", rowsOf<ReadonlyArray<unknown>>)
  }

  executeStream(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows
  ): Stream.Stream<object, SqlError.SqlError> {
    return Stream.suspend(() => {
      const portal = `sqlayer_${++this.#portals}`
      const options = { statement: sql, params, user: true }
      return Portal.stream({
        transformRows,
        status: () => this.#channel.busy ? "busy" : this.#channel.transaction === "I" ? "outside" : "inside",
        open: (rows) =>
          this.#fly(
            () => Flight.openPortal(portal, sql, this.#encode(sql, params), rows, options),
            Effect.succeed,
            toSqlError
          ),
        read: (columns, rows) =>
          this.#fly(() => Flight.readPortal(portal, columns, rows, options), Effect.succeed, toSqlError),
        close: this.#briefly(() => Flight.closePortal(portal)),
        wait: Effect.mapError(this.ping, toSqlError),
        begin: Effect.mapError(this.begin({}), toSqlError),
        commit: this.commit,
        rollback: this.#briefly(() => Flight.simple("ROLLBACK", internal))
      })
    })
  }

  status(): Driver.Status {
    const channel = this.#channel
    if (channel.closed !== undefined) {
      return "closed"
    }
    if (channel.transaction === "E") {
      return "aborted"
    }
    // What is still under way may yet begin a transaction.
    return channel.transaction === "T" || channel.busy ? "active" : channel.dirty ? "dirty" : "idle"
  }

  begin(options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const text = beginText(options)
    this.#transaction = undefined
    return options.verified !== true
      ? this.#command(text)
      : this.#fly(
        () => Flight.simple(`${text}; ${Fate.identify}`, internal),
        ({ result }) => {
          this.#transaction = result.rows[0] as Fate.Transaction
          return Effect.void
        },
        identity
      )
  }

  get fate(): Effect.Effect<Driver.Fate, DatabaseError> | undefined {
    return this.#transaction === undefined ? undefined : Fate.ask(this.#elsewhere, this.#transaction)
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return this.#fly(
      () => Flight.simple("COMMIT", { user: false, commit: true }),
      (flight) =>
        flight.result.command === "ROLLBACK"
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
  }

  get rollback(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const channel = this.#channel
      // With its connection the transaction has ended too.
      return channel.closed !== undefined || (channel.transaction === "I" && !channel.busy)
        ? Effect.void
        : this.#command("ROLLBACK")
    })
  }

  savepoint(name: string): Effect.Effect<void, DatabaseError> {
    return this.#command(`SAVEPOINT ${Pg.escapeIdentifier(name)}`)
  }

  releaseSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    return this.#command(`RELEASE SAVEPOINT ${Pg.escapeIdentifier(name)}`)
  }

  rollbackToSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    const quoted = Pg.escapeIdentifier(name)
    return this.#command(`ROLLBACK TO SAVEPOINT ${quoted}; RELEASE SAVEPOINT ${quoted}`)
  }

  beginWithin(name: string, options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const access = options.readOnly === true ? "; SET LOCAL transaction_read_only = on" : ""
    return this.#command(`SAVEPOINT ${Pg.escapeIdentifier(name)}${access}; ${limitsText(options)}`)
  }

  commitWithin(name: string, around: Driver.BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    const checked = this.#fly(
      () => Flight.simple(`SET CONSTRAINTS ALL IMMEDIATE; ${initiallyDeferred}`, internal),
      rowsOf<ReadonlyArray<{ readonly names: string | null }>>,
      identity
    )
    return Effect.flatMap(checked, (results) => {
      const names = results.at(-1)?.[0]?.names
      const deferred = names === null || names === undefined ? "" : `; SET CONSTRAINTS ${names} DEFERRED`
      const settings = around === undefined ? resetText : limitsText(around)
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
          return Effect.fail(fromPostgres(channel.closed, { phase: "statement", description: this.#description }))
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

  #command(text: string): Effect.Effect<void, DatabaseError> {
    return this.#fly(() => Flight.simple(text, internal), () => Effect.void, identity)
  }

  #statement<A>(
    sql: string,
    params: ReadonlyArray<unknown>,
    rowMode: RowMode,
    finish: (flight: Flight.Flight) => Effect.Effect<A, SqlError.SqlError>
  ): Effect.Effect<A, SqlError.SqlError> {
    return this.#fly(
      () => {
        const options = { statement: sql, params, rowMode, user: true }
        const values = this.#encode(sql, params)
        return values.length === 0 ? Flight.simple(sql, options) : Flight.extended(sql, values, options)
      },
      finish,
      toSqlError
    )
  }

  /** Throws the DatabaseError. */
  #encode(statement: string, params: ReadonlyArray<unknown>): ReadonlyArray<Flight.Encoded> {
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
        return prepareValue(param)
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
    fail: (error: DatabaseError) => E
  ): Effect.Effect<A, E> {
    const channel = this.#channel
    return stoppable<A, E>((resume) => {
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

  #failure(flight: Flight.Flight, lost: Error | undefined): DatabaseError {
    const { commit, params, statement } = flight.options
    return fromPostgres(flight.error ?? lost, {
      phase: commit === true && flight.sent && lost !== undefined ? "commit" : "statement",
      description: this.#description,
      statement,
      params,
      canceled: false
    })
  }
}

const rowsOf = <Row>(flight: Flight.Flight): Effect.Effect<ReadonlyArray<Row>> =>
  // Several statements at once have several results.
  Effect.succeed(
    flight.results === undefined ? flight.result.rows : flight.results.map((result) => result.rows as Row)
  )
