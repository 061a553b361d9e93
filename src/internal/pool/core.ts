/**
 * The state of a pool and its rules. All of it is synchronous, so that every step is atomic and checking out an idle
 * connection does not suspend the fiber. Operations that take time (connecting, pinging, resetting, closing) run in fibers
 * of the pool and call back when they end, which may be before `runFork` returns. Everything that is due at a later time
 * is driven by one timer.
 */
import * as Deferred from "effect/Deferred"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { CloseReason, Options, Stats } from "../../Pool.js"
import { type CurrentFiber, currentFiber, currentSpan, fiberId, fiberName } from "../fiber.js"
import * as Background from "./background.js"
import { Backoff, connectError, jittered, poolClosed, poolTimeout } from "./backoff.js"
import type { PoolClock } from "./clock.js"
import { type Entry, Lease, makeEntry } from "./entry.js"
import { leakDetectionExempt, leasesOf, warnLeak, warnNestedAcquire } from "./leakDetection.js"
import { StatsTracker } from "./stats.js"
import { resolution, Timer } from "./timer.js"
import { type Waiter, Waiters } from "./waiters.js"

/**
 * How long a `dirty` connection stays idle before it is reset, in milliseconds, if it can also clear its state ahead of
 * its next use: see `resetLater` of the options.
 */
const resetDelay = 10

export class Core<A> {
  /** Completes when the pool has shut down. */
  readonly drained = Deferred.unsafeMake<void>(FiberId.none)

  private closed = false
  private readonly entries = new Set<Entry<A>>()
  /** The idle entries in the order in which they were last returned. The last one is checked out first. */
  private readonly idle: Array<Entry<A>> = []
  private readonly waiters: Waiters<A>
  private readonly stats: StatsTracker
  private readonly backoff = new Backoff()
  private readonly timer: Timer
  /** How many times the pool was invalidated. */
  private generation = 0
  /** How many times a connection was found to be lost. */
  private lossCount = 0
  private shutdownDeadline = Infinity
  /** The number of connections that stay open, however long they are idle. */
  private readonly min: number

  private readonly durations: ReturnType<typeof Background.resolveDurations>

  constructor(
    private readonly options: Options<A>,
    private readonly clock: PoolClock,
    private readonly runFork: Background.RunFork
  ) {
    this.durations = Background.resolveDurations(options)
    this.min = options.min ?? options.size
    const { maxOverflow, size } = options
    this.waiters = new Waiters(this.durations.timeout, size + maxOverflow)
    this.stats = new StatsTracker(
      options,
      this.waiters,
      this.durations.idleTimeout === 0 ? this.min : size + maxOverflow
    )
    this.timer = new Timer(clock, () => this.onTimer())
  }

  /**
   * Checks out the idle connection that was returned last, unless it has to be checked or closed first. This does not
   * overtake waiters: while there are any, no connection is idle.
   */
  takeIdle(): Lease<A> | undefined {
    const entry = this.idle.at(-1)
    if (entry === undefined || this.closed) {
      return undefined
    }
    const now = this.now()
    if (!this.isFresh(entry, now)) {
      return undefined
    }
    this.idle.pop()
    const lease = this.checkOut(entry, now, now, currentFiber())
    this.publish()
    return lease
  }

  /**
   * Adds the current fiber to the waiters, and opens or checks a connection for it if need be. The wait may have ended on
   * return. `holding` are leases of this pool that other fibers hold on its behalf.
   */
  enqueue(holding: ReadonlyArray<unknown>): Waiter<A> {
    const now = this.now()
    const fiber = currentFiber()
    const waiter = this.waiters.enqueue(now, fiber)
    if (this.closed) {
      this.waiters.complete(waiter, Exit.fail(this.closedError()))
      return waiter
    }
    const held = leasesOf(this.entries, fiber, holding)
    if (held.length >= this.stats.maximum) {
      const { maximum } = this.stats
      this.timeOut(waiter, `${fiberName(fiberId(fiber))} holds all ${maximum} of them and would wait forever`)
      return waiter
    }
    this.serveWaiters(now)
    if (waiter.exit === undefined) {
      this.timer.set(this.waiters.nextDueAt(), now)
      const [first] = held
      if (first !== undefined && !first.isNestingWarned && this.stats.stateCounts.used === this.stats.maximum) {
        first.isNestingWarned = true
        this.runFork(warnNestedAcquire(this.options.name, fiber, held.length, this.stats.maximum))
      }
    }
    this.publish()
    return waiter
  }

