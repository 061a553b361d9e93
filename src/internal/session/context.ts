/**
 * Which session a piece of code runs in.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as Tracer from "effect/Tracer"
import type { Restore } from "../../Pool.js"
import { Session } from "../../Session.js"
import { currentFiber } from "../pool/leakDetection.js"
import { Transaction } from "./transaction.js"

/** The context of the fiber that asks. */
export const currentContext = (): Context.Context<never> => currentFiber()?.currentContext ?? Context.empty()

/**
 * The innermost session, of whatever database. SqlResolver passes on only @effect/sql's own tag, so that is asked too,
 * and believed only if it holds one of ours.
 */
export const innermost = (context: Context.Context<never>): Transaction | undefined => {
  const session = context.unsafeMap.get(Session.key)
  if (session instanceof Transaction) {
    return session
  }
  const transaction = context.unsafeMap.get(SqlClient.TransactionConnection.key) as ReadonlyArray<unknown> | undefined
  return transaction?.[0] instanceof Transaction ? transaction[0] : undefined
}

/** What a fiber's context is, and what it was in the fibers before it. */
type Stack = readonly [
  readonly [FiberId.Single, Context.Context<never>],
  ...ReadonlyArray<readonly [FiberId.Single, Context.Context<never>]>
]

const withContext = (refs: FiberRefs.FiberRefs, stack: Stack): FiberRefs.FiberRefs =>
  FiberRefs.unsafeMake(new Map(refs.locals).set(FiberRef.currentContext, stack))

/**
 * Runs an effect inside of a session, for its statements and for those of @effect/sql that know only its own tag, and
 * goes on with how it ended. To be run uninterruptibly. Does without `Effect.mapInputContext`, which costs as much as
 * the rest of a session. The context counts as one that the fiber was born with, so that who joins a fiber from inside
 * of the session does not take it for something that that one has changed.
 */
export const within = <A, E, R, A2, E2>(
  restore: Restore,
  effect: Effect.Effect<A, E, R>,
  unit: Transaction,
  span: Tracer.Span | undefined,
  goOn: (exit: Exit.Exit<A, E>) => Effect.Effect<A2, E2>
): Effect.Effect<A2, E2, Exclude<R, Session>> =>
  Effect.suspend(() => {
    const context = currentContext()
    const map = new Map(context.unsafeMap)
    map.set(Session.key, unit)
    map.set(SqlClient.TransactionConnection.key, [unit, unit.depth])
    if (span !== undefined) {
      map.set(Tracer.ParentSpan.key, span)
    }
    let around: Stack | undefined = undefined
    const enter = Effect.updateFiberRefs((id, refs) => {
      around = refs.locals.get(FiberRef.currentContext) as Stack | undefined ?? [[id, context]]
      return withContext(refs, [[around[around.length - 1][0], Context.unsafeMake<never>(map)]])
    })
    const leave = Effect.updateFiberRefs((_, refs) => withContext(refs, around!))
    return Effect.zipRight(
      enter,
      Effect.matchCauseEffect(restore(effect as Effect.Effect<A, E>), {
        onSuccess: (value) => Effect.flatMap(leave, () => goOn(Exit.succeed(value))),
        onFailure: (cause) => Effect.flatMap(leave, () => goOn(Exit.failCause(cause)))
      })
    )
  })

/** Runs an effect inside of a session that somebody else ends. */
export const provide = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  unit: Transaction
): Effect.Effect<A, E, Exclude<R, Session>> =>
  Effect.uninterruptibleMask((restore) => within(restore, effect, unit, undefined, (exit) => exit))
