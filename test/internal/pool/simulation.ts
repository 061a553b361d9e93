/** A pool in simulated time, so that minutes of thousands of requests take a moment. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { Scheduler, Task } from "effect/Scheduler"
import * as Scope from "effect/Scope"
import type { PoolClock } from "../../../src/internal/pool/clock.js"
import { makeWith } from "../../../src/internal/pool/make.js"
import type * as Pool from "../../../src/Pool.js"
import { type FakeConnection, FakeServer, optionsOf } from "./harness.js"

/** What came of a request. Times are in milliseconds. */
export interface Request {
  readonly number: number
  readonly at: number
  readonly waited: number
  /** Why it was refused. */
  readonly message: string | undefined
}

export class Simulation {
  now = 0
  readonly requests: Array<Request> = []
  private readonly tasks: Array<Task> = []
  private readonly scheduler: Scheduler = {
    shouldYield: () => false,
    scheduleTask: (task) => void this.tasks.push(task)
  }
  /** What is due when, in no order. */
  private events: Array<{ readonly at: number; readonly run: () => void }> = []
  private readonly pool: Pool.Pool<FakeConnection>
  private count = 0

  private readonly clock: PoolClock = {
    now: () => this.now,
    schedule: (run, delay) => {
      const event = { at: this.now + delay, run }
      this.events.push(event)
      return {
        cancel: () => {
          this.events = this.events.filter((other) => other !== event)
        },
        keepAlive: () => undefined
      }
    }
  }

  constructor(options: Partial<Pool.Options<FakeConnection>>, public useMillis: number) {
    this.pool = Effect.runSync(Effect.provideService(
      Effect.withScheduler(makeWith(optionsOf(new FakeServer(), options), this.clock), this.scheduler),
      Scope.Scope,
      Effect.runSync(Scope.make())
    ))
  }

  /** Lets a request take a connection and use it. `then` is called when it has given it back, or was refused. */
  request(then: () => void = () => undefined): void {
    const number = this.count++
    const { now: at, useMillis } = this
    const effect = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.either(this.pool.take(restore)), (taken) => {
        const message = Either.isLeft(taken) ? taken.left.message : undefined
        this.requests.push({ number, at, waited: this.now - at, message })
        return Either.isLeft(taken) ? Effect.void : Effect.zipRight(this.sleep(useMillis), taken.right.release)
      })
    )
    Effect.runFork(Effect.zipRight(effect, Effect.sync(then)), { scheduler: this.scheduler })
    this.settle()
  }

  /** Calls a function at a time from now. */
  after(millis: number, run: () => void): void {
    this.clock.schedule(run, millis)
  }

  /** Lets time pass. */
  advance(millis: number): void {
    const end = this.now + millis
    for (;;) {
      const next = this.events.reduce<typeof this.events[number] | undefined>(
        (first, event) => event.at <= end && (first === undefined || event.at < first.at) ? event : first,
        undefined
      )
      if (next === undefined) {
        this.now = end
        return
      }
      this.events = this.events.filter((event) => event !== next)
      this.now = next.at
      next.run()
      this.settle()
    }
  }

  /** Lets every fiber run until nothing can go on without time passing. */
  private settle(): void {
    for (let task = this.tasks.shift(); task !== undefined; task = this.tasks.shift()) {
      task()
    }
  }

  private sleep(millis: number): Effect.Effect<void> {
    return Effect.async((resume) => this.after(millis, () => resume(Effect.void)))
  }
}
