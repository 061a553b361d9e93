/**
 * A session is a unit of work: one transaction on one connection, which it takes with its first statement. This module
 * has the options of a session, and functions for code inside a session. `Database.session` and
 * `Database.acquireSession` start a session.
 *
 * @since 0.1.0
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import type { DatabaseError } from "./DatabaseError.js"
import type { Isolation as DriverIsolation } from "./internal/driver.js"

/**
 * The isolation levels of the SQL standard. PostgreSQL treats "read uncommitted" as "read committed"
 * (https://www.postgresql.org/docs/current/transaction-iso.html). SQLite runs every transaction as "serializable".
 *
 * @since 0.1.0
 * @category models
 */
export type Isolation = DriverIsolation

/**
 * The options of a session. A value of the wrong type fails the session with InvalidData before it begins.
 *
 * A session that is nested in another one, or joins it, shares that one's transaction. There `deferrable`, `retry`,
 * `commit`, `reader`, `statementTimeout` and `lockTimeout` have no effect, `isolation` and `readOnly` cannot be
 * stricter than those of the outermost session, and `settings` and `role` cannot differ from them.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The name of the session in logs, spans, errors and `Database.activity`. Default: "session". */
  readonly name?: string | undefined
  /**
   * The isolation level. Default: that of the server or the role, which is "read committed" unless configured
   * otherwise. A nested or joining session fails with InvalidStatement if it asks for a stronger level than the option
   * of the outermost session, or than "read committed" if that session has no such option.
   */
  readonly isolation?: Isolation | undefined
  /**
   * Makes the transaction read-only: a statement that writes fails with ReadOnlyViolation. Default: the server's
   * default, which is false unless configured otherwise. A nested or joining session that is `readOnly` fails with
   * InvalidStatement unless the outermost session is `readOnly` too.
   */
  readonly readOnly?: boolean | undefined
  /**
   * PostgreSQL, with `isolation: "serializable"` and `readOnly`: the first statement waits for a snapshot with which
   * the session can neither fail with SerializationFailure nor cause one. Without these two, and on SQLite, it has no
   * effect. Default: the server's default, which is false unless configured otherwise.
   */
  readonly deferrable?: boolean | undefined
  /**
   * The maximum time from the start of the session, including the wait for a connection and every attempt of `retry`,
   * until its commit begins. For a session stream it starts when the stream is opened, and includes the time that the
   * consumer takes. A session that takes longer is interrupted and rolled back, and fails with SessionTimeout. A commit
   * that has begun is not interrupted. Default: no limit.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /**
   * The maximum time that one statement runs; a statement that takes longer fails with StatementTimeout. 0 is no limit.
   * Default: the database's `statementTimeout`.
   */
  readonly statementTimeout?: Duration.DurationInput | undefined
  /**
   * The maximum time that one statement waits for a lock; a statement that waits longer fails with LockTimeout. On
   * SQLite this is the wait for the file's lock. 0 is no limit. Default: the database's `lockTimeout`.
   */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /**
   * Runs the whole session again, in a new transaction, when it failed with a retryable error
   * (`DatabaseError.isRetryable`). CommitOutcomeUnknown is never retryable. `true` retries up to five times, after 20
   * ms, doubled each time and jittered. A schedule receives the error as its input. Default: false. `acquireSession`
   * and `sessionStream` have no effect to run again, and fail with InvalidStatement.
   */
  readonly retry?: boolean | Schedule.Schedule<unknown, DatabaseError> | undefined
  /**
   * When the connection is lost while COMMIT is in flight, the outcome is looked up on another connection, for at most
   * 5 seconds. If the transaction has committed, the session succeeds; if it has not, it fails with ConnectionLost,
   * which can be retried. If the outcome cannot be determined, it fails with CommitOutcomeUnknown. Neither value costs
   * a round trip, and neither has an effect on SQLite. Default: a connection lost during COMMIT fails with
   * CommitOutcomeUnknown.
   *
   * - `"verified"` asks the server for the transaction's status. Only the server that received COMMIT can tell: if it
   *   was restarted, or another server has taken its place, the outcome is unknown at once. Where commits wait for a
   *   synchronous standby, a commit counts once a standby has confirmed it. PostgreSQL 13 or later; it costs a
   *   transaction id.
   * - `"recorded"` writes a row into the table `sqlayer.commits`, in the same message as COMMIT. The row also tells the
   *   outcome after failovers, restores and changes of the cluster, and on engines that cannot report the status of a
   *   transaction. The migration `Migrations.commitRecords` creates the table. Without it the commit fails with
   *   InvalidStatement. Rows are removed after an hour.
   */
  readonly commit?: "verified" | "recorded" | undefined
  /**
   * PostgreSQL with readers: where a `readOnly` session runs. `"auto"` uses a reader that is fresh: it has replayed the
   * commits that the session has to see, and is not farther behind than `readerMaxLag`. If there is none, it uses the
   * primary. `"primary"` always uses the primary. `"replica"` always uses a reader, and fails with a retryable
   * ConnectionFailed if there is none that is fresh; without `readOnly`, without readers and for a serializable session
   * it fails with InvalidStatement. All other serializable sessions, and those that write, run on the primary. Default:
   * `"auto"`.
   */
  readonly reader?: "auto" | "primary" | "replica" | undefined
  /**
   * What a session does inside another session of the same database. `"nested"`, the default, is a savepoint: it can be
   * rolled back alone. `"join"` runs in the surrounding session without one: its work is undone only with that session.
   * `"new"` takes a connection of its own and commits independently. Outside of a session all three begin one.
   */
  readonly propagation?: "nested" | "join" | "new" | undefined
  /**
   * PostgreSQL: settings of the transaction, by name: those of the server, or customized ones, which have a dot in
   * their name (`"app.tenant"`) and which policies of row level security read with `current_setting`. They are sent as
   * parameters, in the round trip of the first statement, and end with the transaction. A setting that the server
   * refuses fails that statement, with InvalidStatement or InvalidData. A nested or joining session may only repeat the
   * settings of the outermost session; otherwise it fails with InvalidStatement. On SQLite a session with settings
   * fails with InvalidStatement. Default: none.
   */
  readonly settings?: { readonly [name: string]: string } | undefined
  /**
   * PostgreSQL: the role that the statements of the transaction run as, as by SET LOCAL ROLE. It is sent with
   * `settings`, and set after them. The same rules apply. If it does not exist, or the user is not a member of it, the
   * first statement fails with InvalidData or InsufficientPrivilege. Default: the connection's.
   */
  readonly role?: string | undefined
}

