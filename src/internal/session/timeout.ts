/**
 * How long a unit of work may take.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"

/** What a unit of work and its time limit know of each other. */
export interface Timeout<A, E> {
  /** What it fails with, since its time is over. */
  expired?: Exit.Exit<never, E>
  /** Whether the work is done and only its end is left, which the limit leaves alone. */
  ends?: boolean
  /** How it ended, which its own fiber forgets when it is interrupted at that moment. */
  ended?: Exit.Exit<A, E> | undefined
}

/** How the work went, which ends now. An interruption by the limit is a timeout, as is a success that comes too late. */
export const judged = <A, E>(exit: Exit.Exit<A, E>, limit: Timeout<A, E>): Exit.Exit<A, E> => {
  limit.ends = true
  return limit.expired !== undefined && (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) ? limit.expired : exit
}

/** The work is to be done once more, if there is time: what it fails with if not. */
export const again = <A, E>(limit: Timeout<A, E>): Exit.Exit<never, E> | undefined => {
  limit.ends = false
  limit.ended = undefined
  return limit.expired
}

/**
 * Interrupts work that takes too long; not once its commit has begun. It runs in a fiber that no interruption of the
 * calling one reaches but through here, where that waits as it can be interrupted.
 */
export const limited = <A, E, R>(
  work: (limit: Timeout<A, E>) => Effect.Effect<A, E, R>,
  timeout: Duration.DurationInput | undefined,
  timeoutError: () => E
): Effect.Effect<A, E, R> => {
  if (timeout === undefined) {
    return work({})
  }
  return Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const limit: Timeout<A, E> = {}
      // A failure that nobody has observed would be logged.
      const fiber = yield* Effect.forkDaemon(Effect.exit(Effect.interruptible(work(limit))))
      const timer = yield* Effect.forkDaemon(Effect.interruptible(Effect.zipRight(
        Effect.sleep(timeout),
        Effect.suspend(() => {
          limit.expired = Exit.fail(timeoutError())
          return limit.ends === true ? Effect.void : Fiber.interruptAsFork(fiber, FiberId.none)
        })
      )))
      const exit = Exit.flatten(
        yield* restore(Fiber.await(fiber)).pipe(
          Effect.onInterrupt(() => Fiber.interrupt(fiber)),
          Effect.ensuring(Fiber.interruptFork(timer))
        )
      )
      yield* Fiber.inheritAll(fiber)
      return yield* Exit.isInterrupted(exit) ? limit.ended ?? limit.expired ?? exit : exit
    })
  )
}
