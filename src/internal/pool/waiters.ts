/**
 * The fibers that wait for a connection, first come first served.
 */
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Lease } from "./entry.js"

/** One fiber that waits. */
export interface Waiter<A> {
  /** When it began to wait. */
  readonly since: number
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
  /** What it was given, from the moment that it was. */
  exit: Exit.Exit<Lease<A>, DatabaseError> | undefined
  /** Resumes the fiber, once it is suspended. */
  resume: ((exit: Exit.Exit<Lease<A>, DatabaseError>) => void) | undefined
  previous: Waiter<A> | undefined
  next: Waiter<A> | undefined
}

/**
 * A linked queue, so that an interrupted fiber leaves it from anywhere at once. All wait equally long, so the first in
 * it is also the first to give up.
 */
export class Waiters<A> {
  size = 0
  first: Waiter<A> | undefined = undefined
  private last: Waiter<A> | undefined = undefined
  /** Since when there has always been somebody who waits. */
  private busySince = 0

  constructor(private readonly timeout: number) {}

  /**
   * How long one may wait. That is the timeout, until the queue has never been empty for twice as long: then more is asked
   * for than can be served, and those who wait in vain are told ten times sooner, so that the others are served soon.
   */
  limit(now: number): number {
    return this.overload(now) === undefined ? this.timeout : this.timeout / 10
  }

  /** For how long more has been asked for than can be served, if it has. */
  overload(now: number): number | undefined {
    const busy = now - this.busySince
    return busy >= 2 * this.timeout ? busy : undefined
  }

  /** When to look again at who has waited for too long. */
  due(now: number): number {
    if (this.first === undefined) {
      return Infinity
    }
    const due = this.first.since + this.limit(now)
    return this.overload(now) === undefined ? Math.min(due, this.busySince + 2 * this.timeout) : due
  }

  add(since: number, fiber: Waiter<A>["fiber"]): Waiter<A> {
    if (this.size === 0) {
      this.busySince = since
    }
    const waiter: Waiter<A> = {
      since,
      fiber,
      exit: undefined,
      resume: undefined,
      previous: this.last,
      next: undefined
    }
    if (this.last === undefined) {
      this.first = waiter
    } else {
      this.last.next = waiter
    }
    this.last = waiter
    this.size++
    return waiter
  }

  /** Gives a waiter of the queue what it waited for, or an error, and takes it out. */
  settle(waiter: Waiter<A>, exit: Exit.Exit<Lease<A>, DatabaseError>): void {
    this.remove(waiter)
    waiter.exit = exit
    waiter.resume?.(exit)
  }

  remove(waiter: Waiter<A>): void {
    if (waiter.previous === undefined) {
      this.first = waiter.next
    } else {
      waiter.previous.next = waiter.next
    }
    if (waiter.next === undefined) {
      this.last = waiter.previous
    } else {
      waiter.next.previous = waiter.previous
    }
    waiter.previous = waiter.next = undefined
    this.size--
  }
}