  /** Ends the wait of a fiber that was interrupted. A lease that it was granted meanwhile goes back to the pool. */
  cancel(waiter: Waiter<A>): void {
    if (waiter.exit === undefined) {
      this.waiters.remove(waiter)
      this.publish()
    } else if (Exit.isSuccess(waiter.exit)) {
      this.giveBack(waiter.exit.value)
    }
  }

  /**
   * Opens one connection and leaves it idle. If the pool is at its maximum, waits for an attempt that is under way, or
   * succeeds at once if there is none.
   */
  warm(onEnd: (exit: Exit.Exit<void, DatabaseError>) => void): void {
    if (this.closed) {
      onEnd(Exit.fail(this.closedError()))
    } else if (this.entries.size < this.stats.maximum) {
      this.connect(this.now(), onEnd)
    } else {
      const pending = Array.from(this.entries).find(({ state }) => state === "connecting" || state === "stalled")
      if (pending === undefined) {
        onEnd(Exit.void)
      } else {
        pending.connectListeners.push(onEnd)
      }
    }
  }

  invalidate(): void {
    this.generation++
    this.closeIdle("invalidated")
    this.serveWaiters(this.now())
    this.publish()
  }

  shutdown(): void {
    if (this.closed) {
      return
    }
    this.closed = true
    const now = this.now()
    this.failWaiters(this.closedError())
    this.closeIdle("shutdown")
    for (const entry of this.entries) {
      if (entry.state === "connecting" || entry.state === "stalled") {
        entry.connectFiber?.unsafeInterruptAsFork(FiberId.none)
      }
    }
    this.shutdownDeadline = now + this.durations.shutdownTimeout
    this.timer.set(this.shutdownDeadline, now)
    this.completeIfDrained()
    this.publish()
  }

  connections(): ReadonlyArray<{ readonly connection: A; readonly isUsed: boolean }> {
    const open: Array<{ readonly connection: A; readonly isUsed: boolean }> = []
    for (const { connection, state } of this.entries) {
      const isUsed = state === "used" || state === "resetting"
      if (isUsed || state === "idle" || state === "checking") {
        open.push({ connection, isUsed })
      }
    }
    return open
  }

  snapshot(): Stats {
    return this.stats.snapshot(this.now())
  }

  private now(): number {
    return this.clock.now()
  }

  /** To be called after every change: updates the metrics, and keeps the process alive for waiters and a shutdown. */
  private publish(): void {
    this.waiters.update(this.stats.used < this.stats.maximum)
    this.stats.publish()
    this.timer.keepAlive(this.waiters.size > 0 || (this.closed && this.entries.size > 0))
  }

  private closedError(): DatabaseError {
    return poolClosed(this.options.name, this.options.dialect)
  }

  /** Whether an idle connection can be used without a ping. */
  private isFresh(entry: Entry<A>, now: number): boolean {
    return now - entry.aliveAt <= this.durations.checkAfterIdle && now < entry.expiresAt
  }

  /** Why a connection must not be used again. Undefined if it may be. */
  private closeReason(entry: Entry<A>, now: number): CloseReason | undefined {
    if (this.closed) {
      return "shutdown"
    }
    if (entry.generation !== this.generation) {
      return "invalidated"
    }
    return now >= entry.expiresAt ? "lifetime" : undefined
  }

  private checkOut(entry: Entry<A>, now: number, requestedAt: number, fiber: CurrentFiber): Lease<A> {
    this.stats.move(entry, "used")
    this.stats.checkedOut(now - requestedAt, now)
    const lease = new Lease<A>(this, entry, now, fiberId(fiber), currentSpan(fiber))
    entry.lease = lease
    entry.dueAt = now + this.durations.heldThreshold
    this.timer.set(entry.dueAt, now)
    return lease
  }

