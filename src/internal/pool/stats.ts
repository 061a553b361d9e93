/**
 * The statistics of a pool: the states of its connections, its counters, and the metrics of both.
 */
import type { PoolFigures } from "../../DatabaseError.js"
import type { CloseReason, Options, Stats } from "../../Pool.js"
import { RecentTimes } from "../telemetry/recentTimes.js"
import * as Recorders from "../telemetry/recorders.js"
import type { Entry, State } from "./entry.js"

/** Counts what happens in one pool. Times are in milliseconds. */
export class StatsTracker {
  readonly maximum: number
  /** The number of entries in each state. */
  readonly stateCounts: Record<State, number> = {
    connecting: 0,
    stalled: 0,
    idle: 0,
    checking: 0,
    used: 0,
    resetting: 0,
    closing: 0,
    removed: 0
  }
  private created = 0
  private connectFailures = 0
  private timeouts = 0
  private checkouts = 0
  private waitMillis = 0
  private useMillis = 0
  private readonly closedByReason: Record<CloseReason, number> = {
    overflow: 0,
    idle: 0,
    lifetime: 0,
    lost: 0,
    unusable: 0,
    invalidated: 0,
    shutdown: 0
  }
  private readonly waitTimes = new RecentTimes()
  private readonly useTimes = new RecentTimes()
  private readonly recorder: Recorders.PoolRecorder

  constructor(
    private readonly options: Pick<Options<never>, "name" | "dialect" | "attributes" | "size" | "maxOverflow" | "min">,
    private readonly waiters: { readonly size: number },
    maxIdle: number
  ) {
    this.maximum = options.size + options.maxOverflow
    this.recorder = Recorders.pool(options.name, options.dialect, options.attributes)
    this.recorder.limits(this.maximum, options.min ?? options.size, maxIdle)
    this.publish()
  }

  /** The connections that are open and not being closed. */
  get established(): number {
    return this.idle + this.used
  }

  /** The connections that are checked out, or being reset after their return. */
  get used(): number {
    return this.stateCounts.used + this.stateCounts.resetting
  }

  /** The connections that may become available without being returned by a borrower. */
  get preparing(): number {
    return this.stateCounts.connecting + this.stateCounts.checking + this.stateCounts.resetting
  }

  add(entry: Entry<unknown>): void {
    this.stateCounts[entry.state]++
  }

  move(entry: Entry<unknown>, state: State): void {
    this.stateCounts[entry.state]--
    this.stateCounts[state]++
    entry.state = state
  }

  connected(millis: number): void {
    this.created++
    this.recorder.createTime(millis / 1_000)
  }

  connectFailed(): void {
    this.connectFailures++
  }

  checkedOut(waitMillis: number, now: number): void {
    this.checkouts++
    this.waitMillis += waitMillis
    this.waitTimes.record(waitMillis / 1_000, now)
    this.recorder.waitTime(waitMillis / 1_000)
  }

  checkedIn(useMillis: number, now: number): void {
    this.useMillis += useMillis
    this.useTimes.record(useMillis / 1_000, now)
    this.recorder.useTime(useMillis / 1_000)
  }

  timedOut(): void {
    this.timeouts++
    this.recorder.timeout()
  }

  closed(reason: CloseReason): void {
    this.closedByReason[reason]++
  }

  /** Removes the pool's values from the metrics, which add up the pools of the same name. */
  end(): void {
    this.publish()
    this.recorder.limits(0, 0, 0)
  }

  /** Updates the metrics of the current state. */
  publish(): void {
    this.recorder.connections(this.idle, this.used)
    this.recorder.pending(this.waiters.size)
  }

  /** The current state alone, as PoolTimeout carries it. */
  current(): PoolFigures {
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

  /** The current state and all counters. */
  snapshot(now: number): Stats {
    return {
      ...this.current(),
      created: this.created,
      closed: { ...this.closedByReason },
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
    return this.stateCounts.idle + this.stateCounts.checking
  }
}
