/**
 * The contract between a dialect and the rest of sqlayer.
 *
 * A dialect is one folder beside this file. Its `driver.ts` makes a `Driver` and its `dialect.ts` reads its URLs; one
 * line each in `drivers.ts` and `dialects.ts` add them, and its name is a member of `DatabaseError.Dialect`. No other
 * module depends on the dialect: what differs between dialects is a member of `Driver`.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Statement from "@effect/sql/Statement"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { Settings } from "../DatabaseConfig.js"
import type { DatabaseError, Dialect } from "../DatabaseError.js"
import type { Server, Servers } from "./cluster/servers.js"
import type { Monitoring } from "./monitoring.js"

/** The isolation levels of the SQL standard. */
export type Isolation = "read uncommitted" | "read committed" | "repeatable read" | "serializable"

/** The options of a transaction. Undefined is the default of the server, or of the connection. */
export interface BeginOptions {
  readonly isolation?: Isolation | undefined
  readonly readOnly?: boolean | undefined
  readonly deferrable?: boolean | undefined
  /** The maximum time that one statement of this transaction runs. 0 is no limit. */
  readonly statementTimeout?: Duration.Duration | undefined
  /** The maximum time that one statement of this transaction waits for a lock. 0 is no limit. */
  readonly lockTimeout?: Duration.Duration | undefined
  /** Settings that end with the transaction, by name. */
  readonly settings?: { readonly [name: string]: string } | undefined
  /** The role that its statements run as. */
  readonly role?: string | undefined
  /**
   * Whether `transactionOutcome` must be available if the connection is lost during COMMIT: by asking the server for the
   * transaction (`verified`), or by a row that is written together with COMMIT (`recorded`). Default: it need not be.
   */
  readonly outcome?: "verified" | "recorded" | undefined
  /** Whether another session is open around it in the program, which may wait for this one. Default: false. */
  readonly isEnclosed?: boolean | undefined
}

/** A position in the history of a cluster of servers. Later positions of the same timeline are greater. */
export interface Position {
  /** Identifies the cluster. */
  readonly system: string
  /** Increases when a standby is promoted. */
  readonly timeline: number
  readonly offset: bigint
}

/**
 * Called before a position is asked for, in the message of a statement. The function that it returns is called with the
 * position, or with undefined if that is not known, before the result of the statement is available.
 */
export type PositionTracking = () => (position: Position | undefined) => void

/** What a replica must have, so that a session may read from it. */
export interface Freshness {
  /** What it must have replayed, if that is known. */
  readonly position: Position | undefined
  /** Its maximum lag, in milliseconds. */
  readonly maxLag: number
}

/**
 * Why a replica is not fresh. `behind`: it has not replayed the position yet. `lag`: its lag is above the maximum, or
 * not known. `history`: the position is of another cluster, or of another timeline.
 */
export type Staleness = "behind" | "lag" | "history"

/** The outcome of a transaction. `pending`: it is not known yet. `unknown`: it cannot be found out. */
export type TransactionOutcome = "committed" | "aborted" | "pending" | "unknown"

/**
 * The state of a connection, which is known without a round trip:
 *
 * - `idle`: in no transaction, and with no session state of a borrower;
 * - `active`: in a transaction;
 * - `aborted`: in a transaction in which a statement failed, so that it can only be rolled back;
 * - `dirty`: in no transaction, with session state that `reset` must clear;
 * - `closed`: unusable.
 */
export type Status = "idle" | "active" | "aborted" | "dirty" | "closed"

/** What a statement and the connection that runs it tell each other. */
export interface StatementGuard {
  /**
   * The error of a statement that must not run any more, or undefined. A connection calls this synchronously right before
   * it sends the statement, since its session may have ended while the statement waited.
   */
  readonly refusal: () => DatabaseError | undefined
  /** For statements that are sent in parts: waits for a nested session that keeps the next part from being sent. */
  readonly wait?: (() => Effect.Effect<void, SqlError> | undefined) | undefined
  /** Set by the connection when it sends the statement: from then on, the statement may take effect. */
  isSent: boolean
  /** True at first. Set to false by a connection that knows that the statement of a cursor only reads. */
  mayWrite: boolean
  /** What the statement belongs to. Once that was interrupted, the end of the statement has to take effect promptly. */
  readonly session?: { readonly isInterrupted: boolean } | undefined
}

