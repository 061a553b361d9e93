/**
 * Runs lookups on the main thread: statements that read at most a few rows by unique keys. A message to the thread of a
 * connection and back takes several times as long as such a statement.
 *
 * A statement is a lookup if its program (EXPLAIN) has no loop and calls no function, so that the work it does is bounded
 * by its length, however many rows there are. The program is that of one version of the schema, which is compared in the
 * transaction that reads: another version, or a failure of any kind, leaves the statement to the thread.
 *
 * The connection only reads, and its transaction ends within the call, so that it never holds up a checkpoint. It is used
 * while the connection that writes is idle, and sees all that this has committed.
 */
import { type Binding, type Database, memory, type RowFormat, type Statement } from "./binding.js"
import { FileIdentity, identityOf, walIdentityOf } from "./fileIdentity.js"
import { journalModeOf } from "./opening.js"
import * as Pragmas from "./pragmas.js"
import { addCloser, removeCloser } from "./processExit.js"
import type { OpenedFile, Run } from "./protocol.js"
import { textOf } from "./statementText.js"

/** How often a statement runs in the thread before it is examined. */
const minRuns = 10

/** A run that takes longer than this, in milliseconds, is slow: the disk is, or the values are large. */
const maxMillis = 10

/**
 * A slow run counts as much as this many quick ones. When three more slow runs than that were counted, the statement runs in
 * the thread again, so that a pause of the whole process, which makes any run slow, does not send it back.
 */
const slowWeight = 16
const maxSlowness = 3 * slowWeight

/** A statement that was sent back runs in the thread this many times as often as before, until it is examined again. */
const slowFactor = 32

/** How long the connection relies on the last check of the file, in milliseconds. */
const maxUnchecked = 100

/** The maximum number of statements that are counted or prepared. */
const maxStatements = 200

/** Longer texts are not examined: preparing one takes time that grows with its length. */
const maxTextLength = 4_096

const query = /^(?:select|with|values)\b/i

/** Opcodes that take bounded time and do not jump. */
const straight = new Set(
  ("Add Affinity And BitAnd BitNot BitOr Blob Cast CollSeq Column Concat Copy DeferredSeek Divide FinishSeek " +
    "Halt IdxRowid Int64 Integer IsTrue Multiply Noop Not Null NullRow OffsetLimit OpenRead Or Real " +
    "RealAffinity Remainder ReopenIdx ResultRow Rowid SCopy SeekHit String String8 Subtract Transaction " +
    "Variable ZeroOrNull").split(" ")
)

/** Opcodes that take bounded time and may jump to `p2`. */
const jumps = new Set(
  ("DecrJumpZero ElseEq Eq Found Ge Goto Gt IdxGE IdxGT IdxLE IdxLT If IfNot IfNotOpen IfNullRow IfPos Init " +
    "IsNull Le Lt MustBeInt Ne NoConflict NotExists NotFound NotNull Once SeekGE SeekGT SeekLE SeekLT " +
    "SeekRowid").split(" ")
)

/** One instruction of a program, as EXPLAIN returns it. */
interface Instruction {
  readonly addr: unknown
  readonly opcode: unknown
  readonly p2: unknown
}

/**
 * Whether a program executes each of its instructions at most once, and none that takes long. All of its jumps are forward,
 * except the last instruction, to which `Init` jumps, and which jumps back to what follows `Init`.
 */
const isBounded = (program: ReadonlyArray<Instruction>): boolean =>
  program.every(({ addr, opcode, p2 }, index) =>
    straight.has(opcode as string) ||
    (jumps.has(opcode as string) && (
      // MustBeInt fails where it has no target.
      Number(p2) > Number(addr) || (opcode === "MustBeInt" && p2 === 0) ||
      (opcode === "Goto" && p2 === 1 && index === program.length - 1)
    ))
  )

const arrays = { asArray: true, safeIntegers: false }
const objects = { asArray: false, safeIntegers: false }

