/**
 * Streams of statements that leave their session. Such a stream belongs to the session in which it is opened. If it is
 * made inside a session and read after the session has ended, it would silently run without that session's settings.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { DatabaseError } from "../../DatabaseError.js"
import { Session } from "../../Session.js"
import { currentContext } from "./context.js"
import { type Fail, streamEscaped, streamReturned } from "./errors.js"
import type { Sessions } from "./sessions.js"
import type { Enclosing, Transaction } from "./transaction.js"

/** The streams of statements, each with its database, or undefined if that is not known yet. */
const databases = new WeakMap<object, object | undefined>()

/** Marks a stream as one of a statement of the database. */
export const asStatementStream = <A extends object>(stream: A, database: object | undefined): A => {
  databases.set(stream, database)
  return stream
}

/** The database of a stream of a statement. */
export const streamDatabase = (stream: object): object | undefined => databases.get(stream)

const isStreamOf = (value: unknown, database: object): boolean =>
  typeof value === "object" && value !== null && databases.has(value) &&
  (databases.get(value) ?? database) === database

/** Fails a session that returns a stream of a statement of its database. */
export const refuseStream = <A, E, E2>(
  exit: Exit.Exit<A, E>,
  transaction: Transaction,
  fail: Fail<E2>
): Exit.Exit<A, E | E2> =>
  Exit.isSuccess(exit) && isStreamOf(exit.value, transaction.database)
    ? Exit.fail(fail(streamReturned(transaction)))
    : exit

/** Marks the context of a session's hooks, which run outside of the session. */
const Hooks = Context.GenericTag<"sqlayer/Session/hooks", true>("sqlayer/Session/hooks")

/** Runs hooks, which may open streams that were made in their session. */
export const asHooks: <A, E, R>(hooks: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = (hooks) =>
  Effect.mapInputContext(hooks, Context.add(Hooks, true) as <R>(context: Context.Context<R>) => Context.Context<R>)

/** Whether the session's own tag in a context holds a session of the database, or one inside of such a session. */
const hasTag = (context: Context.Context<never>, database: object): boolean => {
  let session = context.unsafeMap.get(Session.key) as Enclosing
  while (session !== undefined && session.database !== database) {
    session = session.enclosing
  }
  return session !== undefined
}

/**
 * The error of a stream that was made in a session which has ended, and is opened outside of every session. None if the
 * context still has the session's own tag: then the application has left the session by omitting the connection's tag.
 */
export const refuseEscape = (madeIn: Enclosing, sessions: Sessions): DatabaseError | undefined => {
  if (madeIn?.endReason() === undefined) {
    return undefined
  }
  const context = currentContext()
  return sessions.current(context) !== undefined || hasTag(context, madeIn.database) || context.unsafeMap.has(Hooks.key)
    ? undefined
    : streamEscaped(sessions.dialect)
}

/** Returns a function that runs effects in the session around this call: the streams that they make belong to it. */
export const inCurrentSession = (): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> => {
  const connection = currentContext().unsafeMap.get(SqlClient.TransactionConnection.key)
  return connection === undefined
    ? (effect) => effect
    : (effect) => Effect.provideService(effect, SqlClient.TransactionConnection, connection)
}
