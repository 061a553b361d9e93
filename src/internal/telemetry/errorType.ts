/**
 * The error of a statement or a session, and its name in metrics, spans and logs.
 */
import { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../../DatabaseError.js"

/** The DatabaseError that a failure is or carries. None if the failure throws when one of its properties is read. */
export const toDatabaseError = (error: unknown): DatabaseError | undefined => {
  try {
    return isDatabaseError(error) ? error : error instanceof SqlError ? fromSqlError(error) : undefined
  } catch {
    return undefined
  }
}

/** The DatabaseError that an exit failed with. Undefined for a success, a defect, an interruption and any other failure. */
export const databaseErrorOf = (exit: Exit.Exit<unknown, unknown>): DatabaseError | undefined => {
  const failure = Exit.isFailure(exit) ? Cause.failureOption(exit.cause) : Option.none()
  return Option.isSome(failure) ? toDatabaseError(failure.value) : undefined
}

/**
 * The DatabaseError of an exit's defects, as `orDie` makes them of a failure. Undefined if there is a failure or any
 * other defect as well.
 */
export const defectError = (exit: Exit.Exit<unknown, unknown>): DatabaseError | undefined => {
  if (Exit.isSuccess(exit) || Option.isSome(Cause.failureOption(exit.cause))) {
    return undefined
  }
  const errors = Array.from(Cause.defects(exit.cause), toDatabaseError)
  return errors.includes(undefined) ? undefined : errors.at(0)
}

/**
 * OpenTelemetry's `error.type` of an exit: the tag of its DatabaseError, "failure" for another failure, "interrupted" or
 * "defect". A success is "rollback", since only a session that was rolled back although it succeeded needs a type.
 */
export const errorType = (exit: Exit.Exit<unknown, unknown>, error: DatabaseError | undefined): string => {
  if (error !== undefined) {
    return error._tag
  }
  if (Exit.isSuccess(exit)) {
    return "rollback"
  }
  if (Option.isSome(Cause.failureOption(exit.cause))) {
    return "failure"
  }
  return Cause.isInterrupted(exit.cause) ? "interrupted" : "defect"
}
