/**
 * What is used of `pg`, and types for what `@types/pg` leaves out.
 */
import type { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import type PgModule from "pg"
import type { ServerError } from "./protocol/messages.js"
import { Pg, setPg } from "./protocol/pg.js"
import type * as Scram from "./scram.js"

/** The result of one command, with the methods that fill it. */
interface Result extends PgModule.QueryResult {
  readonly addFields: (fields: Array<PgModule.FieldDef>) => void
  readonly addCommandComplete: (message: { readonly text: string }) => void
}

export const makeResult = (): Result => new Pg.Result(undefined as unknown as string, Pg.types) as unknown as Result

/** `pg`'s Connection: it writes and reads messages. Used for start-up and authentication only. */
export interface PgConnection extends EventEmitter {
  readonly stream: Socket
  startup(parameters: Record<string, string>): void
  attachListeners(source: EventEmitter): void
  sendSCRAMClientFinalMessage(message: string): void
}

/** A base class that is `pg`'s own once `load` has set its prototype: classes that extend it are defined before. */
export const PgConnection = function(config: { readonly stream: Socket }): unknown {
  return Reflect.construct(Pg.Connection, [config], new.target)
} as unknown as new(config: { readonly stream: Socket }) => PgConnection

/** Loads `pg`, once. Returns the error if it cannot be loaded. */
export const load = async (): Promise<unknown> => {
  try {
    const { default: module } = await import("pg")
    setPg(module)
    Object.setPrototypeOf(PgConnection.prototype, module.Connection.prototype)
    return undefined
  } catch (error) {
    return error
  }
}

/** The properties of `pg`'s Client that hold BackendKeyData, the password, and the state of SCRAM. */
export interface PgClientState {
  readonly saslSession: Scram.Session
  _handleAuthSASLContinue: (message: { readonly data: string }) => Promise<void>
  readonly processID: number | null
  readonly secretKey: number | null
  password: unknown
  readonly connectionParameters: { password: unknown }
}

/** An error in the form of one that the server sent. */
export const serverError = (code: string, message: string): ServerError =>
  Object.assign(new Pg.DatabaseError(message, message.length, "error"), { code, severity: "ERROR" }) as ServerError
