/**
 * Races whose interruption always ends. `Effect.raceFirst`, `Effect.timeout` and the like create two fibers in one step
 * and start them in the next: if they are interrupted in between, they wait without end for fibers that never run.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"

/** The result of the effect that ends first. The other one is interrupted, and waited for. */
export const raceFirst = <A, E, R, A2, E2, R2>(
  self: Effect.Effect<A, E, R>,
  that: Effect.Effect<A2, E2, R2>
): Effect.Effect<A | A2, E | E2, R | R2> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const first = yield* Deferred.make<Exit.Exit<A | A2, E | E2>>()
      // Effect.exit, because Effect logs the failure of a fiber that nothing observes.
      const run = <B extends A | A2, E3 extends E | E2, R3>(effect: Effect.Effect<B, E3, R3>) =>
        Effect.forkDaemon(
          Effect.flatMap(Effect.exit(Effect.interruptible(effect)), (exit) => Deferred.succeed(first, exit))
        )
      const fibers = [yield* run(self), yield* run(that)]
      const exit = yield* Effect.exit(restore(Deferred.await(first)))
      yield* Fiber.interruptAll(fibers)
      return yield* Exit.flatten(exit)
    })
  )

/** The result of the effect, or none if it takes longer; it is interrupted then, and waited for. */
export const timeoutOption = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  duration: Duration.DurationInput
): Effect.Effect<Option.Option<A>, E, R> =>
  raceFirst(Effect.asSome(effect), Effect.as(Effect.sleep(duration), Option.none()))

/** The result of the effect, or the failure `onTimeout` if it takes longer. */
export const timeoutFail = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  duration: Duration.DurationInput,
  onTimeout: () => E2
): Effect.Effect<A, E | E2, R> =>
  Effect.flatMap(
    timeoutOption(effect, duration),
    Option.match({ onNone: () => Effect.fail(onTimeout()), onSome: Effect.succeed })
  )
