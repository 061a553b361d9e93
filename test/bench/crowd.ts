/**
 * A crowd: many more fibers than there are connections.
 */
import * as Effect from "effect/Effect"

export const fibers = 64

/** Each fiber repeats the unit of work this many times. */
export const crowded = <E, R>(unit: Effect.Effect<unknown, E, R>, times: number): Effect.Effect<void, E, R> =>
  Effect.forEach(Array.from({ length: fibers }), () => Effect.repeatN(unit, times - 1), {
    concurrency: "unbounded",
    discard: true
  })
