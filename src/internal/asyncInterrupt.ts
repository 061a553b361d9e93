/**
 * Asynchronous effects whose cancellation is never lost.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Exit from "effect/Exit"
import * as RuntimeFlags from "effect/RuntimeFlags"

export type Resume<A, E> = (effect: Effect.Effect<A, E>) => void

/** Starts an operation, and may return the effect that cancels it. */
export type Register<A, E> = (resume: Resume<A, E>) => Effect.Effect<void> | void

/** An asynchronous effect that can also be started without a fiber, by calling `register` with a `resume`. */
export class AsyncInterrupt<A, E> extends Effectable.Class<A, E> {
  constructor(readonly register: Register<A, E>) {
    super()
  }

  override commit(): Effect.Effect<A, E> {
    return Effect.withFiberRuntime((_, { runtimeFlags }) =>
      RuntimeFlags.interruption(runtimeFlags)
        ? Effect.uninterruptibleMask((restore) => registerMasked(restore, this.register))
        // Nothing interrupts it, so its cancellation is not needed.
        : Effect.async<A, E>((resume) => {
          this.register(resume)
        })
    )
  }
}

/**
 * Like `Effect.async`: `register` starts an operation, and may return the effect that cancels it. `Effect.async` forgets
 * that effect if its fiber is interrupted right after `register` was called; this always runs it.
 */
export const asyncInterrupt = <A, E>(register: Register<A, E>): AsyncInterrupt<A, E> => new AsyncInterrupt(register)

/** The same as `asyncInterrupt`. Must be run uninterruptibly, with the `restore` of that region. */
export const registerMasked = <A, E>(
  restore: (effect: Effect.Effect<A, E>) => Effect.Effect<A, E>,
  register: Register<A, E>
): Effect.Effect<A, E> => {
  let cancel: Effect.Effect<void> | void = undefined
  const operation = Effect.async<A, E>((resume) => {
    cancel = register(resume)
  })
  return Effect.catchAllCause(restore(operation), (cause) =>
    cancel !== undefined && Cause.isInterruptedOnly(cause)
      ? Effect.onExit(Exit.failCause(cause), () => cancel!)
      : Exit.failCause(cause))
}