/** What is known of a statement. */
interface Known {
  /** How often it still runs in the thread before it is examined. Infinite if it is no lookup with this schema. */
  remaining: number
  /** How often it runs in the thread before it is examined again. */
  runs: number
  /** How slow its runs on this thread were: each slow one adds `slowWeight`, each quick one takes one away. */
  slowness: number
  /** Undefined until it is examined. */
  statement: Statement | undefined
}

/** An open connection, and its statements. */
interface Opened {
  readonly database: Database
  readonly identity: FileIdentity
  readonly begin: Statement
  readonly commit: Statement
  readonly schemaVersion: Statement
}

interface Options {
  readonly binding: Binding
  /** An absolute path. */
  readonly filename: string
  readonly pragmas: Pragmas.Pragmas
  /** Default: 10. */
  readonly maxMillis?: number | undefined
}

/** The lookups of one connection that writes. */
export class Lookups {
  private readonly statements = new Map<string, Known>()
  private opened: Opened | undefined
  /** The file that the connection that writes has open. Undefined while it has none that can be read beside it. */
  private file: OpenedFile | undefined
  /** The version of the schema that the statements were examined with. */
  private version: unknown
  private lastCheck = 0
  private readonly maxMillis: number
  private readonly closer = (): void => this.close()

  constructor(private readonly options: Options) {
    this.maxMillis = options.maxMillis ?? maxMillis
  }

  /** Called each time that the connection that writes has opened the file. */
  follow(file: OpenedFile): void {
    this.close()
    this.file = file.journalMode === "wal" && file.file !== undefined && file.wal !== undefined ? file : undefined
  }

  /** Closes without waiting. Later statements are left to the thread, until `follow` is called. */
  close(): void {
    this.file = undefined
    this.release()
  }

  /** The rows of a statement that runs outside of transactions, undefined if it is to run in the thread. */
  run({ form, params, safeIntegers, sql }: Run): ReadonlyArray<unknown> | undefined {
    if (this.file === undefined || sql.length > maxTextLength) {
      return undefined
    }
    const known = this.find(sql)
    if (known.remaining > 0) {
      known.remaining--
      return undefined
    }
    let start = Infinity
    try {
      const opened = this.opened ??= this.open()
      start = performance.now()
      if (opened === undefined || !this.isUnchanged(opened, start)) {
        // The thread finds out what the file has become.
        this.close()
        return undefined
      }
      return this.read(opened, known, sql, params, { asArray: form === "values", safeIntegers })
    } catch {
      // The thread reports the error, or waits for the lock.
      if (known.statement === undefined) {
        known.remaining = known.runs
      }
      if (this.opened?.database.inTransaction() === true) {
        this.close()
      }
      return undefined
    } finally {
      this.count(known, performance.now() - start)
    }
  }

  /** Sends a statement back to the thread if it is slow. */
  private count(known: Known, millis: number): void {
    if (!(millis > this.maxMillis)) {
      known.slowness = Math.max(0, known.slowness - 1)
      if (known.slowness === 0) {
        known.runs = minRuns
      }
      return
    }
    known.slowness += slowWeight
    if (known.slowness >= maxSlowness) {
      // Where it is slow again when it comes back, one run is enough.
      known.slowness = maxSlowness - slowWeight
      known.runs *= slowFactor
      known.remaining = Math.max(known.remaining, known.runs)
      known.statement = undefined
    }
  }

  private find(sql: string): Known {
    const { statements } = this
    const existing = statements.get(sql)
    if (existing !== undefined) {
      // A Map iterates in the order of insertion, so its first entry is the least recently used one.
      statements.delete(sql)
      statements.set(sql, existing)
      return existing
    }
    const known: Known = { remaining: minRuns, runs: minRuns, slowness: 0, statement: undefined }
    statements.set(sql, known)
    if (statements.size > maxStatements) {
      statements.delete(statements.keys().next().value!)
    }
    return known
  }

