/**
 * Handles the requests of one connection with a SQLite library. It does not use Effect, so that a worker thread need not
 * load it.
 */
import { writeBackup } from "./backupFile.js"
import { type Binding, type Database, memory, SqliteError } from "./binding.js"
import type { CheckpointResult } from "./checkpointGap.js"
import { fileMoved } from "./codeNames.js"
import { Cursors, interruptedError } from "./cursors.js"
import { FileIdentity, identityOf, isReplaced } from "./fileIdentity.js"
import { defineFunctions, FunctionError, type LoadedFunctions } from "./functions.js"
import { toExactNumber, tooLarge } from "./integers.js"
import { applySetting, openDatabase } from "./opening.js"
import * as Pragmas from "./pragmas.js"
import {
  type Backup,
  type Begin,
  type ChangedSetting,
  type Failure,
  type Fetch,
  type FirstBatch,
  isBusy,
  isRollbackStatement,
  type OpenedFile,
  type OpenOptions,
  type Operation,
  type Request,
  type Response,
  type Run,
  type RunMany,
  runsStatement,
  transactionOver
} from "./protocol.js"
import { outlivesTransaction, type Setting } from "./settings.js"
import { type PreparedStatement, StatementCache } from "./statementCache.js"
import { isInsert, quote } from "./statementText.js"

/** Lets the sender of a request cancel it while it runs. */
export interface Cancellation {
  /** Whether the sender is able to cancel the request while it runs. */
  readonly isCancelable: () => boolean
  readonly isCanceled: () => boolean
  /** Called right before a commit. Returns false if the request was canceled; after true it cannot be canceled. */
  readonly enterCommit: () => boolean
}

/** How long queries outside of transactions rely on the last check of the file, in milliseconds. */
const maxUnchecked = 100

const transactionEnded = "the transaction has already ended: an earlier failure or one of its own statements ended it"
const transactionFailed = "an earlier statement of the transaction failed, so it can only be rolled back: " +
  "to catch a failure and continue, run the statement in a nested session"

const objects = { asArray: false, safeIntegers: false }

/** The rowid as it is reported: that of the last row that the connection has inserted, even by an earlier statement. */
const rowidOf = (rowid: bigint, sql: string, safeIntegers: boolean): number | bigint => {
  const number = safeIntegers ? rowid : toExactNumber(rowid)
  if (typeof number === "bigint" && !safeIntegers && isInsert(sql)) {
    throw tooLarge("the rowid of the inserted row")
  }
  return number
}

/** The error of one row of several. */
class RowError {
  constructor(readonly row: number, readonly error: unknown) {}
}

/** One connection to a file, or one database in memory. It handles one request at a time. */
export class Engine {
  private readonly extensions: Array<string>
  private readonly statements = new StatementCache()
  private readonly cursors: Cursors
  private database: Database | undefined
  private dirty = false
  private queryOnly = false
  /** Whether a statement of the transaction failed. One that found the file busy may be retried, so it does not count. */
  private transactionFailed = false
  /** Whether the current request belongs to a transaction of the client, and not to one that a statement began. */
  private inSession = false
  private fileIdentity: FileIdentity | undefined
  /** When the file was last checked. */
  private lastCheck = 0
  /** The settings that statements outside of transactions have changed, here or on another connection. */
  private readonly settings = new Map<string, ChangedSetting>()
  /** The setting that the current request has changed. */
  private changedSetting: ChangedSetting | undefined
  /** The size of the WAL before the current request has committed. */
  private walSize: number | undefined

  constructor(
    private readonly binding: Binding,
    private readonly options: OpenOptions,
    private readonly cancellation: Cancellation,
    /** The functions of the options, which were loaded before. */
    private readonly functions: LoadedFunctions
  ) {
    this.cursors = new Cursors(cancellation.isCanceled)
    this.extensions = [...options.extensions]
    options.settings.forEach((setting) => this.settings.set(setting.key, setting))
  }

  /** Handles a request. Only a backup is asynchronous. */
  handle({ begin, operation, requiresTransaction, transactionFailed }: Request): Response | Promise<Response> {
    let begun = false
    this.inSession = begin !== undefined || requiresTransaction
    this.changedSetting = undefined
    this.walSize = undefined
    try {
      if (begin !== undefined) {
        this.begin(begin)
        begun = true
      } else if (requiresTransaction) {
        this.transactionFailed ||= transactionFailed
        this.checkTransaction(operation)
      }
      const value = this.perform(operation)
      if (requiresTransaction) {
        // In a failed transaction only a rollback can succeed, which undoes the failure.
        this.transactionFailed = false
      }
      return value instanceof Promise
        ? value.then((value) => this.respond(value, undefined, begun), (error) => this.respond(undefined, error, begun))
        : this.respond(value, undefined, begun)
    } catch (error) {
      this.transactionFailed ||= (requiresTransaction || begun) && runsStatement(operation) &&
        !isBusy(this.failureOf(error).code)
      return this.respond(undefined, error, begun)
    }
  }

