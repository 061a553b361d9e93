/**
 * Types for what `@types/pg` leaves out.
 */
import type { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import Pg from "pg"
import type { ServerError } from "./protocol/messages.js"

/** The result of one command, with the methods that fill it. */
interface Result extends Pg.QueryResult {
  readonly addFields: (fields: Array<Pg.FieldDef>) => void
  readonly addCommandComplete: (message: { readonly text: string }) => void
}

export const makeResult = (): Result => new Pg.Result(undefined as unknown as string, Pg.types) as unknown as Result

/** Converts a JavaScript value to what Bind carries. Throws if it cannot be converted. */
export const prepareValue: (value: unknown) => Buffer | string | null = (
  Pg as unknown as { readonly utils: { readonly prepareValue: (value: unknown) => Buffer | string | null } }
).utils.prepareValue

/** `pg`'s Connection: it writes and reads messages. Used for start-up and authentication only. */
export interface PgConnection extends EventEmitter {
  readonly stream: Socket
  startup(parameters: Record<string, string>): void
  attachListeners(source: EventEmitter): void
}

export const PgConnection = Pg.Connection as unknown as new(config: { readonly stream: Socket }) => PgConnection

/** The properties of `pg`'s Client that hold BackendKeyData and the password. */
export interface PgClientState {
  readonly processID: number | null
  readonly secretKey: number | null
  password: unknown
  readonly connectionParameters: { password: unknown }
}

/** An error in the form of one that the server sent. */
export const serverError = (code: string, message: string): ServerError =>
  Object.assign(new Pg.DatabaseError(message, message.length, "error"), { code, severity: "ERROR" }) as ServerError
