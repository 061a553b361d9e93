/**
 * The session that the running code belongs to, which is kept in its fiber's context.
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
import { currentFiber } from "../fiber.js"
import { Reserved } from "./reserved.js"
import { type Enclosing, Transaction } from "./transaction.js"

/** The context of the fiber that calls this. */
export const currentContext = (): Context.Context<never> => currentFiber()?.currentContext ?? Context.empty()

/** The value of @effect/sql's own tag: a connection, and the number of transactions that are open on it, minus one. */
const transactionConnection = (context: Context.Context<never>) =>
  context.unsafeMap.get(SqlClient.TransactionConnection.key) as
    | readonly [connection: unknown, depth: number]
    | undefined

/**
 * The innermost session or reserved connection of a context, of any database. @effect/sql's own tag decides:
 * SqlResolver passes on only that one, and applications provide a reserved connection by it and omit it to leave a
 * session. If it holds the connection of a client that is not sqlayer's, the session around that client's transaction
 * counts.
 */
export const innermost = (context: Context.Context<never>): Enclosing => {
  const connection = transactionConnection(context)?.[0]
  if (connection === undefined || connection instanceof Transaction || connection instanceof Reserved) {
    return connection
  }
  const session = context.unsafeMap.get(Session.key)
  return session instanceof Transaction ? session : undefined
}

/** Whether, according to the context, no transaction is open on its connection. */
export const isOutsideTransaction = (context: Context.Context<never>): boolean =>
  (transactionConnection(context)?.[1] ?? 0) < 0

/** A FiberRef's value in a fiber, followed by its values in the fiber's ancestors. */
type ContextStack = readonly [
  readonly [FiberId.Single, Context.Context<never>],
  ...ReadonlyArray<readonly [FiberId.Single, Context.Context<never>]>
]

const withContextStack = (refs: FiberRefs.FiberRefs, stack: ContextStack): FiberRefs.FiberRefs =>
  FiberRefs.unsafeMake(new Map(refs.locals).set(FiberRef.currentContext, stack))

/**
 * Runs an effect inside a session, and then `onExit` with its exit, outside of the session. Inside, the session's tag
 * and that of @effect/sql are provided. Must be called by the fiber that runs the result, and run uninterruptibly.
 *
 * This sets the context's FiberRef itself, because `Effect.mapInputContext` costs as much as the rest of a session. The
 * new context is recorded as the fiber's initial one: otherwise a fiber forked outside that joins one forked inside would
 * inherit the session as a change.
 */
export const runInside = <A, E, R, A2, E2>(
  restore: Restore,
  effect: Effect.Effect<A, E, R>,
  transaction: Transaction,
  span: Tracer.Span | undefined,
  onExit: (exit: Exit.Exit<A, E>) => Effect.Effect<A2, E2>
): Effect.Effect<A2, E2, Exclude<R, Session>> => {
  const context = currentContext()
  const map = new Map(context.unsafeMap)
  map.set(Session.key, transaction)
  map.set(SqlClient.TransactionConnection.key, [transaction, transaction.depth])
  if (span !== undefined) {
    map.set(Tracer.ParentSpan.key, span)
  }
  let outside: FiberRefs.FiberRefs | undefined = undefined
  let inside: FiberRefs.FiberRefs | undefined = undefined
  let stack: ContextStack | undefined = undefined
  const enter = Effect.updateFiberRefs((id, refs) => {
    outside = refs
    stack = refs.locals.get(FiberRef.currentContext) as ContextStack | undefined ?? [[id, context]]
    return inside = withContextStack(refs, [[stack[stack.length - 1][0], Context.unsafeMake<never>(map)]])
  })
  const leave = Effect.updateFiberRefs((_, refs) => refs === inside ? outside! : withContextStack(refs, stack!))
  return Effect.flatMap(enter, () =>
    Effect.matchCauseEffect(restore(effect as Effect.Effect<A, E>), {
      onSuccess: (value) => Effect.flatMap(leave, () => onExit(Exit.succeed(value))),
      onFailure: (cause) => Effect.flatMap(leave, () => onExit(Exit.failCause(cause)))
    }))
}

/** Runs an effect inside a session, which stays open. */
export const provide = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  transaction: Transaction
): Effect.Effect<A, E, Exclude<R, Session>> =>
  Effect.uninterruptibleMask((restore) => runInside(restore, effect, transaction, undefined, (exit) => exit))
