/**
 * The errors of copies that do not come from the database. None holds a value.
 */
import { type DatabaseError, type Dialect, isDatabaseError } from "../../DatabaseError.js"
import { dialectOf } from "../config/dialectOf.js"
import { make as makeError } from "../makeError.js"
import { Unusable } from "./elements.js"

const codeOf = (dialect: Dialect, tag: DatabaseError["_tag"]): string => dialectOf(dialect).errorCodes[tag]

/** A row that cannot be copied. */
export interface UnusableRow {
  /** Its number, counted from 1. */
  readonly line: number
  readonly column: string | undefined
  /** The reason, or what the conversion of a value has thrown. */
  readonly cause: unknown
}

/** A cause that was thrown by a conversion may be anything and may contain values, so it is not shown. */
const reasonOf = (cause: unknown): string => {
  try {
    return typeof cause === "string"
      ? cause
      : isDatabaseError(cause) || cause instanceof Unusable
      ? cause.reason
      : "its conversion failed"
  } catch {
    return "its conversion failed"
  }
}

export const unusableRow = (
  dialect: Dialect,
  statement: string,
  { cause, column, line }: UnusableRow
): DatabaseError =>
  makeError("InvalidData", {
    dialect,
    code: codeOf(dialect, "InvalidData"),
    reason: `row ${line}${column === undefined ? "" : `, column ${column}`}, cannot be copied: ${reasonOf(cause)}`,
    column,
    line,
    statement
  })

export const elementMismatch = (dialect: Dialect, statement: string): DatabaseError =>
  makeError("InvalidStatement", {
    dialect,
    code: codeOf(dialect, "InvalidStatement"),
    reason: "a copy takes either rows, and then no options, or data in the format of its options",
    statement
  })

/** Data that is not in the format of the copy. */
export const malformedData = (dialect: Dialect, statement: string, line: number, reason: string): DatabaseError =>
  makeError("InvalidData", {
    dialect,
    code: codeOf(dialect, "InvalidData"),
    reason: `line ${line} cannot be copied: ${reason}`,
    line,
    statement
  })

/** Options of a copy that are not valid. */
export const invalidCopy = (dialect: Dialect, reason: string): DatabaseError =>
  makeError("InvalidStatement", {
    dialect,
    code: codeOf(dialect, "InvalidStatement"),
    reason: `the copy is not valid: ${reason}`
  })
