/**
 * Running a session again after a failure that may pass.
 */
import { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import { type DatabaseError, fromSqlError, isDatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Options } from "../../Session.js"
import type { OperationRecorder } from "../telemetry/recorders.js"
import { again, type Timeout } from "./timeout.js"

const defaultRetry = Schedule.intersect(Schedule.jittered(Schedule.exponential("20 millis")), Schedule.recurs(5))

/** The database's own error in whatever an effect failed with. */
const databaseError = (error: unknown): DatabaseError | undefined =>
  isDatabaseError(error) ? error : error instanceof SqlError ? fromSqlError(error) : undefined

/** What a session failed with, if a database failed. */
export const failedWith = (exit: Exit.Exit<unknown, unknown>): DatabaseError | undefined => {
  const failure = Exit.isFailure(exit) ? Cause.failureOption(exit.cause) : Option.none()
  return Option.isSome(failure) ? databaseError(failure.value) : undefined
}

/** Runs a session again, from its very beginning, as long as its schedule allows. */
export const retried = <A, E, R>(
  attempt: Effect.Effect<A, E, R>,
  { retry }: Options,
  limit: Timeout<A, E>,
  recorder: OperationRecorder
): Effect.Effect<A, E, R> => {
  if (retry === undefined || retry === false) {
    return attempt
  }
  const schedule: Schedule.Schedule<unknown, DatabaseError> = retry === true ? defaultRetry : retry
  return Effect.suspend(() => {
    let previous: DatabaseError | undefined = undefined
    const attempts = Effect.suspend(() => {
      if (previous !== undefined) {
        recorder.retried(previous._tag)
      }
      return Effect.matchEffect(attempt, {
        onSuccess: (value) => Effect.succeed<Effect.Effect<A, E>>(Effect.succeed(value)),
        onFailure: (error) => {
          const known = databaseError(error)
          if (known === undefined || !isRetryable(known)) {
            return Effect.succeed(Effect.fail(error))
          }
          const expired = again(limit)
          if (expired !== undefined) {
            return Effect.succeed(expired)
          }
          previous = known
          return Effect.fail({ error, known })
        }
      })
    })
    return Effect.retry(
      attempts,
      Schedule.mapInput(schedule, ({ known }: { readonly error: E; readonly known: DatabaseError }) => known)
    ).pipe(
      Effect.mapError(({ error }) => error),
      Effect.flatten
    )
  })
}
