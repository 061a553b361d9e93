/**
 * A connection pool for Effect, generic over its connection.
 *
 * `Database` makes one for each database. Use this module directly to pool something else.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect, PoolFigures } from "./DatabaseError.js"
import { realClock } from "./internal/pool/clock.js"
import { makeWith } from "./internal/pool/make.js"
import type { Quantiles } from "./Telemetry.js"

/**
 * Why the pool closed a connection:
 *
 * - `overflow`: more than `size` connections were open, and this one was idle for `idleTimeout`
 * - `idle`: more than `min` connections were open, and this one was idle for `idleTimeout`
 * - `lifetime`: it reached the end of its lifetime, `recycle`
 * - `lost`: it broke, or a ping failed
 * - `unusable`: its status was `closed` when it was returned, or resetting it failed
 * - `invalidated`: `invalidate` was called after it was opened
 * - `shutdown`: the pool shut down
 *
 * @since 0.1.0
 * @category models
 */
export type CloseReason = "overflow" | "idle" | "lifetime" | "lost" | "unusable" | "invalidated" | "shutdown"

/**
 * The state of a pool at one moment, and what it has counted since it was made.
 *
 * The counters never decrease, so a rate is the difference of two snapshots.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats extends PoolFigures {
  /** The number of connections that were opened. */
  readonly created: number
  /** The number of connections that were closed, by reason. */
  readonly closed: { readonly [Reason in CloseReason]: number }
  /** The number of attempts to connect that failed. Attempts that the shutdown ended are not counted. */
  readonly connectFailures: number
  /** The number of PoolTimeouts. */
  readonly timeouts: number
  /** The number of times a connection was checked out. */
  readonly checkouts: number
  /** The total time that these checkouts waited, in milliseconds. Waits that got no connection are not included. */
  readonly waitMillis: number
  /** The total time that connections were checked out, in milliseconds. Counted when they are returned. */
  readonly useMillis: number
  /** How long the checkouts of the last minute waited, in seconds. */
  readonly waitTime: Quantiles
  /** How long connections returned within the last minute were checked out, in seconds. */
  readonly useTime: Quantiles
}

/**
 * A connection that is checked out. It is used exclusively until it is returned.
 *
 * @since 0.1.0
 * @category models
 */
export interface Lease<A> {
  /** The connection. Do not use it after it was returned. */
  readonly connection: A
  /**
   * Returns the connection to the pool, which resets it if its status is neither `idle` nor `closed`, and destroys it
   * if it is `closed`. Never fails and does not wait for the reset. Does nothing if the connection was returned
   * already.
   */
  readonly release: Effect.Effect<void>
  /** The same as `release`, as a plain function. */
  readonly giveBack: () => void
}

/**
 * The function that `Effect.uninterruptibleMask` passes on: restores the interruptibility of the region around it.
 *
 * @since 0.1.0
 * @category models
 */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/**
 * A pool of connections. Waiters are served in the order in which they asked (FIFO), and the connection that was
 * returned last is used first (LIFO), so that under low load the others stay idle.
 *
 * @since 0.1.0
 * @category models
 */
