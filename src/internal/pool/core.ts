/**
 * The pool's state and rules: plain synchronous code, so that every step is atomic and checking out an idle connection
 * suspends nobody. What takes time (connecting, pinging, resetting, closing) runs in fibers of the pool's own, which
 * report back here; what waits for time waits for the one alarm.
 */
import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import { ConnectionLost, DatabaseClosed, isRetryable, PoolTimeout, UnknownDatabaseError } from "../../DatabaseError.js"
import type { CloseReason, Options, Stats } from "../../Pool.js"
import * as Telemetry from "../../Telemetry.js"
import { fiberName, type Lease, place, type Slot, type State } from "./slot.js"
import { type Waiter, Waiters } from "./waiters.js"

/** How long a ping, a reset or a goodbye may take before the connection is destroyed. */
const patience = 2_000

/** A connect that takes longer is not relied on any more: another is started beside it if somebody still waits. */
const stalledAfter = 500

/** The pause after a failed connect: doubled with each further failure, within these bounds, and jittered. */
const shortestPause = 50
const longestPause = 1_000

/** What setTimeout can count to. */
const longestSleep = 2 ** 31 - 1

/** A tenth to either side, so that what began together does not come round together. */
const jittered = (millis: number): number => millis * (0.9 + Math.random() * 0.2)

export class Core<A> {
  readonly maximum: number
  readonly drained = Deferred.unsafeMake<void>(FiberId.none)
  closed = false

  private readonly slots = new Set<Slot<A>>()
  /** The idle slots; the last one was used last and goes out first. */
  private readonly idle: Array<Slot<A>> = []
  private readonly waiters = new Waiters<A>()
  private readonly count: Record<State, number> = {
    connecting: 0,
    stalled: 0,
    idle: 0,
    checking: 0,
    used: 0,
    resetting: 0,
    closing: 0,
    gone: 0
  }
  private generation = 0
  private epoch = 0

  private failures = 0
  private retryAt = 0
  private connectError: DatabaseError | undefined = undefined

  private alarm: Fiber.RuntimeFiber<unknown> | undefined = undefined
  private alarmAt = Infinity
  private shutdownAt = Infinity

  private created = 0
  private connectFailures = 0
  private timeouts = 0
  private checkouts = 0
  private waitMillis = 0
  private useMillis = 0
  private readonly closedBy: Record<CloseReason, number> = {
    overflow: 0,
    lifetime: 0,
    lost: 0,
    unusable: 0,
    invalidated: 0,
    shutdown: 0
  }

  private readonly timeout: number
  private readonly recycle: number
  private readonly keepAlive: number
  private readonly checkAfterIdle: number
  private readonly heldThreshold: number
  private readonly shutdownTimeout: number
  private readonly telemetry: ReturnType<typeof Telemetry.pool>

  constructor(
    private readonly options: Options<A>,
    private readonly clock: Clock.Clock,
    private readonly run: (effect: Effect.Effect<unknown>) => Fiber.RuntimeFiber<unknown>
  ) {
    this.maximum = options.size + options.maxOverflow
    this.timeout = Duration.toMillis(options.timeout)
    this.recycle = Duration.toMillis(options.recycle)
    this.keepAlive = Duration.toMillis(options.keepAlive ?? "60 seconds")
    this.checkAfterIdle = Duration.toMillis(options.checkAfterIdle ?? "1 second")
    this.heldThreshold = Duration.toMillis(options.heldThreshold ?? "60 seconds")
    this.shutdownTimeout = Duration.toMillis(options.shutdownTimeout ?? "10 seconds")
    this.telemetry = Telemetry.pool(options.name, options.dialect)
    this.telemetry.limits(this.maximum, 0, options.size)
    this.report()
  }

  /** An idle connection that can be used as it is, unless somebody waits already. */
  takeIdle(): Lease<A> | undefined {
    if (this.waiters.size > 0 || this.idle.length === 0) {
      return undefined
    }
    const now = this.now()
    const slot = this.top(now)
    if (slot === undefined || !this.isFresh(slot, now)) {
      return undefined
    }
    this.idle.pop()
    const lease = this.lend(slot, now, now)
    this.report()
    return lease
  }

