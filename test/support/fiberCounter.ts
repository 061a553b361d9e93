/** Counts what fibers do, which is the same whenever it is counted. */
import * as Effect from "effect/Effect"
import * as Supervisor from "effect/Supervisor"

export class FiberCounter extends Supervisor.AbstractSupervisor<void> {
  override readonly value = Effect.void
  /** Fibers that were started. */
  fibers = 0
  /** Steps of fibers, where the runtime has the flag `OpSupervision`. */
  steps = 0
  /** How often a fiber stopped to wait. */
  suspensions = 0

  override onStart(): void {
    this.fibers++
  }

  override onEffect(): void {
    this.steps++
  }

  override onSuspend(): void {
    this.suspensions++
  }
}
