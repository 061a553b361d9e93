/**
 * The rows of open streams.
 */
import Sqlite from "better-sqlite3"
import type { Batch } from "./protocol.js"

interface Cursor {
  rows: Iterator<unknown>
  /** Whether `rows` are still read from the database. */
  live: boolean
}

const batchSize = 512

/** What a statement throws that was told to stop. */
export const interrupted = (message = "interrupted"): Error => new Sqlite.SqliteError(message, "SQLITE_INTERRUPT")

function* followed(rows: ReadonlyArray<unknown>, rest: Iterator<unknown>): Generator<unknown, void, undefined> {
  yield* rows
  yield* { [Symbol.iterator]: () => rest } as Iterable<unknown>
}

function* nothing(): Generator<never, void, undefined> {}

function* failing(error: unknown): Generator<never, void, undefined> {
  throw error
}

/** The open streams of one connection, by their numbers. */
export class Cursors {
  readonly #stopped: () => boolean
  readonly #cursors = new Map<number, Cursor>()

  constructor(stopped: () => boolean) {
    this.#stopped = stopped
  }

  get size(): number {
    return this.#cursors.size
  }

  /** Opens a stream of rows that are already there, or come from the database, and gives its first batch. */
  open(id: number, rows: Array<unknown> | IterableIterator<unknown>): Batch {
    this.#cursors.set(id, { rows: rows[Symbol.iterator](), live: !Array.isArray(rows) })
    return this.next(id)
  }

  next(id: number): Batch {
    const cursor = this.#cursors.get(id)
    if (cursor === undefined) {
      throw interrupted("the stream has ended with its transaction")
    }
    const rows: Array<unknown> = []
    try {
      while (rows.length < batchSize) {
        if (this.#stopped()) {
          throw interrupted()
        }
        const next = cursor.rows.next()
        if (next.done === true) {
          this.#cursors.delete(id)
          return { rows, done: true }
        }
        rows.push(next.value)
      }
    } catch (error) {
      this.end(id)
      throw error
    }
    return { rows, done: false }
  }

  /** Nothing but reads can run while rows are being read from the database, so what is left of them is read now. */
  buffer(): void {
    for (const cursor of this.#cursors.values()) {
      if (cursor.live) {
        this.#bufferOne(cursor)
      }
    }
  }

  #bufferOne(cursor: Cursor): void {
    const { rows } = cursor
    const read: Array<unknown> = []
    let rest: Iterator<unknown> = rows
    try {
      while (cursor.live && !this.#stopped()) {
        const next = rows.next()
        if (next.done === true) {
          rest = nothing()
          cursor.live = false
        } else {
          read.push(next.value)
        }
      }
    } catch (error) {
      // It belongs to the stream, and not to the statement that had to wait for it.
      rest = failing(error)
      cursor.live = false
    }
    cursor.rows = followed(read, rest)
    if (cursor.live) {
      throw interrupted()
    }
  }

  end(id: number): void {
    const cursor = this.#cursors.get(id)
    this.#cursors.delete(id)
    cursor?.rows.return?.()
  }

  endAll(): void {
    for (const id of this.#cursors.keys()) {
      this.end(id)
    }
  }
}