type Guarded<F extends (...args: ReadonlyArray<never>) => unknown> = (
  ...args: [...Parameters<F>, guard?: StatementGuard | undefined]
) => ReturnType<F>

/** How the data of a copy is written, in the formats of PostgreSQL's COPY. */
export interface CopyFormat {
  readonly format: "text" | "csv" | "binary"
  /** Whether the first line has the names of the columns. */
  readonly header: boolean
  /** Separates the values of a line. Undefined is the format's default. */
  readonly delimiter: string | undefined
  /** What stands for NULL. Undefined is the format's default. */
  readonly null: string | undefined
}

/** What is copied into a table. */
export interface CopyFrom {
  /** The statement that copies data, instead of the one that is made of the other members. */
  readonly text?: string | undefined
  /** The table's name, quoted. */
  readonly table: string
  readonly columns: ReadonlyArray<CopyColumn>
  /** The format of data. Rows are encoded by the connection. */
  readonly format: CopyFormat
}

/** A column that is copied into. */
export interface CopyColumn {
  /** Its name in a row that is an object. */
  readonly name: string
  /** The same, quoted. */
  readonly identifier: string
}

/** The result of a query that is copied as data. */
export interface CopyTo {
  readonly query: string
  readonly params: ReadonlyArray<unknown>
  readonly format: CopyFormat
}

/**
 * The next elements of what is copied into a table: rows (arrays or objects), or data in the format of the copy (bytes or
 * strings). Fails with None after the last ones.
 */
export type CopySource<E> = Effect.Effect<ReadonlyArray<unknown>, Option.Option<E>>

/** Fetches the next rows of a cursor. Fails with None after the last ones. */
export type Pull = Effect.Effect<ReadonlyArray<object>, Option.Option<SqlError>>

/**
 * One connection. Statements that run concurrently are executed one after the other, in the order in which they started.
 *
 * Every effect can be interrupted, and the interruption completes in well under a second whatever the server does. A
 * statement that was not sent yet is dropped. One that was sent is canceled, and the interruption completes when it is
 * known to have stopped; if that takes too long the connection is destroyed. A cancellation never affects a later
 * statement.
 *
 * The methods of `SqlConnection` fail with SqlError, whose cause is a DatabaseError. The others fail with DatabaseError.
 * There are no defects: a parameter that cannot be encoded is InvalidData.
 */
