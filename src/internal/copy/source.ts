/**
 * Reads the source of a copy.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { CopySource } from "../driver.js"

/** Pulls the next elements. A source that fails with None has ended. */
export const pullSource = <A, E, E2>(
  source: CopySource<E>,
  options: {
    readonly onElements: (elements: ReadonlyArray<unknown>) => Effect.Effect<A, E | E2>
    readonly onEnd: () => Effect.Effect<A, E2>
  }
): Effect.Effect<A, E | E2> =>
  Effect.matchCauseEffect(source, {
    onSuccess: options.onElements,
    onFailure: (cause): Effect.Effect<A, E | E2> => {
      const failure = Cause.failureOption(cause)
      return Option.isSome(failure) && Option.isNone(failure.value)
        ? options.onEnd()
        : Effect.failCause(
          Cause.flatMap(cause, (error) => Option.isSome(error) ? Cause.fail(error.value) : Cause.empty)
        )
    }
  })
