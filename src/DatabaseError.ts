/**
 * What can fail: one tagged error for every kind of failure that a database can produce, the same on every dialect.
 *
 * Catch them by tag. Codes are PostgreSQL's SQLSTATEs
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html) and the names of SQLite's extended result codes
 * (https://sqlite.org/rescode.html). No error holds the parameters of a statement or the values of a row: the texts of
 * the server are masked.
 *
 * @since 0.1.0
 */
import { SqlError, SqlErrorTypeId } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

/**
 * The databases that sqlayer speaks to, as a schema.
 *
 * @since 0.1.0
 * @category models
 */
export const Dialect = Schema.Literal("postgres", "sqlite")

/**
 * The databases that sqlayer speaks to.
 *
 * @since 0.1.0
 * @category models
 */
export type Dialect = typeof Dialect.Type

/**
 * A pool's figures at one moment, in connections: at most `maximum` = size + overflow are open, `used` of them are
 * checked out, `idle` wait in the pool, and `waiting` fibers queue for one.
 *
 * @since 0.1.0
 * @category models
 */
export const PoolFigures = Schema.Struct({
  name: Schema.String,
  maximum: Schema.Int,
  size: Schema.Int,
  overflow: Schema.Int,
  idle: Schema.Int,
  used: Schema.Int,
  waiting: Schema.Int
})

/**
 * A pool's figures at one moment, in connections.
 *
 * @since 0.1.0
 * @category models
 */
export type PoolFigures = typeof PoolFigures.Type

const optionalString = Schema.optionalWith(Schema.String, { exact: true })

const fields = {
  /** The database that failed. */
  dialect: Dialect,
  /**
   * SQLSTATE on PostgreSQL, the extended result code's name on SQLite; where the server was never reached, the code
   * that stands for the condition.
   */
  code: Schema.String,
  /** What happened, in the database's or the driver's words, with values masked. */
  reason: Schema.String,
  /** The server's DETAIL, with values masked. */
  detail: optionalString,
  /** The server's HINT, with values masked. */
  hint: optionalString,
  schema: optionalString,
  table: optionalString,
  column: optionalString,
  constraint: optionalString,
  /** The statement's text with its placeholders, never its parameters. */
  statement: optionalString,
  /** What led to it, if that says more than `reason` does. Never what the driver threw: that may hold values. */
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}

type FieldsOf<Tag extends string, Extra> = { readonly _tag: Schema.tag<Tag> } & typeof fields & Extra

/** Makes the base of one error's class: the common fields, those of its own, and the message made of them. */
const failure = <Self>() =>
<Tag extends string, Extra extends Schema.Struct.Fields = {}>(
  tag: Tag,
  extra?: Extra
): Schema.TaggedErrorClass<Self, Tag, FieldsOf<Tag, Extra>> => {
  const Base = Schema.TaggedError<object>(`sqlayer/DatabaseError/${tag}`)(tag, { ...fields, ...extra })
  Object.defineProperty(Base.prototype, "message", {
    get(this: Rendered): string {
      return render(this)
    },
    enumerable: false,
    configurable: true
  })
  return Base as unknown as Schema.TaggedErrorClass<Self, Tag, FieldsOf<Tag, Extra>>
}

/**
 * No connection could be made: refused, unreachable, unknown host, TLS, too many clients, unknown database, a file that
 * cannot be opened. The message says where it tried to connect.
 *
 * `transient` tells whether trying again can help. It is false for an unknown database, for whatever TLS refused, and
 * for a file or a socket that this process may not open. A host name that is not known counts as transient: where
 * containers start together, names often appear later than their users.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionFailed extends failure<ConnectionFailed>()("ConnectionFailed", { transient: Schema.Boolean }) {}

/**
 * The server refused the user or the password (SQLSTATE class 28), could not prove that it knows the password itself,
 * or SQLite's authorizer refused (SQLITE_AUTH).
 *
 * @since 0.1.0
 * @category errors
 */
export class AuthenticationFailed extends failure<AuthenticationFailed>()("AuthenticationFailed") {}

/**
 * An established connection broke: closed, reset, terminated by an administrator, out of protocol, or an I/O error of
 * the database file. Nothing was committed.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionLost extends failure<ConnectionLost>()("ConnectionLost") {}

/**
 * No connection became free within the wait. `stats` are the pool's figures at that moment; `cause` is why the last
 * attempt to connect failed, if it did.
 *
 * @since 0.1.0
 * @category errors
 */
export class PoolTimeout extends failure<PoolTimeout>()(
  "PoolTimeout",
  { stats: Schema.optionalWith(PoolFigures, { exact: true }) }
) {}

/**
 * The database was used after its scope closed.
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseClosed extends failure<DatabaseClosed>()("DatabaseClosed") {}

/**
 * A unique or primary key constraint was violated (23505; SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY, _ROWID).
 *
 * PostgreSQL names the constraint and the table; SQLite names the table, and the column if it is a single one.
 *
 * @since 0.1.0
 * @category errors
 */
