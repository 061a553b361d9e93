/**
 * The unit of work: what a session can be asked for, and what code inside one can say.
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
 * The isolation levels of the SQL standard. PostgreSQL runs "read uncommitted" as "read committed", and SQLite runs all
 * of them as "serializable".
 *
 * @since 0.1.0
 * @category models
 */
export type Isolation = DriverIsolation

/**
 * What a session may be asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Names the session in logs and spans. */
  readonly name?: string | undefined
  /** Default: the server's. A session that is nested or joins cannot ask for a stronger one than the outermost has. */
  readonly isolation?: Isolation | undefined
  /** Refuses writes. Of the outermost session. */
  readonly readOnly?: boolean | undefined
  /** PostgreSQL, with "serializable" and `readOnly`: waits for a snapshot that cannot fail. Of the outermost session. */
  readonly deferrable?: boolean | undefined
  /**
   * The longest time from asking for a connection to the beginning of the commit, with all that `retry` adds; then the
   * session is rolled back and fails with SessionTimeout.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /** The longest run of one statement. Of the outermost session. */
  readonly statementTimeout?: Duration.DurationInput | undefined
  /** The longest wait of one statement for a lock. Of the outermost session. */
  readonly lockTimeout?: Duration.DurationInput | undefined
  /**
   * Runs the whole session again when it failed with a retryable error, never after CommitOutcomeUnknown: by the
   * schedule, or for `true` up to five times after 20 ms, doubled each time and jittered. Of the outermost session. One
   * that is acquired cannot be run again, and fails with InvalidStatement.
   */
  readonly retry?: boolean | Schedule.Schedule<unknown, DatabaseError> | undefined
  /**
   * `verified`: when the connection is lost while COMMIT is in flight, the server is asked on another connection, for at
   * most 5 seconds, whether it has committed. Then the session has succeeded, or fails with a ConnectionLost that can be
   * retried; CommitOutcomeUnknown is left for what cannot be found out. Costs a transaction id, but no round trip. Not for
   * standbys. Of the outermost session.
   */
  readonly commit?: "verified" | undefined
  /**
   * Inside another session of the same database: `nested` (the default) is a savepoint in it, `join` is part of it, `new`
   * takes another connection. Outside, all three begin a session.
   */
  readonly propagation?: "nested" | "join" | "new" | undefined
}

/**
 * A session from inside.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Unique among the sessions of this process. */
  readonly id: string
  readonly name: string
  readonly afterCommit: (effect: Effect.Effect<void>) => void
  readonly afterRollback: (effect: Effect.Effect<void>) => void
  readonly rollbackOnly: () => void
}

/**
 * The innermost session that the code runs in. `session` provides it.
 *
 * @since 0.1.0
 * @category tags
 */
export class Session extends Context.Tag("sqlayer/Session")<Session, Service>() {}

/**
 * A session as a scoped resource: closing its scope without a commit rolls it back. Inside another session of the same
 * database it is a savepoint, and what that one's code does meanwhile waits; what the fiber that acquired it does outside
 * of `run` fails with InvalidStatement, since it would wait for ever. With propagation `join` it is a part of that one,
 * which it commits with, or which it makes `rollbackOnly`. While it is open the session around it cannot commit, and fails
 * with TransactionAborted.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handle {
  readonly id: string
  /** Runs an effect inside the session. Its statements fail with SessionClosed once the session has ended. */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, Exclude<R, Session>>
  /**
   * Ends the session. Fails with what the commit failed with, or with SessionClosed if it has ended already. Inside
   * another session it is committed with that one.
   */
  readonly commit: Effect.Effect<void, DatabaseError>
  /** Ends the session. Does nothing if it has ended already. */
  readonly rollback: Effect.Effect<void>
}

const hook =
  (register: (session: Service, effect: Effect.Effect<void>) => void, what: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<void, never, R | Session> =>
    Effect.contextWith((context: Context.Context<R | Session>) =>
      register(
        Context.get(context as Context.Context<Session>, Session),
        effect.pipe(
          // Its statements are not those of the session that has ended.
          Effect.provide(
            Context.omit(Session, SqlClient.TransactionConnection)(context) as unknown as Context.Context<R>
          ),
          Effect.catchAllCause((cause) => Effect.logError(`what was to run ${what} failed`, cause)),
          Effect.asVoid
        )
      )
    )

/**
 * Runs an effect once the outermost session is known to be committed and its connection is back: never for a session
 * that was rolled back, and never while the outcome is unknown. What it fails with is logged.
 *
 * @since 0.1.0
 * @category hooks
 */
export const afterCommit: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<void, never, R | Session> = hook(
  (session, effect) => session.afterCommit(effect),
  "after the commit"
)

/**
 * Runs an effect once this session, or one around it, was rolled back, when the connection of the outermost one is back.
 * What it fails with is logged.
 *
 * @since 0.1.0
 * @category hooks
 */
export const afterRollback: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<void, never, R | Session> = hook(
  (session, effect) => session.afterRollback(effect),
  "after the rollback"
)

/**
 * Lets this session end with a rollback although its effect succeeds: its result is kept, its work is not.
 *
 * @since 0.1.0
 * @category control
 */
export const rollbackOnly: Effect.Effect<void, never, Session> = Effect.map(
  Session,
  (session) => session.rollbackOnly()
)

/**
 * The session's id, as logs and spans show it.
 *
 * @since 0.1.0
 * @category control
 */
export const id: Effect.Effect<string, never, Session> = Effect.map(Session, (session) => session.id)