  private failureOf(error: unknown): Failure {
    return error instanceof RowError ? { ...this.failureOf(error.error), row: error.row } : {
      message: error instanceof Error ? error.message : String(error),
      code: error instanceof SqliteError ? error.code : this.binding.codeOf(error),
      row: undefined,
      values: error instanceof FunctionError ? error.values : []
    }
  }

  /** The response to a request that was canceled before it was started. */
  handleCanceled(): Response {
    return this.respond(undefined, interruptedError(), false)
  }

  private respond(value: unknown, error: unknown, transactionBegun: boolean): Response {
    return {
      value,
      failure: error === undefined ? undefined : this.failureOf(error),
      transactionBegun,
      inTransaction: this.database?.inTransaction() === true,
      transactionFailed: this.transactionFailed,
      dirty: this.dirty || this.cursors.size > 0,
      setting: this.changedSetting,
      walSize: this.walSize
    }
  }

  /**
   * Refuses an operation of a transaction that has ended or failed. After SQLite has rolled back a transaction by itself,
   * further statements would each commit on their own. After a failed statement, COMMIT would keep what the others wrote.
   */
  private checkTransaction(operation: Operation): void {
    const inTransaction = this.db.inTransaction()
    if (inTransaction && !(this.transactionFailed && !isRollbackStatement(operation))) {
      return
    }
    if (operation._tag === "Commit") {
      this.rollback()
    }
    throw new SqliteError(inTransaction ? transactionFailed : transactionEnded, transactionOver)
  }

  private perform(operation: Operation): unknown {
    switch (operation._tag) {
      case "Run":
        return this.run(this.statements.prepare(this.db, operation.sql, operation.cached, operation.own), operation)
      case "RunMany":
        return this.runMany(operation)
      case "Fetch":
        return this.fetch(operation)
      case "FetchNext":
        return this.cursors.next(operation.cursor)
      case "FetchEnd":
        return this.cursors.close(operation.cursor)
      case "Commit":
        return this.commit()
      case "Rollback":
        return this.rollback()
      case "Open":
        return this.open(this.options.mustExist, operation.keepsMode)
      case "Ping":
        return this.ping()
      case "Checkpoint":
        return this.checkpoint()
      case "Reset":
        return this.reset()
      case "Export":
        return this.db.serialize()
      case "Backup":
        return this.backup(operation)
      case "LoadExtension":
        return this.loadExtension(operation.path)
      case "Close":
        return this.close()
    }
  }

  private get db(): Database {
    if (this.database === undefined) {
      throw new TypeError("The database connection is not open")
    }
    return this.database
  }

  /** Opens the database. Fails if its file is replaced meanwhile, since either of the two may have been opened. */
  private open(mustExist: boolean, keepsMode: boolean): OpenedFile {
    const { filename, reader } = this.options
    const isMemory = filename === memory
    const before = isMemory ? undefined : identityOf(filename)
    const { database, immutable, journalMode } = openDatabase(
      this.binding,
      { ...this.options, extensions: this.extensions },
      { settings: this.settings.values(), mustExist, keepsMode }
    )
    try {
      defineFunctions(database, this.functions)
    } catch (error) {
      database.close()
      throw error
    }
    const mode = immutable ? "immutable" : journalMode === "wal" ? "wal" : "rollback"
    const identity = isMemory ? undefined : new FileIdentity(database, filename, mode)
    if (isReplaced(before, identity?.opened.file)) {
      database.close()
      throw new SqliteError("the file was deleted, or replaced by another, while it was opened", fileMoved)
    }
    this.database = database
    this.queryOnly = reader
    this.fileIdentity = identity
    return {
      journalMode,
      file: identity?.opened.file,
      wal: identity?.opened.wal,
      library: this.binding.library()
    }
  }

  /** Throws if the file was deleted or replaced. `isWrite`: a writing transaction begins, whose commit checks again. */
  private checkFile(isWrite = false): void {
    const change = this.fileIdentity?.changeOf(isWrite)
    if (change !== undefined) {
      throw new SqliteError(change.reason, change.code)
    }
    this.lastCheck = performance.now()
  }

  private ping(): void {
    this.checkFile()
    this.statements.prepare(this.db, "SELECT 1", true).statement.all([], objects)
  }

  close(): void {
    this.cursors.closeAll()
    this.statements.clear()
    this.database?.close()
    this.database = undefined
  }

  private execute(sql: string): void {
    this.statements.prepare(this.db, sql, true).statement.run([])
  }