export class UniqueViolation extends failure<UniqueViolation>()("UniqueViolation") {}

/**
 * A foreign key constraint was violated (23503, 23001; SQLITE_CONSTRAINT_FOREIGNKEY). SQLite does not say which.
 *
 * @since 0.1.0
 * @category errors
 */
export class ForeignKeyViolation extends failure<ForeignKeyViolation>()("ForeignKeyViolation") {}

/**
 * A column that must have a value was given none (23502; SQLITE_CONSTRAINT_NOTNULL).
 *
 * @since 0.1.0
 * @category errors
 */
export class NotNullViolation extends failure<NotNullViolation>()("NotNullViolation") {}

/**
 * A check constraint, a domain, a strict table's data type or a raising trigger refused a value (23514;
 * SQLITE_CONSTRAINT_CHECK, _DATATYPE, _TRIGGER).
 *
 * @since 0.1.0
 * @category errors
 */
export class CheckViolation extends failure<CheckViolation>()("CheckViolation") {}

/**
 * An exclusion constraint was violated (23P01). PostgreSQL only.
 *
 * @since 0.1.0
 * @category errors
 */
export class ExclusionViolation extends failure<ExclusionViolation>()("ExclusionViolation") {}

/**
 * The transaction could not be serialized with its neighbours and was rolled back (40001, 40002; SQLITE_BUSY_SNAPSHOT).
 * Running it again from its beginning is the cure.
 *
 * @since 0.1.0
 * @category errors
 */
export class SerializationFailure extends failure<SerializationFailure>()("SerializationFailure") {}

/**
 * The server broke a deadlock by ending this transaction (40P01). Running it again from its beginning is the cure.
 *
 * @since 0.1.0
 * @category errors
 */
export class DeadlockDetected extends failure<DeadlockDetected>()("DeadlockDetected") {}

/**
 * A lock was not granted in time (55P03), or the SQLite file or table stayed busy (SQLITE_BUSY, SQLITE_LOCKED).
 *
 * @since 0.1.0
 * @category errors
 */
export class LockTimeout extends failure<LockTimeout>()("LockTimeout") {}

/**
 * A statement ran longer than its statement timeout (57014), or a transaction idled or lasted too long (25P03, 25P04).
 * The latter two end the connection as well.
 *
 * @since 0.1.0
 * @category errors
 */
export class StatementTimeout extends failure<StatementTimeout>()("StatementTimeout") {}

/**
 * A statement was cancelled by someone's request (57014 otherwise), or interrupted (SQLITE_INTERRUPT).
 *
 * @since 0.1.0
 * @category errors
 */
export class StatementCanceled extends failure<StatementCanceled>()("StatementCanceled") {}

/**
 * The statement is wrong: syntax, unknown table or column, wrong types, unsupported (class 42 but 42501, 0A000, 26000;
 * SQLITE_ERROR). On PostgreSQL the reason ends with the place in the statement's text, where the server gives it.
 *
 * @since 0.1.0
 * @category errors
 */
export class InvalidStatement extends failure<InvalidStatement>()("InvalidStatement") {}

/**
 * A value is not acceptable to its type or function, or cannot be sent (class 22; SQLITE_MISMATCH, SQLITE_RANGE,
 * SQLITE_TOOBIG).
 *
 * @since 0.1.0
 * @category errors
 */
export class InvalidData extends failure<InvalidData>()("InvalidData") {}

/**
 * The user may not do this (42501; SQLITE_PERM).
 *
 * @since 0.1.0
 * @category errors
 */
export class InsufficientPrivilege extends failure<InsufficientPrivilege>()("InsufficientPrivilege") {}

/**
 * A write in a read-only transaction or database (25006; SQLITE_READONLY).
 *
 * @since 0.1.0
 * @category errors
 */
export class ReadOnlyViolation extends failure<ReadOnlyViolation>()("ReadOnlyViolation") {}

/**
 * The server ran out of memory, disk or another limit (class 53 but 53300, class 54; SQLITE_FULL, SQLITE_NOMEM).
 *
 * @since 0.1.0
 * @category errors
 */
export class ResourceExhausted extends failure<ResourceExhausted>()("ResourceExhausted") {}

/**
 * The database's files are damaged, or the file is no database (XX001, XX002; SQLITE_CORRUPT, SQLITE_NOTADB).
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseCorrupt extends failure<DatabaseCorrupt>()("DatabaseCorrupt") {}

/**
 * The transaction had already failed when it was asked to go on or to commit, and was rolled back (25P02, or COMMIT
 * answered by ROLLBACK). Nothing was committed.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionAborted extends failure<TransactionAborted>()("TransactionAborted") {}

/**
 * The connection was lost while COMMIT was in flight: the work may or may not be committed. Never retried.
 *
 * @since 0.1.0
 * @category errors
 */
export class CommitOutcomeUnknown extends failure<CommitOutcomeUnknown>()("CommitOutcomeUnknown") {}

