/**
 * A generic, Effect-native connection pool.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect, PoolFigures } from "./DatabaseError.js"
import { Core } from "./internal/pool/core.js"
import type { Lease as InternalLease } from "./internal/pool/entry.js"
import type { Quantiles } from "./Telemetry.js"

/**
 * Why a connection was closed.
 *
 * @since 0.1.0
 * @category models
 */
export type CloseReason = "overflow" | "lifetime" | "lost" | "unusable" | "invalidated" | "shutdown"

/**
 * A pool's figures at one moment, and what it has counted since it was made.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats extends PoolFigures {
  readonly created: number
  readonly closed: { readonly [Reason in CloseReason]: number }
  readonly connectFailures: number
  readonly timeouts: number
  readonly checkouts: number
  /** What all waits for a connection took together, and all uses, from taking one to giving it back. */
  readonly waitMillis: number
  readonly useMillis: number
  /** How long the waits of the last minute took. */
  readonly waitTime: Quantiles
  /** How long the uses took that ended in the last minute. */
  readonly useTime: Quantiles
}

/**
 * One connection, checked out.
 *
 * @since 0.1.0
 * @category models
 */
export interface Lease<A> {
  readonly connection: A
  /** Gives the connection back: clean, after a reset, or destroyed. Never fails; giving back twice does nothing. */
  readonly release: Effect.Effect<void>
  /** The same, at once. */
  readonly giveBack: () => void
}

/**
 * What `Effect.uninterruptibleMask` gives: makes an effect interruptible again, if it was outside.
 *
 * @since 0.1.0
 * @category models
 */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/**
 * Connections that many share: first come first served, the one used last goes out first.
 *
 * @since 0.1.0
 * @category models
 */
export interface Pool<A> {
  readonly name: string
  /**
   * Checks a connection out. To be run in an uninterruptible region, which gives its `restore` so that the wait can be
   * interrupted without losing what it waited for; whoever takes a lease must release it. `holding` are the leases of
   * this pool that the caller holds already: if they are all that the pool can give, it fails at once.
   */
  readonly take: (restore: Restore, holding?: ReadonlyArray<Lease<A>>) => Effect.Effect<Lease<A>, DatabaseError>
  /** The same without a wait: undefined where no connection is idle that can be used as it is. */
  readonly takeIdle: () => Lease<A> | undefined
  /** The same as a scoped resource. */
  readonly acquire: Effect.Effect<A, DatabaseError, Scope.Scope>
  /**
   * One attempt to connect, whose error is the connection's own; what it opened waits in the pool. In a full pool it
   * awaits an attempt that is under way, if there is one.
   */
  readonly warm: Effect.Effect<void, DatabaseError>
  /** The figures now. */
  readonly stats: () => Stats
  /** Closes every idle connection, and every used one when it comes back. Waiters get new ones. */
  readonly invalidate: Effect.Effect<void>
  /** Refuses new work with DatabaseClosed, waits for what is checked out (at most the shutdown timeout), then closes. */
  readonly shutdown: Effect.Effect<void>
}

/**
 * What the pool must know of a connection, and its limits.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A> {
  readonly name: string
  readonly dialect: Dialect
  /** Connections kept. */
  readonly size: number
  /** Extra connections under load, closed when they come back. */
  readonly maxOverflow: number
  /** The longest wait for a connection. */
  readonly timeout: Duration.DurationInput
  /** A connection's longest life, which may be infinite; shortened by a random share of up to a tenth so that they do not end together. */
  readonly recycle: Duration.DurationInput
  /** Idle connections are pinged this often (jittered); default 60 seconds. */
  readonly keepAlive?: Duration.DurationInput | undefined
  /** Connections idle for longer than this are pinged before use; default 1 second. */
  readonly checkAfterIdle?: Duration.DurationInput | undefined
  /** A connection held for longer is reported once, with the place that took it; default 60 seconds. */
  readonly heldThreshold?: Duration.DurationInput | undefined
  /** How long shutdown waits for connections in use; default 10 seconds. */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
  /**
   * One attempt to open one connection. It is run in an uninterruptible region, so that no interruption takes away what it
   * has opened: what may be interrupted, the waiting, goes through `restore`. `onLost` tells the pool that an established
   * connection broke.
   */
  readonly connect: (
    onLost: (error: DatabaseError) => void,
    restore: Restore
  ) => Effect.Effect<A, DatabaseError>
  /** `idle`: clean; `closed`: unusable; anything else is reset before others get it. Asked without I/O. */
  readonly status: (connection: A) => "idle" | "active" | "aborted" | "dirty" | "closed"
  readonly ping: (connection: A) => Effect.Effect<void, DatabaseError>
  readonly reset: (connection: A) => Effect.Effect<void, DatabaseError>
  readonly close: (connection: A) => Effect.Effect<void>
  readonly destroy: (connection: A) => void
}

/**
 * Makes a pool that opens connections as they are asked for, and closes them all when the scope closes. Taking fails
 * with PoolTimeout, DatabaseClosed, or what connecting failed with where trying again cannot help.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A>(options: Options<A>): Effect.Effect<Pool<A>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const run = yield* FiberSet.makeRuntime<never, unknown>()
    // Whether the pool is made in an interruptible region must not decide whether its work is.
    const core = new Core(options, yield* Effect.clock, (effect) => run(Effect.interruptible(effect)))
    const shutdown = Effect.suspend(() => {
      core.shutdown()
      return Deferred.await(core.drained)
    })
    yield* Effect.addFinalizer(() => shutdown)

    const take = (restore: Restore, holding: ReadonlyArray<Lease<A>> = []): Effect.Effect<Lease<A>, DatabaseError> =>
      Effect.suspend(() => {
        const lease = core.takeIdle()
        if (lease !== undefined) {
          return Effect.succeed(lease)
        }
        const waiter = core.enqueue(holding)
        const waiting = Effect.async<InternalLease<A>, DatabaseError>((resume) => {
          if (waiter.exit === undefined) {
            waiter.resume = resume
          } else {
            resume(waiter.exit)
          }
        })
        return waiter.exit ?? Effect.catchAllCause(restore(waiting), (cause) => {
          core.cancel(waiter)
          return Effect.failCause(cause)
        })
      })

    return {
      name: options.name,
      take,
      takeIdle: () => core.takeIdle(),
      acquire: Effect.uninterruptibleMask((restore) =>
        Effect.tap(take(restore), (lease) => Effect.addFinalizer(() => lease.release)).pipe(
          Effect.map((lease) => lease.connection)
        )
      ),
      warm: Effect.async<void, DatabaseError>((resume) => core.warm(resume)),
      stats: () => core.stats(),
      invalidate: Effect.sync(() => core.invalidate()),
      shutdown
    }
  })
