/**
 * A session whose end is told explicitly.
 */
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Handle, Options } from "../../Session.js"
import { provide } from "./context.js"
import { timedOut } from "./errors.js"
import { limited } from "./timeout.js"
import { interruptible, type Interruptibility, regionOf } from "./interruptibility.js"
import { failedWith } from "./retry.js"
import type { Transaction } from "./transaction.js"

/** A session that has begun, and whose end is up to others. */
export interface Begun {
  /** Says whether it has ended. */
  readonly unit: Transaction
  /** The session that its code runs in: itself, or the one that it is a part of. */
  readonly inside: Transaction
  /** Keeps its work or undoes it. Done once. To be run uninterruptibly. */
  readonly finish: (
    exit: Exit.Exit<void, DatabaseError>,
    region: Interruptibility
  ) => Effect.Effect<Exit.Exit<void, DatabaseError>>
}

/** How it begins. */
export interface Beginning {
  /** To be run uninterruptibly. */
  readonly begin: (region: Interruptibility) => Effect.Effect<Begun, DatabaseError>
  /** What is done if it does not. */
  readonly neverBegan: (cause: Cause.Cause<DatabaseError>) => Effect.Effect<never, DatabaseError>
}

/** Ends it, of all who may at the same time the first. To be run uninterruptibly. */
const end = (
  { finish, unit }: Begun,
  exit: Exit.Exit<void, DatabaseError>,
  region: Interruptibility,
  commits: boolean
): Effect.Effect<void, DatabaseError> =>
  Effect.suspend(() => {
    if (!unit.end(failedWith(exit))) {
      return Effect.fail(unit.refusal()!)
    }
    unit.isRollbackOnly ||= !commits
    return Effect.flatten(finish(exit, region))
  })

/** Rolls back what has not ended. */
export const undo = (begun: Begun, region: Interruptibility, exit: Exit.Exit<void, DatabaseError> = Exit.void) =>
  Effect.uninterruptible(Effect.ignore(end(begun, exit, region, false)))

/** Begins within the session's timeout. To be run uninterruptibly. */
const inTime = (
  { begin, neverBegan }: Beginning,
  options: Options,
  around: Interruptibility,
  dialect: Dialect
): Effect.Effect<Begun, DatabaseError> => {
  const region = options.timeout === undefined ? around : interruptible
  let begun: Begun | undefined = undefined
  const work = Effect.tap(Effect.suspend(() => begin(region)), (made) =>
    Effect.sync(() => {
      begun = made
    }))
  return around.restore(
    limited(() => Effect.uninterruptible(work), options.timeout, () => timedOut(options, dialect))
  ).pipe(
    Effect.catchAllCause((cause) =>
      begun === undefined
        ? neverBegan(cause)
        // It began at the moment of the interruption.
        : Effect.zipRight(undo(begun, around, Exit.failCause(cause)), Exit.failCause(cause))
    )
  )
}

/** Begins a session, which lasts until it is told to end, its time is over, or its scope closes. */
export const acquired = (
  beginning: () => Beginning,
  options: Options,
  around: Interruptibility,
  dialect: Dialect
): Effect.Effect<Handle, DatabaseError, Scope.Scope> =>
  Effect.uninterruptible(Effect.gen(function*() {
    const clock = yield* Effect.clock
    const asked = clock.unsafeCurrentTimeMillis()
    const begun = yield* inTime(beginning(), options, around, dialect)
    yield* Effect.addFinalizer(() => undo(begun, around))
    if (options.timeout !== undefined) {
      const expire = Effect.suspend(() => undo(begun, around, Exit.fail(timedOut(options, dialect))))
      const left = Duration.subtract(options.timeout, Duration.millis(clock.unsafeCurrentTimeMillis() - asked))
      yield* Effect.forkScoped(Effect.interruptible(Effect.zipRight(Effect.sleep(left), expire)))
    }
    const { inside, unit } = begun
    return {
      id: inside.id,
      run: (effect) => Effect.suspend(() => provide(effect, unit.refusal() === undefined ? inside : unit)),
      // Whoever ends it may be in another region than where it began.
      commit: Effect.withFiberRuntime((_, { runtimeFlags }) =>
        Effect.uninterruptible(end(begun, Exit.void, regionOf(runtimeFlags), true))
      ),
      rollback: Effect.withFiberRuntime((_, { runtimeFlags }) => undo(begun, regionOf(runtimeFlags)))
    }
  }))

/** A part of the session around it, which fails to commit as long as one of those has not ended. */
export const joined = (options: Options, surrounding: Transaction, outer: Transaction | undefined): Beginning => ({
  begin: () =>
    Effect.sync(() => {
      const unit = surrounding.within(options, outer)
      surrounding.openParts++
      return {
        unit,
        inside: surrounding,
        finish: (exit) =>
          Effect.sync(() => {
            surrounding.openParts--
            if (unit.isRollbackOnly) {
              surrounding.rollbackOnly()
              return exit
            }
            const refusal = surrounding.refusal()
            return refusal === undefined ? exit : Exit.fail(refusal)
          })
      }
    }),
  neverBegan: Effect.failCause
})
