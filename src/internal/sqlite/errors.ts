/**
 * What a connection fails with by itself, and not because SQLite said so.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import { type Context, located, lostTag, make as makeError } from "../makeError.js"

/** What a failure tells of the statement. */
export interface About {
  readonly sql?: string
  readonly params?: ReadonlyArray<unknown>
}

export const closedError = (description: string): DatabaseError =>
  makeError("ConnectionLost", {
    dialect: "sqlite",
    code: "SQLITE_MISUSE",
    reason: `the connection to ${description} is closed`
  })

export const lostError = (
  description: string,
  phase: Context["phase"],
  reason: string,
  about: About
): DatabaseError => {
  const tag = lostTag(phase)
  return makeError(tag, {
    dialect: "sqlite",
    code: "SQLITE_ABORT",
    reason: located(tag, reason, { phase, description }, "open"),
    statement: about.sql
  })
}

export const abortedError = (reason: string, about: About): DatabaseError =>
  makeError("TransactionAborted", {
    dialect: "sqlite",
    code: "SQLITE_ABORT",
    reason,
    statement: about.sql
  })

export const unsentError = (about: About): DatabaseError =>
  makeError("InvalidData", {
    dialect: "sqlite",
    code: "SQLITE_MISMATCH",
    reason: "it could not be handed over to the thread of the connection: the memory of a parameter is gone",
    statement: about.sql
  })

export const timeoutError = (about: About): DatabaseError =>
  makeError("StatementTimeout", {
    dialect: "sqlite",
    code: "SQLITE_INTERRUPT",
    reason: "the statement ran longer than the statement timeout",
    statement: about.sql
  })
