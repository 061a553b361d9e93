/**
 * The open streams of a connection.
 */
import { SqliteError } from "./binding.js"
import type { Batch } from "./protocol.js"

interface Cursor {
  rows: Iterator<unknown>
  /** Whether `rows` steps a statement that is still open in the database. */
  live: boolean
}

const batchSize = 512

/** The error of a canceled statement. */
export const interruptedError = (message = "interrupted"): Error => new SqliteError(message, "SQLITE_INTERRUPT")

function* concat(rows: ReadonlyArray<unknown>, rest: Iterator<unknown>): Generator<unknown, void, undefined> {
  yield* rows
  yield* { [Symbol.iterator]: () => rest } as Iterable<unknown>
}

function* empty(): Generator<never, void, undefined> {}

function* failing(error: unknown): Generator<never, void, undefined> {
  throw error
}

/** The open streams of one connection, by number. */
export class Cursors {
  private readonly cursors = new Map<number, Cursor>()

  constructor(private readonly isCanceled: () => boolean) {}

  get size(): number {
    return this.cursors.size
  }

  /** Opens a stream over rows that were already read, or over the iterator of a statement, and reads its first batch. */
  open(id: number, rows: Array<unknown> | IterableIterator<unknown>): Batch {
    this.cursors.set(id, { rows: rows[Symbol.iterator](), live: !Array.isArray(rows) })
    return this.next(id)
  }

  next(id: number): Batch {
    const cursor = this.cursors.get(id)
    if (cursor === undefined) {
      throw interruptedError("the stream has ended with its transaction")
    }
    const rows: Array<unknown> = []
    try {
      while (rows.length < batchSize) {
        if (this.isCanceled()) {
          throw interruptedError()
        }
        const next = cursor.rows.next()
        if (next.done === true) {
          this.cursors.delete(id)
          return { rows, done: true }
        }
        rows.push(next.value)
      }
    } catch (error) {
      this.close(id)
      throw error
    }
    return { rows, done: false }
  }

  /**
   * Reads the remaining rows of every open stream into memory. better-sqlite3 refuses to write on a connection while a
   * statement is being iterated.
   */
  buffer(): void {
    for (const cursor of this.cursors.values()) {
      if (cursor.live) {
        this.bufferCursor(cursor)
      }
    }
  }

  private bufferCursor(cursor: Cursor): void {
    const { rows } = cursor
    const buffered: Array<unknown> = []
    let rest: Iterator<unknown> = rows
    try {
      while (cursor.live && !this.isCanceled()) {
        const next = rows.next()
        if (next.done === true) {
          rest = empty()
          cursor.live = false
        } else {
          buffered.push(next.value)
        }
      }
    } catch (error) {
      // The stream fails with this when it gets there. The statement that made it buffer is not affected.
      rest = failing(error)
      cursor.live = false
    }
    cursor.rows = concat(buffered, rest)
    if (cursor.live) {
      throw interruptedError()
    }
  }

  close(id: number): void {
    const cursor = this.cursors.get(id)
    this.cursors.delete(id)
    cursor?.rows.return?.()
  }

  closeAll(): void {
    for (const id of this.cursors.keys()) {
      this.close(id)
    }
  }
}
