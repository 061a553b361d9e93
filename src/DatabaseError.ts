/**
 * The errors of sqlayer: one tagged error for each kind of failure, the same for every dialect. Catch them by tag.
 *
 * The codes are SQLSTATEs on PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html) and the names
 * of extended result codes on SQLite (https://sqlite.org/rescode.html). No error holds the parameters of a statement or
 * the values of a row: they are masked in the messages of the server.
 *
 * @since 0.1.0
 */
import { SqlError, SqlErrorTypeId } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

/**
 * The schema of the supported dialects.
 *
 * @since 0.1.0
 * @category models
 */
export const Dialect = Schema.Literal("postgres", "sqlite")

/**
 * The supported dialects.
 *
 * @since 0.1.0
 * @category models
 */
export type Dialect = typeof Dialect.Type

/**
 * The schema of a pool's state at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export const PoolFigures = Schema.Struct({
  /** The pool's name. */
  name: Schema.String,
  /** The maximum number of open connections: `size` and `overflow`. */
  maximum: Schema.Int,
  /** The number of connections that the pool opens as they are needed. */
  size: Schema.Int,
  /** The number of connections that may be open beyond `size` under load. A limit, not the current number. */
  overflow: Schema.Int,
  /** The number of connections that are open and not in use, including those that are being pinged. */
  idle: Schema.Int,
  /** The number of connections that are checked out, including those that are being reset after their return. */
  used: Schema.Int,
  /** The number of fibers that are waiting for a connection. */
  waiting: Schema.Int
})

/**
 * A pool's state at one moment.
 *
 * @since 0.1.0
 * @category models
 */
export type PoolFigures = typeof PoolFigures.Type

const optionalString = Schema.optionalWith(Schema.String, { exact: true })

const fields = {
  /** The dialect of the database. */
  dialect: Dialect,
  /**
   * An SQLSTATE on PostgreSQL, the name of an extended result code on SQLite. If the database was not reached or
   * reported none, the code for the condition.
   */
  code: Schema.String,
  /** What happened, in the words of the database or of sqlayer, with values masked. */
  reason: Schema.String,
  /** The DETAIL of PostgreSQL's error message, with values masked. */
  detail: optionalString,
  /** The HINT of PostgreSQL's error message, with values masked. */
  hint: optionalString,
  /** The schema of the table, as PostgreSQL reports it. */
  schema: optionalString,
  /** The table that the error is about, where the database reports it. */
  table: optionalString,
  /** The column that the error is about, where the database reports it. */
  column: optionalString,
  /** The name of the constraint that was violated, where the database reports it. */
  constraint: optionalString,
  /** The line of the data, or the row, counted from 1, that could not be copied. See `Database.copyFrom`. */
  line: Schema.optionalWith(Schema.Int, { exact: true }),
  /** The severity of PostgreSQL's error message: ERROR, FATAL or PANIC. */
  severity: optionalString,
  /** Where the error is in `statement`: the number of the character, counted from 1, as PostgreSQL reports it. */
  position: Schema.optionalWith(Schema.Int, { exact: true }),
  /**
   * The CONTEXT of PostgreSQL's error message, with values masked: the functions, triggers and lines in which the error
   * occurred, innermost first.
   */
  where: optionalString,
  /** The function in PostgreSQL's source code that reported the error. */
  routine: optionalString,
  /** The text of the statement with its placeholders, without its parameters. */
  statement: optionalString,
  /** The underlying error, if it says more than `reason`. Never the driver's error, which may hold values. */
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}

/** The fields that the runtime itself sets on every Error: JavaScriptCore sets `column` to a number. */
const runtimeFields = Object.keys(fields).filter((name) => Object.hasOwn(new Error(), name))

type FieldsOf<Tag extends string, Extra> = { readonly _tag: Schema.tag<Tag> } & typeof fields & Extra

