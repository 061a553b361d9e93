/**
 * Taking turns.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import type { Session } from "../../Session.js"
import type { History } from "./history.js"
import { MigrationError, type Progress } from "./model.js"

interface Settings {
  readonly lockTimeout: Duration.Duration
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

const pause = (attempt: number) => Duration.millis(Math.min(50 * 2 ** attempt, 250))
const reminder = 10_000

/** How long one attempt may take: the first fails soon, so that it is told that it waits. */
const patience = (attempt: number, left: number) =>
  Duration.millis(Math.max(1, Math.min(attempt === 0 ? 100 : reminder, left)))

/**
 * Runs a turn as the only one who migrates: in a session that begins with the lock. What it fails with, other than a
 * MigrationError, is put through `blame`.
 */
export const exclusively =
  ({ session }: Database.Service, history: History, { lockTimeout, progress }: Settings) =>
  <A, E, E2>(
    name: string,
    turn: Effect.Effect<A, E, Session>,
    blame: (error: Exclude<E, SqlError | MigrationError> | DatabaseError) => E2
  ): Effect.Effect<A, E2 | MigrationError | DatabaseError> =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      const asked = clock.unsafeCurrentTimeMillis()
      const elapsed = () => clock.unsafeCurrentTimeMillis() - asked
      const limit = Duration.toMillis(lockTimeout)
      let nextWord = 0
      for (let attempt = 0;; attempt++) {
        let held = false
        const locked = Effect.flatMap(history.lock, (locked) => {
          held = locked
          return locked ? Effect.asSome(turn) : Effect.succeedNone
        })
        const result = yield* session(locked, { ...history.turn(patience(attempt, limit - elapsed())), name }).pipe(
          Effect.catchAllCause((cause): Effect.Effect<Option.Option<A>, E2 | MigrationError | DatabaseError> => {
            const error = Cause.squash(cause)
            if (Cause.isInterruptedOnly(cause)) {
              return Effect.failCause(cause as Cause.Cause<never>)
            }
            if (held) {
              return Effect.fail(error instanceof MigrationError ? error : blame(error as never))
            }
            // Beginning the session is what takes SQLite's lock.
            return isDatabaseError(error) && error._tag === "LockTimeout"
              ? Effect.succeedNone
              : Effect.failCause(cause as Cause.Cause<DatabaseError>)
          })
        )
        if (Option.isSome(result)) {
          return result.value
        }
        const waited = elapsed()
        if (waited >= limit) {
          return yield* new MigrationError({
            kind: "locked",
            message: `another runner is migrating, and was not done within ${Duration.format(lockTimeout)}`
          })
        }
        if (waited >= nextWord) {
          nextWord = waited + reminder
          yield* progress({ _tag: "Waiting", elapsed: Duration.millis(waited) })
        }
        yield* Effect.sleep(pause(attempt))
      }
    })
