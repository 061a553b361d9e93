/**
 * Jobs that one process runs at a time, however many are started. PostgreSQL only.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Option, Schedule } from "effect"
import { Database, DatabaseError } from "sqlayer"

/**
 * Runs a short job in a session that holds a lock of this name. Gives none if another process holds it. The lock ends with
 * the transaction, also if this process is killed.
 */
export const exclusively = (name: string) => <A, E, R>(job: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const [{ locked }] = yield* sql<{ readonly locked: boolean }>`
      SELECT pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) AS locked`
    return locked ? Option.some(yield* job) : Option.none()
  }).pipe(Database.session({ name }))

/**
 * Runs a long job, whose sessions are its own, while a connection holds the lock. Gives none if another process holds it.
 *
 * The server gives the lock to somebody else when the connection is lost, so it is asked every few seconds, and the job is
 * interrupted with the error. Until then, and by what it cannot undo, two jobs can overlap: their statements must bear it.
 */
export const leading = (name: string) => <A, E, R>(job: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const connection = yield* sql.reserve
    const onConnection = Effect.provideService(SqlClient.TransactionConnection, [connection, -1] as const)
    const lock = sql<{ readonly locked: boolean }>`
      SELECT pg_try_advisory_lock(hashtextextended(${name}, 0)) AS locked`
    const [{ locked }] = yield* onConnection(lock)
    if (!locked) {
      return Option.none()
    }
    // The pool releases the lock too, but a moment after the job has ended.
    const unlock = sql`SELECT pg_advisory_unlock(hashtextextended(${name}, 0))`
    yield* Effect.addFinalizer(() => Effect.ignore(onConnection(unlock)))
    const alive = onConnection(Effect.repeat(sql`SELECT 1`, Schedule.spaced("5 seconds")))
    return Option.some(yield* Effect.raceFirst(job, Effect.zipRight(alive, Effect.never)))
  }).pipe(Effect.scoped, DatabaseError.typed)
