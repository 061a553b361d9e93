/**
 * Waiting for what happens in its own time.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { setTimeout as sleep } from "node:timers/promises"

/**
 * Asks again and again until the answer is true; dies when it is not true in time (10 seconds unless told). Time is the
 * real one, whatever clock the test runs on.
 */
export const eventually = <E, R>(
  condition: Effect.Effect<boolean, E, R>,
  options?: { readonly timeout?: Duration.DurationInput | undefined }
): Effect.Effect<void, E, R> =>
  Effect.gen(function*() {
    const timeout = Duration.decode(options?.timeout ?? "10 seconds")
    const deadline = performance.now() + Duration.toMillis(timeout)
    while (!(yield* condition)) {
      if (performance.now() > deadline) {
        return yield* Effect.dieMessage(`What was waited for did not happen within ${Duration.format(timeout)}`)
      }
      yield* Effect.promise(() => sleep(20))
    }
  })
