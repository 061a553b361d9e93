/**
 * Counts round trips.
 */
import * as Effect from "effect/Effect"
import type { Proxy } from "./proxy.js"

/** How often clients have spoken after they were spoken to. */
export const tripsOf = (proxy: Proxy) => {
  let trips = 0
  let answered = true
  return Effect.as(
    Effect.zip(
      proxy.onClientData(() => {
        trips += answered ? 1 : 0
        answered = false
        return "pass"
      }),
      proxy.onServerData(() => {
        answered = true
        return "pass"
      })
    ),
    () => trips
  )
}
