/**
 * A pool's bookkeeping: what its connections are doing, what it has counted, and the telemetry of both.
 */
import type { PoolFigures } from "../../DatabaseError.js"
import type { CloseReason, Options, Stats } from "../../Pool.js"
import { RecentTimes } from "../telemetry/recentTimes.js"
import * as Recorders from "../telemetry/recorders.js"
import type { Slot, State } from "./entry.js"

/** The figures of one pool. Times are in milliseconds. */
export class Figures {
  readonly maximum: number
  /** How many slots are in each state. */
  readonly count: Record<State, number> = {
    connecting: 0,
    stalled: 0,
    idle: 0,
    checking: 0,
    used: 0,
    resetting: 0,
    closing: 0,
    gone: 0
  }
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
  private readonly waitTimes = new RecentTimes()
  private readonly useTimes = new RecentTimes()
  private readonly telemetry: Recorders.PoolRecorder

  constructor(
    private readonly options: Pick<Options<never>, "name" | "dialect" | "size" | "maxOverflow">,
    private readonly waiters: { readonly size: number }
  ) {
    this.maximum = options.size + options.maxOverflow
    this.telemetry = Recorders.pool(options.name, options.dialect)
    this.telemetry.limits(this.maximum, 0, options.size)
    this.report()
  }

  /** The connections that the pool has, and may lend again. */
  get established(): number {
    return this.idle + this.used
  }

  /** What may soon serve somebody who waits. */
  get coming(): number {
    return this.count.connecting + this.count.checking + this.count.resetting
  }

  add(slot: Slot<unknown>): void {
    this.count[slot.state]++
  }

  move(slot: Slot<unknown>, state: State): void {
    this.count[slot.state]--
    this.count[state]++
    slot.state = state
  }

  connected(millis: number): void {
    this.created++
    this.telemetry.createTime(millis / 1_000)
  }

  connectFailed(): void {
    this.connectFailures++
  }

  lent(millisWaited: number, now: number): void {
    this.checkouts++
    this.waitMillis += millisWaited
    this.waitTimes.record(millisWaited / 1_000, now)
    this.telemetry.waitTime(millisWaited / 1_000)
  }

  returned(millisUsed: number, now: number): void {
    this.useMillis += millisUsed
    this.useTimes.record(millisUsed / 1_000, now)
    this.telemetry.useTime(millisUsed / 1_000)
  }

  timedOut(): void {
    this.timeouts++
    this.telemetry.timeout()
  }

  closed(reason: CloseReason): void {
    this.closedBy[reason]++
  }

  /** The pool has ended: its limits no longer add to those of others. */
  end(): void {
    this.report()
    this.telemetry.limits(0, 0, 0)
  }

  report(): void {
    this.telemetry.connections(this.idle, this.used)
    this.telemetry.pending(this.waiters.size)
  }

  now(): PoolFigures {
    return {
      name: this.options.name,
      maximum: this.maximum,
      size: this.options.size,
      overflow: this.options.maxOverflow,
      idle: this.idle,
      used: this.used,
      waiting: this.waiters.size
    }
  }

  stats(now: number): Stats {
    return {
      ...this.now(),
      created: this.created,
      closed: { ...this.closedBy },
      connectFailures: this.connectFailures,
      timeouts: this.timeouts,
      checkouts: this.checkouts,
      waitMillis: this.waitMillis,
      useMillis: this.useMillis,
      waitTime: this.waitTimes.quantiles(now),
      useTime: this.useTimes.quantiles(now)
    }
  }

  private get idle(): number {
    return this.count.idle + this.count.checking
  }

  private get used(): number {
    return this.count.used + this.count.resetting
  }
}
