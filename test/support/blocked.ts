/**
 * Statements that run until a test releases them, however slow the machine is.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Pg from "pg"

/** A statement that waits for a lock. */
export interface Blocked {
  /** Waits until `release`, then gives one row with `n = 1`. */
  readonly sql: string
  /** Gives the lock up. Nothing happens the second time. */
  readonly release: Effect.Effect<void>
}

let keys = 0

/** Holds an advisory lock in the URL's database, on a connection of its own, until it is released or the scope closes. */
export const blocked = (url: string): Effect.Effect<Blocked, never, Scope.Scope> =>
  Effect.gen(function*() {
    const key = process.pid * 1_000 + ++keys
    const holder = new Pg.Client(url)
    // The server may be stopped while the lock is held.
    holder.on("error", () => {})
    let released = false
    const release = Effect.promise(async () => {
      if (!released) {
        released = true
        await holder.end().catch(() => {})
      }
    })
    yield* Effect.acquireRelease(
      Effect.promise(async () => {
        await holder.connect()
        await holder.query(`SELECT pg_advisory_lock(${key})`)
      }),
      () => release
    )
    return { sql: `SELECT 1 AS n FROM pg_advisory_xact_lock(${key})`, release }
  })
