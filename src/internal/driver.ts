/**
 * The contract between a dialect and the rest: a dialect is a folder beside this file that makes a `Driver`.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type * as Statement from "@effect/sql/Statement"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "../DatabaseError.js"

/** The isolation levels of the SQL standard. SQLite runs all of them as serializable. */
export type Isolation = "read uncommitted" | "read committed" | "repeatable read" | "serializable"

/** How a transaction begins. */
export interface BeginOptions {
  readonly isolation?: Isolation | undefined
  readonly readOnly?: boolean | undefined
  readonly deferrable?: boolean | undefined
  /** Longest run of one statement of this transaction. */
  readonly statementTimeout?: Duration.Duration | undefined
  /** Longest wait of one statement of this transaction for a lock. */
  readonly lockTimeout?: Duration.Duration | undefined
  /** Whether `fate` can be asked for later. */
  readonly verified?: boolean | undefined
}

/** What became of a transaction; `unknown` where it cannot be told yet, or never can. */
export type Fate = "committed" | "aborted" | "unknown"

/**
 * Where a connection stands: `idle` is in no transaction and has nothing of a borrower's left on it, `active` is in a
 * transaction, `aborted` is in one that has failed, `dirty` is in none but carries state that `reset` must clear, and
 * `closed` can no longer be used. Known without asking the server.
 */
export type Status = "idle" | "active" | "aborted" | "dirty" | "closed"

/**
 * Why a statement may not run any more, if so. Asked at the very moment at which the statement is given to its
 * connection: whoever gave it up meanwhile must not meet it.
 */
export type Refusal = () => DatabaseError | undefined

type Guarded<F extends (...args: ReadonlyArray<never>) => unknown> = (
  ...args: [...Parameters<F>, refusal?: Refusal | undefined]
) => ReturnType<F>

/**
 * One connection. Statements given concurrently run one after the other, in the order given.
 *
 * Every effect is interruptible, and promptly (well under a second) whatever the server does: an interrupted statement
 * that still waits its turn is dropped; one that runs is stopped, and the interruption completes when it is known to
 * have stopped. If that cannot be known in time the connection is destroyed. What stops a statement never hits a later
 * one. The statement side (`SqlConnection`) fails with SqlError whose cause is the DatabaseError; the rest fails with
 * the DatabaseError itself. Nothing dies: a parameter that cannot be encoded is an InvalidData too.
 */