  /** Checks a connection in. Does nothing if the lease has ended. */
  giveBack(lease: Lease<A>): void {
    const { entry } = lease
    if (entry.lease !== lease || entry.state !== "used") {
      return
    }
    const now = this.now()
    this.stats.checkedIn(now - lease.leasedAt, now)
    entry.lease = undefined
    entry.returnedAt = now
    entry.aliveAt = now
    const status = entry.lostError === undefined ? this.options.status(entry.connection) : "closed"
    if (status === "closed") {
      this.discard(entry, "unusable", now)
    } else if (status === "idle" || this.closeReason(entry, now) !== undefined) {
      this.makeAvailable(entry, now)
    } else if (status === "dirty" && this.options.resetLater?.(entry.connection) === true) {
      this.makeAvailable(entry, now, now + resetDelay)
    } else {
      this.startMaintenance(entry, "resetting")
    }
    this.publish()
  }

  /** Passes a clean connection to the first waiter, makes it idle, or closes it if the pool has no use for it. */
  private makeAvailable(entry: Entry<A>, now: number, resetAt = Infinity): void {
    const reason = this.closeReason(entry, now)
    if (reason !== undefined) {
      this.close(entry, reason)
    } else if (this.waiters.size === 0 && this.durations.idleTimeout === 0 && this.stats.established > this.min) {
      this.close(entry, this.idleReason())
    } else if (entry.lossCount !== this.lossCount) {
      this.startMaintenance(entry, "checking")
    } else if (this.waiters.first !== undefined) {
      this.serve(this.waiters.first, entry, now)
    } else {
      this.stats.move(entry, "idle")
      entry.resetAt = resetAt
      entry.dueAt = Math.min(now + entry.keepAlive, entry.expiresAt, resetAt)
      if (entry.returnedAt >= (this.idle.at(-1)?.returnedAt ?? 0)) {
        this.idle.push(entry)
      } else {
        const index = this.idle.findLastIndex((other) => other.returnedAt <= entry.returnedAt)
        this.idle.splice(index + 1, 0, entry)
      }
      this.timer.set(Math.min(entry.dueAt, this.idleDueAt()), now)
    }
  }

  /** The reason that is counted when a connection that is not needed is closed. */
  private idleReason(): CloseReason {
    return this.stats.established > this.options.size ? "overflow" : "idle"
  }

  /** When the connection that was idle for the longest time is to be closed. */
  private idleDueAt(): number {
    return this.idle.length === 0 || this.stats.established <= this.min
      ? Infinity
      : this.idle[0].returnedAt + this.durations.idleTimeout
  }

  private serve(waiter: Waiter<A>, entry: Entry<A>, now: number): void {
    this.waiters.complete(waiter, Exit.succeed(this.checkOut(entry, now, waiter.enqueuedAt, waiter.fiber)))
  }

  /**
   * Serves the waiters from the idle connections that need no ping. For each of the remaining waiters, pings an idle
   * connection or opens one, as far as the maximum and the backoff allow.
   */
  private serveWaiters(now: number): void {
    while (this.waiters.first !== undefined) {
      const index = this.idle.findLastIndex((entry) => this.isFresh(entry, now))
      if (index < 0) {
        break
      }
      this.serve(this.waiters.first, this.idle.splice(index, 1)[0], now)
    }
    while (this.waiters.size > this.stats.stateCounts.checking && this.idle.length > 0) {
      this.checkOrClose(this.idle.pop()!, now)
    }
    while (this.waiters.size > this.stats.preparing && this.entries.size < this.stats.maximum) {
      if (now < this.backoff.retryAt) {
        this.timer.set(this.backoff.retryAt, now)
        return
      }
      this.connect(now)
    }
  }

  /** Pings a connection that was idle, or closes it if it must not be used again. */
  private checkOrClose(entry: Entry<A>, now: number): void {
    const reason = this.closeReason(entry, now)
    if (reason === undefined) {
      this.startMaintenance(entry, "checking")
    } else {
      this.close(entry, reason)
    }
  }

  /** Starts one attempt to connect, regardless of the backoff. */
  private connect(now: number, ...connectListeners: Entry<A>["connectListeners"]): void {
    const entry = makeEntry<A>(now, this.generation, jittered(this.durations.keepAlive))
    entry.connectListeners.push(...connectListeners)
    entry.dueAt = now + Background.backgroundTimeout
    this.entries.add(entry)
    this.stats.add(entry)
    this.timer.set(entry.dueAt, now)
    entry.connectFiber = Background.connect(
      this.runFork,
      (restore) => this.options.connect((error) => this.connectionLost(entry, error), restore),
      (exit) => {
        const result = this.connectEnded(entry, exit)
        entry.connectListeners.forEach((listener) => listener(result))
      }
    )
  }

