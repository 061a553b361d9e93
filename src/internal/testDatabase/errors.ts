/**
 * The errors that a test can ask for, with the code and the reason that each has by default.
 */
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import { dialectOf } from "../config/dialectOf.js"

const reasons: { readonly [Tag in DatabaseError["_tag"]]: string } = {
  ConnectionFailed: "could not connect to the database",
  AuthenticationFailed: "authentication failed",
  ConnectionLost: "the connection to the database was lost",
  PoolTimeout: "no connection became free in time",
  DatabaseClosed: "the database is closed",
  UniqueViolation: "a unique constraint was violated",
  ForeignKeyViolation: "a foreign key constraint was violated",
  NotNullViolation: "a not-null constraint was violated",
  CheckViolation: "a check constraint was violated",
  ExclusionViolation: "an exclusion constraint was violated",
  SerializationFailure: "could not serialize access",
  DeadlockDetected: "deadlock detected",
  LockTimeout: "a lock was not granted in time",
  StatementTimeout: "the statement ran longer than the statement timeout",
  StatementCanceled: "the statement was cancelled",
  InvalidStatement: "the statement is not valid",
  InvalidData: "a value is not valid",
  InsufficientPrivilege: "permission denied",
  ReadOnlyViolation: "the transaction is read-only",
  ResourceExhausted: "the disk is full",
  DatabaseCorrupt: "the database is damaged",
  TransactionAborted: "an earlier statement of the transaction failed",
  CommitOutcomeUnknown: "the connection was lost while COMMIT was in flight",
  SessionClosed: "the session has ended",
  SessionTimeout: "the session took too long",
  UnknownDatabaseError: "the database failed"
}

/** The code under which the dialect's database reports an error of this tag, and a reason that says what the tag means. */
export const describe = (
  tag: DatabaseError["_tag"],
  dialect: Dialect
): { readonly code: string; readonly reason: string } => ({
  code: dialectOf(dialect).errorCodes[tag],
  reason: reasons[tag]
})
