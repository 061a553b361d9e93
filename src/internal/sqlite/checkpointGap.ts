/**
 * Empties the WAL of a file when it has grown beyond a limit.
 *
 * A checkpoint copies the WAL into the file, but the WAL begins anew only when a writer finds no transaction that reads
 * from it: https://sqlite.org/wal.html#avoiding_excessively_large_wal_files. Transactions of readers that overlap leave
 * no such moment. Beyond the limit a gap is made: new transactions of the readers wait until the running ones have
 * ended, and then the writer empties the WAL between two transactions of its own. A gap ends after `maxGap` at the
 * latest. None is made while a transaction has been open for longer than that, since it would probably not end in time.
 */
import * as Fs from "node:fs"
import type { WalRecorder } from "../telemetry/recorders.js"
import type { Pragmas } from "./pragmas.js"
import { maxWalSize } from "./protocol.js"
import { walOf } from "./staleWal.js"

/** How long a gap may last, in milliseconds. */
const maxGap = 500

/**
 * The pause after a failed gap, in milliseconds: ten times the duration of the gap, so that transactions wait for a
 * tenth of the time at most. It doubles with each "busy" gap since the WAL was last emptied.
 */
const minPause = 100
const maxPause = 60_000

/** How long after a commit the size of the WAL is read, in milliseconds. */
const sizeDelay = 1_000

/** SQLite's default of wal_autocheckpoint, in pages. */
const defaultCheckpointPages = 1_000
const defaultPageSize = 4_096

/**
 * The size in bytes beyond which a gap is made: twice the largest of `maxWalSize`, the PRAGMA journal_size_limit, and
 * twice the size at which the WAL is checkpointed. Infinite if the application has turned checkpoints off.
 */
export const walLimit = (pragmas: Pragmas): number => {
  const pages = Number(pragmas.wal_autocheckpoint ?? defaultCheckpointPages)
  const checkpointed = pages * Number(pragmas.page_size ?? defaultPageSize)
  return pages <= 0 ? Infinity : 2 * Math.max(maxWalSize, Number(pragmas.journal_size_limit ?? 0), 2 * checkpointed)
}

/** The transactions of one connection that only reads. */
export class ReaderTransactions {
  /** When the open transaction began. */
  since: number | undefined
  /** The fiber that has begun it. */
  fiber: number | undefined

  constructor(private readonly onEnded: () => void) {}

  began(fiber: number | undefined): void {
    this.since = performance.now()
    this.fiber = fiber
  }

  ended(): void {
    if (this.since !== undefined) {
      this.since = undefined
      this.onEnded()
    }
  }
}

/** The outcome of a checkpoint. */
export type CheckpointResult =
  /** The WAL is empty. */
  | "emptied"
  /** A connection of another process, or of another database of this one, reads from the WAL or writes. */
  | "busy"
  /** The writer has an open transaction or stream. */
  | "inTransaction"

/** The connection that writes. */
export interface Writer {
  readonly isInTransaction: () => boolean
  /** Runs a checkpoint before all requests that come later. */
  readonly checkpoint: (onEnd: (result: CheckpointResult) => void) => void
}

/** The connections of one database to one file. */
export class CheckpointGap {
  /** The connection that has committed last. */
  private writer: Writer | undefined
  private readonly readers = new Set<ReaderTransactions>()
  /** The functions that continue the waiting transactions. */
  private readonly waiting = new Set<() => void>()
  /** Ends the gap that is being made. */
  private timer: NodeJS.Timeout | undefined
  private isCheckpointing = false
  private size = 0
  private begunAt = 0
  private notBefore = 0
  /** How many gaps have failed with "busy" since the WAL was last emptied. */
  private busyCount = 0
  private sizeTimer: NodeJS.Timeout | undefined

  constructor(
    private readonly filename: string,
    /** See `walLimit`. */
    private readonly limit: number,
    private readonly recorder: WalRecorder,
    private readonly maxDuration = maxGap
  ) {}

