/**
 * What the engine needs of a SQLite library. `betterSqlite3.ts` and `nodeSqlite.ts` provide it.
 */

/** The library that a connection uses. */
export type BindingName = "better-sqlite3" | "node:sqlite"

/** The form of a row: an object, or an array of its values. */
export interface RowFormat {
  readonly asArray: boolean
  /** Whether integers are bigints. Otherwise they are numbers. */
  readonly safeIntegers: boolean
}

/** What a statement without rows reports. */
export interface RunResult {
  readonly changes: number
  readonly lastInsertRowid: number | bigint
}

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
  readonly run: (params: ReadonlyArray<unknown>, format: RowFormat) => RunResult
  readonly all: (params: ReadonlyArray<unknown>, format: RowFormat) => Array<unknown>
  /** Steps through the rows one by one. Returning from the iteration resets the statement. */
  readonly iterate: (params: ReadonlyArray<unknown>, format: RowFormat) => IterableIterator<unknown>
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
  readonly backup: (destination: string, onProgress: () => void) => Promise<BackupMetadata>
  readonly loadExtension: (path: string) => void
  readonly close: () => void
}

export interface OpenMode {
  readonly readOnly: boolean
  /** Whether a missing file is an error. Otherwise it is created. */
  readonly mustExist: boolean
}

export interface Binding {
  readonly name: BindingName
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

/** How many pages a backup copies before it reports its progress. */
export const backupPages = 100
