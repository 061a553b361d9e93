/**
 * Loads the parts of `pg` that are used, and makes results and errors in its form.
 */
// docgen compiles modules one by one, so it needs this reference to the declaration.
// oxlint-disable-next-line typescript/triple-slash-reference
/// <reference path="./pgModules.d.ts" />
import type PgModule from "pg"
import { ResponseError, type ServerError } from "./protocol/messages.js"
import { Pg, setPg } from "./protocol/pg.js"

/** The result of one command, with the methods that fill it. */
interface Result extends PgModule.QueryResult {
  readonly addFields: (fields: Array<PgModule.FieldDef>) => void
  readonly addCommandComplete: (message: { readonly text: string }) => void
}

export const makeResult = (): Result =>
  new Pg.Result(undefined as unknown as string, Pg.types as typeof PgModule.types) as unknown as Result

/** Loads the parts of `pg`, once. Returns the error if they cannot be loaded. */
export const load = async (): Promise<unknown> => {
  try {
    const { default: TypeOverrides } = await import("pg/lib/type-overrides.js")
    const { default: defaults } = await import("pg/lib/defaults.js")
    const { default: Result } = await import("pg/lib/result.js")
    const { default: { escapeIdentifier, escapeLiteral } } = await import("pg/lib/utils.js")
    setPg({ defaults, escapeIdentifier, escapeLiteral, Result, types: new TypeOverrides() })
    return undefined
  } catch (error) {
    return error
  }
}

/** An error in the form of one that the server sent. */
export const serverError = (code: string, message: string): ServerError =>
  Object.assign(new ResponseError(message, message.length), { code, severity: "ERROR" })
