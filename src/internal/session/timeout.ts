/**
 * The `timeout` of a session.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"

/** The state that a session shares with its timer. */
export interface Timeout<A, E> {
  /** The SessionTimeout, once the timer has fired. */
  expired?: Exit.Exit<never, E>
  /** Whether the effect is done and the session commits or rolls back, which the timer does not interrupt. */
  isEnding?: boolean
  /** The session's exit. If its fiber is interrupted while it returns this, the fiber's exit is an interruption. */
  exit?: Exit.Exit<A, E> | undefined
}

/**
 * Marks the session as ending. Gives SessionTimeout instead of an exit that the timer caused (an interruption) or that
 * arrived after it fired (a success).
 */
export const applyTimeout = <A, E>(exit: Exit.Exit<A, E>, timeout: Timeout<A, E>): Exit.Exit<A, E> => {
  timeout.isEnding = true
  return timeout.expired !== undefined && (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) ? timeout.expired : exit
}

/** Prepares for another attempt. Gives SessionTimeout if there is no time left for one. */
export const restart = <A, E>(timeout: Timeout<A, E>): Exit.Exit<never, E> | undefined => {
  timeout.isEnding = false
  timeout.exit = undefined
  return timeout.expired
}

/**
 * Interrupts a session that takes longer than `duration`, unless its commit has begun. The session runs in a fiber of its
 * own, so that the timer interrupts it even where the caller is uninterruptible. An interruption of the caller is passed
 * on to it.
 */
export const withTimeout = <A, E, R>(
  session: (timeout: Timeout<A, E>) => Effect.Effect<A, E, R>,
  duration: Duration.DurationInput | undefined,
  timeoutError: () => E
): Effect.Effect<A, E, R> => {
  if (duration === undefined) {
    return session({})
  }
  return Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const timeout: Timeout<A, E> = {}
      // Effect.exit, because Effect logs the failure of a fiber that nothing observes.
      const fiber = yield* Effect.forkDaemon(Effect.exit(Effect.interruptible(session(timeout))))
      const timer = yield* Effect.forkDaemon(Effect.interruptible(Effect.zipRight(
        Effect.sleep(duration),
        Effect.suspend(() => {
          timeout.expired = Exit.fail(timeoutError())
          return timeout.isEnding === true ? Effect.void : Fiber.interruptAsFork(fiber, FiberId.none)
        })
      )))
      const exit = Exit.flatten(
        yield* restore(Fiber.await(fiber)).pipe(
          Effect.onInterrupt(() => Fiber.interrupt(fiber)),
          Effect.ensuring(Fiber.interruptFork(timer))
        )
      )
      yield* Fiber.inheritAll(fiber)
      return yield* Exit.isInterrupted(exit) ? timeout.exit ?? timeout.expired ?? exit : exit
    })
  )
}
