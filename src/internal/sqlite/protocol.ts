/**
 * What a connection and its engine say to each other, in plain values that can cross from thread to thread.
 */

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
  | { readonly _tag: "Begin"; readonly readOnly: boolean; readonly extensions: ReadonlyArray<string> }
  | { readonly _tag: "Commit" }
  | { readonly _tag: "Rollback" }
  | { readonly _tag: "Ping" }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "Export" }
  | { readonly _tag: "Backup"; readonly destination: string }
  | { readonly _tag: "LoadExtension"; readonly path: string }
  | { readonly _tag: "Close" }

/** Rows of a stream; `done` when there are no more. */
export interface Batch {
  readonly rows: ReadonlyArray<unknown>
  readonly done: boolean
}

/** What better-sqlite3 threw. */
export interface Failure {
  readonly message: string
  readonly code: string | undefined
}

/** What came of a request, and where it left the connection. */
export interface Reply {
  readonly value: unknown
  readonly failure: Failure | undefined
  readonly inTransaction: boolean
  /** Whether something was left that only a reset clears. */
  readonly dirty: boolean
}

/** What a thread is started with. */
export interface ThreadData {
  readonly options: OpenOptions
  /** Holds the `Phase` of the running request. */
  readonly phase: SharedArrayBuffer
}

/** Whether the running request can still be stopped. Either side moves on from `running`; whoever comes first wins. */
export const Phase = { running: 0, stopped: 1, committing: 2 } as const

/** A thread's answer. */
export interface ThreadReply {
  readonly reply: Reply
  /** Whether the rows hold bytes: these arrive as Uint8Array where they were Buffer. */
  readonly bytes: boolean
}
