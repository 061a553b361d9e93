/**
 * Whether a span is worth being made.
 */
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Tracer from "effect/Tracer"

/** What a fiber has that was given no tracer. It shows its spans to nobody. */
const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** Whether somebody sees the spans that a fiber makes. */
export const isTraced = (fiber: Fiber.RuntimeFiber<unknown, unknown>): boolean =>
  fiber.currentTracer !== native && fiber.getFiberRef(FiberRef.currentTracerEnabled)