export interface Pool<A> {
  /** The pool's name in metrics, log entries and errors. */
  readonly name: string
  /**
   * Checks out a connection, waiting for one if need be. `acquire` is the safer choice where a scope fits.
   *
   * Run it in an uninterruptible region, pass the `restore` of that region, and make sure that the lease is released.
   * Then the wait can be interrupted without losing a connection.
   *
   * `holding` are the leases of this pool that other fibers hold on behalf of the caller. The pool knows the leases
   * that the calling fiber took itself.
   *
   * Fails with
   * - PoolTimeout if no connection is available within `timeout`
   * - PoolTimeout at once if the caller holds all of the pool's connections, because it would wait for itself
   * - PoolTimeout before `timeout` while the pool is overloaded (after CoDel, RFC 8289): from when no connection was
   *   free for twice the timeout, counted from the first waiter, until a connection is free while nobody waits. Then
   *   waiters are refused after a tenth of the timeout, but not within 100 ms, and at most one each millisecond. As
   *   many waiters as the pool may have connections are never refused early
   * - DatabaseClosed if the pool is shutting down or has shut down
   * - the error of an attempt to connect, for all waiters, if it is not retryable (`DatabaseError.isRetryable`)
   *
   * Attempts that fail with a retryable error are repeated while there are waiters, after a delay that grows from 50 ms
   * to one second. The last such error is the `cause` of the PoolTimeout.
   */
  readonly take: (restore: Restore, holding?: ReadonlyArray<Lease<A>>) => Effect.Effect<Lease<A>, DatabaseError>
  /**
   * Checks out an idle connection without waiting. Returns undefined if none is idle, if the one that was returned last
   * has to be pinged first (see `checkAfterIdle`), or if the pool is shutting down.
   */
  readonly takeIdle: () => Lease<A> | undefined
  /**
   * Checks out a connection as `take` does, and calls back, for work that can be started without waking the fiber that
   * waits. `onEnd` is called once, in a microtask of its own, with the lease or with the failure of `take`. It must not
   * throw. Call `request` in a fiber, which counts as the holder, and make sure that the lease is released.
   *
   * The returned function cancels the wait: `onEnd` is not called any more, and a lease that was already granted goes
   * back to the pool. After `onEnd` was called it does nothing.
   */
  readonly request: (
    onEnd: (exit: Exit.Exit<Lease<A>, DatabaseError>) => void,
    holding?: ReadonlyArray<Lease<A>>
  ) => () => void
  /** Checks out a connection until the scope closes. Fails as `take` does. */
  readonly acquire: Effect.Effect<A, DatabaseError, Scope.Scope>
  /**
   * Makes one attempt to connect, regardless of the delay between attempts, and leaves the connection idle. In a pool
   * at its maximum, waits for an attempt that is under way, or succeeds at once if there is none.
   *
   * Fails with the error of the attempt, or DatabaseClosed if the pool is shutting down or has shut down.
   */
  readonly warm: Effect.Effect<void, DatabaseError>
  /** A snapshot of the pool's statistics. */
  readonly stats: () => Stats
  /** The open connections: those that `stats` counts as idle and as used. */
  readonly connections: () => ReadonlyArray<{ readonly connection: A; readonly isUsed: boolean }>
  /**
   * Closes all connections that are open now: idle ones at once, the others when they are returned. Waiters get new
   * ones. Use it after a change that existing connections do not see, such as a failover.
   */
  readonly invalidate: Effect.Effect<void>
  /**
   * Shuts the pool down. Fails all waiters, and later calls, with DatabaseClosed, closes idle connections, and waits up
   * to `shutdownTimeout` for the others to be returned before it destroys them. Completes when every connection is
   * closed. Further calls wait for the same shutdown.
   */
  readonly shutdown: Effect.Effect<void>
}