/** Makes the base class of an error, with the common fields, its own fields, and a message rendered from them. */
const taggedError = <Self>() =>
<Tag extends string, Extra extends Schema.Struct.Fields = {}>(
  tag: Tag,
  extra?: Extra
): Schema.TaggedErrorClass<Self, Tag, FieldsOf<Tag, Extra>> => {
  const Tagged = Schema.TaggedError<object>(`sqlayer/DatabaseError/${tag}`)(tag, {
    ...fields,
    ...extra
  }) as unknown as (new(props: Record<string, unknown>, options?: Schema.MakeOptions) => Record<string, unknown>)
  class Base extends Tagged {
    constructor(props: Record<string, unknown>, options?: Schema.MakeOptions) {
      super(props, options)
      for (const name of runtimeFields) {
        // Assigning alone would keep the runtime's property, which is not enumerable.
        delete this[name]
        if (props[name] !== undefined) {
          this[name] = props[name]
        }
      }
    }
  }
  Object.defineProperty(Base.prototype, "message", {
    get(this: RenderedFields): string {
      try {
        return render(this)
      } catch {
        // A field is not of its type: the schema does not check what was made with `disableValidation`.
        const reason: unknown = this.reason
        return String(reason)
      }
    },
    enumerable: false,
    configurable: true
  })
  return Base as unknown as Schema.TaggedErrorClass<Self, Tag, FieldsOf<Tag, Extra>>
}

/**
 * A connection could not be opened: refused, unreachable, unknown host, TLS failure, too many clients, unknown
 * database, or a file that cannot be opened. The message names the address or the file.
 *
 * `transient` says whether a retry may succeed. It is false for an unknown database, a TLS failure, and a file or
 * socket that the process has no permission for. It is true for an unknown host name, because containers that start
 * together often resolve each other's names only after a while.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionFailed
  extends taggedError<ConnectionFailed>()("ConnectionFailed", { transient: Schema.Boolean })
{}

/**
 * The server rejected the user or the password (SQLSTATE class 28), the server failed to prove in SCRAM authentication
 * that it knows the password, or SQLite's authorizer denied an operation (SQLITE_AUTH).
 *
 * @since 0.1.0
 * @category errors
 */
export class AuthenticationFailed extends taggedError<AuthenticationFailed>()("AuthenticationFailed") {}

/**
 * An established connection broke: it was closed or reset, an administrator terminated it, the server stopped answering
 * or violated the protocol, or the database file had an I/O error (SQLITE_IOERR). Nothing was committed.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionLost extends taggedError<ConnectionLost>()("ConnectionLost") {}

/**
 * The pool had no connection within its timeout; `Pool.take` lists the conditions. `stats` is the state of the pool at
 * that moment, and `cause` the error of the last attempt to connect, if it failed. On SQLite, whose pool has one
 * connection for writing, it means that other sessions held the connection for that long.
 *
 * @since 0.1.0
 * @category errors
 */
export class PoolTimeout extends taggedError<PoolTimeout>()(
  "PoolTimeout",
  { stats: Schema.optionalWith(PoolFigures, { exact: true }) }
) {}

/**
 * The database or pool was used while or after its scope closed.
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseClosed extends taggedError<DatabaseClosed>()("DatabaseClosed") {}

/**
 * A unique or primary key constraint was violated (23505; SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY, _ROWID).
 *
 * PostgreSQL reports the constraint and the table. SQLite reports the table, and the column if there is only one.
 *
 * @since 0.1.0
 * @category errors
 */
export class UniqueViolation extends taggedError<UniqueViolation>()("UniqueViolation") {}

/**
 * A foreign key constraint was violated (23503, 23001; SQLITE_CONSTRAINT_FOREIGNKEY). SQLite does not report which one.
 *
 * @since 0.1.0
 * @category errors
 */
export class ForeignKeyViolation extends taggedError<ForeignKeyViolation>()("ForeignKeyViolation") {}

/**
 * A NOT NULL constraint was violated (23502; SQLITE_CONSTRAINT_NOTNULL).
 *
 * @since 0.1.0
 * @category errors
 */
export class NotNullViolation extends taggedError<NotNullViolation>()("NotNullViolation") {}

/**
 * A value violates a check constraint, a domain (23514; SQLITE_CONSTRAINT_CHECK), or on SQLite the type of a column in
 * a STRICT table (SQLITE_CONSTRAINT_DATATYPE), or a trigger raised an error (SQLITE_CONSTRAINT_TRIGGER).
 *
 * @since 0.1.0
 * @category errors
 */
export class CheckViolation extends taggedError<CheckViolation>()("CheckViolation") {}

/**
 * An exclusion constraint was violated (23P01). PostgreSQL only.
 *
 * @since 0.1.0
 * @category errors
 */
