/**
 * Whether the code around a session can be interrupted. What a session itself does cannot; what it runs, and what it
 * waits for, is as the code around it.
 */
import * as Effect from "effect/Effect"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type { Restore } from "../../Pool.js"

export interface Interruptibility {
  readonly isInterruptible: boolean
  readonly restore: Restore
}

export const interruptible: Interruptibility = { isInterruptible: true, restore: Effect.interruptible }

const uninterruptible: Interruptibility = { isInterruptible: false, restore: Effect.uninterruptible }

/** The region of work that has a time limit: in its own fiber, which that limit interrupts if nobody else can. */
export const limitedRegionOf = (flags: RuntimeFlags.RuntimeFlags): Interruptibility => ({
  isInterruptible: RuntimeFlags.interruption(flags),
  restore: Effect.interruptible
})

/** The region of a fiber with these flags. */
export const regionOf = (flags: RuntimeFlags.RuntimeFlags): Interruptibility =>
  RuntimeFlags.interruption(flags) ? interruptible : uninterruptible
