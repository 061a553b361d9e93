/**
 * The requests and responses between a connection and its engine. They are plain values, so that they can be sent to a
 * worker thread.
 */

import type { MessagePort } from "node:worker_threads"
import type { BindingName } from "./binding.js"
import type { FunctionSource } from "./functionOptions.js"
import type { Pragmas } from "./pragmas.js"
import { isRollback } from "./statementText.js"

/**
 * The size to which the WAL is truncated when it begins anew, in bytes: twice its size when it is checkpointed, after
 * 1,000 pages. During a long read it grows further, and would keep that size.
 */
export const maxWalSize = 8 * 1024 * 1024

/** What to open. */
export interface OpenOptions {
  /** The SQLite library, which the main thread chose. */
  readonly binding: BindingName
  /** An absolute path, or `:memory:`. */
  readonly filename: string
  readonly readOnly: boolean
  /** Whether the file is read without locks and without its WAL, as a file that no program changes. */
  readonly immutable: boolean
  /** The journal mode that the file is put into. */
  readonly journalMode: string
  /** The PRAGMAs of every connection. */
  readonly pragmas: Pragmas
  /** The settings that statements have changed on other connections. */
  readonly settings: ReadonlyArray<ChangedSetting>
  /** Whether the connection only reads, while another one writes. */
  readonly reader: boolean
  /** Whether a missing file is an error. Otherwise it is created. */
  readonly mustExist: boolean
  /** Paths of extensions to load. */
  readonly extensions: ReadonlyArray<string>
  /** SQL functions to define. */
  readonly functions: ReadonlyArray<FunctionSource>
}

/** A statement that has changed a setting. Changes outside of transactions hold for every connection of the file. */
export interface ChangedSetting {
  /** Identifies the setting: a later change with the same key replaces this one. */
  readonly key: string
  /** The name of the database that is attached or detached. */
  readonly alias: string | undefined
  readonly attaches: boolean
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
}

/** Opens the database, and returns its journal mode. */
export interface Open {
  readonly _tag: "Open"
  /** Whether a file whose journal mode cannot be changed now, because another connection uses it, keeps its mode. */
  readonly keepsMode: boolean
}

/** Runs a statement. */
export interface Run {
  readonly _tag: "Run"
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  /** Rows as objects, rows as arrays, or the number of changes and the last rowid. */
  readonly form: "rows" | "raw" | "values"
  readonly cached: boolean
  readonly safeIntegers: boolean
  /** Whether it is a statement of sqlayer's own, whose settings are neither refused nor recorded. */
  readonly own?: boolean
}

/** Opens a stream of a statement's rows and reads the first batch. */
export interface Fetch {
  readonly _tag: "Fetch"
  readonly cursor: number
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  /** Rows as objects or as arrays. */
  readonly form: "rows" | "values"
  readonly safeIntegers: boolean
}

/** Runs a statement once for each list of parameters. */
export interface RunMany {
  readonly _tag: "RunMany"
  readonly sql: string
  readonly rows: ReadonlyArray<ReadonlyArray<unknown>>
}

/** Copies the database to a file. */
export interface Backup {
  readonly _tag: "Backup"
  readonly destination: string
  /** Where the engine writes the number of all pages, and of those that remain: two integers of 32 bits. */
  readonly progress: SharedArrayBuffer
}

/** What the engine is asked to do. */
export type Operation =
  | Run
  | RunMany
  | Fetch
  | Open
  | { readonly _tag: "FetchNext"; readonly cursor: number }
  | { readonly _tag: "FetchEnd"; readonly cursor: number; readonly transaction: number }
  | { readonly _tag: "Commit" }
  | { readonly _tag: "Rollback" }
  | { readonly _tag: "Ping" }
  /** Empties the WAL, unless a transaction of any connection prevents that. Returns a CheckpointResult. */
  | { readonly _tag: "Checkpoint" }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "Export" }
  | Backup
  | { readonly _tag: "LoadExtension"; readonly path: string }
  | { readonly _tag: "Close" }

/** Whether an operation runs a statement, or reads rows of one. */
export const runsStatement = (operation: Operation): boolean =>
  operation._tag === "Run" || operation._tag === "RunMany" || operation._tag === "Fetch" ||
  operation._tag === "FetchNext"

/** Whether an operation rolls back to a savepoint, or rolls back the transaction by a statement of the user's. */
export const isRollbackStatement = (operation: Operation): boolean =>
  operation._tag === "Run" && isRollback(operation.sql)

