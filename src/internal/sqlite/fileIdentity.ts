/**
 * Detects that the open file was deleted or replaced.
 *
 * SQLite keeps using a file that has lost its name, and reports commits that are gone once the file is closed. Its own
 * check for this does not cover WAL mode.
 */
import * as Fs from "node:fs"
import type { Database } from "./binding.js"
import { fileMoved } from "./codeNames.js"
import { journalModeOf } from "./opening.js"
import type { OpenedFile } from "./protocol.js"
import { walOf } from "./staleWal.js"

/** Stands for the identity of a file that does not exist. */
export const none = "none"

/** Stands for a file that does not exist. */
const missing = { dev: -1, ino: -1, size: 0, mtimeMs: 0 } as Fs.Stats

/** Undefined if the file cannot be looked up now, although it may exist. */
const statOf = (filename: string): Fs.Stats | undefined => {
  try {
    return Fs.statSync(filename, { throwIfNoEntry: false }) ?? missing
  } catch {
    return undefined
  }
}

const describe = (stats: Fs.Stats | undefined): string | undefined =>
  stats === undefined ? undefined : stats === missing ? none : `${stats.dev}:${stats.ino}`

/** Device and inode of the file with this name, `none` if there is no file, undefined if it cannot be looked up. */
export const identityOf = (filename: string): string | undefined => describe(statOf(filename))

const describeWal = (stats: Fs.Stats | undefined): string | undefined =>
  stats === undefined || stats === missing ? describe(stats) : `${describe(stats)}:${stats.birthtimeMs}`

/**
 * The identity of the WAL of the file with this name, as `identityOf` that of the file, and with the time at which it was
 * made: the WAL of the next file may have the inode of one that was deleted.
 */
export const walIdentityOf = (filename: string): string | undefined => describeWal(statOf(walOf(filename)))

/** Whether a file was replaced or deleted. Both identities are those of `identityOf`. */
export const isReplaced = (before: string | undefined, after: string | undefined): boolean =>
  before !== undefined && before !== none && after !== undefined && after !== before

/** Why the open file cannot be used any more. */
export interface Change {
  readonly reason: string
  readonly code: string
}

/** The identity of a file that was just opened, and of its WAL if it has one. */
export class FileIdentity {
  private file: Fs.Stats | undefined
  private readonly walName: string
  /** Undefined if there was none. */
  private readonly wal: Fs.Stats | undefined
  /** The size of the WAL in bytes when it was last looked up. */
  walSize: number | undefined
  /** As `identityOf` and `walIdentityOf` return them. */
  readonly opened: Pick<OpenedFile, "file" | "wal">

  constructor(
    private readonly database: Database,
    private readonly filename: string,
    private readonly mode: "wal" | "rollback" | "immutable"
  ) {
    this.file = statOf(filename)
    this.walName = walOf(filename)
    const wal = statOf(this.walName)
    this.wal = mode === "wal" && wal !== missing ? wal : undefined
    this.opened = { file: describe(this.file), wal: describeWal(wal) }
  }

  /**
   * What was deleted or replaced. Undefined if nothing was, and if another program has overwritten the file: that
   * cannot be told from a checkpoint of another process.
   */
  changeOf(isWrite: boolean): Change | undefined {
    const { file } = this
    const stats = file === undefined ? undefined : statOf(this.filename)
    if (file === undefined || stats === undefined) {
      return undefined
    }
    if (stats.ino !== file.ino || stats.dev !== file.dev) {
      return { reason: "the file was deleted, or replaced by another", code: fileMoved }
    }
    const isWritten = stats.mtimeMs !== file.mtimeMs || stats.size !== file.size
    if (isWritten && this.mode === "immutable") {
      return { reason: "the file was opened as immutable, but was changed", code: fileMoved }
    }
    this.file = stats
    return isWrite && !isWritten ? undefined : this.walChange()
  }

  private walChange(): Change | undefined {
    if (this.wal === undefined) {
      return undefined
    }
    const wal = statOf(this.walName)
    this.walSize = wal?.size
    // If another process has left WAL mode, the WAL is missing and nothing is wrong.
    return wal !== undefined && (wal.ino !== this.wal.ino || wal.dev !== this.wal.dev) &&
        journalModeOf(this.database) === "wal"
      ? { reason: "the file's WAL was deleted, or replaced by another", code: fileMoved }
      : undefined
  }
}
