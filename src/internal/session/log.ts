/**
 * The log entry of a session that did not commit, at a level that fits its cause.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as LogLevel from "effect/LogLevel"
import type { DatabaseError } from "../../DatabaseError.js"

/** Errors that applications expect and handle are logged below Warning. An error that is not listed is logged as Error. */
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

/** The level for a session that ended with `exit`. `error` is the DatabaseError in it, if there is one. */
export const logLevel = (exit: Exit.Exit<unknown, unknown>, error: DatabaseError | undefined): LogLevel.LogLevel => {
  if (error !== undefined) {
    return levels[error._tag] ?? LogLevel.Error
  }
  return Exit.isFailure(exit) && !Cause.isInterruptedOnly(exit.cause) && Cause.isDie(exit.cause)
    ? LogLevel.Error
    : LogLevel.Debug
}

/**
 * Whether repetitions of an entry at this level are counted instead of written: many sessions may fail alike at once,
 * for example with timeouts on one lock. Entries at the level Error are all written.
 */
export const mayRepeat = (level: LogLevel.LogLevel): boolean => level === LogLevel.Info || level === LogLevel.Warning

/** The name of a session that was given none. */
export const defaultName = "session"

/** A session, as messages name it. */
export const sessionLabel = (name: string): string => name === defaultName ? "the session" : `the session ${name}`

/**
 * The message, and the cause of a defect. A failure of the application itself is not shown: it is returned to the
 * caller, and may contain anything.
 */
export const logMessage = (
  name: string,
  exit: Exit.Exit<unknown, unknown>,
  errorType: string,
  error: DatabaseError | undefined
): ReadonlyArray<unknown> => {
  if (error !== undefined) {
    return error._tag === "CommitOutcomeUnknown"
      ? [`${sessionLabel(name)} ended, and it is not known whether it was committed: ${error._tag}: ${error.message}`]
      : [`${sessionLabel(name)} was rolled back: ${error._tag}: ${error.message}`]
  }
  const text = `${sessionLabel(name)} was rolled back: ${errorType}`
  return Exit.isFailure(exit) && errorType === "defect" ? [text, exit.cause] : [text]
}
