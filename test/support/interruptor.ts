/**
 * Interrupts a fiber at a point of its own choosing: Effect's scheduler is asked at every step, and is given every fiber
 * that goes on after it has waited.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Scheduler from "effect/Scheduler"

/**
 * Where the fiber is when it is interrupted. `step`: before it takes its k-th step, or one of its children does; `storm`:
 * there, and again and again after that. `answered`: what it waited for has just happened for the k-th time; `crossed`:
 * so it has, but the interruption was there first, in the same tick; `waiting`: in the next turn of the event loop after
 * that, when it waits for the next.
 */
export const modes = ["step", "storm", "answered", "crossed", "waiting"] as const

export type Mode = typeof modes[number]

/** How often a storm comes back: out of step with whatever has a rhythm. */
const again = 5

export class Interruptor implements Scheduler.Scheduler {
  /** How many points there were, the one where it interrupted included. */
  points = 0
  /** Whether there was somebody to interrupt. */
  hit = false
  private fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined = undefined

  constructor(private readonly mode: Mode, private readonly at: number) {}

  /** Runs an effect in a fiber of its own, to be interrupted, and gives what becomes of it. */
  readonly victim = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Exit.Exit<A, E>, never, R> =>
    Effect.flatMap(Effect.withScheduler(Effect.fork(effect), this), (fiber) => {
      this.fiber = fiber
      return Fiber.await(fiber)
    })

  shouldYield(fiber: Fiber.RuntimeFiber<unknown, unknown>): number | false {
    if (this.isRunning && (this.mode === "step" || this.mode === "storm")) {
      this.points++
      if (
        this.points === this.at ||
        (this.mode === "storm" && this.points > this.at && (this.points - this.at) % again === 0)
      ) {
        this.interrupt()
      }
    }
    return Scheduler.defaultScheduler.shouldYield(fiber)
  }

  scheduleTask(task: Scheduler.Task, priority: number, fiber?: Fiber.RuntimeFiber<unknown, unknown>): void {
    Scheduler.defaultScheduler.scheduleTask(task, priority, fiber)
    if (this.isRunning && (this.mode === "answered" || this.mode === "crossed" || this.mode === "waiting")) {
      this.points++
      if (this.points === this.at) {
        if (this.mode === "waiting") {
          setImmediate(() => this.interrupt())
        } else {
          this.interrupt()
          if (this.mode === "crossed" && fiber === this.fiber) {
            const { _queue: messages } = fiber as unknown as { readonly _queue: Array<unknown> }
            messages.unshift(messages.pop())
          }
        }
      }
    }
  }

  private get isRunning(): boolean {
    return this.fiber !== undefined && this.fiber.unsafePoll() === null
  }

  private interrupt(): void {
    if (this.isRunning) {
      this.hit = true
      this.fiber!.unsafeInterruptAsFork(FiberId.none)
    }
  }
}