/**
 * The options that `Defaults` can have: those of an outermost session. `acquireSession` and `sessionStream` ignore a
 * default `retry`.
 *
 * @since 0.1.0
 * @category models
 */
export interface DefaultOptions extends Omit<Options, "name" | "propagation"> {}

/**
 * Default options of all sessions that begin where this is provided, including those of `sql.withTransaction`. The
 * options of a session itself take precedence; `settings` are merged by name. A statement outside of a session is not
 * affected.
 *
 * Provide it to an effect with `withDefaults`, or to a program with `Layer.succeed(Session.Defaults, …)`. A nested or
 * joining session has the options of the outermost session. Defaults that differ from these make it fail, as its own
 * options would.
 *
 * @since 0.1.0
 * @category defaults
 */
export class Defaults extends Context.Tag("sqlayer/Session/Defaults")<Defaults, DefaultOptions>() {}

/** Merges options with defaults; the options take precedence, for `settings` name by name. */
const mergeDefaults = <A extends DefaultOptions>(defaults: DefaultOptions, options: A): A =>
  options.settings === undefined || defaults.settings === undefined
    ? { ...defaults, ...options }
    : { ...defaults, ...options, settings: { ...defaults.settings, ...options.settings } }

/**
 * Provides `Defaults` to an effect, merged with the defaults around it; the given options take precedence.
 *
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Database, Session } from "sqlayer"
 *
 * const invoices = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT * FROM invoice`).pipe(Database.session())
 *
 * const ofTenant = (tenant: string) => invoices.pipe(Session.withDefaults({ settings: { "app.tenant": tenant } }))
 * ```
 *
 * @since 0.1.0
 * @category defaults
 */
export const withDefaults =
  (options: DefaultOptions) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Defaults>> =>
    Effect.contextWithEffect((context: Context.Context<Exclude<R, Defaults>>) =>
      Effect.provideService(
        effect,
        Defaults,
        mergeDefaults((context.unsafeMap.get(Defaults.key) as DefaultOptions | undefined) ?? {}, options)
      )
    )

/**
 * The name of the connections that `sql.reserve` checks out where this is provided. It declares that they are held for
 * a long time on purpose, as the one on which @effect/cluster keeps its locks, so that no warning is logged.
 *
 * Provide it to an effect with `withReserveName`, or to layers with `Layer.succeed(Session.ReserveName, …)`.
 *
 * @since 0.1.0
 * @category reserved connections
 */
export class ReserveName extends Context.Tag("sqlayer/Session/ReserveName")<ReserveName, string>() {}

/**
 * Provides `ReserveName` to an effect. Sessions inside are not affected.
 *
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { Session } from "sqlayer"
 *
 * const lock = SqlClient.SqlClient.pipe(
 *   Effect.flatMap((sql) => sql.reserve),
 *   Effect.tap((connection) => connection.executeRaw("SELECT pg_advisory_lock(7)", [])),
 *   Session.withReserveName("leader")
 * )
 * ```
 *
 * @since 0.1.0
 * @category reserved connections
 */