export interface Connection extends SqlConnection.Connection {
  readonly execute: Guarded<SqlConnection.Connection["execute"]>
  readonly executeRaw: Guarded<SqlConnection.Connection["executeRaw"]>
  readonly executeValues: Guarded<SqlConnection.Connection["executeValues"]>
  /** As `executeValues`, but dates and times are the text that the server sends, for libraries that read it themselves. */
  readonly executeTexts: Guarded<SqlConnection.Connection["executeValues"]>
  readonly executeUnprepared: Guarded<SqlConnection.Connection["executeUnprepared"]>
  /**
   * Prepares to read the rows of a statement in batches. The first pull runs the statement, and closing the scope discards
   * the rows that were not read. A pull that is refused by the guard sends nothing, and can be run again.
   */
  readonly cursor: (
    sql: string,
    params: ReadonlyArray<unknown>,
    guard?: StatementGuard
  ) => Effect.Effect<Pull, never, Scope.Scope>
  /**
   * Copies all elements of a source into a table, and gives the number of rows. If it fails, with the source or otherwise,
   * nothing of it can be committed.
   */
  readonly copyFrom: <E>(
    request: CopyFrom,
    source: CopySource<E>,
    guard?: StatementGuard
  ) => Effect.Effect<number, SqlError | E>
  /** As `cursor`, for the result of a query as data: the pulls give bytes. */
  readonly copyTo: (request: CopyTo, guard?: StatementGuard) => Effect.Effect<Pull, never, Scope.Scope>
  /** The backend's process id, or the connection's number where there is none. Unique among open connections. */
  readonly id: number
  readonly status: () => Status
  /** The server that it leads to. Undefined if the dialect has none. */
  readonly server?: Server | undefined
  /** Whether it leads over a network without encryption. Undefined if the dialect has no network. */
  readonly isExposed?: boolean | undefined
  readonly begin: (options: BeginOptions) => Effect.Effect<void, DatabaseError>
  /**
   * Fails with TransactionAborted if the server replied with ROLLBACK, with CommitOutcomeUnknown if the connection was lost
   * or destroyed after COMMIT was sent, and with ConnectionLost if it was lost before. After a commit that the server
   * rejected, the caller rolls back: on SQLite the transaction is still open then (a lock, a deferred constraint).
   */
  readonly commit: Effect.Effect<void, DatabaseError>
  /**
   * Commits as `commit` does and asks, in the same message, for a position after the commit: undefined if the server
   * does not know it, null if the transaction was never begun on it. Undefined if the dialect has no positions.
   */
  readonly commitWithPosition?: Effect.Effect<Position | null | undefined, DatabaseError> | undefined
  /** Asks for the present position. Undefined if the dialect has none. */
  readonly position?: Effect.Effect<Position | undefined, DatabaseError> | undefined
  /** From now on, asks for the position after each statement that commits by itself. Undefined ends that. */
  readonly trackPositions?: ((tracking: PositionTracking | undefined) => void) | undefined
  /**
   * Begins a transaction on a replica. If that is not fresh the first statement is not executed, and fails with an error that
   * `stalenessOf` recognizes. It costs no round trip. Undefined if the dialect has no replicas.
   */
  readonly beginOnReplica?:
    | ((options: BeginOptions, required: Freshness) => Effect.Effect<void, DatabaseError>)
    | undefined
  /**
   * Asks a replica whether it is fresh: undefined if it is. If the server supports that, it waits until it has replayed
   * the position, for `wait` milliseconds at most.
   */
  readonly staleness?:
    | ((required: Freshness, wait?: number) => Effect.Effect<Staleness | undefined, DatabaseError>)
    | undefined
  /**
   * Looks up once, on another connection, the outcome of the last transaction, whose commit failed with
   * CommitOutcomeUnknown. Undefined if that transaction was begun without `outcome`, or if its outcome cannot be found out.
   */
  readonly transactionOutcome: Effect.Effect<TransactionOutcome, DatabaseError> | undefined
  /** Rolls back the open transaction. Does nothing if there is none. */
  readonly rollback: Effect.Effect<void, DatabaseError>
  readonly savepoint: (name: string) => Effect.Effect<void, DatabaseError>
  readonly releaseSavepoint: (name: string) => Effect.Effect<void, DatabaseError>
  /** Rolls back to the savepoint and releases it. */
  readonly rollbackToSavepoint: (name: string) => Effect.Effect<void, DatabaseError>
  /**
   * Begins a savepoint that replaces a transaction, inside the open one. Access mode and timeouts are those of `options`;
   * the isolation level is that of the open transaction.
   */
  readonly beginWithin: (name: string, options: BeginOptions) => Effect.Effect<void, DatabaseError>
  /**
   * Ends what `beginWithin` began as COMMIT would: checks the deferred constraints, restores what is local to a transaction
   * (constraint modes, settings), and releases the savepoint. `around` has the options of the surrounding `beginWithin`,
   * if there is one. If it fails the savepoint remains, and the caller rolls back.
   */
  readonly commitWithin: (name: string, around: BeginOptions | undefined) => Effect.Effect<void, DatabaseError>
  /** Rolls back what `beginWithin` began. */
  readonly rollbackWithin: (name: string, around: BeginOptions | undefined) => Effect.Effect<void, DatabaseError>
  /** Puts the open transaction into the state that a failed statement leaves it in: aborted. */
  readonly failStatement: Effect.Effect<void, DatabaseError>
  /** A round trip to the server that has no effect. */
  readonly ping: Effect.Effect<void, DatabaseError>
  /** Returns from any status but `closed` to `idle`: rolls back, and clears the session state of the last borrower. */
  readonly reset: Effect.Effect<void, DatabaseError>
  /** Makes the connection `dirty` when its transaction has ended, whatever its statements were. */
  readonly markDirty: () => void
  /**
   * Lets a `dirty` connection be borrowed before it was reset: what the last borrower has left is cleared ahead of the next
   * borrower's first statement, without a round trip of its own. Returns false if it has to be reset first.
   */
  readonly resetLater: () => boolean
  /** Terminates the session with the server if possible, and closes. Takes limited time and can be called again. */
  readonly close: Effect.Effect<void>
  /** Closes at once, without telling the server. The status is `closed` when it returns. */
  readonly destroy: () => void
}

