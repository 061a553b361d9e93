/**
 * What the engine needs of a SQLite library. `betterSqlite3.ts` and `nodeSqlite.ts` provide it.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

/** The file name of a database in memory. */
export const memory = ":memory:"

/** The library that a connection uses. */
export type BindingName = "better-sqlite3" | "node:sqlite"

/** The form of a row: an object, or an array of its values. */
export interface RowFormat {
  readonly asArray: boolean
  /** Whether integers are bigints. Otherwise they are numbers, and one that a number cannot hold is an error. */
  readonly safeIntegers: boolean
}

/** What a statement without rows reports. */
export interface RunResult {
  readonly changes: number
  readonly lastInsertRowid: bigint
}

/** The progress of a backup. */
export interface BackupMetadata {
  readonly totalPages: number
  readonly remainingPages: number
}

/** A prepared statement. */
export interface Statement {
  /** Whether it returns rows. */
  readonly returnsRows: boolean
  /** Whether it does not write to the database file: sqlite3_stmt_readonly. */
  readonly isReadOnly: boolean
  /** The names of the columns, and the types that their tables declare. */
  readonly columns: () => ReadonlyArray<{ readonly name: string; readonly type: string | null }>
  readonly run: (params: ReadonlyArray<unknown>) => RunResult
  /**
   * All rows. `check` is called between two of them, and may throw. A statement that only reads may be executed twice.
   */
  readonly all: (params: ReadonlyArray<unknown>, format: RowFormat, check?: () => void) => Array<unknown>
  /** Steps through the rows one by one. Returning from the iteration resets the statement. */
  readonly iterate: (params: ReadonlyArray<unknown>, format: RowFormat) => IterableIterator<unknown>
}

export interface FunctionOptions {
  /** Whether it always returns the same value for the same arguments, so that an index may use it. */
  readonly deterministic: boolean
  /** Whether it takes any number of arguments. Otherwise it takes as many as the code. */
  readonly varargs: boolean
}

/** The code of an aggregate. */
export interface AggregateOptions extends FunctionOptions {
  readonly start: () => unknown
  readonly step: (state: unknown, ...args: ReadonlyArray<unknown>) => unknown
  /** Without it the aggregate is no window function. */
  readonly inverse: ((state: unknown, ...args: ReadonlyArray<unknown>) => unknown) | undefined
  readonly result: (state: unknown) => unknown
}

/** An open database. It never waits for a lock. */
export interface Database {
  readonly inTransaction: () => boolean
  /** Prepares a text that has exactly one statement. */
  readonly prepare: (sql: string) => Statement
  readonly exec: (sql: string) => void
  /** The rows of a PRAGMA. */
  readonly pragma: (sql: string) => ReadonlyArray<Record<string, unknown>>
  /** The content as the bytes of a file. */
  readonly serialize: () => Uint8Array
  /** Copies the content to a file, some pages at a time. `onProgress` may throw, which ends the copy. */
  readonly backup: (destination: string, onProgress: (progress: BackupMetadata) => void) => Promise<BackupMetadata>
  readonly loadExtension: (path: string) => void
  /** Defines an SQL function. Its integer arguments are bigints. */
  readonly defineFunction: (
    name: string,
    options: FunctionOptions,
    f: (...args: ReadonlyArray<unknown>) => unknown
  ) => void
  readonly defineAggregate: (name: string, options: AggregateOptions) => void
  readonly close: () => void
}

export interface OpenMode {
  readonly readOnly: boolean
  /** Whether the file is read without locks and without its WAL, as a file that no program changes. */
  readonly immutable: boolean
  /** Whether a missing file is an error. Otherwise it is created. */
  readonly mustExist: boolean
}

export interface Binding {
  readonly name: BindingName
  /**
   * Identifies the copy of SQLite that this thread has loaded. Undefined if it is not known. Two copies in one process do not
   * know of each other's locks: one that closes a file releases those of the other.
   */
  readonly library: () => string | undefined
  readonly open: (filename: string, mode: OpenMode) => Database
  /** The name of the extended result code, if the error came from SQLite. */
  readonly codeOf: (error: unknown) => string | undefined
}

/** An error that sqlayer itself reports with a result code. */
export class SqliteError extends Error {
  override readonly name = "SqliteError"
  constructor(message: string, readonly code: string) {
    super(message)
  }
}

const isDirectory = (filename: string): boolean => {
  try {
    return Fs.statSync(filename, { throwIfNoEntry: false })?.isDirectory() === true
  } catch {
    return false
  }
}

/**
 * Throws if the file's directory or a file that must exist is missing, or if it is a directory, since SQLite's own error
 * does not name the reason.
 */
export const checkFile = (filename: string, mustExist: boolean): void => {
  const problem = filename === memory
    ? undefined
    : !Fs.existsSync(Path.dirname(filename))
    ? "Cannot open database because the directory does not exist"
    : mustExist && !Fs.existsSync(filename)
    ? "unable to open database file: it does not exist"
    : isDirectory(filename)
    ? "unable to open database file: it is a directory"
    : undefined
  if (problem !== undefined) {
    throw new SqliteError(problem, "SQLITE_CANTOPEN")
  }
}

/** How many pages a backup copies before it reports its progress. */
export const backupPages = 100
