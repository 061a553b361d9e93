/**
 * The watchdog over effects that run uninterruptibly on a connection, such as COMMIT, ROLLBACK and their savepoint forms:
 * a connection on which one of them takes too long is destroyed. One timer serves all sessions, so that none needs a timer
 * or a fiber of its own, and an interruption cannot hit such a fiber in place of the session's.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { currentFiber, isInterrupted } from "./fiber.js"

/**
 * Milliseconds between two checks, and how many checks a statement may outlast: half a second in all. Checks are counted
 * rather than time, so that an event loop that was blocked does not use up the half second.
 */
const checkInterval = 50
const maxChecks = 10

/** What is destroyed if it takes too long. */
interface Destroyable {
  readonly destroy: () => void
}

/** What may be interrupted: a session. */
interface Interruptible {
  readonly isInterrupted: boolean
}

interface Watch {
  readonly connection: Destroyable
  /** Whether checks count. */
  readonly isCounting: () => boolean
  checks: number
}

const watches = new Set<Watch>()
let timer: NodeJS.Timeout | undefined = undefined

/** Destroying a connection makes whatever runs on it fail at once. */
const check = (): void => {
  timer = undefined
  for (const watch of watches) {
    if (watch.isCounting() && ++watch.checks > maxChecks) {
      watches.delete(watch)
      watch.connection.destroy()
    }
  }
  if (watches.size > 0) {
    schedule()
  }
}

const schedule = (): void => {
  timer = setTimeout(check, checkInterval)
  // The connection's socket keeps the process alive, if anything has to.
  timer.unref()
}

/** Runs an effect on a connection under the watchdog. */
const withWatchdog = <E>(
  connection: Destroyable,
  effect: Effect.Effect<void, E>,
  isCounting: () => boolean
): Effect.Effect<Exit.Exit<void, E>> =>
  Effect.suspend(() => {
    const watch: Watch = { connection, isCounting, checks: 0 }
    watches.add(watch)
    if (timer === undefined) {
      schedule()
    }
    return Effect.matchCause(effect, {
      onSuccess: () => {
        watches.delete(watch)
        return Exit.void
      },
      onFailure: (cause) => {
        watches.delete(watch)
        return Exit.failCause(cause)
      }
    })
  })

/** Runs an effect on a connection, which is destroyed if that takes longer than half a second. */
export const bounded = <E>(
  connection: Destroyable,
  effect: Effect.Effect<void, E>
): Effect.Effect<Exit.Exit<void, E>> => withWatchdog(connection, effect, () => true)

/**
 * Runs an effect on a connection, for as long as it takes while its fiber is not interrupted, and for half a second
 * longer once it is, or its session. The fiber of a stream does not know that its consumer was interrupted while it runs
 * finalizers. Must be run uninterruptibly, by the fiber that calls this.
 */
export const boundedAfterInterrupt = <E>(
  connection: Destroyable,
  effect: Effect.Effect<void, E>,
  { isInterruptible }: { readonly isInterruptible: boolean } = { isInterruptible: true },
  session?: Interruptible
): Effect.Effect<Exit.Exit<void, E>> => {
  if (!isInterruptible && session === undefined) {
    return Effect.exit(effect)
  }
  const fiber = isInterruptible ? currentFiber() : undefined
  return withWatchdog(connection, effect, () => isInterrupted(fiber) || session?.isInterrupted === true)
}
