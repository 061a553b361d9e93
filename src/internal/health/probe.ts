/**
 * Asks a database something, whatever the load of its pool.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Pool } from "../../Pool.js"
import type { Connection, Driver } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { timeoutFail } from "../raceFirst.js"

export interface Options {
  /** Opens a connection of the probe's own when it cannot use one of the pool. */
  readonly driver: Driver
  /** The pool whose idle connections the probe uses. */
  readonly pool: Pool<Connection>
  /** The maximum duration. Half of it is spent on an idle connection before a new one is opened. */
  readonly timeout: Duration.Duration
}

/**
 * Runs an effect on a connection that is available whatever the load of the pool. Fails with ConnectionFailed when the
 * timeout has passed. `readsData` must be true if it reads data: in memory, only the pool's connection has them.
 */
export type Probe = <A, E, R>(
  query: (connection: Connection) => Effect.Effect<A, E, R>,
  readsData?: boolean
) => Effect.Effect<A, E | DatabaseError, R>

/** Probes take real time, whatever the Clock of the application: they are about a server outside of the program. */
const realClock = Clock.make()

/** Lets concurrent calls share one run of an effect, since health endpoints are often public and called often. */
export const shareConcurrent = <A>(effect: Effect.Effect<A>): Effect.Effect<A> => {
  let inFlight: Deferred.Deferred<A> | undefined
  return Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      if (inFlight !== undefined) {
        return restore(Deferred.await(inFlight))
      }
      const result = Deferred.unsafeMake<A>(FiberId.none)
      inFlight = result
      const run = Effect.onExit(Effect.interruptible(Effect.withClock(effect, realClock)), (exit) => {
        inFlight = undefined
        return Deferred.done(result, exit)
      })
      // In a daemon, so that interrupting the first caller does not interrupt the others' run.
      return Effect.zipRight(Effect.forkDaemon(run), restore(Deferred.await(result)))
    })
  )
}

/**
 * Uses an idle connection of the pool. If none is idle, or that one does not answer within half of the timeout, it opens
 * one of its own. Fails with DatabaseClosed once the scope is closed.
 */
export const make = ({ driver, pool, timeout }: Options): Effect.Effect<Probe, never, Scope.Scope> => {
  let closed = false
  const closedError = () =>
    makeError("DatabaseClosed", {
      dialect: driver.dialect,
      code: "08003",
      reason: `the database ${pool.name} is closed`
    })
  const timeoutError = () =>
    makeError("ConnectionFailed", {
      dialect: driver.dialect,
      code: "08001",
      reason: `${driver.description} did not answer within ${Duration.format(timeout)}`,
      transient: true
    })
  /** Fails in time even if the effect cannot be interrupted at once; it is then interrupted in the background. */
  const withTimeout = <A, E, R>(duration: Duration.Duration, effect: Effect.Effect<A, E, R>) =>
    timeoutFail(Effect.disconnect(effect), duration, timeoutError)

  const probe: Probe = (query, readsData = false) => {
    const onNewConnection = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        driver.connect(() => undefined, restore),
        (connection) => Effect.ensuring(restore(query(connection)), connection.close)
      )
    )
    const onPool = Effect.scoped(Effect.flatMap(pool.acquire, query))
    return Effect.suspend(() => {
      if (closed) {
        return Effect.fail(closedError())
      }
      if (readsData && driver.inMemory === true) {
        return withTimeout(timeout, onPool)
      }
      const { idle, waiting } = pool.stats()
      return withTimeout(
        timeout,
        idle > 0 && waiting === 0
          ? Effect.orElse(withTimeout(Duration.times(timeout, 0.5), onPool), () => onNewConnection)
          : onNewConnection
      )
    })
  }
  return Effect.as(
    Effect.addFinalizer(() =>
      Effect.sync(() => {
        closed = true
      })
    ),
    probe
  )
}
