/**
 * The pool's state and rules: plain synchronous code, so that every step is atomic and checking out an idle connection
 * suspends nobody. What takes time (connecting, pinging, resetting, closing) runs in fibers of the pool's own, which
 * report back here, possibly before they have returned; what waits for time waits for the one alarm.
 */
import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { CloseReason, Options, Stats } from "../../Pool.js"
import { Alarm, grain } from "./timer.js"
import { connectError, Failures, jittered, poolClosed, poolTimeout } from "./backoff.js"
import { Figures } from "./stats.js"
import {
  type CurrentFiber,
  currentFiber,
  currentSpan,
  fiberId,
  fiberName,
  heldBy,
  warnHeld,
  warnNested
} from "./leakDetection.js"
import { Lease, makeSlot, type Slot } from "./entry.js"
import { type Waiter, Waiters } from "./waiters.js"
import * as Work from "./background.js"

export class Core<A> {
  readonly drained = Deferred.unsafeMake<void>(FiberId.none)
  closed = false

  private readonly slots = new Set<Slot<A>>()
  /** The idle slots, by when they were last used; the last one goes out first. */
  private readonly idle: Array<Slot<A>> = []
  private readonly waiters: Waiters<A>
  private readonly figures: Figures
  private readonly failures = new Failures()
  private readonly alarm: Alarm
  /** How often the pool was invalidated, and how often a connection was lost. */
  private generation = 0
  private epoch = 0
  private shutdownAt = Infinity

  private readonly times: ReturnType<typeof Work.times>

  constructor(
    private readonly options: Options<A>,
    private readonly clock: Clock.Clock,
    private readonly run: Work.Run
  ) {
    this.times = Work.times(options)
    this.waiters = new Waiters(this.times.timeout)
    this.figures = new Figures(options, this.waiters)
    this.alarm = new Alarm(run, () => this.wake())
  }

  /** An idle connection that can be used as it is. There is none while somebody waits: he would have it. */
  takeIdle(): Lease<A> | undefined {
    const slot = this.idle.at(-1)
    if (slot === undefined || this.closed) {
      return undefined
    }
    const now = this.now()
    if (!this.isFresh(slot, now)) {
      return undefined
    }
    this.idle.pop()
    const lease = this.lend(slot, now, now, currentFiber())
    this.figures.report()
    return lease
  }

  /** Joins the queue, and sees to it that a connection is on its way. */
  enqueue(holding: ReadonlyArray<unknown>): Waiter<A> {
    const now = this.now()
    const fiber = currentFiber()
    const waiter = this.waiters.add(now, fiber)
    if (this.closed) {
      this.waiters.settle(waiter, Exit.fail(this.closedError()))
      return waiter
    }
    const held = heldBy(this.slots, fiber, holding)
    if (held.length >= this.figures.maximum) {
      const { maximum } = this.figures
      this.refuse(waiter, `${fiberName(fiberId(fiber))} holds all ${maximum} of them and would wait for ever`)
      return waiter
    }
    this.supply(now)
    if (waiter.exit === undefined) {
      this.alarm.set(this.waiters.due(now), now)
      const [first] = held
      if (first !== undefined && !first.told && this.figures.count.used === this.figures.maximum) {
        first.told = true
        this.run(warnNested(this.options.name, fiber, held.length, this.figures.maximum))
      }
    }
    this.figures.report()
    return waiter
  }

  /** The fiber waits no more: what it was given without getting to know, since it was interrupted, goes on to the next. */
  cancel(waiter: Waiter<A>): void {
    if (waiter.exit === undefined) {
      this.waiters.remove(waiter)
      this.figures.report()
    } else if (Exit.isSuccess(waiter.exit)) {
      this.giveBack(waiter.exit.value)
    }
  }

  /** Opens a connection that nobody has asked for yet. Where the limit forbids that, one that others opened will do. */
  warm(done: (exit: Exit.Exit<void, DatabaseError>) => void): void {
    if (this.closed) {
      done(Exit.fail(this.closedError()))
    } else if (this.slots.size < this.figures.maximum) {
      this.connect(this.now(), done)
    } else {
      const pending = Array.from(this.slots).find(({ state }) => state === "connecting" || state === "stalled")
      if (pending === undefined) {
        done(Exit.void)
      } else {
        pending.watchers.push(done)
      }
    }
  }

