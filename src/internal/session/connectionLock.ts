/**
 * Who may use a session's connection: its own statements, or one nested session at a time, first come first served.
 * Savepoints are a stack, so whatever else ran inside a nested session would be rolled back with it.
 */
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import { stoppable } from "../asyncInterrupt.js"

interface Waiter {
  readonly exclusive: boolean
  readonly resume: () => void
}

/** Who holds it as long as they like. */
export interface Holder {
  readonly fiber: FiberId.FiberId
  /** Lets go of it, unless that is happening. */
  readonly leave: Effect.Effect<void>
}

export class ConnectionLock {
  /** Of a nested session that was acquired, and not of one that ends with its effect. */
  holder: Holder | undefined = undefined
  private held = false
  private readonly queue: Array<Waiter> = []

  /** Whether a statement may pass without waiting. */
  get isOpen(): boolean {
    return !this.held && this.queue.length === 0
  }

  /** Waits until no nested session runs. Statements need not hold it: the connection keeps their order. */
  get pass(): Effect.Effect<void> {
    return this.wait(false)
  }

  /** Waits for the turn of a nested session, which must end with `release`. To be run uninterruptibly. */
  hold(restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.isOpen) {
        this.held = true
        return Effect.void
      }
      let mine = false
      return Effect.onInterrupt(
        restore(this.wait(true, () => {
          mine = true
        })),
        () => Effect.sync(() => mine && this.release())
      )
    })
  }

  release(): void {
    this.held = false
    this.holder = undefined
    while (!this.held && this.queue.length > 0) {
      const waiter = this.queue.shift()!
      this.held = waiter.exclusive
      waiter.resume()
    }
  }

  private wait(exclusive: boolean, onTurn?: () => void): Effect.Effect<void> {
    return stoppable<void, never>((resume) => {
      if (!exclusive && this.isOpen) {
        return resume(Effect.void)
      }
      const waiter: Waiter = {
        exclusive,
        resume: () => {
          onTurn?.()
          resume(Effect.void)
        }
      }
      this.queue.push(waiter)
      return Effect.sync(() => {
        const at = this.queue.indexOf(waiter)
        if (at >= 0) {
          this.queue.splice(at, 1)
        }
      })
    })
  }
}
