/**
 * The errors of a pool, and the delay between failed attempts to connect.
 */
import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import { DatabaseClosed, type DatabaseError, type Dialect, type PoolFigures, PoolTimeout } from "../../DatabaseError.js"
import { make } from "../makeError.js"

/** Bounds of the delay in milliseconds. It doubles with each consecutive failure. */
const minDelay = 50
const maxDelay = 1_000

/** Varies a duration by up to 10 % either way, so that timers that start together do not fire together. */
export const jittered = (millis: number): number => millis * (0.9 + Math.random() * 0.2)

/** Jittered exponential backoff between attempts to connect. Times are in milliseconds. */
export class Backoff {
  /** The error of the last attempt, unless an attempt has succeeded since. */
  lastError: DatabaseError | undefined = undefined
  /** The earliest time of the next attempt. */
  retryAt = 0
  private consecutiveFailures = 0

  failed(error: DatabaseError, startedAt: number, now: number): void {
    this.lastError = error
    // Attempts that ran concurrently count as one failure.
    if (startedAt >= this.retryAt) {
      this.retryAt = now + jittered(Math.min(maxDelay, minDelay * 2 ** this.consecutiveFailures++))
    }
  }

  reset(): void {
    this.lastError = undefined
    this.retryAt = 0
    this.consecutiveFailures = 0
  }
}

/** The error of an attempt to connect. A defect of the driver becomes an error, so that it does not stop the pool. */
export const connectError = (cause: Cause.Cause<DatabaseError>, dialect: Dialect): DatabaseError =>
  Option.getOrElse(Cause.failureOption(cause), () =>
    make("UnknownDatabaseError", {
      dialect,
      code: "XX000",
      reason: "the attempt to connect ended unexpectedly",
      cause: Cause.squash(cause)
    }))

/** The error of a pool that is shutting down or has shut down. */
export const poolClosed = (name: string, dialect: Dialect): DatabaseClosed =>
  new DatabaseClosed({ dialect, code: "08003", reason: `the pool ${name} is closed` })

/** The error of a waiter that gets no connection. `cause` is the error of the last attempt to connect. */
export const poolTimeout = (
  reason: string,
  stats: PoolFigures,
  dialect: Dialect,
  cause: DatabaseError | undefined
): PoolTimeout =>
  new PoolTimeout({ dialect, code: "08001", reason, stats, ...(cause === undefined ? {} : { cause }) }, {
    disableValidation: true
  })
