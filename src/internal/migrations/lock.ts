/**
 * The lock that lets one runner migrate at a time.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError, typed } from "../../DatabaseError.js"
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

/** How long one attempt may wait for the lock. The first attempt is short, so that the wait is reported soon. */
const maxWait = (attempt: number, remaining: number) =>
  Duration.millis(Math.max(1, Math.min(attempt === 0 ? 100 : waitingInterval, remaining)))

/** Repeats attempts to get the lock until one gives a value. It gives none while another runner holds the lock. */
const untilLocked = <A, E, R>(
  { sql }: Database.Service,
  dialect: MigrationDialect,
  { lockTimeout, progress, table }: Settings,
  attempt: (maxWait: Duration.Duration) => Effect.Effect<Option.Option<A>, E, R>
): Effect.Effect<A, E | MigrationError | DatabaseError, R> =>
  Effect.gen(function*() {
    yield* typed(dialect.prepareLock?.(sql, table) ?? Effect.void)
    const clock = yield* Effect.clock
    const started = clock.unsafeCurrentTimeMillis()
    const elapsed = () => clock.unsafeCurrentTimeMillis() - started
    const timeout = Duration.toMillis(lockTimeout)
    let nextEvent = 0
    for (let count = 0;; count++) {
      const result = yield* attempt(maxWait(count, timeout - elapsed()))
      if (Option.isSome(result)) {
        return result.value
      }
      const waited = elapsed()
      if (waited >= timeout) {
        return yield* new MigrationError({
          kind: "locked",
          message: `another runner is migrating, and did not finish within ${Duration.format(lockTimeout)}`
        })
      }
      if (waited >= nextEvent) {
        nextEvent = waited + waitingInterval
        yield* progress({ _tag: "Waiting", elapsed: Duration.millis(waited) })
      }
      yield* Effect.sleep(pause(count))
    }
  })

/** Options of a session that takes the lock. */
export interface SessionOptions {
  readonly name: string
  /** The timeout of its statements. Default: that of the database. */
  readonly statementTimeout?: Duration.Duration | undefined
}

/**
 * Runs effects in sessions that begin by taking the lock, and hold it until they end. `onFailure` maps the errors of
 * such an effect, other than MigrationErrors.
 */
export const withLock = (database: Database.Service, dialect: MigrationDialect, settings: Settings) =>
<A, E, E2>(
  sessionOptions: SessionOptions,
  effect: Effect.Effect<A, E, Session>,
  onFailure: (error: Exclude<E, SqlError | MigrationError> | DatabaseError) => E2
): Effect.Effect<A, E2 | MigrationError | DatabaseError> =>
  untilLocked(database, dialect, settings, (maxWait) => {
    let isLocked = false
    const locked = Effect.flatMap(dialect.tryLock(database.sql, settings.table), (acquired) => {
      isLocked = acquired
      return acquired ? Effect.asSome(effect) : Effect.succeedNone
    })
    return database.session(locked, { ...dialect.sessionOptions(maxWait), ...sessionOptions }).pipe(
      Effect.catchAllCause((cause): Effect.Effect<Option.Option<A>, E2 | MigrationError | DatabaseError> => {
        const error = Cause.squash(cause)
        if (Cause.isInterruptedOnly(cause)) {
          return Effect.failCause(cause as Cause.Cause<never>)
        }
        if (isLocked) {
          return Effect.fail(error instanceof MigrationError ? error : onFailure(error as never))
        }
        // If the beginning of a session takes the lock, waiting for it ends in a LockTimeout.
        return isDatabaseError(error) && error._tag === "LockTimeout"
          ? Effect.succeedNone
          : Effect.failCause(cause as Cause.Cause<DatabaseError>)
      })
    )
  })

/** Takes the lock without a transaction on the connection that the migration uses, and holds it until the scope closes. */
export const holdLock = (
  database: Database.Service,
  dialect: MigrationDialect,
  settings: Settings,
  name: string
): Effect.Effect<void, MigrationError | DatabaseError, Scope.Scope> =>
  untilLocked(database, dialect, settings, () =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const acquired = yield* dialect.holdLock(database.sql, settings.table, (effect) =>
          Effect.flatMap(
            database.acquireSession({ ...dialect.sessionOptions(Duration.zero), name, propagation: "new" }),
            (handle) => typed(handle.run(effect))
          )).pipe(
            restore,
            Scope.extend(scope),
            Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
          )
        if (!acquired) {
          yield* Scope.close(scope, Exit.void)
          return Option.none<void>()
        }
        yield* Effect.addFinalizer((exit) => Scope.close(scope, exit))
        return Option.some<void>(undefined)
      })
    ))
