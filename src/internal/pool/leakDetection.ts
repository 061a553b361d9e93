/**
 * Who holds connections, and what is said to those who hold them for too long or want too many.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Tracer from "effect/Tracer"
import type { Lease, Slot } from "./entry.js"

/** The fiber that asks, if it is one. */
export type CurrentFiber = Fiber.RuntimeFiber<unknown, unknown> | undefined

export const currentFiber = (): CurrentFiber => {
  const fiber = Fiber.getCurrentFiber()
  return fiber._tag === "Some" ? fiber.value : undefined
}

export const fiberId = (fiber: CurrentFiber): FiberId.FiberId => fiber === undefined ? FiberId.none : fiber.id()

export const currentSpan = (fiber: CurrentFiber): Tracer.AnySpan | undefined =>
  fiber?.currentContext.unsafeMap.get(Tracer.ParentSpan.key)

/** The name by which logs and errors call a fiber. */
export const fiberName = (fiber: FiberId.FiberId): string => `fiber ${FiberId.threadName(fiber)}`

/** Who does something, and the spans around that, innermost first. */
export const place = (fiber: FiberId.FiberId, innermost: Tracer.AnySpan | undefined): string => {
  const names: Array<string> = []
  let span = innermost
  while (span !== undefined && span._tag === "Span") {
    names.push(`"${span.name}"`)
    span = span.parent._tag === "Some" ? span.parent.value : undefined
  }
  return names.length === 0 ? fiberName(fiber) : `${fiberName(fiber)} in span ${names.join(" of ")}`
}

/** The leases that a fiber took, or that others took for it. */
export const heldBy = <A>(
  slots: Iterable<Slot<A>>,
  fiber: CurrentFiber,
  holding: ReadonlyArray<unknown>
): ReadonlyArray<Lease<A>> => {
  const held: Array<Lease<A>> = []
  for (const { lease } of slots) {
    if (lease !== undefined && (lease.fiber === fiberId(fiber) || holding.includes(lease))) {
      held.push(lease)
    }
  }
  return held
}

export const warnHeld = <A>(pool: string, lease: Lease<A>, now: number): Effect.Effect<void> =>
  Effect.logWarning(
    `a connection of the pool ${pool} has been held for ${Math.round(now - lease.since)} ms by ` +
      place(lease.fiber, lease.span)
  )

export const warnNested = (pool: string, fiber: CurrentFiber, held: number, maximum: number): Effect.Effect<void> =>
  Effect.logWarning(
    `${fiberName(fiberId(fiber))} holds ${held} of the ${maximum} connections of the pool ${pool} ` +
      "and waits for another: if others do the same, nobody gets on"
  )