  /** Joins the queue, and sees to it that a connection is on its way. */
  enqueue(holding: ReadonlyArray<unknown>): { readonly waiter: Waiter<A>; readonly warning: string | undefined } {
    const now = this.now()
    const waiter = this.waiters.add(now, now + this.timeout)
    if (this.closed) {
      this.waiters.settle(waiter, Exit.fail(this.closedError()))
      return { waiter, warning: undefined }
    }
    const fiber = currentFiber()
    const held = this.heldBy(fiber, holding)
    if (held.length >= this.maximum) {
      this.refuse(waiter, `${fiberName(fiber)} holds all of them itself and would wait for ever`)
      return { waiter, warning: undefined }
    }
    this.supply(now)
    if (waiter.exit === undefined) {
      this.arm(waiter.deadline, now)
    }
    this.report()
    return { waiter, warning: waiter.exit === undefined ? this.nested(fiber, held) : undefined }
  }

  /** The fiber was interrupted: what it was given meanwhile, without getting to know, goes on to the next. */
  cancel(waiter: Waiter<A>): void {
    if (waiter.exit === undefined) {
      this.waiters.remove(waiter)
      this.report()
    } else if (Exit.isSuccess(waiter.exit)) {
      this.giveBack(waiter.exit.value)
    }
  }

  giveBack(lease: Lease<A>): void {
    if (lease.returned) {
      return
    }
    lease.returned = true
    const slot = lease.slot
    const now = this.now()
    this.useMillis += now - lease.since
    this.telemetry.useTime((now - lease.since) / 1_000)
    if (slot.state !== "used") {
      return
    }
    slot.lease = undefined
    slot.usedAt = now
    slot.aliveAt = now
    const status = slot.lost ? "closed" : this.options.status(slot.connection)
    if (status === "closed") {
      if (!slot.lost) {
        this.epoch++
      }
      this.drop(slot, slot.lost ? "lost" : "unusable")
      this.supply(now)
    } else if (status === "idle" || this.surplus(slot, now) !== undefined) {
      this.place(slot, now)
    } else {
      this.background(slot, "resetting", this.options.reset(slot.connection), now)
    }
    this.report()
  }

  /** Tries to connect once, whatever the pause between attempts; `done` gets to know how it went. */
  connect(now: number, done?: (exit: Exit.Exit<void, DatabaseError>) => void): void {
    const slot: Slot<A> = {
      state: "connecting",
      connection: undefined as A,
      generation: this.generation,
      epoch: this.epoch,
      lost: false,
      createdAt: now,
      expiresAt: Infinity,
      usedAt: now,
      aliveAt: now,
      due: now + stalledAfter,
      lease: undefined,
      fiber: undefined
    }
    this.slots.add(slot)
    this.count.connecting++
    this.arm(slot.due, now)
    const connect = Effect.catchAllDefect(
      Effect.suspend(() => this.options.connect((error) => this.lose(slot, error))),
      (defect) =>
        Effect.fail(
          new UnknownDatabaseError({
            dialect: this.options.dialect,
            code: "XX000",
            reason: `connecting died: ${String(defect)}`,
            cause: defect
          })
        )
    )
    slot.fiber = this.run(Effect.uninterruptibleMask((restore) =>
      Effect.matchCauseEffect(restore(connect), {
        onSuccess: (connection) => Effect.sync(() => done?.(this.connected(slot, connection))),
        onFailure: (cause) => Effect.sync(() => done?.(this.connectFailed(slot, Exit.failCause(cause))))
      })
    ))
  }

  invalidate(): void {
    const now = this.now()
    this.generation++
    while (this.idle.length > 0) {
      this.close(this.idle.pop()!, "invalidated", now)
    }
    this.report()
  }

  shutdown(): void {
    if (this.closed) {
      return
    }
    this.closed = true
    const now = this.now()
    this.failWaiters(this.closedError())
    while (this.idle.length > 0) {
      this.close(this.idle.pop()!, "shutdown", now)
    }
    for (const slot of this.slots) {
      if (slot.state === "connecting" || slot.state === "stalled") {
        slot.fiber?.unsafeInterruptAsFork(FiberId.none)
      }
    }
    this.shutdownAt = now + this.shutdownTimeout
    this.arm(this.shutdownAt, now)
    this.finish()
    this.report()
  }

  stats(): Stats {
    return {
      ...this.figures(),
      created: this.created,
      closed: { ...this.closedBy },
      connectFailures: this.connectFailures,
      timeouts: this.timeouts,
      checkouts: this.checkouts,
      waitMillis: this.waitMillis,
      useMillis: this.useMillis
    }
  }

  /** Connections that are open, as far as the pool knows, or about to be, but for those on their way out. */
  get live(): number {
    return this.slots.size - this.count.closing
  }

  now(): number {
    return Number(this.clock.unsafeCurrentTimeNanos()) / 1_000_000
  }

  closedError(): DatabaseClosed {
    return new DatabaseClosed({
      dialect: this.options.dialect,
      code: "08003",
      reason: `the pool ${this.options.name} is closed`
    })
  }
}