  invalidate(): void {
    this.generation++
    this.empty("invalidated")
    this.supply(this.now())
    this.figures.report()
  }

  shutdown(): void {
    if (this.closed) {
      return
    }
    this.closed = true
    const now = this.now()
    this.failWaiters(this.closedError())
    this.empty("shutdown")
    for (const slot of this.slots) {
      if (slot.state === "connecting" || slot.state === "stalled") {
        slot.fiber?.unsafeInterruptAsFork(FiberId.none)
      }
    }
    this.shutdownAt = now + this.times.shutdownTimeout
    this.alarm.set(this.shutdownAt, now)
    this.finish()
    this.figures.report()
  }

  stats(): Stats {
    return this.figures.stats(this.now())
  }

  private now(): number {
    return Number(this.clock.unsafeCurrentTimeNanos()) / 1_000_000
  }

  private closedError(): DatabaseError {
    return poolClosed(this.options.name, this.options.dialect)
  }

  /** Known to live, and with life before it. */
  private isFresh(slot: Slot<A>, now: number): boolean {
    return now - slot.aliveAt <= this.times.checkAfterIdle && now < slot.expiresAt
  }

  /** Why a connection must not be used again or kept, if so. */
  private surplus(slot: Slot<A>, now: number): CloseReason | undefined {
    if (this.closed) {
      return "shutdown"
    }
    if (slot.generation !== this.generation) {
      return "invalidated"
    }
    return now >= slot.expiresAt ? "lifetime" : undefined
  }

  private lend(slot: Slot<A>, now: number, since: number, fiber: CurrentFiber): Lease<A> {
    this.figures.move(slot, "used")
    this.figures.lent(now - since, now)
    const lease = new Lease<A>(this, slot, now, fiberId(fiber), currentSpan(fiber))
    slot.lease = lease
    slot.due = now + this.times.heldThreshold
    this.alarm.set(slot.due, now)
    return lease
  }

  giveBack(lease: Lease<A>): void {
    const { slot } = lease
    if (slot.lease !== lease || slot.state !== "used") {
      return
    }
    const now = this.now()
    this.figures.returned(now - lease.since, now)
    slot.lease = undefined
    slot.usedAt = now
    slot.aliveAt = now
    const status = slot.lost === undefined ? this.options.status(slot.connection) : "closed"
    if (status === "closed") {
      this.discard(slot, "unusable", now)
    } else if (status === "idle" || this.surplus(slot, now) !== undefined) {
      this.settle(slot, now)
    } else {
      this.background(slot, "resetting")
    }
    this.figures.report()
  }

  /** Finds the next use of a connection that is clean: the first in the queue, the idle ones, or none. */
  private settle(slot: Slot<A>, now: number): void {
    const reason = this.surplus(slot, now)
    if (reason !== undefined) {
      this.close(slot, reason)
    } else if (this.waiters.size === 0 && this.figures.established > this.options.size) {
      this.close(slot, "overflow")
    } else if (slot.epoch !== this.epoch) {
      this.background(slot, "checking")
    } else if (this.waiters.first !== undefined) {
      this.serve(this.waiters.first, slot, now)
    } else {
      this.figures.move(slot, "idle")
      slot.due = Math.min(now + slot.keepAlive, slot.expiresAt)
      if (slot.usedAt >= (this.idle.at(-1)?.usedAt ?? 0)) {
        this.idle.push(slot)
      } else {
        const at = this.idle.findLastIndex((other) => other.usedAt <= slot.usedAt)
        this.idle.splice(at + 1, 0, slot)
      }
      this.alarm.set(slot.due, now)
    }
  }

  private serve(waiter: Waiter<A>, slot: Slot<A>, now: number): void {
    this.waiters.settle(waiter, Exit.succeed(this.lend(slot, now, waiter.since, waiter.fiber)))
  }

