/**
 * PostgreSQL's part of the configuration, and its names.
 */
import type { Dialect } from "../config/target.js"
import { formatTarget, optionsOf, type PostgresTarget, resolve } from "./target.js"
import { parse } from "./url.js"

export const dialect: Dialect<PostgresTarget> = {
  systemName: "postgresql",
  errorCodes: {
    ConnectionFailed: "08001",
    AuthenticationFailed: "28P01",
    ConnectionLost: "08006",
    PoolTimeout: "53300",
    DatabaseClosed: "08003",
    UniqueViolation: "23505",
    ForeignKeyViolation: "23503",
    NotNullViolation: "23502",
    CheckViolation: "23514",
    ExclusionViolation: "23P01",
    SerializationFailure: "40001",
    DeadlockDetected: "40P01",
    LockTimeout: "55P03",
    StatementTimeout: "57014",
    StatementCanceled: "57014",
    InvalidStatement: "42601",
    InvalidData: "22000",
    InsufficientPrivilege: "42501",
    ReadOnlyViolation: "25006",
    ResourceExhausted: "53100",
    DatabaseCorrupt: "XX001",
    TransactionAborted: "25P02",
    CommitOutcomeUnknown: "08007",
    SessionClosed: "25P01",
    SessionTimeout: "57014",
    UnknownDatabaseError: "XX000"
  },
  schemes: ["postgres", "postgresql"],
  readUrl: (scheme, rest) => {
    const { problems, value } = parse(scheme, rest)
    return { problems, value: (options, pool, validation) => resolve(value, options, pool, validation) }
  },
  readTarget: (target) => {
    const url = formatTarget(target, true)
    const { problems, value } = parse("postgres", url.slice(url.indexOf(":") + 1))
    return {
      problems,
      value: (options, pool, validation) => resolve(value, optionsOf(target, options), pool, validation)
    }
  },
  formatUrl: (target, withPassword) => formatTarget(target, withPassword)
}