/** Whether an operation failed because of another connection's lock. It may succeed when it is retried. */
export const isBusy = (code: string | undefined): boolean => code?.startsWith("SQLITE_BUSY") === true

/** How a transaction begins. */
export interface Begin {
  readonly readOnly: boolean
  /** The extensions that were loaded so far. The connection loads those that it lacks. */
  readonly extensions: ReadonlyArray<string>
  /** The settings that were changed on another connection, and not yet on this one. */
  readonly settings: ReadonlyArray<ChangedSetting>
  /** The version of the shared settings that the connection has then. */
  readonly settingsVersion: number
}

/** An operation and its preconditions. */
export interface Request {
  readonly operation: Operation
  /** The transaction to begin first. If it cannot begin, the operation does not run. */
  readonly begin: Begin | undefined
  /** Whether the operation belongs to a transaction. If that has ended, the operation does not run. */
  readonly requiresTransaction: boolean
  /** Whether a statement of the transaction gave up waiting for a lock. The engine cannot tell this from a retry. */
  readonly transactionFailed: boolean
}

/** A request to a worker thread. */
export interface RequestMessage extends Request {
  /** Identifies the request while it is in flight: the index of its `Phase`. */
  readonly requestId: number
}

/** Rows of a stream. `done` if there are no more. */
export interface Batch {
  readonly rows: ReadonlyArray<unknown>
  readonly done: boolean
}

/** The first rows of a stream, whether its statement writes nothing, and the columns if rows are arrays. */
export interface FirstBatch extends Batch {
  readonly isQuery: boolean
  readonly columns: ReadonlyArray<Column> | undefined
}

/** A column of a result. The type is that of the table's column, as it was declared. */
export interface Column {
  readonly name: string
  readonly type: string | null
}

/** The code of a failure because the transaction has ended, or can only be rolled back. */
export const transactionOver = "over"

/** The error that the SQLite library threw. */
export interface Failure {
  readonly message: string
  readonly code: string | undefined
  /** The index of the row that RunMany failed at. */
  readonly row: number | undefined
  /** Values that the message may quote, besides the parameters. */
  readonly values: ReadonlyArray<unknown>
}

/** What a request has opened: the value of Open, and of a Reset that has opened the file again. */
export interface OpenedFile {
  readonly journalMode: unknown
  /** Device and inode of the file, undefined in memory or if they could not be looked up. */
  readonly file: string | undefined
  /** The identity of its WAL, as `walIdentityOf` returns it. */
  readonly wal: string | undefined
  /** The copy of SQLite that has opened it, as `Binding.library` returns it. */
  readonly library: string | undefined
}

/** The result of a request, and the state of the connection after it. */
export interface Response {
  readonly value: unknown
  readonly failure: Failure | undefined
  /** Whether the request began the transaction that it asked for. */
  readonly transactionBegun: boolean
  readonly inTransaction: boolean
  /** Whether a statement of the transaction failed, so that it can only be rolled back, or back to a savepoint. */
  readonly transactionFailed: boolean
  /** Whether the connection has state that only a reset clears. */
  readonly dirty: boolean
  /** The setting that the request has changed. Inside a transaction it holds until the connection is reset. */
  readonly setting: ChangedSetting | undefined
  /** The size in bytes that the WAL had before the request has committed. Undefined if it has committed nothing. */
  readonly walSize: number | undefined
}

/** The `workerData` of a connection's thread. */
export interface WorkerData {
  readonly options: OpenOptions
  /** The `Phase` of each request in flight, by `requestId`. */
  readonly phases: SharedArrayBuffer
  /** The `Activity` of the thread. */
  readonly activity: SharedArrayBuffer
  /** Receives requests and sends responses. */
  readonly port: MessagePort
}

/** How many requests may be in flight on one connection. */
export const maxInFlight = 64

/**
 * The phase of a request in flight, which decides whether it can still be canceled. Both threads change it by
 * compare-and-exchange: a request is either `canceled` before it is committed, or `committing` before it is canceled.
 */
export const Phase = { queued: 0, running: 1, canceled: 2, committing: 3 } as const

/**
 * What a thread is doing: `starting`, or else the number of requests that it handles. It is in shared memory, because
 * the exit of the process waits for it without the event loop.
 */
export const Activity = { starting: -1, idle: 0 } as const

/** The response of a worker thread. */
export interface ResponseMessage {
  readonly requestId: number
  /** Its value is packed: see `packedRows.ts`. */
  readonly response: Response
}
