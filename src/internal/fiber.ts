/**
 * Which fiber and which span the running code belongs to.
 */
import * as Cause from "effect/Cause"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as Tracer from "effect/Tracer"

/** Undefined where the code does not run in a fiber. */
export type CurrentFiber = Fiber.RuntimeFiber<unknown, unknown> | undefined

/** The fiber that calls this. */
export const currentFiber = (): CurrentFiber => {
  const fiber = Fiber.getCurrentFiber()
  return fiber._tag === "Some" ? fiber.value : undefined
}

export const fiberId = (fiber: CurrentFiber): FiberId.FiberId => fiber === undefined ? FiberId.none : fiber.id()

/** Whether a fiber was asked to end, even if it is in an uninterruptible region. */
export const isInterrupted = (fiber: CurrentFiber): boolean =>
  fiber !== undefined && !Cause.isEmpty(fiber.getFiberRef(FiberRef.interruptedCause))

/** The innermost span of a fiber. */
export const currentSpan = (fiber: CurrentFiber): Tracer.AnySpan | undefined =>
  fiber?.currentContext.unsafeMap.get(Tracer.ParentSpan.key)

/** A fiber, as log entries and errors name it. */
export const fiberName = (fiber: FiberId.FiberId): string => `fiber ${FiberId.threadName(fiber)}`

/** A fiber and the spans that it runs in, innermost first, as log entries name them. */
export const fiberLocation = (fiber: FiberId.FiberId, innermost: Tracer.AnySpan | undefined): string => {
  const names: Array<string> = []
  let span = innermost
  while (span !== undefined && span._tag === "Span") {
    names.push(`"${span.name}"`)
    span = span.parent._tag === "Some" ? span.parent.value : undefined
  }
  return names.length === 0 ? fiberName(fiber) : `${fiberName(fiber)} in span ${names.join(" of ")}`
}
