/**
 * What a program saw while it ran: what each statement answered and how each session ended.
 */
import { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import { fromSqlError, isDatabaseError } from "../../../src/DatabaseError.js"

export type Outcome = "running" | "success" | "interrupted" | "failed"

interface Observed {
  readonly id: number
  /** Of all the beginnings and ends in a program the how manieth. */
  readonly started: number
  ended: number
  outcome: Outcome
  /** The error, where it failed. */
  tag: string
}

export interface Statement extends Observed {
  readonly kind: "write" | "read" | "violate" | "stream"
  /** The rows that it writes. */
  readonly writes: ReadonlyArray<number>
  /** The rows that it answered. */
  rows: Array<number>
}

/** A session, a nested one, or one attempt of a session that is run again. */
export interface Level extends Observed {
  readonly attempt: number
  readonly statements: Array<Statement>
  readonly levels: Array<Level>
  /** Its effect succeeded. */
  finished: boolean
  rollbackOnly: boolean
  /** Its hooks were registered. */
  hooked: boolean
  committed: number
  rolledBack: number
}

/** One of the sessions of a program. */
export interface RootTrace {
  readonly run: number
  readonly attempts: Array<Level>
  outcome: Outcome
  tag: string
}

export interface Clock {
  now: number
}

export const makeLevel = (id: number, attempt: number, clock: Clock): Level => ({
  id,
  attempt,
  started: ++clock.now,
  ended: Infinity,
  outcome: "running",
  tag: "",
  statements: [],
  levels: [],
  finished: false,
  rollbackOnly: false,
  hooked: false,
  committed: 0,
  rolledBack: 0
})

/** The tag of a database's error, also of one that was made a defect, or the text of another failure. */
const tagOf = (cause: Cause.Cause<unknown>): string => {
  const error: unknown = Cause.squash(cause)
  return error instanceof SqlError ? fromSqlError(error)._tag : isDatabaseError(error) ? error._tag : String(error)
}

/** Takes down how something ended. */
export const ends = (
  observed: { outcome: Outcome; tag: string; ended?: number },
  exit: Exit.Exit<unknown, unknown>
) => {
  if (Exit.isSuccess(exit)) {
    observed.outcome = "success"
  } else if (Cause.isInterruptedOnly(exit.cause)) {
    observed.outcome = "interrupted"
  } else {
    observed.outcome = "failed"
    observed.tag = tagOf(exit.cause)
  }
}

/** Every level of a root, and the levels inside it. */
export const levelsOf = (level: Level): ReadonlyArray<Level> => [level, ...level.levels.flatMap(levelsOf)]