/** What arrives on a channel: a message, or that messages may have been missed since the last one. */
export type Notification = { readonly _tag: "Message"; readonly payload: string } | { readonly _tag: "Gap" }

/** Streams what arrives on a channel. */
export type Listen = (channel: string) => Stream.Stream<Notification, SqlError>

/** The argument of `Effect.uninterruptibleMask`'s function. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** What the server reports about itself. */
export interface ServerInfo {
  readonly version: string
  readonly role: "primary" | "standby" | "embedded"
}

/** What `sqlayer check` shows of a server. */
export interface ServerDetails {
  /** The product and its version. */
  readonly version: string
  readonly role: ServerInfo["role"]
  /** The user that the session is logged in as, or null if the database has no users. */
  readonly user: string | null
  /** Null if the connection is not encrypted. */
  readonly tls: { readonly version: string; readonly cipher: string } | null
  /** The limits on connections, or null if there are none. */
  readonly connections: ConnectionLimits | null
}

/** How many connections a server accepts. */
export interface ConnectionLimits {
  readonly maximum: number
  /** Connections of `maximum` that are reserved for superusers and similar roles. */
  readonly reserved: number
  /** The limit of the role or the database, whichever is lower, or null if neither has one. */
  readonly limit: number | null
  /** Connections that are open now, of all users. */
  readonly used: number
  /** The maximum number of connections of this user. */
  readonly available: number
}

/** How `sqlayer check` examines a database without changing it. */
export interface Inspection {
  /**
   * The target to open, which is such that opening it changes nothing. Fails with ConnectionFailed if the database does
   * not exist and opening it would create it.
   */
  readonly target: Effect.Effect<Settings["target"], DatabaseError>
  readonly details: (sql: SqlClient.SqlClient) => Effect.Effect<ServerDetails, SqlError>
  /** How each server of a database is examined. Undefined if the dialect has no servers. */
  readonly cluster?: ClusterInspection | undefined
}

/** How `sqlayer check` examines the servers of a database. */
export interface ClusterInspection {
  /** The servers that a target names, each with a target of its own that accepts it whatever its role. */
  readonly servers: (target: Settings["target"]) => ReadonlyArray<{
    readonly host: string
    readonly port: number
    readonly target: Settings["target"]
  }>
  readonly examine: (connection: Connection) => Effect.Effect<ReplicationDetails, DatabaseError>
}

/** What `sqlayer check` shows of one of several servers, in addition to its role. */
export interface ReplicationDetails {
  readonly version: string
  readonly connections: ConnectionLimits
  /** The server's time, in milliseconds since 1970. */
  readonly clock: number
  /** How many standbys are connected to it. */
  readonly standbys: number
  /** Whether a commit of this user waits for a standby. */
  readonly isSynchronous: boolean
  /** The address from which an unencrypted connection reaches it over a network, as that of a pooler does. */
  readonly plainFrom: string | undefined
}

/**
 * How the text of a migration is split into statements. Strings in single quotes and identifiers in double quotes are
 * part of every dialect's `quoted`. Patterns are sticky unless they say otherwise.
 */
