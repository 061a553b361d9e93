/**
 * The errors that a session itself fails with.
 */
import * as Duration from "effect/Duration"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Isolation, Options } from "../../Session.js"
import { currentFiber, fiberName, isInterrupted } from "../fiber.js"
import { make } from "../makeError.js"
import { defectError } from "../telemetry/errorType.js"
import { defaultName, sessionLabel } from "./log.js"

/** Turns a session's own error into the caller's error type: `withTransaction` fails with SqlError only. */
export type Fail<E> = (error: DatabaseError) => E

/**
 * Turns a defect that is a database error back into a failure; `orDie` and `Model.makeRepository` make such defects.
 * Must be called by the session's fiber: if that was interrupted, the exit stays an interruption.
 */
export const failDefect = <A, E, E2>(exit: Exit.Exit<A, E>, fail: Fail<E2>): Exit.Exit<A, E | E2> => {
  const error = isInterrupted(currentFiber()) ? undefined : defectError(exit)
  return error === undefined ? exit : Exit.fail(fail(error))
}

/** A session, as errors name it. */
export interface SessionRef {
  readonly name: string
  readonly id: string
  readonly dialect: Dialect
}

const labelOf = ({ id, name }: SessionRef): string => `${sessionLabel(name)} (${id})`

export const lostBeforeCommit = (session: SessionRef): DatabaseError =>
  make("ConnectionLost", {
    dialect: session.dialect,
    code: "08006",
    reason: `the connection of ${labelOf(session)} was lost before it had committed: ` +
      "the server says that it was rolled back"
  })

export const nestedStillOpen = (session: SessionRef): DatabaseError =>
  make("TransactionAborted", {
    dialect: session.dialect,
    code: "25P02",
    reason: `a session nested in ${labelOf(session)} was still running when that ended, so it was rolled back`
  })

export const statementInterrupted = (session: SessionRef): DatabaseError =>
  make("TransactionAborted", {
    dialect: session.dialect,
    code: "25P02",
    reason: `a statement of ${labelOf(session)} was interrupted after it was sent, so its result is not known: ` +
      "nothing of the session can be committed"
  })

export const sessionEnded = (session: SessionRef): DatabaseError =>
  make("SessionClosed", {
    dialect: session.dialect,
    code: "25P01",
    reason:
      `${labelOf(session)} has ended: what is started inside of a session and outlives it (a daemon, a service that ` +
      "is made on first use, a context that is kept) can use the database only if it is started outside of it"
  })

export const readFromNested = (session: SessionRef, nested: SessionRef): DatabaseError =>
  make("InvalidStatement", {
    dialect: session.dialect,
    code: "25001",
    reason:
      `a stream or a statement of ${labelOf(session)} is run inside of ${labelOf(nested)}, which is nested in it, ` +
      "and would wait forever: read a stream in the session in which it was opened"
  })

export const timedOut = (options: Options, dialect: Dialect): DatabaseError =>
  make("SessionTimeout", {
    dialect,
    code: "57014",
    reason: `${sessionLabel(options.name ?? defaultName)} took longer than ${Duration.format(options.timeout ?? 0)}`
  })

export const hooksTimedOut = (session: SessionRef, timeout: Duration.DurationInput): string =>
  `the hooks that ${labelOf(session)} ran after its end took longer than ${Duration.format(timeout)}, ` +
  "and were interrupted"

export const isolationTooStrong = (requested: Isolation, outermost: Isolation, dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "25001",
    reason: `a session within one that is "${outermost}" cannot be "${requested}": ` +
      `ask for it in the outermost session, or use propagation "new"`
  })

export const readOnlyWithinWriting = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "25001",
    reason: "a session within one that writes cannot be readOnly: " +
      `ask for it in the outermost session, or use propagation "new"`
  })

export const settingsUnsupported = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "0A000",
    reason:
      "the session's options settings and role: this database has no settings and roles that end with a transaction"
  })

export const noReplica = (dialect: Dialect, reason: string): DatabaseError =>
  make("InvalidStatement", { dialect, code: "0A000", reason: `the session's option reader: ${reason}` })

export const settingsDiffer = (option: string, dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "25001",
    reason: `a session within another one cannot have another ${option}: ` +
      `ask for it in the outermost session, or use propagation "new"`
  })

export const selfDeadlock = (session: SessionRef, fiber: FiberId.FiberId): DatabaseError =>
  make("InvalidStatement", {
    dialect: session.dialect,
    code: "25001",
    reason:
      `${fiberName(fiber)} has a session of acquireSession or sessionStream open in ${labelOf(session)}, and would ` +
      "wait for it forever: do this inside of that session, or end it first"
  })

export const handleCannotRetry = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "0A000",
    reason: "the session's option retry: only the session of an effect can be run again, and not one of " +
      "acquireSession or sessionStream"
  })

export const streamReturned = (session: SessionRef): DatabaseError =>
  make("InvalidStatement", {
    dialect: session.dialect,
    code: "25P01",
    reason: `${labelOf(session)} returns a stream of a statement, which would run outside of it: ` +
      "read it inside, or use Database.sessionStream, whose session lasts as long as its stream"
  })

export const streamEscaped = (dialect: Dialect): DatabaseError =>
  make("SessionClosed", {
    dialect,
    code: "25P01",
    reason: "the session in which the stream was made has ended, and the stream would run outside of it: " +
      "read it inside, or use Database.sessionStream, whose session lasts as long as its stream"
  })

export const transactionOpen = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "25001",
    reason: "another transaction is open on the reserved connection that the session was to use"
  })

export const reservedClosed = (dialect: Dialect): DatabaseError =>
  make("SessionClosed", {
    dialect,
    code: "08003",
    reason: "the scope that reserved the connection is closed"
  })
