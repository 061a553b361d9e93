/**
 * What a pool fails with, and how long it pauses after an attempt to connect that failed.
 */
import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import { DatabaseClosed, type DatabaseError, type Dialect, type PoolFigures, PoolTimeout } from "../../DatabaseError.js"
import { make } from "../makeError.js"

/** The pause after a failed connect: doubled with each further failure, within these bounds, and jittered. */
const shortestPause = 50
const longestPause = 1_000

/** A tenth to either side, so that what began together does not come round together. */
export const jittered = (millis: number): number => millis * (0.9 + Math.random() * 0.2)

/** What failed since a connect last succeeded. Times are in milliseconds. */
export class Failures {
  /** The last one. */
  error: DatabaseError | undefined = undefined
  /** When connecting is worth trying again. */
  retryAt = 0
  private inARow = 0

  add(error: DatabaseError, startedAt: number, now: number): void {
    this.error = error
    // Attempts that were under way together count as one.
    if (startedAt >= this.retryAt) {
      this.retryAt = now + jittered(Math.min(longestPause, shortestPause * 2 ** this.inARow++))
    }
  }

  clear(): void {
    this.error = undefined
    this.retryAt = 0
    this.inARow = 0
  }
}

/** Why connecting failed; a driver that dies is no reason for the pool to. */
export const connectError = (cause: Cause.Cause<DatabaseError>, dialect: Dialect): DatabaseError =>
  Option.getOrElse(Cause.failureOption(cause), () =>
    make("UnknownDatabaseError", {
      dialect,
      code: "XX000",
      reason: "the attempt to connect ended unexpectedly",
      cause: Cause.squash(cause)
    }))

/** The pool takes no more work. */
export const poolClosed = (name: string, dialect: Dialect): DatabaseClosed =>
  new DatabaseClosed({ dialect, code: "08003", reason: `the pool ${name} is closed` })

/** Nobody could be served. */
export const poolTimeout = (
  reason: string,
  stats: PoolFigures,
  dialect: Dialect,
  cause: DatabaseError | undefined
): PoolTimeout =>
  new PoolTimeout({ dialect, code: "08001", reason, stats, ...(cause === undefined ? {} : { cause }) }, {
    disableValidation: true
  })