export interface Lexicon {
  /** White space, and comments up to the end of a line. */
  readonly blank: RegExp
  /** Names and keywords without quotes. */
  readonly word: RegExp
  /** Complete quoted texts, in which a semicolon separates nothing. The first that matches applies. */
  readonly quoted: ReadonlyArray<RegExp>
  /** What opens a quoted text; where only this matches, the text has no end. */
  readonly opening: RegExp
  /** Whether comments between slashes nest. */
  readonly nestedComments: boolean
  /** Whether a semicolon in parentheses separates nothing. */
  readonly parenthesesEnclose: boolean
  /** The bodies of statements, in which semicolons separate statements of the body. They end with `; END`. */
  readonly bodies: {
    /** Matches the first words, in upper case, of statements that may have a body. Not sticky. */
    readonly statement: RegExp
    /** The two words that open a body, outside of parentheses. Undefined if these statements always have one. */
    readonly opening: string | undefined
  }
  /** Whether the data of COPY FROM STDIN follows it. */
  readonly copyData: boolean
  /** A command of the client program, in the place of a statement, to the end of its line. */
  readonly clientCommand: RegExp
  readonly clientName: string
  /** Those of its commands that have no meaning for a migration. Not sticky. */
  readonly ignoredCommand: RegExp
  /** Why a statement cannot be in a migration. Its first words are in upper case. */
  readonly refusal: (words: string, text: string) => string | undefined
}

/** The enforcement of foreign keys, for databases in which a table cannot be rebuilt while they are enforced. */
export interface ForeignKeys {
  /**
   * Turns the enforcement of foreign keys on a connection on or off. Fails with InvalidStatement in a transaction,
   * where that is not possible.
   */
  readonly enforce: (connection: Connection, enforced: boolean) => Effect.Effect<void, DatabaseError>
  /** Fails with ForeignKeyViolation if a row refers to one that does not exist. */
  readonly check: (sql: SqlClient.SqlClient) => Effect.Effect<void, SqlError | DatabaseError>
}

