/**
 * The spans of an effect.
 */
import * as Effect from "effect/Effect"
import * as Tracer from "effect/Tracer"

/** Runs an effect with a tracer that keeps every span. */
export const collectingSpans = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<{ readonly value: A; readonly spans: Array<Tracer.Span> }, E, R> =>
  Effect.flatMap(Effect.tracer, (native) => {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      context: native.context.bind(native),
      span: (...args) => {
        const span = native.span(...args)
        spans.push(span)
        return span
      }
    })
    return Effect.map(Effect.withTracer(effect, tracer), (value) => ({ value, spans }))
  })
