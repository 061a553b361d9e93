/**
 * Who may use the one connection of a sandbox. Savepoints are a stack, so only what is begun last may speak, and it is
 * one at a time that does: nothing ever waits within the connection itself.
 */
import * as Effect from "effect/Effect"
import type { Restore } from "../../Pool.js"
import { stoppable } from "../asyncInterrupt.js"

/** Whether it is one's turn; `gone` where it never will be. */
export type Readiness = "ready" | "waiting" | "gone"

interface Waiter {
  readonly readiness: () => Readiness
  readonly resume: (admitted: boolean) => void
}

export class Turns {
  private held = false
  private readonly queue: Array<Waiter> = []

  /** Runs an effect when it is its turn, or the other one if that will never be. What waits can be interrupted. */
  take<A, E>(
    readiness: () => Readiness,
    effect: (restore: Restore) => Effect.Effect<A, E>,
    gone: Effect.Effect<A, E>,
    urgent = false
  ): Effect.Effect<A, E> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        this.enter(readiness, restore, urgent),
        (admitted) => admitted ? Effect.ensuring(effect(restore), Effect.sync(() => this.leave())) : restore(gone)
      )
    )
  }

  private enter(readiness: () => Readiness, restore: Restore, urgent: boolean): Effect.Effect<boolean> {
    return Effect.suspend(() => {
      let mine = false
      return Effect.onInterrupt(
        restore(stoppable<boolean, never>((resume) => {
          const waiter: Waiter = {
            readiness,
            resume: (admitted) => {
              mine = admitted
              resume(Effect.succeed(admitted))
            }
          }
          this.queue[urgent ? "unshift" : "push"](waiter)
          this.next()
          return Effect.sync(() => {
            const at = this.queue.indexOf(waiter)
            if (at >= 0) {
              this.queue.splice(at, 1)
            }
          })
        })),
        () => Effect.sync(() => mine && this.leave())
      )
    })
  }

  private leave(): void {
    this.held = false
    this.next()
  }

  /** Lets the first of those go on whose turn it is, and those whose turn will never be. */
  private next(): void {
    for (const waiter of Array.from(this.queue)) {
      const readiness = waiter.readiness()
      const admitted = readiness === "ready" && !this.held
      if (admitted || readiness === "gone") {
        this.held ||= admitted
        this.queue.splice(this.queue.indexOf(waiter), 1)
        waiter.resume(admitted)
      }
    }
  }
}
