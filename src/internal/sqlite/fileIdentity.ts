/**
 * Whether the file that is open is still the one that has its name.
 *
 * SQLite goes on in a file that was deleted or replaced, and what it then reports as committed is gone when the file is
 * closed. (It looks for that itself, but not in WAL mode.)
 */
import * as Fs from "node:fs"

const walOf = (filename: string): string => `${filename}-wal`

const none = "none"

/** Which file has this name; undefined where that cannot be told, because it may not be looked at. */
const identityOf = (filename: string): string | undefined => {
  try {
    const stats = Fs.statSync(filename, { throwIfNoEntry: false })
    return stats === undefined ? none : `${stats.dev}:${stats.ino}`
  } catch {
    return undefined
  }
}

const isAway = (filename: string, known: string | undefined): boolean => {
  const now = known === undefined || known === none ? known : identityOf(filename)
  return now !== undefined && now !== known
}

/** A file that has just been opened, and its WAL if it has one. */
export class Place {
  readonly #filename: string
  readonly #file: string | undefined
  readonly #wal: string | undefined

  constructor(filename: string, isWal: boolean) {
    this.#filename = filename
    this.#file = identityOf(filename)
    this.#wal = isWal ? identityOf(walOf(filename)) : undefined
  }

  /** What is no longer where it was. Asks whether there should be a WAL only where there is none. */
  moved(isWal: () => boolean): string | undefined {
    if (isAway(this.#filename, this.#file)) {
      return "the file was deleted, or replaced by another"
    }
    return isAway(walOf(this.#filename), this.#wal) && isWal()
      ? "the file's WAL was deleted, or replaced by another"
      : undefined
  }
}
