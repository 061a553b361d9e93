/**
 * Implements `Driver.Connection` for PostgreSQL.
 */
import type * as SqlError from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import { NodeInspectSymbol } from "effect/Inspectable"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { type DatabaseError } from "../../DatabaseError.js"
import type { Member, Server, Servers } from "../cluster/servers.js"
import type * as Driver from "../driver.js"
import { make as makeError } from "../makeError.js"
import { rowStream } from "../rowStream.js"
import * as Cleaning from "./cleaning.js"
import * as CommitRecord from "./commitRecord.js"
import { copyFrom } from "./copy/copyFrom.js"
import { copyTo } from "./copy/copyTo.js"
import * as Engine from "./engine.js"
import type * as Exchange from "./exchange.js"
import * as Exchanges from "./exchanges.js"
import * as Execute from "./execute.js"
import { serverError } from "./pg.js"
import type { Pipeline } from "./pipeline.js"
import * as Portal from "./portal.js"
import * as Positions from "./position.js"
import { Pg } from "./protocol/pg.js"
import { Sender } from "./send.js"
import { mayWrite } from "./statementText.js"
import * as TransactionOutcome from "./transactionOutcome.js"
import * as TransactionSql from "./transactionSql.js"
import { isLocal } from "./transport/local.js"

type TransformRows = (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** The statement timeout of a transaction's options in milliseconds; undefined if they have none. */
const timeoutOf = (options: Driver.BeginOptions | undefined): number | undefined =>
  options?.statementTimeout === undefined ? undefined : TransactionSql.milliseconds(options.statementTimeout)

/** Matches statements that may set the access mode of later transactions. */
const setsReadOnly = /read_only|\bread\s+(?:only|write)\b|\b(?:reset|discard)\s+all\b/i

/** For the driver's own commands. */
const internal: Exchange.Options = { user: false }

/** The transaction that a stream begins where none is open. Streams that are opened while it is open run in it too. */
interface StreamTransaction {
  /** The pipeline's `endedTransactions` when it began. */
  readonly number: number
  /** The pipeline's number of statements when it began. */
  readonly statements: number
  /** How many streams use it. The last one ends it. */
  streams: number
  /** Whether one of them may have written something. */
  mayWrite: boolean
  /** Whether one of them has failed, so that it is rolled back. */
  hasFailed: boolean
}

export class Connection implements Driver.Connection {
  /** The server that it is connected to. */
  server: Server | undefined = undefined
  private readonly sender: Sender
  /** How many portals were opened. The name of each contains its number. */
  private portals = 0
  /** The options of the savepoints that replace a transaction, by name. */
  private readonly savepointOptions = new Map<string, Driver.BeginOptions>()
  private streamTransaction: StreamTransaction | undefined = undefined
  /** Identifies the last transaction, if its outcome is to be available and it was begun on the server. */
  private transactionIdentity: TransactionOutcome.TransactionIdentity | undefined = undefined
  /** The options of the last transaction. */
  private transactionOptions: Driver.BeginOptions = {}
  /** The row that was sent with the last COMMIT. */
  private commitRecord: CommitRecord.CommitRecord | undefined = undefined

  constructor(
    private readonly pipeline: Pipeline,
    readonly id: number,
    description: string,
    /** Opens another connection to the same target. */
    private readonly connectAgain: (restore: Driver.Restore) => Effect.Effect<Connection, DatabaseError>
  ) {
    this.sender = new Sender(pipeline, description, connectAgain)
  }

  get isExposed(): boolean {
    const { encryption, host } = this.pipeline.route
    return encryption === "plain" && !isLocal(host)
  }

  /** Calls `f` once when the connection is lost and was not closed by the client; at once if that has happened. */
  onLost(f: (error: DatabaseError) => void): void {
    const { pipeline } = this
    pipeline.onLost = (error) => f(this.sender.connectionError(error))
    const reason = pipeline.retireReason ?? pipeline.lossReason
    if (reason !== undefined) {
      pipeline.onLost(reason)
    }
  }

  /**
   * Reports the connection as lost because its server is not what it was opened for. A pool destroys it, at once if it is
   * idle, or when it is returned.
   */
  retire(reason: string): void {
    this.pipeline.retire(serverError("08006", reason))
  }

  /** Calls `f` when the server reports that its role has changed, unless a statement of the borrower has changed it. */
  onRole(f: (standby: boolean, readOnly: boolean) => void): void {
    const { pipeline } = this
    const { parameters } = pipeline
    parameters.onServerChange = (name) => {
      const { current } = pipeline
      if (name === "in_hot_standby" || current === undefined || !setsReadOnly.test(current.text)) {
        f(parameters.get("in_hot_standby") === "on", parameters.get("default_transaction_read_only") === "on")
      }
    }
  }

  /** Registers the connection with the state of its server, until it is closed. */
  joinServer(
    servers: Servers,
    { identity, needsWriter, prefers, server }: Pick<Member, "server" | "identity" | "needsWriter" | "prefers">
  ): void {
    const { pipeline } = this
    const member: Member = {
      server,
      identity,
      needsWriter,
      prefers,
      get activity() {
        return pipeline.activity
      },
      get isWaiting() {
        return pipeline.isWaiting
      },
      retire: (reason) => this.retire(reason),
      end: (reason) => pipeline.lose(serverError("08006", reason))
    }
    this.server = server
    servers.join(member)
    pipeline.onReadOnly = () => servers.demoted(server)
    const { onClosed } = pipeline
    pipeline.onClosed = () => {
      onClosed()
      servers.leave(member)
      if (pipeline.lossReason !== undefined) {
        servers.lost(server)
      }
    }
  }

  /** Sends an exchange that executes nothing. Fails with its error. */
  check(exchange: Exchange.Exchange): Effect.Effect<void, DatabaseError> {
    return this.sender.send(() => exchange, () => Effect.void, identity)
  }

  onNotification(f: (channel: string, payload: string) => void): void {
    this.pipeline.onNotification = f
  }

  get engine(): Engine.Engine {
    return this.pipeline.engine
  }

  /** The value of a tracked parameter; undefined if the server does not report it. */
  parameter(name: string): string | undefined {
    return this.pipeline.parameters.get(name)
  }

  execute(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    guard?: Driver.StatementGuard
  ) {
    return this.executeRows(sql, params, { params, user: true, prepare: true }, transformRows, guard)
  }

  /** The rows of a query of the driver's own, which the application's types do not apply to. */
  query(text: string): Effect.Effect<ReadonlyArray<object>, DatabaseError> {
    return this.sender.send(
      () => Exchanges.query(text, internal),
      ({ result: { rows } }) => Effect.succeed(rows),
      identity
    )
  }

  executeUnprepared(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows,
    guard?: Driver.StatementGuard
  ) {
    return this.executeRows(sql, params, { params, user: true }, transformRows, guard)
  }

  executeRaw(
    sql: string,
    params: ReadonlyArray<unknown>,
    guard?: Driver.StatementGuard
  ): Effect.Effect<unknown, SqlError.SqlError> {
    const options: Exchange.Options = { params, user: true, prepare: true }
    return Execute.run(this.sender, { sql, params, options, guard, finish: Execute.pgResultOf })
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>, guard?: Driver.StatementGuard) {
    return this.executeArrays(sql, params, "array", guard)
  }

  executeTexts(sql: string, params: ReadonlyArray<unknown>, guard?: Driver.StatementGuard) {
    return this.executeArrays(sql, params, "texts", guard)
  }

  private executeArrays(
    sql: string,
    params: ReadonlyArray<unknown>,
    rowMode: "array" | "texts",
    guard: Driver.StatementGuard | undefined
  ) {
    const options: Exchange.Options = { params, user: true, prepare: true, rowMode }
    const finish = Execute.rowsOf<ReadonlyArray<unknown>>
    return Execute.run(this.sender, { sql, params, options, guard, finish })
  }

  executeStream(
    sql: string,
    params: ReadonlyArray<unknown>,
    transformRows: TransformRows
  ): Stream.Stream<object, SqlError.SqlError> {
    return rowStream(this.cursor(sql, params), transformRows)
  }

  cursor(
    sql: string,
    params: ReadonlyArray<unknown>,
    guard?: Driver.StatementGuard
  ): Effect.Effect<Driver.Pull, never, Scope.Scope> {
    return Effect.suspend(() => {
      const portal = `sqlayer_${++this.portals}`
      const rollback = this.rollBackWith(this.sender.sendWithTimeout(this.makeRollback))
      const writes = mayWrite(sql)
      if (guard !== undefined) {
        guard.mayWrite = writes
      }
      /** Identifies the transaction in which the portal was opened. */
      let transaction = -1
      /** That transaction, if streams have begun it. */
      let shared: StreamTransaction | undefined = undefined
      let hasLeft = false
      /** What the portal was opened for. */
      let sent: { readonly text: string; readonly options: Exchange.Options } = { text: sql, options: { user: true } }
      const onSend = (ownsTransaction: boolean): boolean => {
        const { pipeline } = this
        if (transaction === -1) {
          transaction = pipeline.endedTransactions
          if (ownsTransaction) {
            this.streamTransaction = {
              number: transaction,
              statements: pipeline.statements,
              streams: 0,
              mayWrite: false,
              hasFailed: false
            }
          }
          shared = this.streamTransaction?.number === transaction ? this.streamTransaction : undefined
          if (shared !== undefined) {
            shared.streams++
            shared.mayWrite ||= writes
          }
        }
        return shared !== undefined
      }
      /** Returns whether no other stream uses the transaction. */
      const leave = (hasFailed: boolean): boolean => {
        if (shared !== undefined && !hasLeft) {
          hasLeft = true
          shared.streams--
          shared.hasFailed ||= hasFailed
        }
        return shared?.streams === 0
      }
      const isInTransaction = () =>
        this.pipeline.transactionStatus !== "I" && this.pipeline.endedTransactions === transaction
      /** Whether a statement has ended the transaction, and the connection waits for its rollback. */
      const isEndedByStatement = () =>
        this.pipeline.isEndedByStatement && this.pipeline.endedTransactions === transaction + 1
      /** COMMIT, unless another stream has been opened in the transaction by the time that it is sent. */
      const makeCommit = () => {
        // If nothing has written, it does not matter whether a COMMIT was executed whose answer was lost.
        const commit = shared?.mayWrite === true || this.pipeline.hasStatementsSince(shared?.statements ?? -1)
        const exchange = Exchanges.query("COMMIT", { user: false, commit })
        exchange.isNeeded = () => shared?.streams === 0
        return exchange
      }
      const commit = this.commitWith(makeCommit)
      /**
       * Commits if other statements ran in the transaction of the streams, since these have reported success or will do
       * so.
       */
      const end = Effect.suspend(() => {
        const { pipeline } = this
        if (
          pipeline.abortReason === undefined && pipeline.transactionStatus === "T" && shared !== undefined &&
          pipeline.hasStatementsSince(shared.statements)
        ) {
          pipeline.submit(makeCommit())
          return Effect.void
        }
        return rollback
      })
      const cancel = (exchange: Exchange.Exchange) =>
        writes || guard === undefined ? this.sender.cancel(exchange) : this.sender.cancelLate(exchange)
      return Portal.cursor({
        open: (maxRows, onOpen) =>
          Execute.run(this.sender, {
            sql,
            params,
            guard,
            cancel,
            options: { params, user: true },
            make: (text, encoded, options, types) => {
              sent = { text, options }
              return Exchanges.openPortal(
                portal,
                text,
                encoded,
                types,
                maxRows,
                options,
                this.pipeline.beginSettings,
                (ownsTransaction) => onOpen(onSend(ownsTransaction))
              )
            },
            finish: (completed) => Effect.succeed(Portal.batchOf(completed))
          }),
        read: (rowDescription, maxRows) =>
          this.sender.requestBatch(
            Exchanges.readPortal(portal, rowDescription, sent.text, maxRows, sent.options),
            guard,
            cancel
          ),
        close: Effect.sync(() => isInTransaction() && this.pipeline.closePortal(portal)),
        isInTransaction,
        commit: Effect.suspend(() => !leave(false) ? Effect.void : shared?.hasFailed === true ? end : commit),
        rollback: Effect.suspend(() => leave(true) && (isInTransaction() || isEndedByStatement()) ? end : Effect.void)
      })
    })
  }

  copyFrom<E>(
    request: Driver.CopyFrom,
    source: Driver.CopySource<E>,
    guard?: Driver.StatementGuard
  ): Effect.Effect<number, SqlError.SqlError | E> {
    return copyFrom(this.pipeline, this.sender, request, source, guard)
  }

  copyTo(request: Driver.CopyTo, guard?: Driver.StatementGuard): Effect.Effect<Driver.Pull, never, Scope.Scope> {
    return copyTo(this.pipeline, this.sender, request, guard)
  }

  status(): Driver.Status {
    const { abortReason, closeReason, isDirty, transactionStatus } = this.pipeline
    if (closeReason !== undefined) {
      return "closed"
    }
    if (transactionStatus === "E" || abortReason !== undefined) {
      return "aborted"
    }
    return this.isTransactionOpen ? "active" : isDirty ? "dirty" : "idle"
  }

  /** Sends nothing by itself: BEGIN is sent in the round trip of the first statement. */
  begin(options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const { engine } = this.pipeline
    const refusal = options.outcome === "verified" ? engine.refusal("transactionStatus") : undefined
    return refusal !== undefined ? Effect.fail(refusal) : this.defer(() => {
      this.transactionIdentity = undefined
      this.transactionOptions = options
      this.commitRecord = undefined
      this.pipeline.tracksDurability = options.outcome !== undefined
      this.pipeline.hasChangedDurability = false
      this.pipeline.isUnconfirmed = false
      this.pipeline.isReadOnlyAsked = options.readOnly === true ||
        (this.pipeline.isReadOnlyAsked && this.status() === "dirty")
      this.pipeline.statementTimeout.set(timeoutOf(options))
      const steps = TransactionSql.beginSteps(options, this.pipeline.beginSettings)
      // A recorded commit is looked up without this, so it is not asked of an engine that may lack it.
      const isIdentified = options.outcome === "verified" || (engine.isPostgres && !engine.lacks("transactionStatus"))
      if (options.outcome !== undefined && isIdentified) {
        const onRow: Exchange.Step["onRow"] = (values) => {
          this.transactionIdentity = TransactionOutcome.parseIdentity(values)
        }
        const text = options.outcome === "verified"
          ? TransactionOutcome.identitySql
          : TransactionOutcome.identityWithoutIdSql
        steps.push({ text, needs: "transactionStatus", onRow })
      }
      return steps
    })
  }

  get transactionOutcome(): Effect.Effect<Driver.TransactionOutcome, DatabaseError> | undefined {
    const { commitRecord, connectAgain, pipeline, transactionIdentity } = this
    const { closeReason, hasChangedDurability, isUnconfirmed } = pipeline
    if (isUnconfirmed && (commitRecord === undefined || closeReason === undefined)) {
      // A commit that the standby has not confirmed may be lost with the server. Only a commit record shows whether it
      // was.
      return undefined
    }
    const waits = isUnconfirmed || hasChangedDurability
    return commitRecord !== undefined
      ? CommitRecord.lookUpRecord(connectAgain, waits ? { ...commitRecord, durability: "on" } : commitRecord)
      : transactionIdentity !== undefined
      ? TransactionOutcome.lookUp(
        connectAgain,
        waits ? { ...transactionIdentity, durability: "on" } : transactionIdentity
      )
      : undefined
  }

  get commit(): Effect.Effect<void, DatabaseError> {
    return this.commitWith(() => Exchanges.query("COMMIT", { user: false, commit: true }), true)
  }

  get commitWithPosition(): Effect.Effect<Driver.Position | null | undefined, DatabaseError> {
    return Effect.suspend(() => {
      // A failed transaction has no position: COMMIT rolls it back.
      if (this.pipeline.engine.lacks("lsn") || this.pipeline.transactionStatus === "E") {
        return Effect.as(this.commit, undefined)
      }
      let exchange: Positions.CommitWithPosition | undefined = undefined
      return Effect.map(
        this.commitWith(() => exchange = new Positions.CommitWithPosition(), true),
        () => exchange === undefined ? null : exchange.position
      )
    })
  }

  beginOnReplica(options: Driver.BeginOptions, required: Driver.Freshness): Effect.Effect<void, DatabaseError> {
    return Effect.map(this.begin(options), () => {
      this.pipeline.pendingSteps.unshift(...Positions.freshnessSteps(required))
    })
  }

  staleness(
    required: Driver.Freshness,
    wait = 0
  ): Effect.Effect<Driver.Staleness | undefined, DatabaseError> {
    const { position } = required
    const [sql, params] = Positions.stalenessQuery(required)
    const { engine, parameters } = this.pipeline
    const asked = Effect.suspend(() =>
      this.sender.send(
        () => Exchanges.statement(sql, params, { user: false, prepare: true }),
        ({ result: { rows: [row] } }) =>
          Effect.succeed((row as { readonly staleness: Driver.Staleness | null }).staleness ?? undefined),
        identity
      )
    )
    // The query follows also if the wait fails, as by a conflict with recovery.
    return position === undefined || wait === 0 || !engine.waitsForPositions(parameters) ? asked : Effect.zipRight(
      Effect.catchAll(
        this.command(Positions.waitSql(position, wait)),
        (error) => Effect.sync(() => engine.waitRejected(error))
      ),
      asked
    )
  }

  get position(): Effect.Effect<Driver.Position | undefined, DatabaseError> {
    return Effect.suspend(() => {
      const exchange = new Positions.AskPosition()
      return this.sender.send(() => exchange, () => Effect.succeed(exchange.position), identity)
    })
  }

  trackPositions(tracking: Driver.PositionTracking | undefined): void {
    this.pipeline.tracking = tracking
  }

  get rollback(): Effect.Effect<void, DatabaseError> {
    return this.rollBackWith(this.sender.send(this.makeRollback, () => Effect.void, identity))
  }

  savepoint(name: string): Effect.Effect<void, DatabaseError> {
    const text = `SAVEPOINT ${Pg.escapeIdentifier(name)}`
    return Effect.suspend(() => {
      if (name.includes("\0")) {
        return Effect.fail(
          this.sender.connectionError(serverError("42602", "a savepoint's name may not contain a NUL character"))
        )
      }
      const refusal = this.pipeline.engine.refusal("savepoints")
      if (refusal !== undefined) {
        return Effect.fail(refusal)
      }
      // With a statement in flight, waits until the savepoint is created: if the statement fails, there is none to roll
      // back to.
      const created = this.status() === "active" && !this.pipeline.isBusy
        ? this.defer(() => [{ text, needs: "savepoints" }])
        : this.command(text, "savepoints")
      return this.trackSavepoint(name, created)
    })
  }

  releaseSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    const quoted = Pg.escapeIdentifier(name)
    return Effect.suspend(() => {
      this.pipeline.leaveSavepoint(name, false)
      if (this.withdrawSavepoint(quoted)) {
        return Effect.void
      }
      // It fails only if the transaction has failed, so nothing has to wait for it.
      return this.status() === "active" && !this.pipeline.isBusy
        ? this.defer(() => [{ text: `RELEASE SAVEPOINT ${quoted}` }])
        : this.command(`RELEASE SAVEPOINT ${quoted}`)
    })
  }

  rollbackToSavepoint(name: string): Effect.Effect<void, DatabaseError> {
    const quoted = Pg.escapeIdentifier(name)
    return Effect.suspend(() => {
      const { pipeline } = this
      const depth = pipeline.savepoints.lastIndexOf(name)
      if (depth >= 0) {
        pipeline.cancelStatements(depth + 1)
      }
      pipeline.leaveSavepoint(name, true)
      if (pipeline.isEndedByStatement && pipeline.abortReason !== undefined) {
        return Effect.fail(this.sender.connectionError(pipeline.abortReason))
      }
      return this.withdrawSavepoint(quoted)
        ? Effect.void
        : this.command(`ROLLBACK TO SAVEPOINT ${quoted}; RELEASE SAVEPOINT ${quoted}`)
    })
  }

  beginWithin(name: string, options: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    const access = options.readOnly === true ? "; SET LOCAL transaction_read_only = on" : ""
    return Effect.tap(
      this.trackSavepoint(
        name,
        this.command(
          `SAVEPOINT ${Pg.escapeIdentifier(name)}${access}; ${TransactionSql.timeoutsSql(options)}` +
            TransactionSql.settingsSql(options),
          "savepoints"
        )
      ),
      () => {
        this.pipeline.statementTimeout.set(timeoutOf(options))
        this.pipeline.isReadOnlyAsked ||= options.readOnly === true
        this.savepointOptions.set(name, options)
      }
    )
  }

  commitWithin(name: string, around: Driver.BeginOptions | undefined): Effect.Effect<void, DatabaseError> {
    const checked = this.sender.send(
      () => Exchanges.query(`SET CONSTRAINTS ALL IMMEDIATE; ${TransactionSql.initiallyDeferredSql}`, internal),
      ({ result }) => Effect.succeed(result.rows as ReadonlyArray<{ readonly names: string | null }>),
      identity
    )
    return Effect.flatMap(checked, (rows) => {
      const names = rows.at(0)?.names
      const deferred = names === null || names === undefined ? "" : `; SET CONSTRAINTS ${names} DEFERRED`
      const settings = around === undefined
        ? TransactionSql.resetSql
        : TransactionSql.timeoutsSql(around) + TransactionSql.resetSettingsSql(this.savepointOptions.get(name) ?? {}) +
          TransactionSql.settingsSql(around)
      this.savepointOptions.delete(name)
      this.pipeline.leaveSavepoint(name, false)
      this.pipeline.statementTimeout.set(timeoutOf(around))
      return this.command(`${settings}; RELEASE SAVEPOINT ${Pg.escapeIdentifier(name)}${deferred}`)
    })
  }

  /** Rolling back to a savepoint also restores the settings. */
  rollbackWithin(name: string, around?: Driver.BeginOptions): Effect.Effect<void, DatabaseError> {
    return Effect.tap(this.rollbackToSavepoint(name), () => {
      this.pipeline.statementTimeout.set(timeoutOf(around))
      this.savepointOptions.delete(name)
    })
  }

  get failStatement(): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() =>
      this.status() === "active"
        ? Effect.catchTag(this.command("SELECT 1/0"), "InvalidData", () => Effect.void)
        : Effect.void
    )
  }

  get ping(): Effect.Effect<void, DatabaseError> {
    return this.command("")
  }

  get reset(): Effect.Effect<void, DatabaseError> {
    return Effect.flatMap(this.rollback, () =>
      Effect.suspend(() => {
        const { pipeline } = this
        if (pipeline.closeReason !== undefined) {
          return Effect.fail(this.sender.connectionError(pipeline.closeReason))
        }
        if (pipeline.isDirty && !pipeline.engine.isPostgres) {
          return this.cleanSeparately
        }
        pipeline.isCleanedNext = pipeline.isDirty
        return pipeline.isDirty ? this.command("") : Effect.void
      }))
  }

  markDirty(): void {
    this.pipeline.isDirty = true
  }

  resetLater(): boolean {
    const { engine } = this.pipeline
    this.pipeline.isCleanedNext = engine.isPostgres
    return engine.isPostgres
  }

  get close(): Effect.Effect<void> {
    return this.pipeline.close
  }

  destroy(): void {
    this.pipeline.destroy()
  }

  toJSON(): unknown {
    return { _id: "sqlayer/PostgresConnection", id: this.id, status: this.status() }
  }

  /** Hides the parameters of statements in flight and the settings sent at start-up. */
  [NodeInspectSymbol](): unknown {
    return this.toJSON()
  }

  private executeRows(
    sql: string,
    params: ReadonlyArray<unknown>,
    options: Exchange.Options,
    transformRows: TransformRows,
    guard: Driver.StatementGuard | undefined
  ): Effect.Effect<ReadonlyArray<object>, SqlError.SqlError> {
    const finish = transformRows === undefined ? Execute.rowsOf<object> : Execute.transformedRowsOf(transformRows, sql)
    return Execute.run(this.sender, { sql, params, options, guard, finish })
  }

  /** Whether a transaction is open, may be begun by a statement in flight, or begins with the next statement. */
  private get isTransactionOpen(): boolean {
    const { isBusy, pendingSteps, transactionStatus } = this.pipeline
    return transactionStatus !== "I" || isBusy || pendingSteps.length > 0
  }

  /** Rolls back the transaction if one is open. A closed connection has none. */
  private rollBackWith(rollback: Effect.Effect<void, DatabaseError>): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      if (this.pipeline.isBusy) {
        this.pipeline.cancelStatements(0)
      }
      this.pipeline.resetTransaction()
      return this.pipeline.closeReason === undefined && this.isTransactionOpen ? rollback : Effect.void
    })
  }

  /** ROLLBACK, unless the transaction has ended by the time that it is sent, for example by another ROLLBACK. */
  private readonly makeRollback = (): Exchange.Exchange => {
    const exchange = Exchanges.query("ROLLBACK", internal)
    exchange.isNeeded = () => this.pipeline.transactionStatus !== "I"
    return exchange
  }

  /** `records`: whether a transaction whose `outcome` is `recorded` sends its commit record ahead of COMMIT. */
  private commitWith(make: () => Exchange.Exchange, records = false): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const isUnsent = this.pipeline.pendingSteps.some((step) => step.beginsTransaction === true)
      this.pipeline.discardPendingSteps()
      const record = isUnsent || !records ? undefined : this.makeCommitRecord()
      let exchange: Exchange.Exchange | undefined = undefined
      if (record !== undefined) {
        this.commitRecord = record
        this.pipeline.pendingSteps.push(...CommitRecord.recordSteps(record, this.transactionOptions.role))
      }
      const committed = isUnsent ? Effect.void : this.sender.send(
        () => exchange = make(),
        ({ result }) =>
          result.commandTag === "ROLLBACK"
            ? Effect.fail(makeError("TransactionAborted", {
              dialect: "postgres",
              code: "25P02",
              reason:
                "the server answered COMMIT with ROLLBACK, because an earlier statement of the transaction had failed"
            }))
            : Effect.void,
        identity
      )
      return record === undefined ? committed : Effect.mapError(
        committed,
        (error) => exchange?.isSkipped === true ? CommitRecord.explainRejection(error) : error
      )
    })
  }

  /** The row that is sent with COMMIT, if the transaction is `recorded` and can write. */
  private makeCommitRecord(): CommitRecord.CommitRecord | undefined {
    const { transactionIdentity, transactionOptions: { outcome } } = this
    if (outcome !== "recorded" || transactionIdentity?.isReadOnly === true || this.status() !== "active") {
      return undefined
    }
    const system = this.pipeline.engine.lacks("transactionStatus") ? null : transactionIdentity?.server.systemIdentifier
    return CommitRecord.makeCommitRecord(system, transactionIdentity?.durability)
  }

  /** Sends commands ahead of the next exchange. */
  private defer(steps: () => ReadonlyArray<Exchange.Step>): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const { pipeline } = this
      if (pipeline.closeReason !== undefined) {
        return Effect.fail(this.sender.connectionError(pipeline.closeReason))
      }
      pipeline.pendingSteps.push(...steps())
      return Effect.void
    })
  }

  private trackSavepoint(
    name: string,
    created: Effect.Effect<void, DatabaseError>
  ): Effect.Effect<void, DatabaseError> {
    return Effect.map(created, () => {
      this.pipeline.savepoints.push(name)
    })
  }

  /** Removes a savepoint that was not sent, with everything after it. Returns whether there was one. */
  private withdrawSavepoint(quoted: string): boolean {
    const { pendingSteps } = this.pipeline
    const index = pendingSteps.findIndex(({ text }) => text === `SAVEPOINT ${quoted}`)
    if (index >= 0) {
      pendingSteps.splice(index)
    }
    return index >= 0
  }

  /** Cleans with the commands that the engine knows. It has no state that the others would remove. */
  private get cleanSeparately(): Effect.Effect<void, DatabaseError> {
    const { pipeline } = this
    const { unknownCommands } = pipeline.engine
    return Effect.map(
      Effect.forEach(
        Cleaning.separateCommands(pipeline.hasPreparedBySql),
        ({ isRequired, name, text }) =>
          unknownCommands.has(name) ? Effect.void : Effect.catchIf(
            this.command(text),
            (error) => !isRequired && Engine.isRefusal(error),
            () => Effect.sync(() => unknownCommands.add(name))
          ),
        { discard: true }
      ),
      () => pipeline.cleaned()
    )
  }

  private command(text: string, needs?: Engine.Capability): Effect.Effect<void, DatabaseError> {
    const options = needs === undefined ? internal : { user: false, needs }
    return this.sender.send(() => Exchanges.query(text, options), () => Effect.void, identity)
  }
}