  /** Called when a connection is closed. */
  closed(writer: Writer): void {
    if (this.writer === writer) {
      this.writer = undefined
      clearTimeout(this.sizeTimer)
      this.sizeTimer = undefined
      this.end()
      this.recorder.size(0)
    }
  }

  /** Adds a connection that only reads, until it has ended. */
  addReader(ended: Promise<void>): ReaderTransactions {
    const reader = new ReaderTransactions(() => this.transactionEnded())
    this.readers.add(reader)
    const onEnded = () => {
      this.readers.delete(reader)
      reader.ended()
    }
    void ended.then(onEnded)
    return reader
  }

  /**
   * Called before a transaction of a reader begins. Undefined if it need not wait. Otherwise `onEnd` is called when the
   * gap has ended, unless the returned function has ended the wait before. A fiber that has another transaction open
   * does not wait, since the gap may be waiting for that one.
   */
  wait(fiber: number | undefined, onEnd: () => void): (() => void) | undefined {
    if (this.timer === undefined || this.isOpenIn(fiber)) {
      return undefined
    }
    this.timer.ref()
    this.waiting.add(onEnd)
    return () => {
      this.waiting.delete(onEnd)
      if (this.waiting.size === 0) {
        this.timer?.unref()
      }
    }
  }

  /** Called after each commit, with the size that the WAL had right before, in bytes. */
  written(writer: Writer, size: number): void {
    this.writer = writer
    this.size = size
    this.sizeTimer ??= setTimeout(() => this.readSize(), sizeDelay).unref()
    this.transactionEnded()
  }

  private isOpenIn(fiber: number | undefined): boolean {
    if (fiber !== undefined) {
      for (const reader of this.readers) {
        if (reader.since !== undefined && reader.fiber === fiber) {
          return true
        }
      }
    }
    return false
  }

  /** Reads the size of the WAL after the last commits. */
  private readSize(): void {
    this.sizeTimer = undefined
    Fs.stat(walOf(this.filename), (error, stats) => {
      if (this.writer !== undefined) {
        this.size = error === null ? stats.size : 0
        this.recorder.size(this.size)
        this.transactionEnded()
      }
    })
  }

  private transactionEnded(): void {
    if (this.timer !== undefined) {
      this.checkpoint()
    } else if (this.size > this.limit) {
      this.begin()
    }
  }

  private begin(): void {
    const now = performance.now()
    if (this.writer === undefined || this.writer.isInTransaction() || now < this.notBefore) {
      return
    }
    for (const { since } of this.readers) {
      if (since !== undefined && now - since > this.maxDuration) {
        return
      }
    }
    this.begunAt = now
    this.timer = setTimeout(() => this.failed("readers"), this.maxDuration).unref()
    this.checkpoint()
  }

  /** Runs the checkpoint unless a transaction is open. */
  private checkpoint(): void {
    const { timer, writer } = this
    if (writer === undefined || this.isCheckpointing || writer.isInTransaction()) {
      return
    }
    for (const { since } of this.readers) {
      if (since !== undefined) {
        return
      }
    }
    this.isCheckpointing = true
    writer.checkpoint((result) => {
      this.isCheckpointing = false
      if (result === "emptied") {
        this.size = 0
        this.busyCount = 0
        this.recorder.size(0)
        this.recorder.gap(result)
        this.end()
      } else if (result === "busy" && this.timer === timer && timer !== undefined) {
        this.failed(result)
        this.busyCount++
      }
    })
  }

  private failed(outcome: "readers" | "busy"): void {
    const now = performance.now()
    const pause = Math.max(minPause, 10 * (now - this.begunAt)) * 2 ** this.busyCount
    this.notBefore = now + Math.min(pause, maxPause)
    this.recorder.gap(outcome)
    this.end()
  }

  private end(): void {
    clearTimeout(this.timer)
    this.timer = undefined
    const waiting = Array.from(this.waiting)
    this.waiting.clear()
    waiting.forEach((onEnd) => onEnd())
  }
}
