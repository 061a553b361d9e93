/**
 * The code under which each dialect knows each of the errors.
 */
import type { DatabaseError, Dialect } from "../../DatabaseError.js"

interface Known {
  readonly codes: { readonly [D in Dialect]: string }
  readonly reason: string
}

const known = (postgres: string, sqlite: string, reason: string): Known => ({ codes: { postgres, sqlite }, reason })

export const byTag: { readonly [Tag in DatabaseError["_tag"]]: Known } = {
  ConnectionFailed: known("08001", "SQLITE_CANTOPEN", "could not connect to the database"),
  AuthenticationFailed: known("28P01", "SQLITE_AUTH", "authentication failed"),
  ConnectionLost: known("08006", "SQLITE_IOERR", "the connection to the database was lost"),
  PoolTimeout: known("53300", "SQLITE_BUSY", "no connection became free in time"),
  DatabaseClosed: known("08003", "SQLITE_MISUSE", "the database is closed"),
  UniqueViolation: known("23505", "SQLITE_CONSTRAINT_UNIQUE", "a unique constraint was violated"),
  ForeignKeyViolation: known("23503", "SQLITE_CONSTRAINT_FOREIGNKEY", "a foreign key constraint was violated"),
  NotNullViolation: known("23502", "SQLITE_CONSTRAINT_NOTNULL", "a not-null constraint was violated"),
  CheckViolation: known("23514", "SQLITE_CONSTRAINT_CHECK", "a check constraint was violated"),
  ExclusionViolation: known("23P01", "SQLITE_CONSTRAINT", "an exclusion constraint was violated"),
  SerializationFailure: known("40001", "SQLITE_BUSY_SNAPSHOT", "could not serialize access"),
  DeadlockDetected: known("40P01", "SQLITE_LOCKED", "deadlock detected"),
  LockTimeout: known("55P03", "SQLITE_BUSY", "a lock was not granted in time"),
  StatementTimeout: known("57014", "SQLITE_INTERRUPT", "the statement ran longer than the statement timeout"),
  StatementCanceled: known("57014", "SQLITE_INTERRUPT", "the statement was cancelled"),
  InvalidStatement: known("42601", "SQLITE_ERROR", "the statement is wrong"),
  InvalidData: known("22000", "SQLITE_MISMATCH", "a value is not acceptable"),
  InsufficientPrivilege: known("42501", "SQLITE_PERM", "permission denied"),
  ReadOnlyViolation: known("25006", "SQLITE_READONLY", "the transaction is read-only"),
  ResourceExhausted: known("53100", "SQLITE_FULL", "the disk is full"),
  DatabaseCorrupt: known("XX001", "SQLITE_CORRUPT", "the database is damaged"),
  TransactionAborted: known("25P02", "SQLITE_ABORT", "the transaction has failed before"),
  CommitOutcomeUnknown: known("08007", "SQLITE_ABORT", "the connection was lost while COMMIT was in flight"),
  SessionClosed: known("25P01", "SQLITE_MISUSE", "the session has ended"),
  SessionTimeout: known("57014", "SQLITE_INTERRUPT", "the session took too long"),
  UnknownDatabaseError: known("XX000", "SQLITE_INTERNAL", "the database failed")
}