export interface Connection extends SqlConnection.Connection {
  readonly execute: Guarded<SqlConnection.Connection["execute"]>
  readonly executeRaw: Guarded<SqlConnection.Connection["executeRaw"]>
  readonly executeValues: Guarded<SqlConnection.Connection["executeValues"]>
  readonly executeUnprepared: Guarded<SqlConnection.Connection["executeUnprepared"]>
  /** Asks for each batch. */
  readonly executeStream: Guarded<SqlConnection.Connection["executeStream"]>
  /** The backend's process id, or the connection's number where there is none. Unique among open connections. */
  readonly id: number
  readonly status: () => Status
  readonly begin: (options: BeginOptions) => Effect.Effect<void, DatabaseError>
  /**
   * Fails with TransactionAborted when the server answered with ROLLBACK, with CommitOutcomeUnknown when the connection
   * was lost (or had to be destroyed) after COMMIT was sent, with ConnectionLost when it was never sent. A commit that
   * the server refused leaves the connection out of the transaction where that is so (PostgreSQL), or still in it
   * (SQLite: a busy or a deferred constraint), and the caller rolls back.
   */
  readonly commit: Effect.Effect<void, DatabaseError>
  /**
   * Asks on another connection what became of the last transaction, whose commit failed with CommitOutcomeUnknown.
   * Undefined where that did not begin as `verified`, or where it cannot be found out.
   */
  readonly fate: Effect.Effect<Fate, DatabaseError> | undefined
  /** Rolls back whatever transaction is open. Succeeds at once when none is. */
  readonly rollback: Effect.Effect<void, DatabaseError>
  readonly savepoint: (name: string) => Effect.Effect<void, DatabaseError>
  readonly releaseSavepoint: (name: string) => Effect.Effect<void, DatabaseError>
  /** Rolls back to the savepoint and releases it. */
  readonly rollbackToSavepoint: (name: string) => Effect.Effect<void, DatabaseError>
  /**
   * A savepoint that stands for a transaction of its own, inside of the one that is open. It is read-only and has the
   * limits that are asked for; its isolation is that of the transaction it is in.
   */
  readonly beginWithin: (name: string, options: BeginOptions) => Effect.Effect<void, DatabaseError>
  /**
   * Ends what `beginWithin` began as a commit would: checks every deferred constraint, puts back what holds for one
   * transaction (constraint modes, settings), and releases the savepoint. `around` are the options of the transaction
   * that stands around this one, if that is not the outermost. What fails leaves the savepoint, to be rolled back.
   */
  readonly commitWithin: (name: string, around: BeginOptions | undefined) => Effect.Effect<void, DatabaseError>
  /** Rolls back what `beginWithin` began. */
  readonly rollbackWithin: (name: string, around: BeginOptions | undefined) => Effect.Effect<void, DatabaseError>
  /** Leaves an open transaction as a statement that fails leaves it: aborted. */
  readonly failStatement: Effect.Effect<void, DatabaseError>
  /** One round trip that does nothing. */
  readonly ping: Effect.Effect<void, DatabaseError>
  /** From any status but `closed` back to `idle`: rolls back, and clears what a borrower left. */
  readonly reset: Effect.Effect<void, DatabaseError>
  /** Says goodbye where possible and closes; bounded in time, never fails, and may be called twice. */
  readonly close: Effect.Effect<void>
  /** Closes at once without a word. The status is `closed` when it returns. */
  readonly destroy: () => void
}

/** What `Effect.uninterruptibleMask` gives. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** What the server said of itself. */
export interface ServerInfo {
  readonly version: string
  readonly role: "primary" | "standby" | "embedded"
}

/** How to speak to one server or file. */
export interface Driver {
  readonly dialect: Dialect
  /** What is shown of where it connects: never a secret. */
  readonly description: string
  readonly compiler: Statement.Compiler
  /** OpenTelemetry's database attributes, for every span. */
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  /**
   * One attempt to open one connection, within the connect timeout. To be run in an uninterruptible region, which gives
   * its `restore`: an interruption ends the wait at once, and never takes away what was opened. `onLost` is called at
   * most once, when a connection that was established breaks without being closed from here.
   */
  readonly connect: (
    onLost: (error: DatabaseError) => void,
    restore: Restore
  ) => Effect.Effect<Connection, DatabaseError>
  readonly serverInfo: (connection: Connection) => Effect.Effect<ServerInfo, DatabaseError>
  /**
   * Makes the dialect's own client (PgClient, SqliteClient) of the standard one: its extra methods and its tag.
   */
  readonly extendClient: (
    client: SqlClient.SqlClient,
    acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>
  ) => Effect.Effect<Context.Context<SqlClient.SqlClient>, never, Scope.Scope>
  /** What the pool holds when the configuration says nothing: a file is used through one connection. */
  readonly pool: PoolShape
  /**
   * Connections for sessions that say that they only read, beside those of `connect`. Asked once the first of those is
   * open; undefined where there are none, and such sessions take a connection like all others.
   */
  readonly readers?: (() => Readers | undefined) | undefined
}

/** Connections that can only read, and never make what they connect to. */
export interface Readers {
  readonly connect: Driver["connect"]
  readonly pool: PoolShape
}

/** How many connections, and how long they live. */
export interface PoolShape {
  readonly size: number
  readonly maxOverflow: number
  /** A connection's longest life; infinite where closing it would lose the data (in-memory databases). */
  readonly recycle: Duration.Duration
}

/**
 * Puts itself between a database and its driver. A database that opens where this is provided speaks to its server
 * through it; that is how tests add faults or a sandbox.
 */
export class Interceptor extends Context.Tag("sqlayer/Interceptor")<
  Interceptor,
  (driver: Driver) => Effect.Effect<Driver, DatabaseError, Scope.Scope>
>() {}
