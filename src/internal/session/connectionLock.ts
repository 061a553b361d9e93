/**
 * The lock on a session's connection. Savepoints are a stack: a statement of the session around a nested one that ran
 * while that is open would be rolled back with it. So a nested session holds the lock of the session around it, and the
 * statements of that session wait until the lock is free. Among themselves they need no lock: the connection runs them
 * in order.
 */
import type * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import { FifoLock } from "../fifoLock.js"

/** The nested session that holds the lock, if it is one from `acquireSession`. */
export interface Holder {
  /** The fiber that acquired the session. It would wait for itself if it waited for the lock. */
  readonly fiber: FiberId.FiberId
  /** Rolls the session back, which releases the lock. Does nothing if it is ending already. */
  readonly end: Effect.Effect<void>
}

export class ConnectionLock extends FifoLock {
  holder: Holder | undefined = undefined

  override release(): void {
    this.holder = undefined
    super.release()
  }
}