export class ExclusionViolation extends taggedError<ExclusionViolation>()("ExclusionViolation") {}

/**
 * The transaction could not be serialized with concurrent ones and was rolled back (40001, 40002;
 * SQLITE_BUSY_SNAPSHOT). Retry it from the beginning, as the session option `retry` does.
 *
 * @since 0.1.0
 * @category errors
 */
export class SerializationFailure extends taggedError<SerializationFailure>()("SerializationFailure") {}

/**
 * The server resolved a deadlock by aborting this transaction (40P01). Retry it from the beginning, as the session
 * option `retry` does. PostgreSQL only.
 *
 * @since 0.1.0
 * @category errors
 */
export class DeadlockDetected extends taggedError<DeadlockDetected>()("DeadlockDetected") {}

/**
 * A lock was not available within the lock timeout, or at once for NOWAIT (55P03; SQLITE_BUSY, SQLITE_LOCKED).
 *
 * @since 0.1.0
 * @category errors
 */
export class LockTimeout extends taggedError<LockTimeout>()("LockTimeout") {}

/**
 * A statement took longer than the statement timeout (57014), or a transaction exceeded
 * idle_in_transaction_session_timeout (25P03) or transaction_timeout (25P04). The server closes the connection in the
 * last two cases. On SQLite sqlayer enforces the statement timeout.
 *
 * @since 0.1.0
 * @category errors
 */
export class StatementTimeout extends taggedError<StatementTimeout>()("StatementTimeout") {}

/**
 * A statement was canceled for another reason than a timeout, such as pg_cancel_backend (57014; SQLITE_INTERRUPT).
 *
 * @since 0.1.0
 * @category errors
 */
export class StatementCanceled extends taggedError<StatementCanceled>()("StatementCanceled") {}

/**
 * The statement is invalid: a syntax error, an unknown table, column or schema, wrong types, an unsupported feature, or
 * one that the state of the transaction does not allow (class 42 except 42501, 0A000, 26000, 3F000, class 25 except
 * 25006 and 25P02 to 25P04; SQLITE_ERROR). On PostgreSQL `reason` ends with the position of the error in the statement,
 * where the server reports it.
 *
 * @since 0.1.0
 * @category errors
 */
export class InvalidStatement extends taggedError<InvalidStatement>()("InvalidStatement") {}

/**
 * A value is invalid for its type or function, or cannot be encoded as a parameter (class 22; SQLITE_MISMATCH,
 * SQLITE_RANGE, SQLITE_TOOBIG).
 *
 * @since 0.1.0
 * @category errors
 */
export class InvalidData extends taggedError<InvalidData>()("InvalidData") {}

/**
 * The user has no privilege for the operation (42501; SQLITE_PERM).
 *
 * @since 0.1.0
 * @category errors
 */
export class InsufficientPrivilege extends taggedError<InsufficientPrivilege>()("InsufficientPrivilege") {}

/**
 * A statement tried to write in a read-only transaction or database (25006; SQLITE_READONLY).
 *
 * `transient` is true if neither the option `readOnly` nor a statement made the session read-only. Then the server is a
 * standby, or has become one, and the session may succeed on another connection. Otherwise it is absent.
 *
 * @since 0.1.0
 * @category errors
 */
export class ReadOnlyViolation extends taggedError<ReadOnlyViolation>()(
  "ReadOnlyViolation",
  { transient: Schema.optionalWith(Schema.Boolean, { exact: true }) }
) {}

/**
 * The database ran out of memory or disk space, or a limit was exceeded (class 53 except 53300, class 54; SQLITE_FULL,
 * SQLITE_NOMEM).
 *
 * @since 0.1.0
 * @category errors
 */
export class ResourceExhausted extends taggedError<ResourceExhausted>()("ResourceExhausted") {}

/**
 * The files of the database are damaged, or the file is not a database (XX001, XX002; SQLITE_CORRUPT, SQLITE_NOTADB).
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseCorrupt extends taggedError<DatabaseCorrupt>()("DatabaseCorrupt") {}

/**
 * A statement or COMMIT was sent in a transaction that had already failed (25P02, or COMMIT was answered with
 * ROLLBACK). The transaction was rolled back. Usually the error of an earlier statement was caught and ignored, or a
 * statement was interrupted after it was sent, so that its effect is not known.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionAborted extends taggedError<TransactionAborted>()("TransactionAborted") {}

/**
 * It is not known whether a transaction was committed. Never retried, because that could do the work twice.
 *
 * - The connection was lost after COMMIT was sent and before it was answered.
 * - The connection was lost before the answer to a statement that may have written, outside of a session or on a
 *   reserved connection.
 * - PostgreSQL answered COMMIT with a warning that the wait for a synchronous standby was canceled (01000): the
 *   transaction is committed on that server, but may be lost if that server is.
 *
 * @since 0.1.0
 * @category errors
 */
