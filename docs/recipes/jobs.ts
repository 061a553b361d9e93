/**
 * Jobs that one process runs at a time, however many are started. PostgreSQL only.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Option, Schedule } from "effect"
import { Database, DatabaseError } from "sqlayer"

/**
 * Runs a short job in a session that holds a lock of this name. Succeeds with none if another process holds it. The
 * lock is released with the transaction, also if this process is killed.
 */
export const exclusively = (name: string) => <A, E, R>(job: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const [{ locked }] = yield* sql<{ readonly locked: boolean }>`
      SELECT pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) AS locked`
    return locked ? Option.some(yield* job) : Option.none()
  }).pipe(Database.session({ name }))

/**
 * Runs a long job, with sessions of its own, while a connection holds the lock. Succeeds with none if another process
 * holds it.
 *
 * The server releases the lock when the connection is lost. So the connection is used every five seconds, and if it is
 * lost, the job is interrupted, and the effect fails with ConnectionLost. Until then another process may run the job
 * too, and what this one does meanwhile is not undone: the job's statements must tolerate that.
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
