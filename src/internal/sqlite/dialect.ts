/**
 * The configuration of SQLite, and its names.
 */
import type { Dialect } from "../config/target.js"
import { resolve, resolveAgain, type SqliteTarget } from "./target.js"
import { format, parse, type Scheme } from "./url.js"

export const dialect: Dialect<SqliteTarget> = {
  systemName: "sqlite",
  errorCodes: {
    ConnectionFailed: "SQLITE_CANTOPEN",
    AuthenticationFailed: "SQLITE_AUTH",
    ConnectionLost: "SQLITE_IOERR",
    PoolTimeout: "SQLITE_BUSY",
    DatabaseClosed: "SQLITE_MISUSE",
    UniqueViolation: "SQLITE_CONSTRAINT_UNIQUE",
    ForeignKeyViolation: "SQLITE_CONSTRAINT_FOREIGNKEY",
    NotNullViolation: "SQLITE_CONSTRAINT_NOTNULL",
    CheckViolation: "SQLITE_CONSTRAINT_CHECK",
    ExclusionViolation: "SQLITE_CONSTRAINT",
    SerializationFailure: "SQLITE_BUSY_SNAPSHOT",
    DeadlockDetected: "SQLITE_LOCKED",
    LockTimeout: "SQLITE_BUSY",
    StatementTimeout: "SQLITE_INTERRUPT",
    StatementCanceled: "SQLITE_INTERRUPT",
    InvalidStatement: "SQLITE_ERROR",
    InvalidData: "SQLITE_MISMATCH",
    InsufficientPrivilege: "SQLITE_PERM",
    ReadOnlyViolation: "SQLITE_READONLY",
    ResourceExhausted: "SQLITE_FULL",
    DatabaseCorrupt: "SQLITE_CORRUPT",
    TransactionAborted: "SQLITE_ABORT",
    CommitOutcomeUnknown: "SQLITE_ABORT",
    SessionClosed: "SQLITE_MISUSE",
    SessionTimeout: "SQLITE_INTERRUPT",
    UnknownDatabaseError: "SQLITE_INTERNAL"
  },
  schemes: ["sqlite", "file"],
  readUrl: (scheme, rest) => {
    const { problems, value } = parse(scheme as Scheme, rest)
    return { problems, value: (options, pool, validation) => resolve(value, options, pool, validation) }
  },
  readTarget: (target) => ({
    problems: [],
    value: (options, pool, validation) => resolveAgain(target, options, pool, validation)
  }),
  formatUrl: format
}
