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

/** The shortest wait of an overloaded pool, in milliseconds, unless the timeout itself is shorter. */
const minShortWait = 100

/**
 * The time between two early refusals, in milliseconds. Clients that come back as soon as they are refused would otherwise
 * keep the process busy with refusing them.
 */
const refusalInterval = 1

/** How far early refusals may lag behind that interval and catch up at once, in milliseconds: the coarseness of timers. */
const refusalLag = 10

/**
 * The queue. All waiters have the same timeout, so the first one is also the first to time out. Times are in milliseconds.
 *
 * While the pool is overloaded, waiters are refused before their timeout, which keeps the queue short, so that those who do
 * get a connection get it soon. This is the idea of CoDel (RFC 8289), which tells a standing queue from a burst by how long
 * the queue has not been empty. A queue that refusals have emptied is no sign that the load has passed: the pool is
 * overloaded until a connection is free while nobody waits.
 */
export class Waiters<A> extends FifoQueue<Waiter<A>> {
  /** Since when no connection was free while nobody waits. Undefined if one is. */
  private saturatedSince: number | undefined = undefined
  /** The earliest time of the next early refusal. */
  private nextRefusalAt = 0
  private readonly shortWait: number

  /** `connections` is the maximum of the pool. As many waiters are never refused early, so that no connection idles. */
  constructor(private readonly timeout: number, private readonly connections: number) {
    super()
    this.shortWait = Math.min(timeout, Math.max(timeout / 10, minShortWait))
  }

  /** To be called after every change of the pool with whether it has a connection, or room for one, that nobody uses. */
  update(isFree: boolean): void {
    if (isFree && this.size === 0) {
      this.saturatedSince = undefined
    }
  }

  /** Computed in one way for all, since a difference of times is rounded to less than their sum. */
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
