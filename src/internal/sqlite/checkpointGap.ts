/**
 * Empties the WAL of a file when it has grown beyond a limit.
 *
 * A checkpoint copies the WAL into the file, but the WAL begins anew only when a writer finds no transaction that reads from
 * it: https://sqlite.org/wal.html#avoiding_excessively_large_wal_files. Transactions of readers that overlap leave no such
 * moment. Beyond the limit a gap is made: new transactions of the readers wait until the running ones have ended, and then
 * the writer empties the WAL between two transactions of its own. A gap ends after `maxGap` whatever happens, and none is made
 * while a transaction is open that is older: that one would not end in time either.
 */
import * as Fs from "node:fs"
import type { WalRecorder } from "../telemetry/recorders.js"
import type { Pragmas } from "./pragmas.js"
import { maxWalSize } from "./protocol.js"
import { walOf } from "./staleWal.js"

/** How long a gap may last, in milliseconds. */
const maxGap = 500

/**
 * The pause after a gap in vain, in milliseconds: ten times what the gap took, so that transactions wait a tenth of the time at
 * most. It doubles each time that other processes are in the way.
 */
const minPause = 100
const maxPause = 60_000

/** How long after a commit the size of the WAL is looked at, in milliseconds. */
const lookDelay = 1_000

/** SQLite's default of wal_autocheckpoint, in pages. */
const defaultCheckpointPages = 1_000
const defaultPageSize = 4_096

/**
 * The size in bytes beyond which a gap is made: twice what the WAL keeps when it begins anew, or has when it is checkpointed.
 * Infinite if the application has turned checkpoints off.
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

/** What has become of a checkpoint. */
export type CheckpointResult =
  /** The WAL is empty. */
  | "emptied"
  /** A connection of another process, or of another database of this one, reads from the WAL or writes. */
  | "busy"
  /** The writer has begun a transaction or a stream before. */
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
  /** Continue the transactions that wait. */
  private readonly waiting = new Set<() => void>()
  /** Ends the gap that is being made. */
  private timer: NodeJS.Timeout | undefined
  private isCheckpointing = false
  private size = 0
  private begunAt = 0
  private notBefore = 0
  /** How often in succession other processes were in the way. */
  private busyCount = 0
  private lookTimer: NodeJS.Timeout | undefined

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
      clearTimeout(this.lookTimer)
      this.lookTimer = undefined
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
   * Called before a transaction of a reader begins. Undefined if it need not wait. Otherwise `onEnd` is called when the gap has
   * ended, unless the effect of the result ends the wait before. A fiber that has a transaction open, which may be one that the
   * gap waits for, does not wait.
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
    this.lookTimer ??= setTimeout(() => this.look(), lookDelay).unref()
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

  /** Looks at the size after the last commits. */
  private look(): void {
    this.lookTimer = undefined
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

  /** Runs the checkpoint if nothing is in its way. */
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
