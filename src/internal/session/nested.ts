/**
 * A session within another one of the same database: a savepoint.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Options, Session } from "../../Session.js"
import { within } from "./context.js"
import { answered, briefly, settled } from "./ending.js"
import { type Fail, tooStrong, unfinished } from "./errors.js"
import { judged, type Limit } from "./limit.js"
import { isolations } from "./options.js"
import type { Region } from "./region.js"
import { traced } from "./span.js"
import { Unit } from "./unit.js"

/** Where a session is nested, and what it was asked for. */
interface Nesting<A, E, E2> {
  readonly options: Options
  readonly parent: Unit
  /** The session, of whatever database, that its code is written inside of. */
  readonly outer: Unit | undefined
  readonly limit: Limit<A, E>
  readonly fail: Fail<E2>
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly region: Region
}

/** Whether there was no transaction any more: nothing is left to undo, and its commit fails. */
const isOver = ({ cause }: Exit.Failure<void, DatabaseError>): boolean =>
  Option.exists(Cause.failureOption(cause), ({ _tag }) => _tag === "TransactionAborted")

/** Runs an effect in a savepoint, when no other one is open beside it. */
export const nested = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  { fail, limit, options, outer, parent, region, spanAttributes }: Nesting<A, E | E2, E2>
): Effect.Effect<A, E | E2, Exclude<R, Session>> => {
  const { connection, dialect, lease } = parent
  const around = parent.root.options.isolation ?? "read committed"
  if (options.isolation !== undefined && isolations.indexOf(options.isolation) > isolations.indexOf(around)) {
    return Effect.fail(fail(tooStrong(options.isolation, around, dialect)))
  }
  const { restore } = region
  return Effect.uninterruptible(
    Effect.flatMap(parent.gate.hold(restore), () =>
      traced(options, spanAttributes, (span) => {
        const refusal = parent.refusal()
        if (refusal !== undefined) {
          return Effect.fail(fail(refusal))
        }
        const unit = new Unit(parent.owner, dialect, lease, parent.watched, options, parent, outer)
        span?.attribute("sqlayer.session.id", unit.id)
        const savepoint = parent.savepoint()
        const undo = briefly(connection, connection.rollbackToSavepoint(savepoint)).pipe(
          Effect.tap((exit) =>
            Effect.sync(() => {
              if (Exit.isFailure(exit) && !isOver(exit)) {
                connection.destroy()
              }
              parent.root.undoneHooks.push(...unit.rollbackHooks)
            })
          )
        )
        return Effect.flatMap(
          Effect.mapError(restore(connection.savepoint(savepoint)), fail),
          () =>
            within(restore, effect, unit, span, (exited): Effect.Effect<A, E | E2> => {
              const exit = judged(exited, limit)
              unit.end()
              return Effect.flatMap(settled(unit), (alone): Effect.Effect<A, E | E2> => {
                const refusal = parent.refusal()
                if (refusal !== undefined) {
                  // The session around it has ended, so the connection is no longer for it to use.
                  return Exit.isFailure(exit) ? exit : Effect.fail(fail(refusal))
                }
                if (Exit.isSuccess(exit) && !alone) {
                  return Effect.zipRight(undo, Effect.fail(fail(unfinished(unit, dialect))))
                }
                if (Exit.isFailure(exit) || unit.isRollbackOnly) {
                  return Effect.zipRight(
                    undo,
                    Effect.suspend(() => {
                      limit.ended = exit
                      return exit
                    })
                  )
                }
                const released = answered(
                  connection,
                  Effect.suspend(() => connection.releaseSavepoint(savepoint)),
                  region
                )
                return Effect.flatMap(released, (result): Effect.Effect<A, E | E2> => {
                  if (Exit.isFailure(result)) {
                    return Effect.zipRight(undo, Effect.failCause(Cause.map(result.cause, fail)))
                  }
                  parent.adopt(unit)
                  limit.ended = exit
                  return exit
                })
              })
            })
        )
      }).pipe(Effect.ensuring(Effect.sync(() => parent.gate.release()))))
  )
}
