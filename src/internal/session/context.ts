/**
 * Which session a piece of code runs in.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import { Session } from "../../Session.js"
import { Unit } from "./unit.js"

/** The context of the fiber that asks. */
export const currentContext = (): Context.Context<never> =>
  Option.match(Fiber.getCurrentFiber(), {
    onNone: () => Context.empty(),
    onSome: (fiber) => fiber.currentContext
  })

/**
 * The innermost session, of whatever database. SqlResolver passes on only @effect/sql's own tag, so that is asked too,
 * and believed only if it holds one of ours.
 */
export const innermost = (context: Context.Context<never>): Unit | undefined => {
  const session = context.unsafeMap.get(Session.key)
  if (session instanceof Unit) {
    return session
  }
  const transaction = context.unsafeMap.get(SqlClient.TransactionConnection.key) as ReadonlyArray<unknown> | undefined
  return transaction?.[0] instanceof Unit ? transaction[0] : undefined
}

/** Runs an effect inside of a session, for its statements and for those of @effect/sql that know only its own tag. */
export const provide = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  unit: Unit,
  span: Tracer.Span | undefined
): Effect.Effect<A, E, Exclude<R, Session>> =>
  Effect.mapInputContext(effect, (context: Context.Context<Exclude<R, Session>>) => {
    const map = new Map(context.unsafeMap)
    map.set(Session.key, unit)
    map.set(SqlClient.TransactionConnection.key, [unit, unit.depth])
    if (span !== undefined) {
      map.set(Tracer.ParentSpan.key, span)
    }
    return Context.unsafeMake<R>(map)
  })
