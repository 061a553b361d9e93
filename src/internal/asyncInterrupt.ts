/**
 * Asking for what comes later.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

type Resume<A, E> = (effect: Effect.Effect<A, E>) => void

/**
 * As `Effect.async`, whose fiber may be interrupted between asking and knowing how to stop what it asked for, and then
 * leaves it behind. This always stops it.
 */
export const stoppable = <A, E>(ask: (resume: Resume<A, E>) => Effect.Effect<void> | void): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) => {
    let stop: Effect.Effect<void> | void = undefined
    const waiting = Effect.async<A, E>((resume) => {
      stop = ask(resume)
    })
    return Effect.catchAllCause(restore(waiting), (cause) =>
      stop !== undefined && Cause.isInterruptedOnly(cause)
        ? Effect.onExit(Exit.failCause(cause), () => stop!)
        : Exit.failCause(cause))
  })
