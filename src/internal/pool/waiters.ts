/**
 * The fibers that wait for a connection, first come first served.
 */
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Lease } from "./slot.js"

/** One fiber that waits. */
export interface Waiter<A> {
  /** When it began to wait, and when it gives up. */
  readonly since: number
  readonly deadline: number
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

  add(since: number, deadline: number, fiber: Waiter<A>["fiber"]): Waiter<A> {
    const waiter: Waiter<A> = {
      since,
      deadline,
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