  private connectEnded(entry: Entry<A>, exit: Exit.Exit<A, DatabaseError>): Exit.Exit<void, DatabaseError> {
    const now = this.now()
    if (Exit.isFailure(exit)) {
      return this.connectFailed(entry, connectError(exit.cause, this.options.dialect), now)
    }
    if (entry.lostError !== undefined || entry.state === "removed") {
      this.options.destroy(exit.value)
      return this.connectFailed(entry, entry.lostError ?? this.closedError(), now)
    }
    entry.connection = exit.value
    entry.lossCount = this.lossCount
    entry.returnedAt = now
    entry.aliveAt = now
    entry.expiresAt = now + this.durations.recycle * (1 - Math.random() * 0.1)
    this.backoff.reset()
    this.stats.connected(now - entry.createdAt)
    this.stats.move(entry, "idle")
    this.makeAvailable(entry, now)
    this.serveWaiters(now)
    this.publish()
    return Exit.void
  }

  /** Removes the entry. A retryable error leaves the waiters to the next attempt, and any other fails all of them. */
  private connectFailed(entry: Entry<A>, error: DatabaseError, now: number): Exit.Exit<void, DatabaseError> {
    if (entry.state !== "removed") {
      this.remove(entry)
    }
    if (this.closed) {
      return Exit.fail(this.closedError())
    }
    this.stats.connectFailed()
    if (isRetryable(error)) {
      this.backoff.failed(error, entry.createdAt, now)
      this.serveWaiters(now)
    } else {
      this.failWaiters(error)
    }
    this.publish()
    return Exit.fail(error)
  }

  /** Pings or resets a connection that is not checked out. If that fails or times out, the connection is destroyed. */
  private startMaintenance(entry: Entry<A>, state: "checking" | "resetting"): void {
    this.stats.move(entry, state)
    entry.dueAt = Infinity
    const operation = this.options[state === "checking" ? "ping" : "reset"]
    Background.maintain(
      this.clock,
      this.runFork,
      () => operation(entry.connection),
      (succeeded) => this.maintenanceEnded(entry, succeeded)
    )
  }

  private maintenanceEnded(entry: Entry<A>, succeeded: boolean): void {
    if (entry.state === "removed") {
      return
    }
    const now = this.now()
    if (succeeded && entry.lostError === undefined && this.options.status(entry.connection) === "idle") {
      entry.aliveAt = now
      entry.lossCount = this.lossCount
      this.makeAvailable(entry, now)
      this.serveWaiters(now)
    } else {
      this.discard(entry, entry.state === "checking" ? "lost" : "unusable", now)
    }
    this.publish()
  }

  /**
   * The driver reports that a connection broke. An idle one is removed at once. One that is checked out or maintained is
   * destroyed when it is returned or when the ping or reset ends.
   */
  private connectionLost(entry: Entry<A>, error: DatabaseError): void {
    if (entry.lostError !== undefined || entry.state === "removed" || entry.state === "closing") {
      return
    }
    entry.lostError = error
    if (entry.state === "idle") {
      this.idle.splice(this.idle.indexOf(entry), 1)
      this.destroy(entry, "lost")
    }
    this.recheckIdle()
    this.serveWaiters(this.now())
    this.publish()
  }

  /** Requires a ping of every connection before its next use: what broke one of them may have broken the others. */
  private recheckIdle(): void {
    this.lossCount++
    for (;;) {
      const index = this.idle.findIndex(({ lossCount }) => lossCount !== this.lossCount)
      if (index < 0) {
        return
      }
      this.startMaintenance(this.idle.splice(index, 1)[0], "checking")
    }
  }

  /** Destroys a connection that does not work, and opens another one if there are waiters. */
  private discard(entry: Entry<A>, reason: CloseReason, now: number): void {
    if (entry.lostError === undefined) {
      this.destroy(entry, reason)
      this.recheckIdle()
    } else {
      this.destroy(entry, "lost")
    }
    this.serveWaiters(now)
  }