export class CommitOutcomeUnknown extends taggedError<CommitOutcomeUnknown>()("CommitOutcomeUnknown") {}

/**
 * A statement was run in a session that has ended, usually by a fiber that outlived it.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionClosed extends taggedError<SessionClosed>()("SessionClosed") {}

/**
 * The session took longer than its option `timeout`, and was rolled back.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionTimeout extends taggedError<SessionTimeout>()("SessionTimeout") {}

/**
 * Any other failure. `code` is the code of the database, or XX000 if there is none.
 *
 * @since 0.1.0
 * @category errors
 */
export class UnknownDatabaseError extends taggedError<UnknownDatabaseError>()("UnknownDatabaseError") {}

/**
 * The schema of all errors, for sending them to another process.
 *
 * @since 0.1.0
 * @category models
 */
export const DatabaseError = Schema.Union(
  ConnectionFailed,
  AuthenticationFailed,
  ConnectionLost,
  PoolTimeout,
  DatabaseClosed,
  UniqueViolation,
  ForeignKeyViolation,
  NotNullViolation,
  CheckViolation,
  ExclusionViolation,
  SerializationFailure,
  DeadlockDetected,
  LockTimeout,
  StatementTimeout,
  StatementCanceled,
  InvalidStatement,
  InvalidData,
  InsufficientPrivilege,
  ReadOnlyViolation,
  ResourceExhausted,
  DatabaseCorrupt,
  TransactionAborted,
  CommitOutcomeUnknown,
  SessionClosed,
  SessionTimeout,
  UnknownDatabaseError
)

/**
 * Any of the errors of this module.
 *
 * @since 0.1.0
 * @category models
 */
export type DatabaseError = typeof DatabaseError.Type

/**
 * The arguments of the errors' constructors. ConnectionFailed and ReadOnlyViolation also take `transient`, and
 * PoolTimeout `stats`.
 *
 * @since 0.1.0
 * @category models
 */
export type Fields = ConstructorParameters<typeof UniqueViolation>[0]

const tags: ReadonlySet<unknown> = new Set(DatabaseError.members.map((member) => member._tag))

/**
 * Whether a value is one of the errors of this module. It checks the tag, so that it recognizes errors of another copy
 * of sqlayer. A value whose properties throw when they are read is none of them.
 *
 * @since 0.1.0
 * @category guards
 */
export const isDatabaseError = (u: unknown): u is DatabaseError => {
  try {
    return Predicate.hasProperty(u, "_tag") && tags.has(u._tag) && Predicate.hasProperty(u, "dialect")
  } catch {
    return false
  }
}

// By tag and not by instanceof, because several copies of @effect/sql may be installed.
const isSqlError = (u: unknown): u is SqlError =>
  Predicate.hasProperty(u, SqlErrorTypeId) && Predicate.isTagged(u, "SqlError")

/** Finds the DatabaseError in a chain of causes: query builders wrap the errors of statements in their own. */
const findDatabaseError = (cause: unknown, maxDepth: number): DatabaseError | undefined =>
  isDatabaseError(cause)
    ? cause
    : maxDepth > 0 && Predicate.hasProperty(cause, "cause")
    ? findDatabaseError(cause.cause, maxDepth - 1)
    : undefined

/**
 * The DatabaseError that is the `cause` of a SqlError, or is nested up to 8 causes deeper.
 *
 * The SqlError of another client becomes an UnknownDatabaseError. It keeps the message and the code, but not the
 * driver's error, which may hold the values of parameters and rows.
 *
 * @since 0.1.0
 * @category conversions
 */
export const fromSqlError = (error: SqlError): DatabaseError => {
  const { cause } = error
  const databaseError = findDatabaseError(cause, 8)
  if (databaseError !== undefined) {
    return databaseError
  }
  const code = Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code) ? cause.code : "XX000"
  return new UnknownDatabaseError({
    dialect: code.startsWith("SQLITE_") ? "sqlite" : "postgres",
    code,
    reason: error.message === "" ? "a statement failed" : error.message
  }, { disableValidation: true })
}

