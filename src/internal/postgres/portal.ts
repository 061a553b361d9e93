/**
 * The cursor of a statement: opens a portal on the server and fetches a batch at a time as the consumer pulls.
 *
 * Inside a transaction, its other statements may run between two batches. Outside of one, the stream has a transaction of
 * its own, since a portal ends with its transaction. It is committed if the stream ends with success, whether or not all
 * rows were read, and is rolled back if the stream fails or is interrupted. A commit that fails makes the stream fail if
 * all rows were read, and is logged otherwise. A statement that cannot run in a transaction (VACUUM) cannot be streamed.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Pull } from "../driver.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import type { Completed } from "./types/lookUp.js"

/** What a cursor does on its connection. */
export interface Options {
  /**
   * Opens the portal and fetches its first rows, in a transaction of its own if none is open when it is sent. Calls
   * `onSend` at that moment, with whether a stream has begun the transaction.
   */
  readonly open: (
    maxRows: number,
    onSend: (ownsTransaction: boolean) => void
  ) => Effect.Effect<Batch, SqlError>
  /** Requests the next rows at once. */
  readonly read: (rowDescription: RowDescription, maxRows: number) => BatchRequest
  /** Closes the portal, without a round trip. */
  readonly close: Effect.Effect<void>
  /** Whether the transaction in which it was opened is open. */
  readonly isInTransaction: () => boolean
  /** Commits a transaction of its own, or leaves it to the other streams that use it. */
  readonly commit: Effect.Effect<void, DatabaseError>
  readonly rollback: Effect.Effect<void, DatabaseError>
}

/** The rows of one fetch. */
export interface Batch {
  readonly rows: ReadonlyArray<object>
  readonly rowDescription: RowDescription | undefined
  /** The size of the rows as received, in bytes. */
  readonly rowBytes: number
  /** Whether the portal has no more rows. */
  readonly isLast: boolean
}

export const batchOf = ({ isSuspended, result: { rowDescription, rows }, rowBytes }: Completed): Batch => ({
  rows,
  rowDescription,
  rowBytes,
  isLast: !isSuspended
})

/** A batch that was requested and may be awaited later. */
export interface BatchRequest {
  /** To be run once at most. */
  readonly batch: Effect.Effect<Batch, SqlError>
  /** How long the batch took, in milliseconds. */
  readonly duration: () => number
  /**
   * To be run instead of `batch` when the stream ends. Gives the batch a short time to arrive before it cancels it, since
   * a cancellation fails the transaction.
   */
  readonly release: Effect.Effect<void>
}

const minRows = 1
const firstRows = 32
const maxRows = 1_000
const growthFactor = 8
/** The number of rows is chosen so that a batch stays below about this size. */
const maxBatchBytes = 512 * 1024
/**
 * The next batch is requested ahead only if the last one took less than this, in milliseconds, so that a consumer that
 * stops early does not wait for a slow one. The second batch is never requested ahead.
 */
const maxReadAheadDuration = 50

const nextBatchSize = (size: number, batch: Batch): number => {
  const received = batch.rows.length
  if (received === 0) {
    return size
  }
  const fitting = Math.floor(maxBatchBytes / (batch.rowBytes / received))
  return Math.max(minRows, Math.min(maxRows, size * growthFactor, fitting))
}

/** Unless a transaction is open, the connection must be used by the cursor alone. */
export const cursor = (options: Options): Effect.Effect<Pull, never, Scope.Scope> =>
  Effect.gen(function*() {
    let ownsTransaction = false
    let isOpen = false
    let isExhausted = false
    let rowDescription: RowDescription | undefined = undefined
    let batchSize = firstRows
    /** The next batch, if it was requested ahead. */
    let next: BatchRequest | undefined = undefined

    const open = Effect.suspend(() =>
      options.open(batchSize, (owns) => {
        isOpen = true
        ownsTransaction = owns
      })
    )

    const pull = Effect.suspend(() => {
      if (isExhausted) {
        return Effect.fail(Option.none())
      }
      const request = rowDescription === undefined ? undefined : next ?? options.read(rowDescription, batchSize)
      next = undefined
      return Effect.flatMap(Effect.mapError(request?.batch ?? open, Option.some), (batch) => {
        rowDescription ??= batch.rowDescription
        batchSize = nextBatchSize(batchSize, batch)
        isExhausted = batch.isLast
        // Not in a surrounding transaction: an error of rows that the consumer never asks for would abort it.
        if (
          ownsTransaction && rowDescription !== undefined && request !== undefined && !isExhausted &&
          request.duration() < maxReadAheadDuration
        ) {
          next = options.read(rowDescription, batchSize)
        }
        return isExhausted && ownsTransaction
          ? Effect.as(Effect.mapError(options.commit, (error) => Option.some(toSqlError(error))), batch.rows)
          : Effect.succeed(batch.rows)
      })
    })

    const close = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => {
      if (!ownsTransaction) {
        // `isOpen` is set before the answer, so this closes the portal also if the stream was interrupted meanwhile.
        return isOpen ? options.close : Effect.void
      }
      const rollback = Effect.ignore(options.rollback)
      const ended = Exit.isSuccess(exit) && options.isInTransaction()
        ? Effect.zipRight(commitEarly(options.commit), rollback)
        : rollback
      return Effect.zipRight(ended, options.close)
    }

    yield* Effect.addFinalizer((exit) =>
      Effect.zipRight(
        Effect.suspend(() => next?.release ?? Effect.void),
        Effect.suspend(() => close(exit))
      )
    )
    return pull
  })

/** For a consumer that stops before the end. Stream ignores the failure of a finalizer, so it is logged. */
const commitEarly = (commit: Options["commit"]): Effect.Effect<void> =>
  Effect.catchAll(
    Effect.interruptible(commit),
    (error) => Effect.logError(`a stream was closed before its end, and could not be committed: ${error.message}`)
  )
