/**
 * Detects that the open file was deleted or replaced.
 *
 * SQLite keeps using a file that has lost its name, and reports commits that are gone once the file is closed. Its own
 * check for this does not cover WAL mode.
 */
import * as Fs from "node:fs"

const walOf = (filename: string): string => `${filename}-wal`

const none = "none"

/** Device and inode of the file with this name, `none` if there is no file, undefined if it cannot be looked up. */
const identityOf = (filename: string): string | undefined => {
  try {
    const stats = Fs.statSync(filename, { throwIfNoEntry: false })
    return stats === undefined ? none : `${stats.dev}:${stats.ino}`
  } catch {
    return undefined
  }
}

const hasChanged = (filename: string, expected: string | undefined): boolean => {
  const actual = expected === undefined || expected === none ? expected : identityOf(filename)
  return actual !== undefined && actual !== expected
}

/** The identity of a file that was just opened, and of its WAL if it has one. */
export class FileIdentity {
  private readonly file: string | undefined
  private readonly wal: string | undefined

  constructor(private readonly filename: string, isWal: boolean) {
    this.file = identityOf(filename)
    this.wal = isWal ? identityOf(walOf(filename)) : undefined
  }

  /**
   * Describes what was deleted or replaced, if anything was. `isWal` is called only where the WAL is missing, which is
   * right if another process has left WAL mode.
   */
  describeChange(isWal: () => boolean): string | undefined {
    if (hasChanged(this.filename, this.file)) {
      return "the file was deleted, or replaced by another"
    }
    return hasChanged(walOf(this.filename), this.wal) && isWal()
      ? "the file's WAL was deleted, or replaced by another"
      : undefined
  }
}
