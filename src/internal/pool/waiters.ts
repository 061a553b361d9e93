/**
 * The queue of the fibers that wait for a connection, first in, first out.
 */
import type * as Exit from "effect/Exit"
import type { DatabaseError } from "../../DatabaseError.js"
import type { CurrentFiber } from "../fiber.js"
import { FifoQueue, type Queued } from "../fifoQueue.js"
import type { Lease } from "./entry.js"

/** A fiber, or a statement of one, that waits for a connection. */
export interface Waiter<A> extends Queued<Waiter<A>> {
  readonly enqueuedAt: number
  readonly fiber: CurrentFiber
  /** Set when the wait has ended. */
  exit: Exit.Exit<Lease<A>, DatabaseError> | undefined
  /** Resumes the fiber, or starts its statement. Set once the wait has begun. */
  resume: ((exit: Exit.Exit<Lease<A>, DatabaseError>) => void) | undefined
}

/** The shortest wait before an early refusal, in milliseconds, unless the timeout itself is shorter. */
const minShortWait = 100

/**
 * The time between two early refusals, in milliseconds. Without it, clients that try again as soon as they are refused
 * would keep the process busy with refusals.
 */
const refusalInterval = 1

/** Refusals that are late by up to this many milliseconds are made up for at once, since timers fire late. */
const refusalLag = 10

/**
 * The queue. All waiters have the same timeout, so the first one is also the first to time out. Times are in milliseconds.
 *
 * While the pool is overloaded, waiters are refused before their timeout. This keeps the queue short, so that the
 * others get a connection soon. It is the idea of CoDel (RFC 8289), which tells a standing queue from a burst by how
 * long the queue has not been empty. Refusals can empty the queue without the load having passed, so the pool counts as
 * overloaded until a connection is free while the queue is empty.
 */
export class Waiters<A> extends FifoQueue<Waiter<A>> {
  /** When the pool became saturated. Undefined again when a connection is free while the queue is empty. */
  private saturatedSince: number | undefined = undefined
  /** The earliest time of the next early refusal. */
  private nextRefusalAt = 0
  private readonly shortWait: number

  /**
   * `connections` is the maximum of the pool. A queue that is not longer than that is never refused early, so that no
   * connection becomes idle.
   */
  constructor(private readonly timeout: number, private readonly connections: number) {
    super()
    this.shortWait = Math.min(timeout, Math.max(timeout / 10, minShortWait))
  }

  /** To be called after every change of the pool. `isFree`: whether a connection is not in use, or may be opened. */
  update(isFree: boolean): void {
    if (isFree && this.size === 0) {
      this.saturatedSince = undefined
    }
  }

  /** The only computation of this time: comparing `now - saturatedSince` instead could differ by a rounding error. */
  private overloadedAt(saturatedSince: number): number {
    return saturatedSince + 2 * this.timeout
  }

  /** How long the pool has been saturated, once that is at least twice the timeout; otherwise undefined. */
  overloadedFor(now: number): number | undefined {
    const { saturatedSince } = this
    return saturatedSince !== undefined && now >= this.overloadedAt(saturatedSince) ? now - saturatedSince : undefined
  }

  /** The first waiter, if its wait has to end now, and whether that is before its timeout. */
  takeDue(now: number): { readonly waiter: Waiter<A>; readonly isEarly: boolean } | undefined {
    const waiter = this.first
    if (waiter === undefined || this.nextDueAt() > now) {
      return undefined
    }
    const isEarly = waiter.enqueuedAt + this.timeout > now
    if (isEarly) {
      this.nextRefusalAt = Math.max(this.nextRefusalAt, now - refusalLag) + refusalInterval
    }
    return { waiter, isEarly }
  }

  /** When the first waiter times out, or may be refused early. */
  nextDueAt(): number {
    if (this.first === undefined || this.saturatedSince === undefined) {
      return Infinity
    }
    const { enqueuedAt } = this.first
    return this.size <= this.connections
      ? enqueuedAt + this.timeout
      : Math.min(
        enqueuedAt + this.timeout,
        Math.max(enqueuedAt + this.shortWait, this.overloadedAt(this.saturatedSince), this.nextRefusalAt)
      )
  }

  enqueue(now: number, fiber: CurrentFiber): Waiter<A> {
    this.saturatedSince ??= now
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
