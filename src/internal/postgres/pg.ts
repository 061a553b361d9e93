/**
 * The parts of `pg` that its types leave out, typed.
 */
import type { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import Pg from "pg"

/** One command's result, as `pg` builds it. */
export interface Result extends Pg.QueryResult {
  readonly addFields: (fields: Array<Pg.FieldDef>) => void
  readonly addRow: (row: unknown) => void
  readonly parseRow: (values: ReadonlyArray<string | null>) => unknown
  readonly addCommandComplete: (message: CommandComplete) => void
}

/** `command` is null until the command has completed. */
export const makeResult = (rowMode: RowMode): Result => new Pg.Result(rowMode as string, Pg.types) as unknown as Result

/** Rows as objects, or as arrays. */
export type RowMode = "array" | undefined

/** What the server says when a command has completed; `text` is its tag. */
export interface CommandComplete {
  readonly text: string
}

/** The columns of the rows to come. */
export interface RowDescription {
  readonly fields: Array<Pg.FieldDef>
}

/** One row; `length` is its size on the wire. */
export interface DataRow {
  readonly fields: ReadonlyArray<string | null>
  readonly length: number
}

/** What the server says of a setting, unasked. */
export interface ParameterStatus {
  readonly parameterName: string
  readonly parameterValue: string
}

/** `pg`'s own mapping from JavaScript's values to what goes over the wire. Throws on what cannot be mapped. */
export const prepareValue: (value: unknown) => Buffer | string | null = (
  Pg as unknown as { readonly utils: { readonly prepareValue: (value: unknown) => Buffer | string | null } }
).utils.prepareValue

/** What `pg`'s Connection can do: it writes and reads messages. */
export interface Protocol extends EventEmitter {
  readonly stream: Socket
  startup(parameters: Record<string, string>): void
  attachListeners(source: EventEmitter): void
  readonly query: (text: string) => void
  readonly parse: (message: { readonly text: string }) => void
  readonly bind: (message: { readonly portal?: string; readonly values: ReadonlyArray<Buffer | string | null> }) => void
  readonly describe: (message: { readonly type: "P"; readonly name: string }) => void
  readonly execute: (message: { readonly portal?: string; readonly rows?: number }) => void
  readonly close: (message: { readonly type: "P"; readonly name: string }) => void
  readonly sync: () => void
  readonly sendCopyFail: (reason: string) => void
}

/** `pg`'s Connection. */
export const Protocol = Pg.Connection as unknown as new(config: { readonly stream: Socket }) => Protocol

/** What `pg`'s Client knows once it is connected. */
export interface Session {
  readonly processID: number | null
  readonly secretKey: number | null
  /** Not enumerable, but there. */
  password: unknown
  readonly connectionParameters: { password: unknown }
}

/** An error as the server would have sent it. */
export const serverError = (code: string, message: string): Error =>
  Object.assign(new Pg.DatabaseError(message, message.length, "error"), { code, severity: "ERROR" })