export const withReserveName =
  (name: string) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, ReserveName>> =>
    Effect.provideService(effect, ReserveName, name)

/**
 * A session, as code inside it sees it. The functions of this module use it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Unique among the sessions of this process, as logs and spans show it. */
  readonly id: string
  /** The `name` option, or "session". */
  readonly name: string
  /** Registers an effect that runs once the outermost session is known to have committed. See `afterCommit`. */
  readonly afterCommit: (effect: Effect.Effect<void>) => void
  /** Registers an effect that runs once this session, or one around it, was rolled back. See `afterRollback`. */
  readonly afterRollback: (effect: Effect.Effect<void>) => void
  /** Makes the session end with a rollback. See `rollbackOnly`. */
  readonly rollbackOnly: () => void
}

/**
 * The innermost session that the code runs in. `session`, and `run` of a handle, provide it.
 *
 * @since 0.1.0
 * @category tags
 */
export class Session extends Context.Tag("sqlayer/Session")<Session, Service>() {}

/**
 * A session with an explicit end, from `acquireSession`. It is rolled back if it is not committed before its scope
 * closes or its `timeout` expires.
 *
 * Inside another session of the same database it is a savepoint, unless `propagation` says otherwise. While it is open:
 *
 * - statements and sessions of the surrounding session wait, except for those inside `run`. On the fiber that acquired
 *   the handle they would wait for themselves, and fail with InvalidStatement;
 * - the surrounding session cannot commit: it rolls back and fails with TransactionAborted.
 *
 * With `propagation: "join"` nothing waits: `run` runs effects in the surrounding session, `commit` leaves the commit
 * to it, and a rollback makes it `rollbackOnly`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handle {
  /** The session's id, as logs and spans show it. A handle that joined has the id of the surrounding session. */
  readonly id: string
  /** Runs an effect inside the session. Its statements fail with SessionClosed once the session has ended. */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, Exclude<R, Session>>
  /**
   * Commits and ends the session. If the commit fails the session is rolled back and this fails with its error. If the
   * session has already ended, this fails with SessionClosed, or with SessionTimeout if the timeout ended it. Inside
   * another session the work becomes part of that one and is committed with it.
   */
  readonly commit: Effect.Effect<void, DatabaseError>
  /** Rolls back and ends the session. Does nothing if the session has already ended. */
  readonly rollback: Effect.Effect<void>
}

const hook =
  (register: (session: Service, effect: Effect.Effect<void>) => void, name: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<void, never, R | Session> =>
    Effect.contextWith((context: Context.Context<R | Session>) =>
      register(
        Context.get(context as Context.Context<Session>, Session),
        effect.pipe(
          // The session has ended, so the hook's statements must not run in it.
          Effect.provide(
            Context.omit(Session, SqlClient.TransactionConnection)(context) as unknown as Context.Context<R>
          ),
          Effect.catchAllCause((cause) => Effect.logError(`a hook of Session.${name} failed`, cause)),
          Effect.asVoid
        )
      )
    )

/**
 * Runs an effect once the outermost session is known to have committed and its connection is back in the pool. Does not
 * run it if this session, or one around it, was rolled back, or if the outcome of the commit is unknown. The effect
 * runs outside of the session; a failure or a defect of it is logged and does not fail the session. The session waits
 * for the effect. If the session is interrupted meanwhile, it no longer waits, and the effect still runs to its end.
 * Hooks that together take longer than the option `timeout` are interrupted, and a warning is logged.
 *
 * @since 0.1.0
 * @category hooks
 */
export const afterCommit: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<void, never, R | Session> = hook(
  (session, effect) => session.afterCommit(effect),
  "afterCommit"
)

/**
 * Runs an effect once this session, or one around it, was rolled back and the connection of the outermost session is
 * back in the pool. The effect runs outside of the session; a failure or a defect of it is logged and does not change
 * the session's result. The session waits for the effect. If the session is interrupted meanwhile, it no longer waits,
 * and the effect still runs to its end. Hooks that together take longer than the option `timeout` are interrupted, and
 * a warning is logged.
 *
 * @since 0.1.0
 * @category hooks
 */
export const afterRollback: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<void, never, R | Session> = hook(
  (session, effect) => session.afterRollback(effect),
  "afterRollback"
)

/**
 * Makes this session end with a rollback. If its effect succeeds the session still succeeds with its result, but its
 * work is undone. A session nested in it is undone with it; one around it is not affected.
 *
 * @since 0.1.0
 * @category control
 */
export const rollbackOnly: Effect.Effect<void, never, Session> = Effect.map(
  Session,
  (session) => session.rollbackOnly()
)

/**
 * The id of the session, unique in this process, as logs and spans show it.
 *
 * @since 0.1.0
 * @category control
 */
export const id: Effect.Effect<string, never, Session> = Effect.map(Session, (session) => session.id)
