/**
 * Asynchronous effects whose cancellation is never lost.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

type Resume<A, E> = (effect: Effect.Effect<A, E>) => void

/**
 * Like `Effect.async`: `register` starts an operation, and may return the effect that cancels it. `Effect.async` forgets
 * that effect if its fiber is interrupted right after `register` was called; this always runs it.
 */
export const asyncInterrupt = <A, E>(
  register: (resume: Resume<A, E>) => Effect.Effect<void> | void
): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) => {
    let cancel: Effect.Effect<void> | void = undefined
    const operation = Effect.async<A, E>((resume) => {
      cancel = register(resume)
    })
    return Effect.catchAllCause(restore(operation), (cause) =>
      cancel !== undefined && Cause.isInterruptedOnly(cause)
        ? Effect.onExit(Exit.failCause(cause), () => cancel!)
        : Exit.failCause(cause))
  })
