/**
 * Finding out whether a commit that got no answer has happened.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import type { Restore } from "../../Pool.js"
import type { Connection, Fate } from "../driver.js"

/** A server that is started again within this time can still tell. */
const patience = "5 seconds"
const pause = "50 millis"

/** Asks until there is an answer, for a limited time. Whoever is interrupted does not get to know. */
export const fateOf = ({ fate }: Connection, restore: Restore): Effect.Effect<Fate> =>
  fate === undefined ? Effect.succeed("unknown") : fate.pipe(
    Effect.filterOrFail((found) => found !== "unknown"),
    Effect.retry(Schedule.spaced(pause)),
    Effect.timeout(patience),
    restore,
    Effect.exit,
    Effect.map(Exit.match({ onFailure: () => "unknown", onSuccess: (found) => found }))
  )
