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
import type { Columns } from "./columns.js"
import type { Flight } from "./flight.js"

/** What a stream asks of its connection. */
export interface Options {
  readonly transformRows: (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined
  /** Whether a transaction is open; not known while something is under way. */
  readonly status: () => "outside" | "inside" | "busy"
  readonly wait: Effect.Effect<void, SqlError>
  readonly begin: Effect.Effect<void, SqlError>
  /** Opens the portal and reads its first rows. */
  readonly open: (rows: number) => Effect.Effect<Flight, SqlError>
  readonly read: (columns: Columns, rows: number) => Effect.Effect<Flight, SqlError>
  readonly close: Effect.Effect<void, DatabaseError>
  readonly commit: Effect.Effect<void, DatabaseError>
  readonly rollback: Effect.Effect<void, DatabaseError>
}

const fewestRows = 1
const firstRows = 32
const mostRows = 1_000
const growth = 8
/** A batch's size on the wire is kept below about this, however wide the rows are. */
const batchBytes = 512 * 1024

const nextRows = (rows: number, flight: Flight): number => {
  const received = flight.answer.rows.length
  if (received === 0) {
    return rows
  }
  const fitting = Math.floor(batchBytes / (flight.bytes / received))
  return Math.max(fewestRows, Math.min(mostRows, rows * growth, fitting))
}

/** The connection is for the stream alone unless a transaction is open. */
export const stream = (options: Options): Stream.Stream<object, SqlError> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    let own = false
    let asked = false
    let ended = false
    let columns: Columns | undefined = undefined
    let rows = firstRows

    const open: Effect.Effect<Flight, SqlError> = Effect.suspend(() => {
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
      const batch = columns === undefined ? open : options.read(columns, rows)
      return Effect.flatMap(Effect.mapError(batch, Option.some), (flight) => {
        const { rows: received } = flight.answer
        columns ??= flight.answer.columns
        rows = nextRows(rows, flight)
        ended = !flight.suspended
        const chunk = Chunk.unsafeFromArray<object>(options.transformRows?.(received) ?? received)
        return ended && own
          ? Effect.as(Effect.mapError(options.commit, (error) => Option.some(toSqlError(error))), chunk)
          : Effect.succeed(chunk)
      })
    })

    yield* Effect.addFinalizer((exit) => {
      if (!own) {
        // Also when nobody heard of its opening, because the stream was interrupted meanwhile.
        return asked ? Effect.ignore(options.close) : Effect.void
      }
      if (options.status() === "outside") {
        return Effect.void
      }
      return Exit.isSuccess(exit) ? commitEarly(options.commit) : Effect.ignore(options.rollback)
    })
    return Stream.repeatEffectChunkOption(pull)
  }))

// The consumer had enough before the end, and nothing can fail it any more: Stream drops what goes wrong afterwards.
const commitEarly = (commit: Options["commit"]): Effect.Effect<void> =>
  Effect.catchAll(
    Effect.interruptible(commit),
    (error) => Effect.logError(`a stream was closed before its end, and could not be committed: ${error.message}`)
  )