/**
 * Makes the SqlError with which a statement of @effect/sql fails. Its `cause` is the DatabaseError, and its `message`
 * consists of the tag and the message of the DatabaseError.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toSqlError = (error: DatabaseError): SqlError =>
  new SqlError({ cause: error, message: `${error._tag}: ${error.message}` })

/**
 * Maps the SqlErrors of an effect to DatabaseErrors (see `fromSqlError`), so that they can be caught by tag. Other
 * errors, defects and interruptions stay as they are.
 *
 * @since 0.1.0
 * @category conversions
 */
export const typed = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, SqlError> | DatabaseError, R> =>
  // Unlike Effect.mapError this keeps the whole cause, such as the defects of finalizers.
  Effect.mapErrorCause(
    effect,
    Cause.map((error) => isSqlError(error) ? fromSqlError(error) : error as Exclude<E, SqlError>)
  )

const retryable: ReadonlySet<string> = new Set<DatabaseError["_tag"]>([
  "ConnectionLost",
  "PoolTimeout",
  "SerializationFailure",
  "DeadlockDetected",
  "LockTimeout"
])

/**
 * Whether the session that failed may succeed when it is run again from the beginning: true for ConnectionLost,
 * PoolTimeout, SerializationFailure, DeadlockDetected, LockTimeout, and for ConnectionFailed and ReadOnlyViolation if
 * they are `transient`. None of them occurs after a transaction was committed.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRetryable = (error: DatabaseError): boolean =>
  error._tag === "ConnectionFailed" || error._tag === "ReadOnlyViolation"
    ? error.transient === true
    : retryable.has(error._tag)

/**
 * Whether a connection could not be opened or broke: ConnectionFailed, AuthenticationFailed or ConnectionLost.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isConnectionError = (
  error: DatabaseError
): error is ConnectionFailed | AuthenticationFailed | ConnectionLost =>
  error._tag === "ConnectionFailed" || error._tag === "AuthenticationFailed" || error._tag === "ConnectionLost"

/**
 * Whether a constraint of the schema was violated: UniqueViolation, ForeignKeyViolation, NotNullViolation,
 * CheckViolation or ExclusionViolation. Applications usually report these to their users instead of logging them.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isConstraintViolation = (
  error: DatabaseError
): error is UniqueViolation | ForeignKeyViolation | NotNullViolation | CheckViolation | ExclusionViolation =>
  error._tag === "UniqueViolation" || error._tag === "ForeignKeyViolation" || error._tag === "NotNullViolation" ||
  error._tag === "CheckViolation" || error._tag === "ExclusionViolation"

interface RenderedFields extends Fields {
  readonly _tag: string
  readonly stats?: PoolFigures
}

/** Whether a text contains a name as a whole word. */
const mentions = (text: string, name: string): boolean =>
  new RegExp(`(?<![\\w$])${name.replace(/[^\w\s]/g, "\\$&")}(?![\\w$])`).test(text)

/**
 * Renders the message on one line: the reason, the code, and the names and pool stats that the reason does not mention.
 * It leaves the tag out, because the tag is the error's `name`, which precedes the message wherever an error is
 * printed.
 */
function render(error: RenderedFields): string {
  const notes = [error.code]
  if (error.table !== undefined && !mentions(error.reason, error.table)) {
    notes.push(`table ${error.schema === undefined ? error.table : `${error.schema}.${error.table}`}`)
  }
  for (const kind of ["column", "constraint"] as const) {
    const name = error[kind]
    if (name !== undefined && !mentions(error.reason, name)) {
      notes.push(`${kind} ${name}`)
    }
  }
  if (error.stats !== undefined) {
    const { idle, maximum, name, used, waiting } = error.stats
    notes.push(`pool ${name}: ${used} of ${maximum} connections in use, ${idle} idle, ${waiting} waiting`)
  }
  let message = `${error.reason} (${notes.join(", ")})`
  for (const sentence of [error.detail, error.hint]) {
    if (sentence !== undefined) {
      message += message.endsWith(".") ? ` ${sentence}` : `. ${sentence}`
    }
  }
  return message
}
