/**
 * How long a unit of work may take.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"

/** What a unit of work and its time limit know of each other. */
export interface Limit<A, E> {
  /** What it fails with, since the limit has ended it. */
  expired?: Exit.Exit<never, E>
  /**
   * How it ended, which its own fiber forgets when it is interrupted at that moment: a commit that was answered is not a
   * timeout.
   */
  ended?: Exit.Exit<A, E> | undefined
}

/** An interruption by the limit is a timeout. */
export const judged = <A, E>(exit: Exit.Exit<A, E>, limit: Limit<A, E>): Exit.Exit<A, E> =>
  limit.expired !== undefined && Exit.isInterrupted(exit) ? limit.expired : exit

/** Interrupts work that takes too long; not once its commit has begun. */
export const limited = <A, E, R>(
  work: (limit: Limit<A, E>) => Effect.Effect<A, E, R>,
  timeout: Duration.DurationInput | undefined,
  timeoutError: () => E
): Effect.Effect<A, E, R> => {
  if (timeout === undefined) {
    return work({})
  }
  return Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const limit: Limit<A, E> = {}
      // A failure that nobody has observed would be logged.
      const fiber = yield* Effect.fork(Effect.exit(Effect.interruptible(work(limit))))
      const timer = yield* Effect.fork(Effect.interruptible(Effect.zipRight(
        Effect.sleep(timeout),
        Effect.suspend(() => {
          limit.expired = Exit.fail(timeoutError())
          return Fiber.interruptFork(fiber)
        })
      )))
      const exit = Exit.flatten(
        yield* Effect.onInterrupt(restore(Fiber.await(fiber)), () => Fiber.interrupt(fiber))
      )
      yield* Fiber.interruptFork(timer)
      yield* Fiber.inheritAll(fiber)
      const { ended, expired } = limit
      return yield* expired !== undefined && Exit.isInterrupted(exit) ? ended ?? expired : exit
    })
  )
}
