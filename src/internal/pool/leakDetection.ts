/**
 * Which leases a fiber holds, and two warnings: about a lease that is held for too long, and about a fiber that holds
 * one and waits for another.
 */
import * as Effect from "effect/Effect"
import { type CurrentFiber, fiberId, fiberLocation, fiberName } from "../fiber.js"
import type { Entry, Lease } from "./entry.js"

/** The leases that a fiber holds: those that it has taken, and those in `holding`, which others hold on its behalf. */
export const leasesOf = <A>(
  entries: Iterable<Entry<A>>,
  fiber: CurrentFiber,
  holding: ReadonlyArray<unknown>
): ReadonlyArray<Lease<A>> => {
  const leases: Array<Lease<A>> = []
  for (const { lease } of entries) {
    if (lease !== undefined && (lease.fiber === fiberId(fiber) || holding.includes(lease))) {
      leases.push(lease)
    }
  }
  return leases
}

/** Leases that are meant to be held for long. `warnLeak` is not called for them. */
export const leakDetectionExempt = new WeakSet<object>()

/** Warns that a connection has been checked out for longer than the threshold, as HikariCP's leak detection does. */
export const warnLeak = <A>(pool: string, lease: Lease<A>, now: number): Effect.Effect<void> =>
  Effect.logWarning(
    `a connection of the pool ${pool} has been held for ${Math.round(now - lease.leasedAt)} ms by ` +
      fiberLocation(lease.fiber, lease.span)
  )

/** Warns that a fiber which holds connections waits for another one, which leads to a deadlock if several fibers do so. */
export const warnNestedAcquire = (
  pool: string,
  fiber: CurrentFiber,
  held: number,
  maximum: number
): Effect.Effect<void> =>
  Effect.logWarning(
    `${fiberName(fiberId(fiber))} holds ${held} of the ${maximum} connections of the pool ${pool} ` +
      "and waits for another: if others do the same, all of them wait until they time out"
  )
