/**
 * Whether the spans of a fiber are recorded, and spans around what sqlayer runs.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import type * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { currentFiber } from "../fiber.js"

/** Effect's default tracer, which exports nothing. */
const defaultTracer = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** Whether the application has provided a tracer and has not disabled tracing. Otherwise spans need not be made. */
export const isTraced = (fiber: Fiber.RuntimeFiber<unknown, unknown>): boolean =>
  fiber.currentTracer !== defaultTracer && fiber.getFiberRef(FiberRef.currentTracerEnabled)

/**
 * Whether the attributes and events of a span are recorded. Those of a span that the sampler has dropped are not. A
 * sampler of OpenTelemetry can record a span without exporting it.
 */
export const isRecorded = (span: Tracer.Span): boolean => span.sampled || isRecording(span)

/** The spans of @effect/opentelemetry hold OpenTelemetry's own in the field `span`. */
const isRecording = ({ span }: Tracer.Span & { readonly span?: Partial<OpenTelemetrySpan> }): boolean =>
  span?.isRecording?.() === true

interface OpenTelemetrySpan {
  readonly isRecording: () => boolean
}

const options: Tracer.SpanOptions = { kind: "client", captureStackTrace: false }

/** Makes the span of a statement or a session, which ends when the scope closes. */
export const makeScopedSpan = (name: string): Effect.Effect<Tracer.Span, never, Scope.Scope> =>
  Effect.makeSpanScoped(name, options)

/**
 * Runs an effect with the span of a statement or a session, as `Effect.useSpan` does, and calls `onEnd` before the span
 * ends. OpenTelemetry's tracer enters a context at each step of a fiber, so this takes few steps. Must be run
 * uninterruptibly: an interruption would leave the span open.
 */
export const useSpan = <A, E, R>(
  name: string,
  f: (span: Tracer.Span) => Effect.Effect<A, E, R>,
  onEnd?: (span: Tracer.Span, exit: Exit.Exit<A, E>) => void
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Effect.makeSpan(name, options), (span) => {
    const now = clockOf(currentFiber())
    const end = (exit: Exit.Exit<A, E>): Exit.Exit<A, E> => {
      try {
        onEnd?.(span, exit)
      } finally {
        // The application may have ended it, since it is the current span of what runs in it.
        if (span.status._tag !== "Ended") {
          span.end(now(), exit)
        }
      }
      return exit
    }
    return Effect.matchCauseEffect(f(span), {
      onSuccess: (value) => end(Exit.succeed(value)),
      onFailure: (cause) => {
        try {
          return end(Exit.failCause(cause))
        } catch (defect) {
          return Exit.failCause(Cause.sequential(cause, Cause.die(defect)))
        }
      }
    })
  })

/** The time of a fiber's spans, in nanoseconds. */
const clockOf = (fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined): () => bigint => {
  if (fiber === undefined || !fiber.getFiberRef(FiberRef.currentTracerTimingEnabled)) {
    return () => 0n
  }
  const clock = Context.get(fiber.getFiberRef(DefaultServices.currentServices), Clock.Clock)
  return () => clock.unsafeCurrentTimeNanos()
}