/**
 * The limits of a pool, and how it handles its connections.
 *
 * The effects given here run in fibers of the pool. A defect counts as a failure.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A> {
  /** The pool's name in metrics, log entries and errors. Metrics of pools with the same name add up. */
  readonly name: string
  /** The dialect of the pool's own errors and metrics. */
  readonly dialect: Dialect
  /** Further attributes of its metrics, such as the server's address. Default: none. */
  readonly attributes?: ReadonlyArray<readonly [name: string, value: unknown]> | undefined
  /** The number of connections that are opened as they are needed. At least 1. */
  readonly size: number
  /**
   * The number of connections that may be open beyond `size`, at least 0. They are opened while others wait, and closed
   * when they were idle for `idleTimeout`. As `max_overflow` of SQLAlchemy's QueuePool.
   */
  readonly maxOverflow: number
  /** The number of connections that stay open once they were opened, however long they are idle. Default: `size`. */
  readonly min?: number | undefined
  /**
   * How long a connection beyond `min` may be idle before it is closed. With 0 it is closed when it is returned and
   * there are no waiters. The most recently used ones are kept. As HikariCP's `idleTimeout`. Default: 30 seconds.
   */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** The maximum time to wait for a connection, including an attempt to connect. */
  readonly timeout: Duration.DurationInput
  /**
   * The maximum lifetime of a connection, as HikariCP's `maxLifetime`; infinite is allowed. The lifetime of each
   * connection is shortened at random by up to 10 %, so that they are not all replaced at the same time. A connection
   * in use is closed when it is returned.
   */
  readonly recycle: Duration.DurationInput
  /**
   * How long a connection is idle before it is pinged, so that firewalls do not drop it and a broken one is found.
   * Varied for each connection at random by up to 10 % either way. Default: 60 seconds.
   */
  readonly keepAlive?: Duration.DurationInput | undefined
  /** A connection that was last used or pinged longer ago than this is pinged before it is used. Default: 1 second. */
  readonly checkAfterIdle?: Duration.DurationInput | undefined
  /**
   * When a connection has been checked out for this long, a warning is logged once, with the fiber and the spans that
   * took it. As HikariCP's `leakDetectionThreshold`. Default: 60 seconds.
   */
  readonly heldThreshold?: Duration.DurationInput | undefined
  /** How long `shutdown` waits for connections in use before it destroys them. Default: 10 seconds. */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
  /**
   * Opens one connection. Must limit its own time: after 2 seconds the pool starts a further attempt if its maximum
   * allows it, and still accepts the result of this one.
   *
   * Runs in an uninterruptible region, so that an interruption does not lose a connection that was opened. Pass the
   * parts that wait to `restore`, so that `shutdown` can interrupt them.
   *
   * Call `onLost` when the connection breaks without having been closed by the pool. An idle connection is then removed
   * at once, and the others are pinged before their next use.
   */
  readonly connect: (
    onLost: (error: DatabaseError) => void,
    restore: Restore
  ) => Effect.Effect<A, DatabaseError>
  /**
   * The state of a connection as it is known without I/O. The pool calls it when a connection is returned and after a
   * ping or a reset.
   *
   * - `idle`: the connection can be used by others
   * - `closed`: it can no longer be used, and is destroyed
   * - `active` (a transaction is open), `aborted` (a failed transaction is open), `dirty` (session state was changed):
   *   it is reset before others use it, unless `resetLater` says that a `dirty` one need not be
   */
  readonly status: (connection: A) => "idle" | "active" | "aborted" | "dirty" | "closed"
  /** Checks that a connection works. One that fails or takes more than 2 seconds is destroyed. */
  readonly ping: (connection: A) => Effect.Effect<void, DatabaseError>
  /** Makes a connection's status `idle` again. One that fails to or takes more than 2 seconds is destroyed. */
  readonly reset: (connection: A) => Effect.Effect<void, DatabaseError>
  /**
   * Called when a `dirty` connection is returned. True says that the connection clears its state before its next
   * request by itself. It can then be used at once, and `reset` runs only when it has been idle for 10 milliseconds.
   * Default: false.
   */
  readonly resetLater?: ((connection: A) => boolean) | undefined
  /** Closes a connection gracefully. After 2 seconds it is destroyed. */
  readonly close: (connection: A) => Effect.Effect<void>
  /** Closes a connection at once. Also called after `close`, so it must accept a connection that is closed. */
  readonly destroy: (connection: A) => void
}

/**
 * Makes a pool, which shuts down when the scope closes. It opens connections on demand; `warm` opens one in advance.
 *
 * All durations are real time, whatever the Clock of the application. The pool's timers keep the process alive only
 * while somebody waits for a connection or for the shutdown.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A>(options: Options<A>): Effect.Effect<Pool<A>, never, Scope.Scope> => makeWith(options, realClock)
