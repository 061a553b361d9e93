/**
 * The `retry` of a session.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Options } from "../../Session.js"
import { toDatabaseError } from "../telemetry/errorType.js"
import type { OperationRecorder } from "../telemetry/recorders.js"
import { defaultName, sessionLabel } from "./log.js"
import { restart, type Timeout } from "./timeout.js"

const defaultSchedule = Schedule.intersect(Schedule.jittered(Schedule.exponential("20 millis")), Schedule.recurs(5))

/** The log entry about the last attempt's end. It is written only if no other attempt follows. */
export interface LastLog {
  log: Effect.Effect<void> | undefined
}

/** Undefined if a session is not retried. */
export const lastLogOf = ({ retry }: Options): LastLog | undefined =>
  retry === undefined || retry === false ? undefined : { log: undefined }

/** Runs a session again after a retryable error, as often as the schedule allows and while its timeout has not expired. */
export const withRetry = <A, E, R>(
  attempt: Effect.Effect<A, E, R>,
  { name = defaultName, retry }: Options,
  timeout: Timeout<A, E>,
  recorder: OperationRecorder,
  lastLog: LastLog
): Effect.Effect<A, E, R> => {
  const schedule: Schedule.Schedule<unknown, DatabaseError> = Schedule.isSchedule(retry) ? retry : defaultSchedule
  return Effect.suspend(() => {
    let previous: DatabaseError | undefined = undefined
    // Fails only if another attempt is to follow. Otherwise it succeeds with the effect that the session ends with.
    const attempts = Effect.suspend(() => {
      lastLog.log = undefined
      const logged = previous === undefined
        ? Effect.void
        : Effect.logDebug(`${sessionLabel(name)} is run again: ${previous._tag}: ${previous.message}`)
      if (previous !== undefined) {
        recorder.retried(previous._tag)
      }
      return Effect.matchEffect(Effect.zipRight(logged, attempt), {
        onSuccess: (value) => Effect.succeed<Effect.Effect<A, E>>(Effect.succeed(value)),
        onFailure: (error) => {
          const databaseError = toDatabaseError(error)
          if (databaseError === undefined || !isRetryable(databaseError)) {
            return Effect.succeed(Effect.fail(error))
          }
          const expired = restart(timeout)
          if (expired !== undefined) {
            return Effect.succeed(expired)
          }
          previous = databaseError
          return Effect.fail({ error, databaseError })
        }
      })
    })
    return Effect.retry(
      attempts,
      Schedule.mapInput(
        schedule,
        ({ databaseError }: { readonly error: E; readonly databaseError: DatabaseError }) => databaseError
      )
    ).pipe(
      Effect.mapError(({ error }) => error),
      Effect.flatten,
      Effect.ensuring(Effect.suspend(() => lastLog.log ?? Effect.void))
    )
  })
}
