/**
 * A session within another one of the same database: a savepoint.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Session } from "../../Session.js"
import { type Beginning, type Begun, undo } from "./handle.js"
import { within } from "./context.js"
import { answered, briefly, decided } from "./commit.js"
import type { Fail } from "./errors.js"
import { judged, type Timeout } from "./timeout.js"
import type { Interruptibility } from "./interruptibility.js"
import { traced } from "./span.js"
import type { Transaction } from "./transaction.js"

/** Where a session is nested, and what it was asked for. */
export interface Nesting {
  readonly options: Options
  readonly parent: Transaction
  /** The session, of whatever database, that its code is written inside of. */
  readonly outer: Transaction | undefined
}

/** A session that is nested, and the savepoint that it is. */
interface Level {
  readonly unit: Transaction
  readonly parent: Transaction
  readonly savepoint: string
}

/** Sets a savepoint, when no other one is open beside it. To be run uninterruptibly. */
const begin = ({ options, outer, parent }: Nesting, { restore }: Interruptibility): Effect.Effect<Level, DatabaseError> => {
  const ifAllowed = <A>(goOn: () => Effect.Effect<A, DatabaseError>) =>
    Effect.suspend(() => {
      const refusal = parent.refusal()
      return refusal === undefined ? goOn() : Effect.fail(refusal)
    })
  return ifAllowed(() => {
    const savepoint = parent.savepoint()
    return Effect.zipRight(
      restore(parent.connection.savepoint(savepoint)),
      ifAllowed(() => Effect.succeed({ unit: parent.within(options, outer), parent, savepoint }))
    )
  })
}

/** Whether there was no transaction any more: nothing is left to undo, and its commit fails. */
const isOver = ({ cause }: Exit.Failure<void, DatabaseError>): boolean =>
  Option.exists(Cause.failureOption(cause), ({ _tag }) => _tag === "TransactionAborted")

/** Releases a savepoint or rolls back to it, as long as the connection is for the session around it to use. */
const end = <A, E>(
  { parent, savepoint, unit }: Level,
  exit: Exit.Exit<A, E>,
  fail: Fail<E>,
  region: Interruptibility
): Effect.Effect<Exit.Exit<A, E>> => {
  const { connection } = parent
  const rollBack = Effect.suspend(() =>
    Effect.map(briefly(connection, connection.rollbackToSavepoint(savepoint)), (result) => {
      if (Exit.isFailure(result) && !isOver(result)) {
        connection.destroy()
      }
    })
  )
  const undo = (exit: Exit.Exit<A, E>): Effect.Effect<Exit.Exit<A, E>> => {
    const refusal = parent.refusal()
    return Effect.map(refusal === undefined ? rollBack : Effect.void, () => {
      parent.root.undoneHooks.push(...unit.rollbackHooks)
      return refusal === undefined || Exit.isFailure(exit) ? exit : Exit.fail(fail(refusal))
    })
  }
  const release = Effect.suspend(() => connection.releaseSavepoint(savepoint))
  const keep = (): Effect.Effect<Exit.Exit<A, E>> =>
    parent.refusal() === undefined
      ? Effect.flatMap(answered(connection, release, region), (result) => {
        if (Exit.isFailure(result)) {
          return undo(Exit.failCause(Cause.map(result.cause, fail)))
        }
        parent.adopt(unit)
        return Effect.succeed(exit)
      })
      : undo(exit)
  return decided(unit, exit, fail, keep, undo)
}

/** What an effect is run with in a savepoint. */
interface Running<A, E, E2> extends Nesting {
  readonly limit: Timeout<A, E>
  readonly fail: Fail<E2>
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly region: Interruptibility
}

/** Runs an effect in a savepoint. */
export const nested = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  running: Running<A, E | E2, E2>
): Effect.Effect<A, E | E2, Exclude<R, Session>> => {
  const { fail, limit, options, parent: { connectionLock }, region, spanAttributes } = running
  return Effect.uninterruptible(
    Effect.flatMap(
      connectionLock.hold(region.restore),
      () =>
        traced(
          options,
          spanAttributes,
          (span) =>
            Effect.flatMap(Effect.mapError(begin(running, region), fail), (level) => {
              span?.attribute("sqlayer.session.id", level.unit.id)
              return within(region.restore, effect, level.unit, span, (exit) =>
                Effect.flatMap(end<A, E | E2>(level, judged(exit, limit), fail, region), (exit) => {
                  limit.ended = exit
                  return exit
                }))
            })
        ).pipe(Effect.ensuring(Effect.sync(() => connectionLock.release())))
    )
  )
}

/** A savepoint whose end is told explicitly, by the fiber that holds it or by others. */
export const nestedByHand = (nesting: Nesting, fiber: FiberId.FiberId): Beginning => {
  const { connectionLock } = nesting.parent
  const release = Effect.sync(() => connectionLock.release())
  return {
    begin: (region) =>
      Effect.flatMap(connectionLock.hold(region.restore), () =>
        Effect.matchCauseEffect(begin(nesting, region), {
          onFailure: (cause) => Effect.zipRight(release, Effect.failCause(cause)),
          onSuccess: (level) => {
            const begun: Begun = {
              unit: level.unit,
              inside: level.unit,
              finish: (exit, region) => Effect.ensuring(end(level, exit, (error) => error, region), release)
            }
            connectionLock.holder = { fiber, leave: undo(begun, region) }
            return Effect.succeed(begun)
          }
        })),
    neverBegan: Effect.failCause
  }
}
