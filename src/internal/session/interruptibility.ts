/**
 * Whether the code that calls a session is interruptible. The session's own steps are not; its effect, and its waits for a
 * connection or for other sessions, are as interruptible as their caller.
 */
import * as Effect from "effect/Effect"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type { Restore } from "../../Pool.js"
import { type CurrentFiber, currentFiber } from "../fiber.js"

export interface Interruptibility {
  readonly isInterruptible: boolean
  /** Restores the caller's interruptibility within an uninterruptible region. */
  readonly restore: Restore
}

export const interruptible: Interruptibility = { isInterruptible: true, restore: Effect.interruptible }

const uninterruptible: Interruptibility = { isInterruptible: false, restore: Effect.uninterruptible }

/** The interruptibility of a fiber with these flags. */
export const interruptibilityOf = (flags: RuntimeFlags.RuntimeFlags): Interruptibility =>
  RuntimeFlags.interruption(flags) ? interruptible : uninterruptible

/**
 * The interruptibility of a session with a timeout, called by a fiber with these flags. Its effect runs in a fiber of its
 * own, which the timeout must be able to interrupt even if the caller is uninterruptible.
 */
export const timeoutInterruptibilityOf = (flags: RuntimeFlags.RuntimeFlags): Interruptibility => ({
  isInterruptible: RuntimeFlags.interruption(flags),
  restore: Effect.interruptible
})

/** The fiber that calls this, if a session with this interruptibility ends when it is interrupted. */
export const interruptedBy = (
  { isInterruptible }: Interruptibility,
  { timeout }: { readonly timeout?: unknown }
): CurrentFiber => isInterruptible || timeout !== undefined ? currentFiber() : undefined

/**
 * The interruptibility of the code around an `Effect.uninterruptibleMask`. If it is interruptible, `restore` is
 * `Effect.interruptible`.
 */
export const interruptibilityOfMask = (restore: Restore): Interruptibility =>
  restore === Effect.interruptible ? interruptible : uninterruptible
