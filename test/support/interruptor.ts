/**
 * Interrupts a fiber at a chosen point. It does so as the fiber's scheduler: Effect calls `shouldYield` at every step of a
 * fiber, and `scheduleTask` whenever a suspended fiber resumes.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Scheduler from "effect/Scheduler"

/**
 * When the fiber is interrupted:
 *
 * - `step`: before the k-th step of the fiber or of its children
 * - `storm`: the same, and repeatedly afterwards
 * - `answered`: when the fiber resumes for the k-th time, with the interruption queued after the result
 * - `crossed`: the same, with the interruption queued before the result
 * - `waiting`: in the next iteration of the event loop after that, when the fiber is suspended again
 */
export const modes = ["step", "storm", "answered", "crossed", "waiting"] as const

export type Mode = typeof modes[number]

/** The number of steps between the interruptions of a storm. It is prime, so as not to match a pattern of the code. */
const stormInterval = 5

export class Interruptor implements Scheduler.Scheduler {
  /** The number of points passed so far, including the one where the fiber was interrupted. */
  points = 0
  /** Whether the fiber was interrupted while it was running. */
  hit = false
  private fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined = undefined

  constructor(private readonly mode: Mode, private readonly at: number) {}

  /** Runs an effect in a fiber of its own, which is interrupted at the chosen point, and returns its exit. */
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
        (this.mode === "storm" && this.points > this.at && (this.points - this.at) % stormInterval === 0)
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