  /** Sees to it that there is, or will be, a connection for everyone in the queue, as far as the limit allows. */
  private supply(now: number): void {
    while (this.waiters.first !== undefined) {
      const at = this.idle.findLastIndex((slot) => this.isFresh(slot, now))
      if (at < 0) {
        break
      }
      this.serve(this.waiters.first, this.idle.splice(at, 1)[0], now)
    }
    while (this.waiters.size > this.figures.count.checking && this.idle.length > 0) {
      const slot = this.idle.pop()!
      const reason = this.surplus(slot, now)
      if (reason === undefined) {
        this.background(slot, "checking")
      } else {
        this.close(slot, reason)
      }
    }
    while (this.waiters.size > this.figures.coming && this.slots.size < this.figures.maximum) {
      if (now < this.failures.retryAt) {
        this.alarm.set(this.failures.retryAt, now)
        return
      }
      this.connect(now)
    }
  }

  /** Tries to connect once, whatever the pause between attempts. */
  private connect(now: number, ...watchers: Slot<A>["watchers"]): void {
    const slot = makeSlot<A>(now, this.generation, jittered(this.times.keepAlive))
    slot.watchers.push(...watchers)
    slot.due = now + Work.patience
    this.slots.add(slot)
    this.figures.add(slot)
    this.alarm.set(slot.due, now)
    slot.fiber = Work.connect(
      this.run,
      (restore) => this.options.connect((error) => this.lose(slot, error), restore),
      (exit) => {
        const result = this.connected(slot, exit)
        slot.watchers.forEach((watcher) => watcher(result))
      }
    )
  }

  private connected(slot: Slot<A>, exit: Exit.Exit<A, DatabaseError>): Exit.Exit<void, DatabaseError> {
    const now = this.now()
    if (Exit.isFailure(exit)) {
      return this.connectFailed(slot, connectError(exit.cause, this.options.dialect), now)
    }
    if (slot.lost !== undefined || slot.state === "gone") {
      this.options.destroy(exit.value)
      return this.connectFailed(slot, slot.lost ?? this.closedError(), now)
    }
    slot.connection = exit.value
    slot.epoch = this.epoch
    slot.usedAt = now
    slot.aliveAt = now
    slot.expiresAt = now + this.times.recycle * (1 - Math.random() * 0.1)
    this.failures.clear()
    this.figures.connected(now - slot.createdAt)
    this.figures.move(slot, "idle")
    this.settle(slot, now)
    this.supply(now)
    this.figures.report()
    return Exit.void
  }

  private connectFailed(slot: Slot<A>, error: DatabaseError, now: number): Exit.Exit<void, DatabaseError> {
    if (slot.state !== "gone") {
      this.forget(slot)
    }
    if (this.closed) {
      return Exit.fail(this.closedError())
    }
    this.figures.connectFailed()
    if (isRetryable(error)) {
      this.failures.add(error, slot.createdAt, now)
      this.supply(now)
    } else {
      this.failWaiters(error)
    }
    this.figures.report()
    return Exit.fail(error)
  }

  /** Works on a connection that nobody holds; if that fails or takes too long, the connection is destroyed. */
  private background(slot: Slot<A>, state: "checking" | "resetting"): void {
    this.figures.move(slot, state)
    slot.due = Infinity
    const work = this.options[state === "checking" ? "ping" : "reset"]
    slot.fiber = Work.attempt(this.run, () => work(slot.connection), (well) => this.worked(slot, well))
  }

  private worked(slot: Slot<A>, well: boolean): void {
    if (slot.state === "gone") {
      return
    }
    const now = this.now()
    if (well && slot.lost === undefined && this.options.status(slot.connection) === "idle") {
      slot.aliveAt = now
      slot.epoch = this.epoch
      this.settle(slot, now)
      this.supply(now)
    } else {
      this.discard(slot, slot.state === "checking" ? "lost" : "unusable", now)
    }
    this.figures.report()
  }

  /** The driver noticed that the connection broke. A borrower finds out by itself, and brings it back. */
  private lose(slot: Slot<A>, error: DatabaseError): void {
    if (slot.lost !== undefined || slot.state === "gone" || slot.state === "closing") {
      return
    }
    slot.lost = error
    if (slot.state === "idle") {
      this.idle.splice(this.idle.indexOf(slot), 1)
      this.drop(slot, "lost")
    }
    this.distrust()
    this.supply(this.now())
    this.figures.report()
  }

