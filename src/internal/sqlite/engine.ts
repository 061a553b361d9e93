/**
 * The plain piece over better-sqlite3. It knows nothing of Effect, so that the main thread and a worker can both run it.
 */
import Sqlite from "better-sqlite3"
import { Cursors, interrupted } from "./cursors.js"
import { Place } from "./fileIdentity.js"
import {
  type Batch,
  type Begin,
  type Failure,
  type Fetch,
  isBusy,
  isRun,
  isUndo,
  type OpenOptions,
  over,
  type Question,
  type Reply,
  type Request,
  type Run
} from "./protocol.js"
import { type Prepared, Statements } from "./statementCache.js"

/** How whoever asked takes part in what runs. */
export interface Control {
  /** Whether anything could tell what runs to stop. */
  readonly canStop: () => boolean
  /** Whether it should stop. */
  readonly stopped: () => boolean
  /** Asked right before a commit: false forbids it, and true makes it too late to stop. */
  readonly commits: () => boolean
}

const memory = ":memory:"
const backupPages = 100

const isConstraint = (error: unknown): boolean =>
  error instanceof Sqlite.SqliteError && error.code.startsWith("SQLITE_CONSTRAINT")

const endedBefore = "the transaction has already ended, by an earlier failure or by a statement of its own"
const failedBefore = "an earlier statement of the transaction failed, so it can only be rolled back: " +
  "a failure that is to be caught and gone on after belongs in a nested session"

const quoted = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

const failureOf = (error: unknown): Failure => ({
  message: error instanceof Error ? error.message : String(error),
  code: error instanceof Sqlite.SqliteError ? error.code : undefined
})

/** One connection to a file, or one database in memory. One request at a time. */
export class Engine {
  readonly #options: OpenOptions
  readonly #control: Control
  readonly #extensions: Array<string>
  readonly #statements = new Statements()
  readonly #cursors: Cursors
  #database: Sqlite.Database | undefined
  #dirty = false
  #queryOnly = false
  /** Whether a statement of the transaction failed. What is tried again has not. */
  #failed = false
  #place: Place | undefined

  constructor(options: OpenOptions, control: Control) {
    this.#options = options
    this.#control = control
    this.#cursors = new Cursors(control.stopped)
    this.#extensions = [...options.extensions]
  }

  /** Does what is asked. A promise only where better-sqlite3 gives one: for a backup. */
  answer({ begin, failed, request, within }: Question): Reply | Promise<Reply> {
    let begun = false
    try {
      if (begin !== undefined) {
        this.#begin(begin)
        begun = true
      } else if (within) {
        this.#failed ||= failed
        this.#checkTransaction(request)
      }
      const value = this.#handle(request)
      if (within) {
        // What was done although it had failed went back to before that.
        this.#failed = false
      }
      return value instanceof Promise
        ? value.then((value) => this.#reply(value, undefined, begun), (error) => this.#reply(undefined, error, begun))
        : this.#reply(value, undefined, begun)
    } catch (error) {
      this.#failed ||= (within || begun) && isRun(request) && !isBusy(failureOf(error).code)
      return this.#reply(undefined, error, begun)
    }
  }

  /** The answer to what was told to stop before it began. */
  drop(): Reply {
    return this.#reply(undefined, interrupted(), false)
  }

  #reply(value: unknown, error: unknown, begun: boolean): Reply {
    return {
      value,
      failure: error === undefined ? undefined : failureOf(error),
      begun,
      inTransaction: this.#database?.inTransaction === true,
      failed: this.#failed,
      dirty: this.#dirty || this.#cursors.size > 0
    }
  }

  /**
   * What SQLite rolled back by itself must not go on as statements that each commit alone. Where it only undid a
   * statement, what is left of the transaction must not be committed by whoever does not know of it.
   */
  #checkTransaction(request: Request): void {
    const { inTransaction } = this.#db
    if (inTransaction && !(this.#failed && !isUndo(request))) {
      return
    }
    if (request._tag === "Commit") {
      this.#rollback()
    }
    throw new Sqlite.SqliteError(inTransaction ? failedBefore : endedBefore, over)
  }