/** What migrations need of a dialect. Every effect runs on the client that it is given, in its session if it has one. */
export interface MigrationDialect {
  readonly lexicon: Lexicon
  /**
   * Whether a migration for the dialect of this name is for this dialect too. Undefined: a migration for all dialects.
   */
  readonly accepts: (name: Dialect | undefined) => boolean
  /** Whether a table exists; its name may have a schema before a dot. */
  readonly tableExists: (sql: SqlClient.SqlClient, table: string) => Effect.Effect<boolean, SqlError>
  /** Creates the schema of a table, if its name has one and that does not exist. */
  readonly createSchema: (sql: SqlClient.SqlClient, table: string) => Effect.Effect<void, SqlError>
  /** Creates the table of the applied migrations: `migration_id`, `name`, and `created_at` with the current time. */
  readonly createTable: (sql: SqlClient.SqlClient, table: string) => Effect.Effect<void, SqlError>
  /** Creates the table of the checksums: `migration_id` and `checksum`. */
  readonly createChecksumTable: (sql: SqlClient.SqlClient, table: string) => Effect.Effect<void, SqlError>
  /** Inserts the checksum of a migration, or replaces it. */
  readonly saveChecksum: (
    sql: SqlClient.SqlClient,
    table: string,
    migrationId: number,
    checksum: string
  ) => Effect.Effect<void, SqlError>
  /** The time that a row's `created_at` stands for. */
  readonly createdAt: (value: unknown) => Date
  /**
   * Tries to make the current transaction the only one that migrates, until it ends. False if another one is. It never
   * waits: a statement that waits holds up CREATE INDEX CONCURRENTLY, which the other transaction may be running.
   */
  readonly tryLock: (sql: SqlClient.SqlClient, table: string) => Effect.Effect<boolean, SqlError | DatabaseError>
  /**
   * Tries to take the lock of `tryLock` until the scope closes, while a migration uses another connection, without a
   * transaction. `inSession` runs an effect in a session that is open until then.
   */
  readonly holdLock: (
    sql: SqlClient.SqlClient,
    table: string,
    inSession: <A, E>(
      effect: Effect.Effect<A, E>
    ) => Effect.Effect<A, Exclude<E, SqlError> | DatabaseError, Scope.Scope>
  ) => Effect.Effect<boolean, DatabaseError, Scope.Scope>
  /** Creates what `tryLock` locks, outside of a transaction. Undefined if nothing has to be created. */
  readonly prepareLock?: ((sql: SqlClient.SqlClient, table: string) => Effect.Effect<void, SqlError>) | undefined
  /** Creates the table that recorded commits write to, unless it exists. Does nothing if they need none. */
  readonly createCommitTable: (sql: SqlClient.SqlClient) => Effect.Effect<void, SqlError>
  /** Options of a session that takes the lock, whose beginning may wait for the lock for `maxWait`. */
  readonly sessionOptions: (maxWait: Duration.Duration) => Pick<BeginOptions, "isolation" | "lockTimeout">
  /**
   * Remembers the settings that a migration may change and that the statements of the history depend on. The effect
   * that it gives restores them and removes what the migration has set, since a pooler may pass its connection on to
   * others.
   */
  readonly saveSettings: (sql: SqlClient.SqlClient) => Effect.Effect<Effect.Effect<void, SqlError>, SqlError>
  /**
   * Sets how long a statement may take on the reserved connection that it runs on, until the scope closes or the connection is
   * cleaned.
   */
  readonly setStatementTimeout: (
    sql: SqlClient.SqlClient,
    connection: Connection,
    timeout: Duration.Duration
  ) => Effect.Effect<void, SqlError, Scope.Scope>
  /** Undefined if a table can be rebuilt while foreign keys are enforced. */
  readonly foreignKeys: ForeignKeys | undefined
  /** What a statement locks while it runs, and until its transaction ends, if that is known. */
  readonly locksOf: (statement: string) => string | undefined
}

/** How the rows that recorded commits have written are removed. */
export interface CommitRecords {
  /** Removes the rows that are no longer needed, unless another process has done so within the interval. */
  readonly clean: (connection: Connection) => Effect.Effect<void, DatabaseError>
  /** The minimum time between two runs, in milliseconds. */
  readonly interval: number
}

/** The template that test databases are copied from. */
export interface Template<E, R> {
  /** Identifies the application. Only the newest template of a family is kept. */
  readonly family: string
  /** Identifies the template in its family; undefined if its content is not known, and no template is to be kept. */
  readonly content: string | undefined
  /** Migrates a database, and leaves no connection to it open. */
  readonly migrate: (target: Settings["target"]) => Effect.Effect<void, E, R>
}

/** How databases for tests are made. */
export interface TestDatabases {
  /**
   * Creates a database, copied from a template that is migrated once and kept, and drops it when the scope closes. Also
   * drops the databases that a crashed process left behind. `connection` holds the locks, so it stays open as long as the
   * scope.
   */
  readonly create: <E, R>(
    connection: Connection,
    template: Template<E, R>
  ) => Effect.Effect<Settings["target"], E | DatabaseError, R | Scope.Scope>
}

