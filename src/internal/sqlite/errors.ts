/**
 * Errors that do not come from SQLite: a lost or closed connection, an aborted transaction, a timeout.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import { connectionErrorTag, type Context, make as makeError, withLocation } from "../makeError.js"

/** The statement that an error belongs to. */
export interface StatementInfo {
  readonly sql?: string
  readonly params?: ReadonlyArray<unknown>
  /** The lines of the rows that are copied. */
  readonly lines?: ReadonlyArray<number>
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
  { sql }: StatementInfo
): DatabaseError => {
  const tag = connectionErrorTag(phase)
  return makeError(tag, {
    dialect: "sqlite",
    code: "SQLITE_ABORT",
    reason: withLocation(tag, reason, { phase, description }, "open"),
    statement: sql
  })
}

export const abortedError = (reason: string, { sql }: StatementInfo): DatabaseError =>
  makeError("TransactionAborted", {
    dialect: "sqlite",
    code: "SQLITE_ABORT",
    reason,
    statement: sql
  })

export const notSentError = ({ sql }: StatementInfo): DatabaseError =>
  makeError("InvalidData", {
    dialect: "sqlite",
    code: "SQLITE_MISMATCH",
    reason: "it could not be sent to the connection's thread: the ArrayBuffer of a parameter was detached",
    statement: sql
  })

export const timeoutError = ({ sql }: StatementInfo): DatabaseError =>
  makeError("StatementTimeout", {
    dialect: "sqlite",
    code: "SQLITE_INTERRUPT",
    reason: "the statement ran longer than the statement timeout",
    statement: sql
  })