  #handle(request: Request): unknown {
    switch (request._tag) {
      case "Run":
        return this.#run(this.#statements.prepare(this.#db, request.sql, request.cached), request)
      case "Fetch":
        return this.#fetch(request)
      case "FetchNext":
        return this.#cursors.next(request.cursor)
      case "FetchEnd":
        return this.#cursors.end(request.cursor)
      case "Commit":
        return this.#commit()
      case "Rollback":
        return this.#rollback()
      case "Open":
        return this.#open(this.#options.mustExist)
      case "Ping":
        return this.#ping()
      case "Reset":
        return this.#reset()
      case "Export":
        return this.#db.serialize()
      case "Backup":
        return this.#backup(request.destination)
      case "LoadExtension":
        return this.#loadExtension(request.path)
      case "Close":
        return this.#close()
    }
  }

  get #db(): Sqlite.Database {
    if (this.#database === undefined) {
      throw new TypeError("The database connection is not open")
    }
    return this.#database
  }

  /** Opens, and gives the journal mode. */
  #open(mustExist: boolean): unknown {
    const { filename, reader, readOnly } = this.#options
    // Waiting for another's lock is done outside, where it blocks no thread.
    const db = new Sqlite(filename, { readonly: readOnly, fileMustExist: mustExist, timeout: 0 })
    let mode: unknown
    try {
      if (reader) {
        // Not opened as read-only: what closes last could then not bring the WAL into the file.
        db.pragma("query_only = ON")
      } else if (filename !== memory && !readOnly) {
        db.pragma("journal_mode = WAL")
      }
      // A commit that was reported is on disk: WAL's usual NORMAL loses the last ones when the power fails.
      db.pragma("synchronous = FULL")
      db.pragma("foreign_keys = ON")
      // Opening reads nothing yet; this finds a file that is no database, or damaged, now.
      db.prepare("SELECT 1 FROM sqlite_schema LIMIT 1").get()
      mode = db.pragma("journal_mode", { simple: true })
      for (const path of this.#extensions) {
        db.loadExtension(path)
      }
    } catch (error) {
      db.close()
      throw error
    }
    this.#database = db
    this.#queryOnly = reader
    this.#place = filename === memory ? undefined : new Place(filename, mode === "wal")
    return mode
  }

  #checkPlace(): void {
    const moved = this.#place?.moved(() => this.#db.pragma("journal_mode", { simple: true }) === "wal")
    if (moved !== undefined) {
      throw new Sqlite.SqliteError(moved, "SQLITE_READONLY_DBMOVED")
    }
  }

  #ping(): void {
    this.#checkPlace()
    this.#statements.prepare(this.#db, "SELECT 1", true).statement.get()
  }

  #close(): void {
    this.#cursors.endAll()
    this.#statements.clear()
    this.#database?.close()
    this.#database = undefined
  }

  #execute(sql: string): void {
    this.#statements.prepare(this.#db, sql, true).statement.run()
  }

  #run(prepared: Prepared, request: Pick<Run, "params" | "form" | "safeIntegers">): unknown {
    if (!prepared.reads) {
      this.#cursors.buffer()
    }
    const value = prepared.contained && !this.#db.inTransaction
      ? this.#contain(() => this.#perform(prepared, request))
      : this.#perform(prepared, request)
    this.#dirty ||= prepared.leavesTraces
    return value
  }

  /**
   * A write outside of a transaction commits by itself, and a thread that is told to stop in the middle of it cannot be
   * kept from that. In a transaction of its own the last word is said before the commit. It costs next to nothing.
   */
  #contain(write: () => unknown): unknown {
    const db = this.#db
    let value: unknown
    let refused: unknown
    this.#execute("BEGIN")
    try {
      try {
        value = write()
      } catch (error) {
        if (!isConstraint(error)) {
          throw error
        }
        // Of INSERT OR FAIL, what came before the refused row stays. Of the others nothing is left to commit.
        refused = error
      }
      if (db.inTransaction) {
        this.#checkPlace()
        if (!this.#control.commits()) {
          throw interrupted()
        }
        this.#execute("COMMIT")
      }
    } finally {
      if (db.inTransaction) {
        this.#execute("ROLLBACK")
      }
    }
    if (refused !== undefined) {
      throw refused
    }
    return value
  }

  #perform(
    { reads, statement }: Prepared,
    { form, params, safeIntegers }: Pick<Run, "params" | "form" | "safeIntegers">
  ) {
    // Said every time, since the statement may be from the cache.
    statement.safeIntegers(safeIntegers)
    if (!statement.reader) {
      const result = statement.run(...params)
      return form === "raw" ? result : []
    }
    statement.raw(form === "values")
    // Where RETURNING gives rows everything is written before the first: stopping then would undo nothing.
    return reads && this.#control.canStop()
      ? this.#collect(statement.iterate(...params))
      : statement.all(...params)
  }

  #collect(rows: IterableIterator<unknown>): Array<unknown> {
    const { stopped } = this.#control
    const collected: Array<unknown> = []
    for (const row of rows) {
      if (stopped()) {
        throw interrupted()
      }
      collected.push(row)
    }
    return collected
  }

  #fetch({ cursor, params, safeIntegers, sql }: Fetch): Batch {
    const prepared = this.#statements.prepare(this.#db, sql, false)
    const rows = prepared.reads
      ? prepared.statement.safeIntegers(safeIntegers).iterate(...params)
      : this.#run(prepared, { params, form: "rows", safeIntegers }) as Array<unknown>
    return this.#cursors.open(cursor, rows)
  }

  #begin({ extensions, readOnly }: Begin): void {
    this.#cursors.buffer()
    for (const path of extensions) {
      // It was loaded on another connection since this one was opened.
      if (!this.#extensions.includes(path)) {
        this.#loadExtension(path)
      }
    }
    if (readOnly || this.#options.readOnly) {
      // What can be written is looked for before the commit.
      this.#checkPlace()
      this.#execute("BEGIN")
      this.#setQueryOnly(readOnly)
    } else {
      // The turn to write is taken at once: a transaction that read before would be refused it.
      this.#execute("BEGIN IMMEDIATE")
    }
  }

  #commit(): void {
    this.#cursors.endAll()
    if (!this.#queryOnly) {
      this.#checkPlace()
    }
    if (!this.#control.commits()) {
      throw interrupted()
    }
    this.#execute("COMMIT")
    this.#setQueryOnly(false)
  }

  #rollback(): void {
    this.#cursors.endAll()
    if (this.#db.inTransaction) {
      this.#execute("ROLLBACK")
    }
    this.#failed = false
    this.#setQueryOnly(false)
  }

  /** For a reader it is on from the beginning to the end. */
  #setQueryOnly(asked: boolean): void {
    const on = asked || this.#options.reader
    if (this.#queryOnly !== on) {
      this.#db.pragma(`query_only = ${on ? "ON" : "OFF"}`)
      this.#queryOnly = on
    }
  }

  #reset(): void {
    this.#rollback()
    if (!this.#dirty) {
      return
    }
    if (this.#options.filename === memory) {
      this.#sweep()
    } else {
      this.#close()
      this.#open(true)
    }
    this.#dirty = false
  }

  /** A file is opened anew; memory would be lost by that. Settings other than sqlayer's own stay as they are. */
  #sweep(): void {
    const db = this.#db
    db.pragma("query_only = OFF")
    const temporary = db.prepare("SELECT type, name FROM sqlite_temp_schema WHERE type IN ('table', 'view', 'trigger')")
    for (const { name, type } of temporary.all() as Array<{ readonly type: string; readonly name: string }>) {
      // A trigger goes with its table, and so may tables of an extension.
      if (!name.startsWith("sqlite_")) {
        db.exec(`DROP ${type} IF EXISTS temp.${quoted(name)}`)
      }
    }
    for (const { name } of db.pragma("database_list") as Array<{ readonly name: string }>) {
      if (name !== "main" && name !== "temp") {
        db.exec(`DETACH ${quoted(name)}`)
      }
    }
    db.pragma("foreign_keys = ON")
    db.pragma("busy_timeout = 0")
  }

  #backup(destination: string): Promise<unknown> {
    this.#cursors.buffer()
    return this.#db.backup(destination, {
      progress: () => {
        if (this.#control.stopped()) {
          throw interrupted()
        }
        return backupPages
      }
    })
  }

  #loadExtension(path: string): void {
    this.#cursors.buffer()
    this.#db.loadExtension(path)
    this.#extensions.push(path)
    this.#statements.clear()
  }
}
