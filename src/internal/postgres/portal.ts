/**
 * A statement's rows as a stream: a portal on the server, read a batch at a time when the consumer asks for it.
 *
 * Inside a transaction other statements of it may run between two batches. Outside of one the stream has a transaction
 * of its own, since a portal lives no longer than its transaction: a stream that ends well commits, read to its end or
 * not, and one that fails or is interrupted rolls back. A commit that fails fails the stream where it is read to its end,
 * and is logged where it is not. What cannot run in a transaction (VACUUM) cannot be streamed.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import type { Exchange } from "./exchange.js"

/** What a stream asks of its connection. */
export interface Options {
  readonly transformRows: (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined
  /** Whether a transaction is open; not known while something is under way. */
  readonly status: () => "outside" | "inside" | "busy"
  readonly wait: Effect.Effect<void, SqlError>
  readonly begin: Effect.Effect<void, SqlError>
  /** Opens the portal and reads its first rows. */
  readonly open: (rows: number) => Effect.Effect<Batch, SqlError>
  /** Asks for more rows. */
  readonly read: (columns: RowDescription, rows: number) => Asked
  readonly close: Effect.Effect<void, DatabaseError>
  readonly commit: Effect.Effect<void, DatabaseError>
  readonly rollback: Effect.Effect<void, DatabaseError>
}

/** What was read at once. */
export interface Batch {
  readonly rows: ReadonlyArray<object>
  readonly columns: RowDescription | undefined
  /** Their size on the wire. */
  readonly bytes: number
  /** Whether there is no more to read. */
  readonly isLast: boolean
}

export const batchOf = ({ answer: { columns, rows }, bytes, suspended }: Exchange): Batch => ({
  rows,
  columns,
  bytes,
  isLast: !suspended
})

/** What was asked for, and may be waited for later. */
export interface Asked {
  /** To be waited for once. */
  readonly answer: Effect.Effect<Batch, SqlError>
  /** How long the answer took, in milliseconds. */
  readonly took: () => number
  /** For the case that nobody wants it any more: waits, not for long, since to cancel it would fail the transaction. */
  readonly settle: Effect.Effect<void>
}

const fewestRows = 1
const firstRows = 32
const mostRows = 1_000
const growth = 8
/** A batch's size on the wire is kept below about this, however wide the rows are. */
const batchBytes = 512 * 1024
/**
 * In milliseconds: where a batch takes longer, and after the first, the next one is asked for only when it is wanted, so
 * that nobody who has had enough waits for it.
 */
const quick = 50

const nextRows = (rows: number, batch: Batch): number => {
  const received = batch.rows.length
  if (received === 0) {
    return rows
  }
  const fitting = Math.floor(batchBytes / (batch.bytes / received))
  return Math.max(fewestRows, Math.min(mostRows, rows * growth, fitting))
}

/** The connection is for the stream alone unless a transaction is open. */
export const stream = (options: Options): Stream.Stream<object, SqlError> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    let own = false
    let asked = false
    let ended = false
    let columns: RowDescription | undefined = undefined
    let rows = firstRows
    /** The next batch, which the server reads while the consumer has this one. */
    let next: Asked | undefined = undefined

    const open: Effect.Effect<Batch, SqlError> = Effect.suspend(() => {
      const status = options.status()
      if (status === "busy") {
        return Effect.zipRight(options.wait, open)
      }
      asked = true
      own = status === "outside"
      return own ? Effect.zipRight(options.begin, options.open(rows)) : options.open(rows)
    })

    const pull = Effect.suspend(() => {
      if (ended) {
        return Effect.fail(Option.none())
      }
      const asking = columns === undefined ? undefined : next ?? options.read(columns, rows)
      next = undefined
      return Effect.flatMap(Effect.mapError(asking?.answer ?? open, Option.some), (batch) => {
        columns ??= batch.columns
        rows = nextRows(rows, batch)
        ended = batch.isLast
        // In a transaction of somebody else's, an error of rows that nobody asked for would be met by who knows not of it.
        if (own && columns !== undefined && asking !== undefined && !ended && asking.took() < quick) {
          next = options.read(columns, rows)
        }
        const chunk = Chunk.unsafeFromArray<object>(options.transformRows?.(batch.rows) ?? batch.rows)
        return ended && own
          ? Effect.as(Effect.mapError(options.commit, (error) => Option.some(toSqlError(error))), chunk)
          : Effect.succeed(chunk)
      })
    })

    const close = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => {
      if (!own) {
        // Also when nobody heard of its opening, because the stream was interrupted meanwhile.
        return asked ? Effect.ignore(options.close) : Effect.void
      }
      const rollback = Effect.ignore(options.rollback)
      return Exit.isSuccess(exit) && options.status() !== "outside"
        ? Effect.zipRight(commitEarly(options.commit), rollback)
        : rollback
    }

    yield* Effect.addFinalizer((exit) =>
      Effect.zipRight(
        Effect.suspend(() => next?.settle ?? Effect.void),
        Effect.suspend(() => close(exit))
      )
    )
    return Stream.repeatEffectChunkOption(pull)
  }))

// The consumer had enough before the end, and nothing can fail it any more: Stream drops what goes wrong afterwards.
const commitEarly = (commit: Options["commit"]): Effect.Effect<void> =>
  Effect.catchAll(
    Effect.interruptible(commit),
    (error) => Effect.logError(`a stream was closed before its end, and could not be committed: ${error.message}`)
  )
