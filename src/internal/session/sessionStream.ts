/**
 * A session that lasts as long as a stream: each pull of the stream runs inside of it, and the end of the stream
 * commits it. If the stream fails, is interrupted or is not read to its end, the session is rolled back.
 */
import * as Cause from "effect/Cause"
import type * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Restore } from "../../Pool.js"
import { raceFirst } from "../raceFirst.js"
import { toDatabaseError } from "../telemetry/errorType.js"
import { runInside } from "./context.js"
import { failDefect } from "./errors.js"
import { end, type OpenHandle, openHandle, type OpenOptions, rollback } from "./handle.js"
import { type Interruptibility, interruptibilityOf } from "./interruptibility.js"
import { recordId } from "./span.js"

type Pull<A, E, R> = Effect.Effect<Chunk.Chunk<A>, Option.Option<E>, R>

/** How a pull without a chunk ends its stream. An SqlError becomes the DatabaseError that it carries. */
const streamExit = <E>(cause: Cause.Cause<Option.Option<E>>): Exit.Exit<void, E | DatabaseError> => {
  if (Cause.isFailType(cause) && Option.isNone(cause.error)) {
    return Exit.void
  }
  const failure = Cause.flatMap(
    cause,
    (error) => Option.isSome(error) ? Cause.fail(toDatabaseError(error.value) ?? error.value) : Cause.empty
  )
  return failDefect(Exit.failCause(failure), (error) => error)
}

/** Rolls back. The exit may be any that a scope closes with: it is only for the log and the metrics. */
const undo = (
  handle: OpenHandle,
  exit: Exit.Exit<unknown, unknown>,
  interruptibility: Interruptibility
): Effect.Effect<void> => rollback(handle, interruptibility, Exit.asVoid(exit) as Exit.Exit<void, DatabaseError>)

/**
 * Opens the session of a stream until the scope closes, and gives a pull inside of it. Must be run uninterruptibly.
 *
 * The pulls run in the fibers of the stream's consumer. Those of a session with a timeout run in fibers of their own, which
 * the timeout interrupts even where the consumer is uninterruptible.
 */
export const openSessionStream = <A, E, R>(
  stream: Stream.Stream<A, E, R>,
  openOptions: OpenOptions
): Effect.Effect<Pull<A, E | DatabaseError, R>, DatabaseError, Scope.Scope | R> =>
  Effect.gen(function*() {
    const { caller, options, span } = openOptions
    const streamScope = yield* Scope.make()
    const source = yield* Scope.extend(Stream.toPull(stream), streamScope)
    const expiry = yield* Deferred.make<never, Option.Option<DatabaseError>>()
    let expired: DatabaseError | undefined = undefined
    let isPulling = false
    let hasCommitted = false

    const inside = <A2, E2, R2, A3, E3>(
      { target, transaction }: OpenHandle,
      restore: Restore,
      effect: Effect.Effect<A2, E2, R2>,
      onExit: (exit: Exit.Exit<A2, E2>) => Effect.Effect<A3, E3>
    ) =>
      Effect.suspend(() =>
        runInside(restore, effect, transaction.endReason() === undefined ? target : transaction, span, onExit)
      )

    /** Runs the stream's finalizers, which may use the session. They run once. To them, a timeout is an interruption. */
    const closeStream = (handle: OpenHandle, exit: Exit.Exit<unknown, unknown>) =>
      inside(handle, Effect.uninterruptible, Scope.close(streamScope, exit), Effect.succeed)

    const handle = yield* openHandle(
      openOptions,
      (handle, error) => {
        expired = error
        // A running pull is interrupted, and ends the session.
        return Effect.zipRight(
          Deferred.fail(expiry, Option.some(error)),
          Effect.suspend(() => isPulling ? Effect.void : undo(handle, Exit.fail(error), caller))
        )
      },
      (handle, exit) =>
        Effect.flatMap(closeStream(handle, exit), (closed) => Effect.zipRight(undo(handle, exit, caller), closed))
    )

    // Now that the session is sure to end, also if the tracer throws.
    recordId(span, handle.transaction.id)

    const endWith = (
      exit: Exit.Exit<void, E | DatabaseError>,
      interruptibility: Interruptibility
    ): Effect.Effect<never, Option.Option<E | DatabaseError>> =>
      Effect.flatMap(closeStream(handle, expired === undefined ? exit : Exit.interrupt(FiberId.none)), (closed) => {
        const result = Exit.zipRight(closed, exit)
        const ended = Exit.isSuccess(result)
          ? end(handle, Exit.void, interruptibility, true)
          : Effect.zipRight(undo(handle, result, interruptibility), result)
        return Effect.matchCauseEffect(ended, {
          onSuccess: () => {
            hasCommitted = true
            return Effect.fail(Option.none())
          },
          onFailure: (cause) => Effect.failCause(Cause.map(cause, Option.some))
        })
      })

    const pull = options.timeout === undefined ? source : raceFirst(source, Deferred.await(expiry))
    return Effect.withFiberRuntime((_, { runtimeFlags }) => {
      const ended = hasCommitted ? Option.none() : Option.fromNullable(handle.transaction.endReason())
      if (hasCommitted || Option.isSome(ended)) {
        return Effect.fail(ended)
      }
      const interruptibility = interruptibilityOf(runtimeFlags)
      isPulling = true
      return Effect.uninterruptible(inside(handle, interruptibility.restore, pull, (exit) => {
        isPulling = false
        return expired !== undefined
          ? endWith(Exit.fail(expired), interruptibility)
          : Exit.isSuccess(exit)
          ? exit
          : endWith(streamExit<E | DatabaseError>(exit.cause), interruptibility)
      }))
    })
  })
