/**
 * Marks the code whose statements are sqlayer's own, such as those that record migrations, so that statistics show them
 * apart from the application's.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { currentFiber } from "../fiber.js"

class OwnStatements extends Context.Reference<OwnStatements>()("sqlayer/OwnStatements", {
  defaultValue: () => false
}) {}

/** Runs an effect whose statements are sqlayer's own. */
export const asOwnStatements = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, OwnStatements, true)

/** Runs an effect of the application within one of `asOwnStatements`. */
export const asApplication = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, OwnStatements, false)

/** Whether the fiber that calls this runs sqlayer's own statements. */
export const isOwn = (): boolean => currentFiber()?.currentContext.unsafeMap.get(OwnStatements.key) === true
