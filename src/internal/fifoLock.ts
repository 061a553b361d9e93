/**
 * A lock that is granted in the order in which it was asked for.
 */
import * as Effect from "effect/Effect"
import { asyncInterrupt } from "./asyncInterrupt.js"
import { FifoQueue, type Queued } from "./fifoQueue.js"

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Whether a waiter can be granted the lock now, later, or never again. */
export type Readiness = "ready" | "waiting" | "never"

interface Waiter extends Queued<Waiter> {
  /** Whether it holds the lock once it is granted. Otherwise it only waits until the lock is free. */
  readonly isExclusive: boolean
  readonly readiness: (() => Readiness) | undefined
  readonly resume: (isGranted: boolean) => void
}

export interface AcquireOptions {
  /**
   * Called whenever the lock is released or another waiter arrives. A waiter that is "waiting" is passed over, and one that
   * is "never" is removed. Default: always "ready".
   */
  readonly readiness?: (() => Readiness) | undefined
  /** Whether to wait in front of all others. Default: false. */
  readonly isUrgent?: boolean | undefined
}

export class FifoLock {
  private isHeld = false
  private readonly waiters = new FifoQueue<Waiter>()
  /** How many of the waiters have a `readiness`. */
  private conditional = 0

  /** Whether nobody holds the lock or waits for it. */
  get isFree(): boolean {
    return !this.isHeld && this.waiters.size === 0
  }

  /** Waits until the lock is free, behind those who asked for it before, and does not take it. */
  get waitUntilFree(): Effect.Effect<void> {
    return Effect.suspend(() => this.isFree ? Effect.void : this.wait(false, undefined, false))
  }

  /** Takes the lock if it is free. Then `release` must follow. */
  tryAcquire(): boolean {
    const { isFree } = this
    this.isHeld ||= isFree
    return isFree
  }

  /**
   * Takes the lock. Gives false if `readiness` has become "never". Must be run uninterruptibly, with the `restore` of that
   * region: the wait can be interrupted, and then the lock is not held. Otherwise `release` must follow.
   */
  acquire(restore: Restore, { isUrgent = false, readiness }: AcquireOptions = {}): Effect.Effect<boolean> {
    return Effect.suspend(() => {
      if (readiness === undefined && this.tryAcquire()) {
        return Effect.succeed(true)
      }
      let isMine = false
      const wait = this.wait(true, readiness, isUrgent, (isGranted) => {
        isMine = isGranted
      })
      // The interruption may arrive after the lock was granted and before the fiber has resumed.
      return Effect.onInterrupt(restore(wait), () => Effect.sync(() => isMine && this.release()))
    })
  }

  release(): void {
    this.isHeld = false
    this.grant()
  }

  private wait(
    isExclusive: boolean,
    readiness: (() => Readiness) | undefined,
    isUrgent: boolean,
    onResume?: (isGranted: boolean) => void
  ): Effect.Effect<boolean> {
    return asyncInterrupt<boolean, never>((resume) => {
      const waiter: Waiter = {
        isExclusive,
        readiness,
        resume: (isGranted) => {
          onResume?.(isGranted)
          resume(Effect.succeed(isGranted))
        },
        previous: undefined,
        next: undefined
      }
      this.waiters[isUrgent ? "unshift" : "push"](waiter)
      this.conditional += readiness === undefined ? 0 : 1
      this.grant()
      return Effect.sync(() => this.remove(waiter))
    })
  }

  private remove(waiter: Waiter): void {
    if (this.waiters.remove(waiter) && waiter.readiness !== undefined) {
      this.conditional--
    }
  }

  /**
   * Resumes, in order, every waiter that may go on now or never will. While the lock is held, only a `readiness` can tell that
   * a waiter never will: without one this looks at no waiter, so that n waiters take n steps and not n².
   */
  private grant(): void {
    let next = this.waiters.first
    while (next !== undefined && (!this.isHeld || this.conditional > 0)) {
      const waiter: Waiter = next
      next = waiter.next
      const readiness = waiter.readiness?.() ?? "ready"
      const isGranted = readiness === "ready" && !this.isHeld
      if (isGranted || readiness === "never") {
        this.isHeld ||= isGranted && waiter.isExclusive
        this.remove(waiter)
        waiter.resume(isGranted)
      }
    }
  }
}