  /** What ended one connection may have ended the others too: they are checked before they are used again. */
  private distrust(): void {
    this.epoch++
    for (;;) {
      const at = this.idle.findIndex(({ epoch }) => epoch !== this.epoch)
      if (at < 0) {
        return
      }
      this.background(this.idle.splice(at, 1)[0], "checking")
    }
  }

  /** Ends a connection that does not work any more, and replaces it where somebody waits. */
  private discard(slot: Slot<A>, reason: CloseReason, now: number): void {
    if (slot.lost === undefined) {
      this.drop(slot, reason)
      this.distrust()
    } else {
      this.drop(slot, "lost")
    }
    this.supply(now)
  }

  private close(slot: Slot<A>, reason: CloseReason): void {
    this.figures.move(slot, "closing")
    this.figures.closed(reason)
    slot.due = Infinity
    Work.goodbye(this.run, () => this.options.close(slot.connection), () => {
      if (slot.state === "closing") {
        this.options.destroy(slot.connection)
        this.forget(slot)
        this.supply(this.now())
      }
    })
  }

  private drop(slot: Slot<A>, reason: CloseReason): void {
    this.figures.closed(reason)
    this.forget(slot)
    this.options.destroy(slot.connection)
  }

  private forget(slot: Slot<A>): void {
    this.figures.move(slot, "gone")
    this.slots.delete(slot)
    this.finish()
  }

  private finish(): void {
    if (this.closed && this.slots.size === 0) {
      this.alarm.stop()
      this.figures.end()
      Deferred.unsafeDone(this.drained, Exit.void)
    }
  }

  private empty(reason: CloseReason): void {
    while (this.idle.length > 0) {
      this.close(this.idle.pop()!, reason)
    }
  }

  private failWaiters(error: DatabaseError): void {
    while (this.waiters.first !== undefined) {
      this.waiters.settle(this.waiters.first, Exit.fail(error))
    }
  }

  private refuse(waiter: Waiter<A>, reason: string): void {
    this.figures.timedOut()
    const error = poolTimeout(reason, this.figures.now(), this.options.dialect, this.failures.error)
    this.waiters.settle(waiter, Exit.fail(error))
    this.figures.report()
  }

  /** Refuses those who have waited for too long. */
  private shed(now: number): void {
    const limit = this.waiters.limit(now)
    const overload = this.waiters.overload(now)
    const why = overload === undefined
      ? ""
      : `: the pool is overloaded, for ${Math.round(overload)} ms there has always been somebody who waits`
    while (this.waiters.first !== undefined && this.waiters.first.since + limit <= now) {
      this.refuse(this.waiters.first, `no connection became free within ${limit} ms${why}`)
    }
  }

  private wake(): void {
    const now = this.now() + grain
    this.shed(now)
    for (const slot of Array.from(this.slots)) {
      if (this.shutdownAt <= now) {
        this.giveUp(slot)
      } else if (slot.due <= now) {
        this.attend(slot, now)
      }
    }
    this.supply(now)
    this.figures.report()
    let next = Math.min(this.waiters.due(now), this.shutdownAt)
    for (const { due } of this.slots) {
      next = Math.min(next, due)
    }
    if (this.slots.size > 0 || this.waiters.size > 0) {
      this.alarm.set(next, now)
    }
  }

  /** A slot's time has come. */
  private attend(slot: Slot<A>, now: number): void {
    slot.due = Infinity
    if (slot.state === "idle") {
      this.idle.splice(this.idle.indexOf(slot), 1)
      const reason = this.surplus(slot, now)
      if (reason === undefined) {
        this.background(slot, "checking")
      } else {
        this.close(slot, reason)
      }
    } else if (slot.state === "connecting") {
      this.figures.move(slot, "stalled")
    } else if (slot.lease !== undefined) {
      this.run(warnHeld(this.options.name, slot.lease, now))
    }
  }

  /** The time for a graceful end is over. */
  private giveUp(slot: Slot<A>): void {
    if (slot.state === "connecting" || slot.state === "stalled") {
      this.forget(slot)
    } else if (slot.state === "closing") {
      this.options.destroy(slot.connection)
      this.forget(slot)
    } else if (slot.state !== "gone") {
      this.drop(slot, "shutdown")
    }
  }
}