  /** Closes a connection gracefully. It counts towards the maximum until it is closed. */
  private close(entry: Entry<A>, reason: CloseReason): void {
    this.stats.move(entry, "closing")
    this.stats.closed(reason)
    entry.dueAt = Infinity
    Background.close(this.clock, this.runFork, () => this.options.close(entry.connection), () => {
      if (entry.state === "closing") {
        this.options.destroy(entry.connection)
        this.remove(entry)
        this.serveWaiters(this.now())
      }
    })
  }

  private destroy(entry: Entry<A>, reason: CloseReason): void {
    this.stats.closed(reason)
    this.remove(entry)
    this.options.destroy(entry.connection)
  }

  private remove(entry: Entry<A>): void {
    this.stats.move(entry, "removed")
    this.entries.delete(entry)
    this.completeIfDrained()
  }

  private completeIfDrained(): void {
    if (this.closed && this.entries.size === 0) {
      this.timer.stop()
      this.stats.end()
      Deferred.unsafeDone(this.drained, Exit.void)
    }
  }

  private closeIdle(reason: CloseReason): void {
    while (this.idle.length > 0) {
      this.close(this.idle.pop()!, reason)
    }
  }

  private failWaiters(error: DatabaseError): void {
    while (this.waiters.first !== undefined) {
      this.waiters.complete(this.waiters.first, Exit.fail(error))
    }
  }

  private timeOut(waiter: Waiter<A>, reason: string): void {
    this.stats.timedOut()
    const error = poolTimeout(reason, this.stats.current(), this.options.dialect, this.backoff.lastError)
    this.waiters.complete(waiter, Exit.fail(error))
    this.publish()
  }

  /** Fails the waiters whose timeout has passed, and refuses waiters early while the pool is overloaded. */
  private timeOutWaiters(now: number): void {
    for (let due = this.waiters.takeDue(now); due !== undefined; due = this.waiters.takeDue(now)) {
      const { isEarly, waiter } = due
      const overload = isEarly
        ? `: the pool is overloaded: no connection has been free for ${Math.round(this.waiters.overloadedFor(now)!)} ms`
        : ""
      const waited = isEarly ? Math.round(now - waiter.enqueuedAt) : this.durations.timeout
      this.timeOut(waiter, `no connection became free within ${waited} ms${overload}`)
    }
  }

  private onTimer(): void {
    const now = this.now() + resolution
    this.timeOutWaiters(now)
    while (this.idleDueAt() <= now) {
      this.close(this.idle.shift()!, this.idleReason())
    }
    for (const entry of Array.from(this.entries)) {
      if (this.shutdownDeadline <= now) {
        this.terminate(entry)
      } else if (entry.dueAt <= now) {
        this.onEntryDue(entry, now)
      }
    }
    this.serveWaiters(now)
    this.publish()
    let next = Math.min(this.waiters.nextDueAt(), this.shutdownDeadline, this.idleDueAt())
    for (const { dueAt } of this.entries) {
      next = Math.min(next, dueAt)
    }
    if (this.entries.size > 0 || this.waiters.size > 0) {
      this.timer.set(next, now)
    }
  }

  /**
   * Resets, pings or closes an idle connection, stops counting on an attempt to connect that takes long, and warns about a
   * connection that has been checked out for long.
   */
  private onEntryDue(entry: Entry<A>, now: number): void {
    entry.dueAt = Infinity
    if (entry.state === "idle") {
      this.idle.splice(this.idle.indexOf(entry), 1)
      if (entry.resetAt <= now && this.closeReason(entry, now) === undefined) {
        this.startMaintenance(entry, "resetting")
      } else {
        this.checkOrClose(entry, now)
      }
    } else if (entry.state === "connecting") {
      this.stats.move(entry, "stalled")
    } else if (entry.lease !== undefined && !leakDetectionExempt.has(entry.lease)) {
      this.runFork(warnLeak(this.options.name, entry.lease, now))
    }
  }

  /** Removes an entry that is left when the shutdown timeout has passed, and destroys its connection. */
  private terminate(entry: Entry<A>): void {
    if (entry.state === "connecting" || entry.state === "stalled") {
      this.remove(entry)
    } else if (entry.state === "closing") {
      this.options.destroy(entry.connection)
      this.remove(entry)
    } else if (entry.state !== "removed") {
      this.destroy(entry, "shutdown")
    }
  }
}
