/**
 * What a connection and its engine say to each other, in plain values that can cross from thread to thread.
 */

import type { MessagePort } from "node:worker_threads"
import { isRollback } from "./statementText.js"

/** What to open. */
export interface OpenOptions {
  /** An absolute path, or `:memory:`. */
  readonly filename: string
  readonly readOnly: boolean
  /** Whether it is for reading beside a connection that writes. */
  readonly reader: boolean
  /** Whether a file that is not there is an error, or made. */
  readonly mustExist: boolean
  /** Extensions that every connection loads. */
  readonly extensions: ReadonlyArray<string>
}

/** A statement, and in which form its result is wanted. */
export interface Run {
  readonly _tag: "Run"
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly form: "rows" | "raw" | "values"
  readonly cached: boolean
  readonly safeIntegers: boolean
}

/** The beginning of a stream: the first batch of a statement's rows. */
export interface Fetch {
  readonly _tag: "Fetch"
  readonly cursor: number
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly safeIntegers: boolean
}

/** One thing to do. */
export type Request =
  | Run
  | Fetch
  | { readonly _tag: "Open" }
  | { readonly _tag: "FetchNext"; readonly cursor: number }
  | { readonly _tag: "FetchEnd"; readonly cursor: number }
  | { readonly _tag: "Commit" }
  | { readonly _tag: "Rollback" }
  | { readonly _tag: "Ping" }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "Export" }
  | { readonly _tag: "Backup"; readonly destination: string }
  | { readonly _tag: "LoadExtension"; readonly path: string }
  | { readonly _tag: "Close" }

/** A statement, the beginning of a stream, or more of it. */
export const isRun = (request: Request): boolean =>
  request._tag === "Run" || request._tag === "Fetch" || request._tag === "FetchNext"

/** Whether it goes back to a savepoint, or ends the transaction without keeping anything. */
export const isUndo = (request: Request): boolean => request._tag === "Run" && isRollback(request.sql)

/** Whether another's lock stands in the way, which may be gone when it is tried again. */
export const isBusy = (code: string | undefined): boolean => code?.startsWith("SQLITE_BUSY") === true

/** How a transaction begins. */
export interface Begin {
  readonly readOnly: boolean
  /** What every connection has loaded by now. */
  readonly extensions: ReadonlyArray<string>
}

/** What is asked, and what must be so for it to be done. */
export interface Question {
  readonly request: Request
  /** A transaction that begins before it; if that fails, nothing of it is done. */
  readonly begin: Begin | undefined
  /** Whether it belongs to a transaction that has begun: once that is over, nothing of it is done. */
  readonly within: boolean
  /** Whether a statement of that transaction failed by what its engine does not count as a failure: waiting in vain. */
  readonly failed: boolean
}

/** A question to another thread. */
export interface Letter extends Question {
  /** Which `Phase` is that of this question. */
  readonly cell: number
}

/** Rows of a stream; `done` when there are no more. */
export interface Batch {
  readonly rows: ReadonlyArray<unknown>
  readonly done: boolean
}

/** The code of what was to be done in a transaction that is over, or can only be rolled back. */
export const over = "over"

/** What better-sqlite3 threw. */
export interface Failure {
  readonly message: string
  readonly code: string | undefined
}

/** What came of a request, and where it left the connection. */
export interface Reply {
  readonly value: unknown
  readonly failure: Failure | undefined
  /** Whether it began the transaction that it was to begin. */
  readonly begun: boolean
  readonly inTransaction: boolean
  /** Whether a statement of the transaction failed, so that it can only be rolled back, or back to a savepoint. */
  readonly failed: boolean
  /** Whether something was left that only a reset clears. */
  readonly dirty: boolean
}

/** What a thread is started with. */
export interface ThreadData {
  readonly options: OpenOptions
  /** Holds a `Phase` for each question that is on its way, or waits there. */
  readonly phases: SharedArrayBuffer
  /** By which both threads see what the other does. */
  readonly vigil: SharedArrayBuffer
  /** Where questions come from and answers go. */
  readonly port: MessagePort
}

/** How many questions may be on their way at the same time. */
export const cells = 64

/**
 * Where a question is, and whether it can still be stopped. Either side moves on from `waiting` and `running`; whoever
 * comes first wins.
 */
export const Phase = { waiting: 0, running: 1, stopped: 2, committing: 3 } as const

/** A thread's answer. */
export interface ThreadReply {
  readonly cell: number
  readonly reply: Reply
  /** Whether the rows hold bytes: these arrive as Uint8Array where they were Buffer. */
  readonly bytes: boolean
}