  private read(
    { begin, commit, database, schemaVersion }: Opened,
    known: Known,
    sql: string,
    params: ReadonlyArray<unknown>,
    format: RowFormat
  ): ReadonlyArray<unknown> | undefined {
    begin.run([])
    try {
      const version = versionOf(schemaVersion)
      if (version !== this.version) {
        this.version = version
        for (const other of this.statements.values()) {
          other.statement = undefined
          other.remaining = other.runs
        }
        return undefined
      }
      if (known.statement === undefined) {
        known.statement = examine(database, sql, params)
        if (known.statement === undefined) {
          known.remaining = Infinity
          return undefined
        }
      }
      return known.statement.all(params, format)
    } finally {
      commit.run([])
    }
  }

  private isUnchanged({ identity }: Opened, now: number): boolean {
    if (now - this.lastCheck <= maxUnchecked) {
      return true
    }
    this.lastCheck = now
    return identity.changeOf(false) === undefined
  }

  /**
   * Opens the file to read from it only. Undefined if it is another one than that of the connection that writes, or cannot
   * be opened. Nothing else is opened to find out why: where a process closes a file, its locks on the file are released.
   * Another file is not opened at all if it is there before: SQLite would take the WAL, which has the name of the file, for
   * its own, and deletes it where the file is empty.
   */
  private open(): Opened | undefined {
    const { binding, filename, pragmas } = this.options
    if (identityOf(filename) !== this.file?.file || walIdentityOf(filename) !== this.file?.wal) {
      return undefined
    }
    // Loads the library. Another copy of it would release the locks of the thread when it closes the file.
    binding.open(memory, { readOnly: false, immutable: false, mustExist: false }).close()
    const library = binding.library()
    if (library === undefined || library !== this.file?.library) {
      return undefined
    }
    const database = binding.open(filename, { readOnly: true, immutable: false, mustExist: true })
    try {
      database.pragma("query_only = ON")
      Pragmas.apply(database, pragmas)
      const mode = journalModeOf(database)
      const identity = new FileIdentity(database, filename, "wal")
      const { file, wal } = identity.opened
      if (mode !== "wal" || file !== this.file?.file || wal !== this.file?.wal) {
        database.close()
        return undefined
      }
      const schemaVersion = database.prepare("PRAGMA schema_version")
      this.version = versionOf(schemaVersion)
      addCloser(this.closer)
      return { database, identity, begin: database.prepare("BEGIN"), commit: database.prepare("COMMIT"), schemaVersion }
    } catch (error) {
      database.close()
      throw error
    }
  }

  private release(): void {
    removeCloser(this.closer)
    this.statements.clear()
    this.lastCheck = 0
    this.opened?.database.close()
    this.opened = undefined
  }
}

const versionOf = (schemaVersion: Statement): unknown => (schemaVersion.all([], arrays)[0] as ReadonlyArray<unknown>)[0]

/** Prepares a statement if it is a lookup. */
const examine = (database: Database, sql: string, params: ReadonlyArray<unknown>): Statement | undefined => {
  if (!query.test(textOf(sql))) {
    return undefined
  }
  // Neither preparing nor EXPLAIN finds out that the schema has changed. This does, and reads the new one.
  database.prepare("SELECT 1 FROM sqlite_schema LIMIT 1").all([], objects)
  const statement = database.prepare(sql)
  const isBoundedWith = (values: ReadonlyArray<unknown>) =>
    isBounded(database.prepare(`EXPLAIN ${sql}`).all(values, objects) as ReadonlyArray<Instruction>)
  // SQLite makes another program where parameters have the values of the condition of a partial index. NULL is none.
  return statement.returnsRows && statement.isReadOnly && isBoundedWith(params.map(() => null)) && isBoundedWith(params)
    ? statement
    : undefined
}
