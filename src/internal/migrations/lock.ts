/**
 * The lock that lets one runner migrate at a time.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import type { Session } from "../../Session.js"
import type { MigrationDialect } from "../driver.js"
import { MigrationError, type Progress } from "./model.js"

interface Settings {
  readonly table: string
  readonly lockTimeout: Duration.Duration
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

/** The pause before the next attempt: doubled from 50 milliseconds up to 250. */
const pause = (attempt: number) => Duration.millis(Math.min(50 * 2 ** attempt, 250))

/** Milliseconds between two `Waiting` events. */
const waitingInterval = 10_000

/** Maximum wait of an attempt, in which the session waits for the lock. The first is short, so that it is soon reported. */
const maxWait = (attempt: number, remaining: number) =>
  Duration.millis(Math.max(1, Math.min(attempt === 0 ? 100 : waitingInterval, remaining)))

/**
 * Runs effects in sessions that begin by taking the lock, and hold it until they end. What such an effect fails with,
 * other than a MigrationError, is mapped by `onFailure`.
 */
export const withLock =
  ({ session, sql }: Database.Service, dialect: MigrationDialect, { lockTimeout, progress, table }: Settings) =>
  <A, E, E2>(
    name: string,
    effect: Effect.Effect<A, E, Session>,
    onFailure: (error: Exclude<E, SqlError | MigrationError> | DatabaseError) => E2
  ): Effect.Effect<A, E2 | MigrationError | DatabaseError> =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      const started = clock.unsafeCurrentTimeMillis()
      const elapsed = () => clock.unsafeCurrentTimeMillis() - started
      const timeout = Duration.toMillis(lockTimeout)
      let nextEvent = 0
      for (let attempt = 0;; attempt++) {
        let isLocked = false
        const locked = Effect.flatMap(dialect.tryLock(sql, table), (acquired) => {
          isLocked = acquired
          return acquired ? Effect.asSome(effect) : Effect.succeedNone
        })
        const options = { ...dialect.sessionOptions(maxWait(attempt, timeout - elapsed())), name }
        const result = yield* session(locked, options).pipe(
          Effect.catchAllCause((cause): Effect.Effect<Option.Option<A>, E2 | MigrationError | DatabaseError> => {
            const error = Cause.squash(cause)
            if (Cause.isInterruptedOnly(cause)) {
              return Effect.failCause(cause as Cause.Cause<never>)
            }
            if (isLocked) {
              return Effect.fail(error instanceof MigrationError ? error : onFailure(error as never))
            }
            // Where the beginning of a session takes the lock, waiting for it ends in a LockTimeout.
            return isDatabaseError(error) && error._tag === "LockTimeout"
              ? Effect.succeedNone
              : Effect.failCause(cause as Cause.Cause<DatabaseError>)
          })
        )
        if (Option.isSome(result)) {
          return result.value
        }
        const waited = elapsed()
        if (waited >= timeout) {
          return yield* new MigrationError({
            kind: "locked",
            message: `another runner is migrating, and was not done within ${Duration.format(lockTimeout)}`
          })
        }
        if (waited >= nextEvent) {
          nextEvent = waited + waitingInterval
          yield* progress({ _tag: "Waiting", elapsed: Duration.millis(waited) })
        }
        yield* Effect.sleep(pause(attempt))
      }
    })
