/**
 * Detects that the open file was deleted, replaced or overwritten.
 *
 * SQLite keeps using a file that has lost its name, and reports commits that are gone once the file is closed. Its own
 * check for this does not cover WAL mode. Nor does it notice that another program has written into the file: it would go on
 * with a cache and a WAL of what was there before.
 */
import * as Fs from "node:fs"
import type { Database } from "./binding.js"
import { journalModeOf } from "./opening.js"
import { overwritten } from "./protocol.js"
import { generationOf, walOf } from "./staleWal.js"

const none = "none"

/** Stands for a file that does not exist. */
const missing = { dev: -1, ino: -1, size: 0, mtimeMs: 0 } as Fs.Stats

/** The code of a file that was deleted or replaced. The connection cannot be used any more. */
const fileMoved = "SQLITE_READONLY_DBMOVED"

/** Undefined if the file cannot be looked up now. It may be there. */
const statOf = (filename: string): Fs.Stats | undefined => {
  try {
    return Fs.statSync(filename, { throwIfNoEntry: false }) ?? missing
  } catch {
    return undefined
  }
}

/** Device and inode of the file with this name, `none` if there is no file, undefined if it cannot be looked up. */
export const identityOf = (filename: string): string | undefined => {
  try {
    const stats = Fs.statSync(filename, { throwIfNoEntry: false })
    return stats === undefined ? none : `${stats.dev}:${stats.ino}`
  } catch {
    return undefined
  }
}

/** SQLite has `wal_checkpoint(NOOP)` from 3.51 on. An earlier one would run a checkpoint. */
const canTell = (database: Database): boolean => {
  const [row] = database.prepare("SELECT sqlite_version()").all([], { asArray: true, safeIntegers: false })
  const [major = 0, minor = 0] = String((row as ReadonlyArray<unknown>)[0]).split(".").map(Number)
  return major > 3 || (major === 3 && minor >= 51)
}

/** How many pages of the WAL are in it, and how many of them are in the file. */
export interface WalProgress {
  readonly pages: number
  readonly checkpointed: number
}

/** The progress of the WAL. Undefined if this version of SQLite cannot tell it, or not now, as inside a transaction. */
const progressOf = (database: Database): WalProgress | undefined => {
  try {
    const [row] = canTell(database) ? database.pragma("wal_checkpoint(NOOP)") : []
    const pages = Number(row?.log)
    return pages >= 0 ? { pages, checkpointed: Number(row?.checkpointed) } : undefined
  } catch {
    return undefined
  }
}

/** How long a file has to be left alone until it counts as overwritten and not as being checkpointed, in milliseconds. */
const settled = 1000

/** Which WAL it is, and how much of it was written into the file. */
interface WalState extends WalProgress {
  readonly generation: string | undefined
}

/** Whether a checkpoint has written into the file between two states of the WAL. A WAL restarts when all of it was written. */
const isCheckpointed = (before: WalState, now: WalState): boolean =>
  now.generation === before.generation
    ? now.checkpointed > before.checkpointed
    : now.checkpointed > 0 || before.pages > before.checkpointed

/** What the open file has become. */
export interface Change {
  readonly reason: string
  readonly code: string
}

/** The identity of a file that was just opened, and of its WAL if it has one. */
export class FileIdentity {
  private file: Fs.Stats | undefined
  private readonly wal: string | undefined
  /** The WAL when SQLite was last known to have written into the file. */
  private walState: WalState | undefined
  /** Whether the last check has found the file as it was left. */
  private isCurrent = true

  constructor(
    private readonly database: Database,
    private readonly filename: string,
    private readonly mode: "wal" | "rollback" | "immutable"
  ) {
    this.file = statOf(filename)
    this.wal = mode === "wal" ? identityOf(walOf(filename)) : undefined
    this.walState = this.readWalState()
  }

  private readWalState(): WalState | undefined {
    const progress = this.mode === "wal" ? progressOf(this.database) : undefined
    return progress === undefined ? undefined : { ...progress, generation: generationOf(this.filename) }
  }

  /** Called after a commit of this connection, which may have run a checkpoint. */
  committed(): void {
    const stats = this.isCurrent ? statOf(this.filename) : undefined
    if (stats !== undefined && stats.mtimeMs !== this.file?.mtimeMs) {
      this.file = stats
      this.walState = this.readWalState()
    }
  }

  /** What was deleted, replaced or overwritten, if anything was. */
  changeOf(operation: "read" | "write" | "commit"): Change | undefined {
    const { file } = this
    const stats = file === undefined ? undefined : statOf(this.filename)
    if (file === undefined || stats === undefined) {
      return undefined
    }
    if (stats.ino !== file.ino || stats.dev !== file.dev) {
      return { reason: "the file was deleted, or replaced by another", code: fileMoved }
    }
    this.isCurrent = stats.mtimeMs === file.mtimeMs && stats.size === file.size
    return !this.isCurrent
      ? this.writtenChange(stats, operation)
      : operation === "write"
      ? undefined
      : this.walChange()
  }

  private walChange(): Change | undefined {
    if (this.wal === undefined || this.wal === none) {
      return undefined
    }
    const wal = identityOf(walOf(this.filename))
    // The WAL is rightly missing if another process has left WAL mode.
    return wal !== undefined && wal !== this.wal && journalModeOf(this.database) === "wal"
      ? { reason: "the file's WAL was deleted, or replaced by another", code: fileMoved }
      : undefined
  }

  /**
   * In WAL mode SQLite writes into the file only when it checkpoints, and then the WAL tells how far that has come. While a
   * checkpoint runs it does not tell yet, so a write waits until the file is left alone.
   */
  private writtenChange(stats: Fs.Stats, operation: "read" | "write" | "commit"): Change | undefined {
    if (this.mode === "immutable") {
      return { reason: "the file was opened as one that nobody changes, and was changed", code: fileMoved }
    }
    const state = operation === "commit" ? undefined : this.readWalState()
    if (state === undefined || this.walState === undefined || isCheckpointed(this.walState, state)) {
      if (operation !== "commit") {
        this.file = stats
        this.walState = state
      }
      return this.walChange()
    }
    if (Math.abs(Date.now() - stats.mtimeMs) < settled) {
      return operation === "write" ? { reason: "the file is being written", code: "SQLITE_BUSY" } : undefined
    }
    return {
      reason:
        "the file was overwritten by another program while it was open, and its WAL belongs to what was there before. " +
        `End every process that has it open, delete ${
          walOf(this.filename)
        } and ${this.filename}-shm, and restore again`,
      code: overwritten
    }
  }
}
