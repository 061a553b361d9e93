/**
 * First-in-first-out access to a connection: one request alone, or several that share it.
 */

/** A request that waits for the lock or holds it. */
export interface Waiter {
  /** Whether it may hold the lock together with other shared waiters. */
  readonly shared: boolean
  /** Called when it gets the lock: within `acquire`, or later. */
  readonly onAcquired: () => void
}

/** A fair shared/exclusive lock. */
export class RequestLock {
  private readonly holders = new Set<Waiter>()
  private readonly waiters = new Set<Waiter>()
  private heldShared = false
  private granting = false

  constructor(private readonly maxShared: number) {}

  /** Whether the lock is not held. Then no request waits for it either. */
  get isFree(): boolean {
    return this.holders.size === 0
  }

  acquire(waiter: Waiter): void {
    this.waiters.add(waiter)
    this.grant()
  }

  /** Releases the lock, or stops waiting for it. May be called twice. */
  release(waiter: Waiter): void {
    if (this.holders.delete(waiter) || this.waiters.delete(waiter)) {
      this.grant()
    }
  }

  /** A loop, so that waiters that release the lock within `onAcquired` do not recurse, however long the queue is. */
  private grant(): void {
    if (this.granting) {
      return
    }
    this.granting = true
    try {
      for (const waiter of this.waiters) {
        const { size } = this.holders
        if (size > 0 && !(waiter.shared && this.heldShared && size < this.maxShared)) {
          break
        }
        this.waiters.delete(waiter)
        this.holders.add(waiter)
        this.heldShared = waiter.shared
        waiter.onAcquired()
      }
    } finally {
      this.granting = false
    }
  }
}
