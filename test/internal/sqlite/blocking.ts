/**
 * A statement that runs for as long as a test wants, without depending on the speed of the machine: it waits within SQLite
 * for the lock of another connection.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Holds the write lock of a file, which is created if it does not exist, until the effect is run or the scope closes. */
export const lock = (filename: string): Effect.Effect<Effect.Effect<void>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const database = new Sqlite(filename)
        database.pragma("journal_mode = WAL")
        database.exec("BEGIN IMMEDIATE")
        return database
      }),
      (database) => Effect.sync(() => database.close())
    ),
    (database) => Effect.sync(() => void database.close())
  )

/**
 * Makes SQLite itself wait for locks, until the connection is reset. sqlayer does not use this, because it blocks the thread,
 * and refuses it outside of transactions.
 */
export const waitForLocks = "PRAGMA busy_timeout = 600000"

/** The same on a connection outside of a transaction. */
export const waitForLocksOn = <E>(run: (sql: string) => Effect.Effect<unknown, E>): Effect.Effect<void, E> =>
  Effect.forEach(["BEGIN", waitForLocks, "ROLLBACK"], run, { discard: true })
