/**
 * Marks the code that runs as the source of a `copyFrom`: its stream, whose elements are copied into a table.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { currentFiber } from "../../fiber.js"

/** The copies in whose sources the code runs: a source may itself run a copy. */
class CopySources extends Context.Tag("sqlayer/CopySources")<CopySources, ReadonlyArray<object>>() {}

const current = (): ReadonlyArray<object> =>
  currentFiber()?.currentContext.unsafeMap.get(CopySources.key) as ReadonlyArray<object> | undefined ?? []

/** Runs an effect as the source of a copy. */
export const asCopySource = <A, E, R>(effect: Effect.Effect<A, E, R>, copy: object): Effect.Effect<A, E, R> =>
  Effect.suspend(() => Effect.provideService(effect, CopySources, [...current(), copy]))

/** Whether the current fiber runs the source of a copy. */
export const isInCopySource = (copy: object): boolean => current().includes(copy)
