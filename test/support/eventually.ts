/**
 * Waiting for a condition.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { setTimeout as sleep } from "node:timers/promises"

/**
 * Checks the condition every 20 milliseconds until it is true, and dies when it is not true within the timeout (default: 20
 * seconds). It measures real time, also in a test that runs on a TestClock.
 */
export const eventually = <E, R>(
  condition: Effect.Effect<boolean, E, R>,
  options?: { readonly timeout?: Duration.DurationInput | undefined }
): Effect.Effect<void, E, R> =>
  Effect.gen(function*() {
    const timeout = Duration.decode(options?.timeout ?? "20 seconds")
    const deadline = performance.now() + Duration.toMillis(timeout)
    while (!(yield* condition)) {
      if (performance.now() > deadline) {
        return yield* Effect.dieMessage(`The condition did not become true within ${Duration.format(timeout)}`)
      }
      yield* Effect.promise(() => sleep(20))
    }
  })