/** How to connect to one server or file, and all else that depends on the dialect. */
export interface Driver {
  readonly dialect: Dialect
  /** The target, without secrets, for errors and logs. */
  readonly description: string
  readonly compiler: Statement.Compiler
  /** OpenTelemetry's database attributes for every span. */
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  /**
   * One attempt to open one connection, within the connect timeout. Must be run in an uninterruptible region, with its
   * `restore`: an interruption ends the attempt at once, but a connection that was opened is always returned. `onLost` is
   * called at most once, when an established connection breaks without having been closed on this side.
   */
  readonly connect: (
    onLost: (error: DatabaseError) => void,
    restore: Restore
  ) => Effect.Effect<Connection, DatabaseError>
  /** What is known of the servers. Undefined if the dialect has none. */
  readonly servers?: Servers | undefined
  /** The texts of the statements that copy, as errors and spans show them: with placeholders for parameters. */
  readonly copyText: {
    readonly from: (request: CopyFrom) => string
    readonly to: (request: CopyTo) => string
  }
  /** Whether `copyFrom` executes several statements, and needs a transaction around them. Default: false. */
  readonly copiesInParts?: boolean | undefined
  readonly serverInfo: (connection: Connection) => Effect.Effect<ServerInfo, DatabaseError>
  /**
   * Asks the server whether its role is still the one that the database was opened for, and fails with
   * ReadOnlyViolation if it is not. Undefined if the dialect has no servers: then a ping is enough.
   */
  readonly checkHealth?: ((connection: Connection) => Effect.Effect<void, DatabaseError>) | undefined
  /** Makes the function that listens for notifications, until the scope closes. Undefined if the database has none. */
  readonly listen: Effect.Effect<Listen, never, Scope.Scope> | undefined
  /** Makes the dialect's own client (PgClient, SqliteClient) of the standard one, with its extra methods and its tag. */
  readonly extendClient: (
    client: SqlClient.SqlClient,
    acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>,
    listen: Listen | undefined
  ) => Effect.Effect<Context.Context<SqlClient.SqlClient>, never, Scope.Scope>
  /** The pool's size and lifetime, with the dialect's defaults where the configuration has none. */
  readonly pool: PoolShape
  /** Whether a transaction can have settings and a role. */
  readonly supportsSettings: boolean
  readonly migrations: MigrationDialect
  readonly inspection: Inspection
  /** The queries of the dashboard, which run only while it is looked at. */
  readonly monitoring: Monitoring
  /** Undefined if the dialect has no servers to create databases on. */
  readonly testDatabases: TestDatabases | undefined
  /** Whether each connection has data of its own, which are lost with it. Default: false. */
  readonly inMemory?: boolean | undefined
  /**
   * Further connections, for `readOnly` sessions. Called when the first connection is open. Undefined if there are none:
   * then those sessions use the same connections as all others.
   */
  readonly readers?: (() => Readers | undefined) | undefined
  /** The size of the WAL in bytes, as it is now. Undefined if there is none that is known. */
  readonly walSize?: (() => number | undefined) | undefined
  /** Undefined if recorded commits write nothing. */
  readonly commitRecords?: CommitRecords | undefined
  /** Further servers for `readOnly` sessions. Undefined if none are configured. */
  readonly replicas?: Replicas | undefined
}

/** Servers that follow the one that is written to. */
export interface Replicas {
  readonly servers: readonly [Replica, ...Array<Replica>]
  readonly pool: PoolShape
  /** The maximum lag of a server, in milliseconds. */
  readonly maxLag: number
  /** How long a session waits for one to become fresh, in milliseconds. */
  readonly wait: number
}

/** One server that follows the one that is written to. */
export interface Replica {
  /** Where it is, without secrets. */
  readonly description: string
  /** The attributes of its pool's metrics. */
  readonly attributes: Driver["spanAttributes"]
  readonly connect: Driver["connect"]
  /** False while it is known to be down, silent or not a replica. Meanwhile it is checked again. */
  readonly isUsable: () => boolean
}

/** Connections that can only read. They never create the database. */
export interface Readers {
  readonly connect: Driver["connect"]
  readonly pool: PoolShape
}

/** The size of a pool, and the lifetime of its connections. */
export interface PoolShape {
  readonly size: number
  readonly maxOverflow: number
  /** The number of connections that are kept, however long they are idle. */
  readonly min: number
  /** The maximum lifetime of a connection. Infinite for an in-memory database, whose data is lost with it. */
  readonly recycle: Duration.Duration
}

/**
 * Wraps the driver of every database that is opened where this is provided. TestDatabase uses it for faults and sandboxes.
 */
export class Interceptor extends Context.Tag("sqlayer/Interceptor")<
  Interceptor,
  (driver: Driver) => Effect.Effect<Driver, DatabaseError, Scope.Scope>
>() {}
