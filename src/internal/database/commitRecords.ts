/**
 * Removes, in the background, the rows that recorded commits have written and that are no longer needed.
 */
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import type { Pool } from "../../Pool.js"
import type { CommitRecords, Connection } from "../driver.js"
import { type PoolClock, realClock } from "../pool/clock.js"

/** How long after its first recorded commit a process begins to remove rows, in milliseconds. */
const firstDelay = 60_000

/**
 * Makes the function that is to be called after each recorded commit, until the scope closes. There is no timer: a
 * process without such commits removes nothing.
 */
export const makeCleaner = (
  pool: Pool<Connection>,
  { clean, interval }: CommitRecords,
  clock: PoolClock = realClock
): Effect.Effect<() => void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const runtime = yield* Effect.runtime()
    const cleaning = Effect.scoped(Effect.flatMap(pool.acquire, clean)).pipe(
      Effect.catchAllCause((cause) => Effect.logWarning("the rows of recorded commits could not be removed", cause))
    )
    let next: number | undefined = undefined
    return () => {
      const now = clock.now()
      next ??= now + firstDelay
      if (now >= next) {
        next = now + interval
        Runtime.runFork(runtime, Effect.forkIn(cleaning, scope))
      }
    }
  })