  private run(prepared: PreparedStatement, operation: Pick<Run, "sql" | "params" | "form" | "safeIntegers">): unknown {
    if (prepared.setting === undefined) {
      return this.runStatement(prepared, operation)
    }
    const isInTransaction = this.db.inTransaction()
    const value = this.runStatement(prepared, operation)
    this.recordSetting(prepared.setting, operation, isInTransaction)
    return value
  }

  private recordSetting(setting: Setting, operation: Pick<Run, "sql" | "params">, isInTransaction: boolean): void {
    const changed: ChangedSetting = {
      key: setting.key,
      alias: setting._tag === "Attach" ? setting.alias : undefined,
      attaches: setting._tag === "Attach" && setting.attaches,
      sql: operation.sql,
      params: operation.params
    }
    if (!isInTransaction) {
      // The Map keeps the order of the changes, so a setting that is changed again moves to the end.
      this.settings.delete(setting.key)
      this.settings.set(setting.key, changed)
      this.changedSetting = changed
    } else if (outlivesTransaction(setting)) {
      this.dirty = true
      this.changedSetting = changed
    }
  }

  private runStatement(
    prepared: PreparedStatement,
    operation: Pick<Run, "sql" | "params" | "form" | "safeIntegers">
  ): unknown {
    if (!prepared.isQuery) {
      this.cursors.buffer()
    }
    if (prepared.isCommit || (prepared.isRelease && !this.inSession)) {
      this.checkFile()
      this.enterCommit()
    }
    if (prepared.isQuery && performance.now() - this.lastCheck > maxUnchecked && !this.db.inTransaction()) {
      this.checkFile()
    }
    const value = prepared.needsTransaction && !this.db.inTransaction()
      ? this.runInTransaction(() => this.step(prepared, operation))
      : this.step(prepared, operation)
    this.dirty ||= prepared.createsTemporary
    return value
  }

  /**
   * Runs an autocommit write in a transaction of its own, so that it can still be canceled after the statement has ended
   * and before it is committed.
   */
  private runInTransaction(write: () => unknown): unknown {
    const db = this.db
    let value: unknown
    let violation: unknown
    this.execute("BEGIN")
    try {
      try {
        value = write()
      } catch (error) {
        if (this.failureOf(error).code?.startsWith("SQLITE_CONSTRAINT") !== true) {
          throw error
        }
        // INSERT OR FAIL keeps the rows before the violation. Other statements were undone, and nothing is committed.
        violation = error
      }
      if (db.inTransaction()) {
        this.checkFile()
        this.walSize = this.fileIdentity?.walSize
        this.enterCommit()
        this.execute("COMMIT")
      }
    } finally {
      if (db.inTransaction()) {
        this.execute("ROLLBACK")
      }
    }
    if (violation !== undefined) {
      throw violation
    }
    return value
  }

  private step(
    { isQuery, statement }: PreparedStatement,
    { form, params, safeIntegers, sql }: Pick<Run, "sql" | "params" | "form" | "safeIntegers">
  ) {
    if (!statement.returnsRows) {
      const { changes, lastInsertRowid } = statement.run(params)
      return form === "raw" ? { changes, lastInsertRowid: rowidOf(lastInsertRowid, sql, safeIntegers) } : []
    }
    // RETURNING yields its first row after everything was written, so stopping between its rows would undo nothing.
    const check = isQuery && this.cancellation.isCancelable() ? this.checkCanceled : undefined
    return statement.all(params, { asArray: form === "values", safeIntegers }, check)
  }

  private readonly checkCanceled = (): void => {
    if (this.cancellation.isCanceled()) {
      throw interruptedError()
    }
  }

  private runMany({ rows, sql }: RunMany): void {
    const { statement } = this.statements.prepare(this.db, sql, true)
    const { isCanceled } = this.cancellation
    this.cursors.buffer()
    for (let i = 0; i < rows.length; i++) {
      if (isCanceled()) {
        throw interruptedError()
      }
      try {
        statement.run(rows[i])
      } catch (error) {
        throw new RowError(i, error)
      }
    }
  }

  private fetch({ cursor, form, params, safeIntegers, sql }: Fetch): FirstBatch {
    const prepared = this.statements.prepare(this.db, sql, false)
    const { setting, statement } = prepared
    const isQuery = prepared.isQuery && setting === undefined
    const rows = isQuery
      ? statement.iterate(params, { asArray: form === "values", safeIntegers })
      : this.run(prepared, { sql, params, form, safeIntegers }) as Array<unknown>
    const columns = form === "values" && statement.returnsRows ? statement.columns() : undefined
    return { ...this.cursors.open(cursor, rows), isQuery, columns }
  }

