/**
 * The parts of `pg` that its types leave out, typed.
 */
import type { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import Pg from "pg"
import type { Answer } from "./exchange.js"
import type { ServerError } from "./protocol/messages.js"

/** One command's result, as `pg` builds it. */
interface Result extends Pg.QueryResult {
  readonly addFields: (fields: Array<Pg.FieldDef>) => void
  readonly addCommandComplete: (message: { readonly text: string }) => void
}

/** A command's answer as `pg` gives it. */
export const resultOf = ({ columns, rows, tag }: Answer): Pg.QueryResult => {
  const result = new Pg.Result(undefined as unknown as string, Pg.types) as unknown as Result
  if (columns !== undefined) {
    // What is known of columns is shared with others, and a result is its owner's.
    result.addFields(columns.fields.map((field) => ({ ...field })))
  }
  if (tag !== undefined) {
    result.addCommandComplete({ text: tag })
  }
  result.rows = rows
  return result
}

/** `pg`'s own mapping from JavaScript's values to what goes over the wire. Throws on what cannot be mapped. */
export const prepareValue: (value: unknown) => Buffer | string | null = (
  Pg as unknown as { readonly utils: { readonly prepareValue: (value: unknown) => Buffer | string | null } }
).utils.prepareValue

/** What `pg`'s Connection can do at the start of a connection: it writes and reads messages. */
export interface Protocol extends EventEmitter {
  readonly stream: Socket
  startup(parameters: Record<string, string>): void
  attachListeners(source: EventEmitter): void
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
export const serverError = (code: string, message: string): ServerError =>
  Object.assign(new Pg.DatabaseError(message, message.length, "error"), { code, severity: "ERROR" }) as ServerError
