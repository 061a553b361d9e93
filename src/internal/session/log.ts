/**
 * What a session that did not commit says in the log: once, and as loud as it deserves.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"

/** What an application expects to happen, and answers, is no more than a remark. */
const levels: Partial<Record<DatabaseError["_tag"], LogLevel.LogLevel>> = {
  UniqueViolation: LogLevel.Debug,
  ForeignKeyViolation: LogLevel.Debug,
  NotNullViolation: LogLevel.Debug,
  CheckViolation: LogLevel.Debug,
  ExclusionViolation: LogLevel.Debug,
  InvalidData: LogLevel.Info,
  SerializationFailure: LogLevel.Info,
  DeadlockDetected: LogLevel.Info,
  LockTimeout: LogLevel.Info,
  StatementCanceled: LogLevel.Info,
  ConnectionFailed: LogLevel.Warning,
  ConnectionLost: LogLevel.Warning,
  PoolTimeout: LogLevel.Warning,
  StatementTimeout: LogLevel.Warning,
  SessionTimeout: LogLevel.Warning,
  DatabaseClosed: LogLevel.Warning
}

export const endLevel = (exit: Exit.Exit<unknown, unknown>, error: DatabaseError | undefined): LogLevel.LogLevel => {
  if (error !== undefined) {
    return levels[error._tag] ?? LogLevel.Error
  }
  return Exit.isFailure(exit) && !Cause.isInterruptedOnly(exit.cause) && Cause.isDie(exit.cause)
    ? LogLevel.Error
    : LogLevel.Debug
}

/** Why a session did not commit, as metrics and spans name it. */
export const endReason = (exit: Exit.Exit<unknown, unknown>, error: DatabaseError | undefined): string => {
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

/** What every session is called that was given no name. */
export const unnamed = "session"

/** A session, as messages speak of it. */
export const called = (name: string): string => name === unnamed ? "the session" : `the session ${name}`

/** An application's own failure is its business: only that there was one is said. A defect is shown whole. */
export const endMessage = (
  name: string,
  exit: Exit.Exit<unknown, unknown>,
  reason: string,
  error: DatabaseError | undefined
): ReadonlyArray<unknown> => {
  if (error !== undefined) {
    return error._tag === "CommitOutcomeUnknown"
      ? [`${called(name)} ended, committed or not: ${error._tag}: ${error.message}`]
      : [`${called(name)} was rolled back: ${error._tag}: ${error.message}`]
  }
  const text = `${called(name)} was rolled back: ${reason}`
  return Exit.isFailure(exit) && reason === "defect" ? [text, exit.cause] : [text]
}
