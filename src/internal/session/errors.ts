/**
 * The errors that a session itself fails with.
 */
import * as Duration from "effect/Duration"
import type * as FiberId from "effect/FiberId"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Isolation, Options } from "../../Session.js"
import { fiberName } from "../fiber.js"
import { make } from "../makeError.js"
import { defaultName, sessionLabel } from "./log.js"

/** Turns a session's own error into the caller's error type: `withTransaction` fails with SqlError only. */
export type Fail<E> = (error: DatabaseError) => E

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

export const timedOut = (options: Options, dialect: Dialect): DatabaseError =>
  make("SessionTimeout", {
    dialect,
    code: "57014",
    reason: `${sessionLabel(options.name ?? defaultName)} took longer than ${Duration.format(options.timeout ?? 0)}`
  })

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

export const selfDeadlock = (session: SessionRef, fiber: FiberId.FiberId): DatabaseError =>
  make("InvalidStatement", {
    dialect: session.dialect,
    code: "25001",
    reason: `${fiberName(fiber)} holds a session that it acquired in ${labelOf(session)} ` +
      "and would wait for ever: do this with its run, or end it first"
  })

export const handleCannotRetry = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "0A000",
    reason: "the session's option retry: a session that is acquired cannot be run again, only an effect can"
  })

export const reservedClosed = (dialect: Dialect): DatabaseError =>
  make("SessionClosed", {
    dialect,
    code: "08003",
    reason: "the scope that reserved the connection is closed"
  })
