/**
 * The lock of a migration that runs without a transaction, and so cannot hold the lock of the database file. It is the
 * lock of a file next to that, which exists while such a migration runs. When the process ends, even by a crash, the
 * operating system releases the lock.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Binding } from "./binding.js"
import { isBusy } from "./protocol.js"
import { fromSqlite } from "./resultCode.js"

export interface LockFile {
  /** Whether no other connection, of this process or another, holds the lock. */
  readonly isFree: Effect.Effect<boolean, DatabaseError>
  /** Takes the lock until the scope closes. False if another connection holds it. */
  readonly hold: Effect.Effect<boolean, DatabaseError, Scope.Scope>
}

const inodeOf = (path: string): bigint | undefined => Fs.statSync(path, { bigint: true, throwIfNoEntry: false })?.ino

const remove = (path: string): void => {
  try {
    Fs.rmSync(path, { force: true })
  } catch {
    // Windows does not remove a file that is open. The next runner takes its lock.
  }
}

export const make = (filename: string, binding: () => Binding): LockFile => {
  const path = `${filename}-migration`

  const open = () => binding().open(path, { readOnly: false, immutable: false, mustExist: false })

  /** Takes the lock. Returns the function that releases it, or undefined if another connection holds it. */
  const tryLock = (): (() => void) | undefined => {
    // The inode is looked up before the file is opened: afterwards the name may be that of another file.
    if (inodeOf(path) === undefined) {
      open().close()
    }
    const inode = inodeOf(path)
    const database = open()
    try {
      // No journal file.
      database.pragma("journal_mode = MEMORY")
      database.exec("BEGIN EXCLUSIVE")
      // The previous holder may have removed the file that was opened here, and the next one made another.
      if (inode !== undefined && inodeOf(path) === inode) {
        return () => {
          remove(path)
          database.close()
        }
      }
    } catch (error) {
      if (!isBusy(binding().codeOf(error))) {
        database.close()
        throw error
      }
    }
    database.close()
    return undefined
  }

  const attempt = <A>(f: () => A): Effect.Effect<A, DatabaseError> =>
    Effect.try({ try: f, catch: (error) => fromSqlite(error, { phase: "statement", description: path }) })

  return {
    isFree: attempt(() => {
      // The inode is looked up before the file is opened: afterwards the name may be that of another file.
      if (inodeOf(path) === undefined) {
        return true
      }
      const release = tryLock()
      release?.()
      return release !== undefined
    }),
    hold: Effect.map(
      Effect.acquireRelease(attempt(tryLock), (release) => Effect.sync(() => release?.())),
      (release) => release !== undefined
    )
  }
}
