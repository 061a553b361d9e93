/**
 * Opens a file, or a database in memory, with the settings of every connection. This does not use Effect, so that a worker
 * thread need not load it.
 */
import * as Fs from "node:fs"
import { type Binding, type Database, memory, SqliteError } from "./binding.js"
import * as Pragmas from "./pragmas.js"
import { type ChangedSetting, isBusy, maxWalSize, type OpenOptions } from "./protocol.js"
import { quote } from "./statementText.js"

export interface Opened {
  readonly database: Database
  readonly journalMode: unknown
  /** Whether the file is read without locks and without its WAL, as a file that no program changes. */
  readonly immutable: boolean
}

const objects = { asArray: false, safeIntegers: false }

/** The journal mode of the main database. */
export const journalModeOf = (database: Database): unknown => database.pragma("journal_mode")[0]?.journal_mode

const codeOf = (binding: Binding, error: unknown): string | undefined =>
  error instanceof SqliteError ? error.code : binding.codeOf(error)

/** Attaches or detaches a database, or sets a PRAGMA, as a statement has done on another connection. */
export const applySetting = (database: Database, { alias, attaches, params, sql }: ChangedSetting): void => {
  if (alias !== undefined) {
    const attached = database.pragma("database_list").some(({ name }) =>
      String(name).toLowerCase() === alias.toLowerCase()
    )
    if (attached) {
      database.exec(`DETACH ${quote(alias)}`)
    }
    if (!attaches) {
      return
    }
  }
  const statement = database.prepare(sql)
  if (statement.returnsRows) {
    statement.all(params, objects)
  } else {
    statement.run(params)
  }
}

/** How a file is opened this time. */
export interface Attempt {
  /** The settings that statements have changed. */
  readonly settings: Iterable<ChangedSetting>
  readonly mustExist: boolean
  /** Whether a file whose journal mode cannot be changed now, because another connection uses it, keeps its mode. */
  readonly keepsMode: boolean
}

/** Puts the file into a journal mode. A file that cannot be written keeps the mode that it has. */
const setJournalMode = (binding: Binding, database: Database, mode: string, keepsMode: boolean): void => {
  try {
    database.pragma(`journal_mode = ${mode}`)
  } catch (error) {
    const code = codeOf(binding, error)
    if (!(keepsMode && isBusy(code)) && code?.startsWith("SQLITE_READONLY") !== true) {
      throw error
    }
  }
}

const open = (
  binding: Binding,
  options: OpenOptions,
  { keepsMode, mustExist, settings }: Attempt,
  immutable: boolean
): Opened => {
  const { extensions, filename, journalMode, pragmas, reader } = options
  const readOnly = options.readOnly || immutable
  const database = binding.open(filename, { readOnly, immutable, mustExist })
  try {
    if (reader) {
      // Not opened as read-only: the last connection to close could not checkpoint the WAL.
      database.pragma("query_only = ON")
    } else if (!readOnly) {
      Pragmas.applyToNewFile(database, pragmas)
      if (filename !== memory) {
        setJournalMode(binding, database, journalMode, keepsMode)
      }
    }
    // In WAL mode the usual NORMAL can lose the last commits when the power fails.
    database.pragma("synchronous = FULL")
    database.pragma(`journal_size_limit = ${maxWalSize}`)
    database.pragma("foreign_keys = ON")
    Pragmas.apply(database, pragmas)
    // Opening does not read the file. This finds out now whether it is a database.
    database.prepare("SELECT 1 FROM sqlite_schema LIMIT 1").all([], objects)
    const mode = journalModeOf(database)
    for (const path of extensions) {
      database.loadExtension(path)
    }
    for (const setting of settings) {
      applySetting(database, setting)
    }
    return { database, journalMode: mode, immutable }
  } catch (error) {
    database.close()
    throw error
  }
}

/**
 * Whether the file can be written. Closing it releases the locks of this process on it, but there are none, since
 * SQLite could not open it.
 */
const canWrite = (filename: string): boolean => {
  try {
    Fs.closeSync(Fs.openSync(filename, "r+"))
    return true
  } catch {
    return false
  }
}

const sizeOf = (filename: string): number => Fs.statSync(filename, { throwIfNoEntry: false })?.size ?? 0

/**
 * Opens the file. SQLite cannot read a file in WAL mode if it can neither find nor create the WAL. Such a file is read
 * as immutable if it has no WAL and is read-only, by its permissions or the options. `FileIdentity` detects if it is
 * changed nevertheless.
 */
export const openDatabase = (binding: Binding, options: OpenOptions, attempt: Attempt): Opened => {
  const { filename, immutable, readOnly } = options
  try {
    return open(binding, options, attempt, immutable)
  } catch (error) {
    const code = codeOf(binding, error) ?? ""
    if (immutable || !/^SQLITE_(?:CANTOPEN|READONLY)/.test(code) || filename === memory || sizeOf(filename) === 0) {
      throw error
    }
    if (!readOnly && canWrite(filename)) {
      throw code === "SQLITE_READONLY_DIRECTORY"
        ? new SqliteError("its directory cannot be written: mode=ro in the URL opens it for reading", code)
        : error
    }
    if (sizeOf(`${filename}-wal`) > 0) {
      throw new SqliteError(
        "the file's WAL has transactions that are not in the file, and cannot be read where nothing can be written: " +
          "open the file once where it can be written, which checkpoints its WAL, or copy it with a backup",
        "SQLITE_CANTOPEN"
      )
    }
    return open(binding, options, { ...attempt, mustExist: true }, true)
  }
}