  private begin({ extensions, readOnly, settings }: Begin): void {
    this.cursors.buffer()
    for (const setting of settings) {
      applySetting(this.db, setting)
      this.settings.set(setting.key, setting)
    }
    for (const path of extensions) {
      // Another connection has loaded it after this one was opened.
      if (!this.extensions.includes(path)) {
        this.loadExtension(path)
      }
    }
    if (readOnly || this.options.readOnly) {
      this.checkFile()
      this.execute("BEGIN")
      this.setQueryOnly(readOnly)
    } else {
      // A transaction that takes the write lock only after reading fails with SQLITE_BUSY_SNAPSHOT if another has written.
      this.checkFile(true)
      this.execute("BEGIN IMMEDIATE")
    }
  }

  /** From here on the request cannot be canceled. Throws if it was. */
  private enterCommit(): void {
    if (!this.cancellation.enterCommit()) {
      throw interruptedError()
    }
  }

  private commit(): void {
    this.cursors.closeAll()
    if (!this.queryOnly) {
      this.checkFile()
      this.walSize = this.fileIdentity?.walSize
    }
    this.enterCommit()
    this.execute("COMMIT")
    this.setQueryOnly(false)
  }

  private rollback(): void {
    this.cursors.closeAll()
    if (this.db.inTransaction()) {
      this.execute("ROLLBACK")
    }
    this.transactionFailed = false
    this.setQueryOnly(false)
  }

  /** A reader is always query-only. */
  private setQueryOnly(readOnly: boolean): void {
    const queryOnly = readOnly || this.options.reader
    if (this.queryOnly !== queryOnly) {
      this.db.pragma(`query_only = ${queryOnly ? "ON" : "OFF"}`)
      this.queryOnly = queryOnly
    }
  }

  /** Returns the file if it was opened again. */
  private reset(): OpenedFile | undefined {
    this.rollback()
    if (!this.dirty) {
      return undefined
    }
    let opened: OpenedFile | undefined
    if (this.options.filename === memory) {
      this.resetMemory()
    } else {
      // Closing may leave the WAL behind, and SQLite would apply it to another file that has taken this one's place.
      this.checkFile()
      this.close()
      opened = this.open(true, true)
    }
    this.dirty = false
    return opened
  }

  /**
   * Removes what a session left in a database in memory, which would lose its data if it were reopened. Settings other
   * than sqlayer's own stay as they are.
   */
  private resetMemory(): void {
    const db = this.db
    db.pragma("query_only = OFF")
    const temporary = db.prepare("SELECT type, name FROM sqlite_temp_schema WHERE type IN ('table', 'view', 'trigger')")
    for (
      const { name, type } of temporary.all([], objects) as Array<{ readonly type: string; readonly name: string }>
    ) {
      // Dropping a table drops its triggers, and may drop the shadow tables of a virtual table.
      if (!name.startsWith("sqlite_")) {
        db.exec(`DROP ${type} IF EXISTS temp.${quote(name)}`)
      }
    }
    const attached = new Set(Array.from(
      this.settings.values(),
      ({ alias, attaches }) => attaches ? alias?.toLowerCase() : undefined
    ))
    for (const { name } of db.pragma("database_list") as Array<{ readonly name: string }>) {
      if (name !== "main" && name !== "temp" && !attached.has(name.toLowerCase())) {
        db.exec(`DETACH ${quote(name)}`)
      }
    }
    db.pragma("foreign_keys = ON")
    db.pragma("busy_timeout = 0")
    Pragmas.apply(db, this.options.pragmas)
    for (const setting of this.settings.values()) {
      if (setting.key.startsWith("pragma")) {
        applySetting(db, setting)
      }
    }
  }

  private backup({ destination, progress }: Backup): Promise<unknown> {
    const pages = new Int32Array(progress)
    this.cursors.buffer()
    return writeBackup(
      destination,
      this.options.filename,
      (filename) =>
        this.db.backup(filename, ({ remainingPages, totalPages }) => {
          this.checkCanceled()
          Atomics.store(pages, 0, totalPages)
          Atomics.store(pages, 1, remainingPages)
        })
    )
  }

  private checkpoint(): CheckpointResult {
    const db = this.db
    if (db.inTransaction() || this.cursors.size > 0) {
      return "inTransaction"
    }
    // A statement may have turned checkpoints off: programs that replicate the WAL require that. The WAL of a file that
    // was moved is kept.
    if (
      Number(db.pragma("wal_autocheckpoint")[0]?.wal_autocheckpoint) <= 0 ||
      this.fileIdentity?.changeOf(false) !== undefined
    ) {
      return "busy"
    }
    try {
      return db.pragma("wal_checkpoint(TRUNCATE)")[0]?.busy === 0 ? "emptied" : "busy"
    } catch {
      // What the commits have written stays in the WAL.
      return "busy"
    }
  }

  private loadExtension(path: string): void {
    this.cursors.buffer()
    this.db.loadExtension(path)
    this.extensions.push(path)
    this.statements.clear()
  }
}
