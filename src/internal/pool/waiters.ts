/**
 * The fibers that wait for a connection, in the order in which they asked for one.
 */
import type * as Exit from "effect/Exit"
import type { DatabaseError } from "../../DatabaseError.js"
import type { CurrentFiber } from "../fiber.js"
import { FifoQueue, type Queued } from "../fifoQueue.js"
import type { Lease } from "./entry.js"

/** One waiting fiber. */
export interface Waiter<A> extends Queued<Waiter<A>> {
  readonly enqueuedAt: number
  readonly fiber: CurrentFiber
  /** Set when the wait has ended. */
  exit: Exit.Exit<Lease<A>, DatabaseError> | undefined
  /** Resumes the fiber. Set once it is suspended. */
  resume: ((exit: Exit.Exit<Lease<A>, DatabaseError>) => void) | undefined
}

/** The queue. All waiters have the same timeout, so the first one is also the first to time out. Times are in milliseconds. */
export class Waiters<A> extends FifoQueue<Waiter<A>> {
  /** When the queue last became non-empty. */
  private nonEmptySince = 0

  constructor(private readonly timeout: number) {
    super()
  }

  /**
   * The longest wait at present: the timeout, or a tenth of it while the pool is overloaded. Refusing early keeps the queue
   * short, so that those who do get a connection get it soon. This is the idea of CoDel (RFC 8289), which tells a standing
   * queue from a burst by whether the queue has been empty within an interval.
   */
  maxWait(now: number): number {
    return this.overloadedFor(now) === undefined ? this.timeout : this.timeout / 10
  }

  /** How long the queue has not been empty, once that is at least twice the timeout; otherwise undefined. */
  overloadedFor(now: number): number | undefined {
    const nonEmptyFor = now - this.nonEmptySince
    return nonEmptyFor >= 2 * this.timeout ? nonEmptyFor : undefined
  }

  /** When a waiter may next time out. */
  nextDueAt(now: number): number {
    if (this.first === undefined) {
      return Infinity
    }
    const dueAt = this.first.enqueuedAt + this.maxWait(now)
    return this.overloadedFor(now) === undefined ? Math.min(dueAt, this.nonEmptySince + 2 * this.timeout) : dueAt
  }

  enqueue(now: number, fiber: CurrentFiber): Waiter<A> {
    if (this.size === 0) {
      this.nonEmptySince = now
    }
    const waiter: Waiter<A> = {
      enqueuedAt: now,
      fiber,
      exit: undefined,
      resume: undefined,
      previous: undefined,
      next: undefined
    }
    this.push(waiter)
    return waiter
  }

  /** Ends a wait with a lease or an error, and removes the waiter from the queue. */
  complete(waiter: Waiter<A>, exit: Exit.Exit<Lease<A>, DatabaseError>): void {
    this.remove(waiter)
    waiter.exit = exit
    waiter.resume?.(exit)
  }
}