/**
 * A statement was given to a session that has ended.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionClosed extends failure<SessionClosed>()("SessionClosed") {}

/**
 * The session's own `timeout` ran out, and it was rolled back.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionTimeout extends failure<SessionTimeout>()("SessionTimeout") {}

/**
 * Any other failure; `code` is the database's own.
 *
 * @since 0.1.0
 * @category errors
 */
export class UnknownDatabaseError extends failure<UnknownDatabaseError>()("UnknownDatabaseError") {}

/**
 * Every error that sqlayer fails with, as a schema, so that it can cross a wire.
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
 * Every error that sqlayer fails with.
 *
 * @since 0.1.0
 * @category models
 */
export type DatabaseError = typeof DatabaseError.Type

/**
 * What a caller must say to make any of the errors: its fields but the tag.
 *
 * @since 0.1.0
 * @category models
 */
export type Fields = ConstructorParameters<typeof UniqueViolation>[0]

const tags: ReadonlySet<unknown> = new Set(DatabaseError.members.map((member) => member._tag))

/**
 * Whether a value is one of the errors of this module.
 *
 * @since 0.1.0
 * @category guards
 */
export const isDatabaseError = (u: unknown): u is DatabaseError =>
  Predicate.hasProperty(u, "_tag") && tags.has(u._tag) && Predicate.hasProperty(u, "dialect")

// By tag and not by instanceof: two copies of @effect/sql may be installed side by side.
const isSqlError = (u: unknown): u is SqlError =>
  Predicate.hasProperty(u, SqlErrorTypeId) && Predicate.isTagged(u, "SqlError")

// Query builders wrap what a statement failed with in errors of their own.
const among = (cause: unknown, depth: number): DatabaseError | undefined =>
  isDatabaseError(cause)
    ? cause
    : depth > 0 && Predicate.hasProperty(cause, "cause")
    ? among(cause.cause, depth - 1)
    : undefined

/**
 * The DatabaseError in a statement's SqlError.
 *
 * An SqlError that sqlayer did not make (another client's) becomes UnknownDatabaseError: it keeps the message and the
 * code, but not the driver's error, whose texts may hold the values of parameters and rows.
 *
 * @since 0.1.0
 * @category conversions
 */
export const fromSqlError = (error: SqlError): DatabaseError => {
  const { cause } = error
  const known = among(cause, 8)
  if (known !== undefined) {
    return known
  }
  const code = Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code) ? cause.code : "XX000"
  return new UnknownDatabaseError({
    dialect: code.startsWith("SQLITE_") ? "sqlite" : "postgres",
    code,
    reason: error.message === "" ? "a statement failed" : error.message
  }, { disableValidation: true })
}

/**
 * The SqlError that @effect/sql promises for a statement: `cause` is the DatabaseError, `message` is its tag
 * and what happened.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toSqlError = (error: DatabaseError): SqlError =>
  new SqlError({ cause: error, message: `${error._tag}: ${error.message}` })

/**
 * Turns the SqlError in an effect's error channel into the typed DatabaseError.
 *
 * @since 0.1.0
 * @category conversions
 */
export const typed = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, SqlError> | DatabaseError, R> =>
  // The whole of the cause is kept, which Effect.mapError does not.
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
 * Whether running the whole session again may succeed. Never true once a commit may have happened.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRetryable = (error: DatabaseError): boolean =>
  error._tag === "ConnectionFailed" ? error.transient : retryable.has(error._tag)

/**
 * Whether the way to the database is what failed.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isConnectionError = (
  error: DatabaseError
): error is ConnectionFailed | AuthenticationFailed | ConnectionLost =>
  error._tag === "ConnectionFailed" || error._tag === "AuthenticationFailed" || error._tag === "ConnectionLost"

/**
 * Whether a constraint of the schema refused the data: what an application usually answers rather than logs.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isConstraintViolation = (
  error: DatabaseError
): error is UniqueViolation | ForeignKeyViolation | NotNullViolation | CheckViolation | ExclusionViolation =>
  error._tag === "UniqueViolation" || error._tag === "ForeignKeyViolation" || error._tag === "NotNullViolation" ||
  error._tag === "CheckViolation" || error._tag === "ExclusionViolation"

interface Rendered extends Fields {
  readonly _tag: string
  readonly stats?: PoolFigures
}

/** Whether a text names something as a whole word. */
const mentions = (text: string, name: string): boolean =>
  new RegExp(`(?<![\\w$])${name.replace(/[^\w\s]/g, "\\$&")}(?![\\w$])`).test(text)

/**
 * One line: what happened, the code, then the names and figures that the reason does not hold already. The tag is the
 * error's name, so that every way of printing it says it once.
 */
function render(error: Rendered): string {
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
  let out = `${error.reason} (${notes.join(", ")})`
  for (const more of [error.detail, error.hint]) {
    if (more !== undefined) {
      out += out.endsWith(".") ? ` ${more}` : `. ${more}`
    }
  }
  return out
}
