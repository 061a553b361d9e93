/**
 * The pool's bookkeeping for one connection, and the lease of the fiber that has checked it out.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError } from "../../DatabaseError.js"
import { keepHiddenClass } from "../hiddenClass.js"

/**
 * The state of an entry:
 * - `connecting`: the connection is being opened
 * - `stalled`: still being opened, but for so long that the pool no longer counts on it
 * - `idle`: open and not in use
 * - `checking`: being pinged
 * - `used`: checked out
 * - `resetting`: being reset after its borrower returned it
 * - `closing`: being closed; it still counts towards the maximum
 * - `removed`: no longer part of the pool
 */
export type State = "connecting" | "stalled" | "idle" | "checking" | "used" | "resetting" | "closing" | "removed"

/** One connection of the pool. Times are in milliseconds of the pool's clock. */
export interface Entry<A> {
  state: State
  /** Set once the connection is established. */
  connection: A
  /** The pool's generation when the attempt to connect began. A connection of an earlier generation is not reused. */
  readonly generation: number
  /** How long it stays idle before it is pinged. Jittered for each entry, so that the pings are spread out. */
  readonly keepAlive: number
  /** The pool's loss count when the connection was last known to be alive. If it is outdated, a ping precedes reuse. */
  lossCount: number
  /** The error with which the connection broke, if the driver has reported one. */
  lostError: DatabaseError | undefined
  readonly createdAt: number
  /** The end of its lifetime. */
  expiresAt: number
  /** When it was last returned, or else opened. The idle entries are sorted by this time. */
  returnedAt: number
  /** When it was last known to be alive. */
  aliveAt: number
  /** When it is reset if it is idle until then. */
  resetAt: number
  /** When the pool has to act on it next; the action depends on the state. */
  dueAt: number
  /** Set while it is checked out. */
  lease: Lease<A> | undefined
  /** Called with the result of the attempt to connect. */
  readonly connectListeners: Array<(exit: Exit.Exit<void, DatabaseError>) => void>
  /** The fiber that opens the connection. */
  connectFiber: Fiber.RuntimeFiber<unknown> | undefined
}

/** An entry whose connection is about to be opened. */
export const makeEntry = <A>(now: number, generation: number, keepAlive: number): Entry<A> => ({
  state: "connecting",
  connection: undefined as A,
  generation,
  keepAlive,
  lossCount: 0,
  lostError: undefined,
  createdAt: now,
  expiresAt: Infinity,
  returnedAt: now,
  aliveAt: now,
  resetAt: Infinity,
  dueAt: Infinity,
  lease: undefined,
  connectListeners: [],
  connectFiber: undefined
})

/** A connection that is checked out. Implements `Pool.Lease`. */
export class Lease<A> {
  readonly connection: A
  /** Whether a warning was logged that the holder waits for a further connection. */
  isNestingWarned = false

  constructor(
    private readonly pool: { giveBack(lease: Lease<A>): void },
    readonly entry: Entry<A>,
    readonly leasedAt: number,
    /** The borrower. It is rendered only when a warning is logged, because that is too slow for every checkout. */
    readonly fiber: FiberId.FiberId,
    readonly span: Tracer.AnySpan | undefined
  ) {
    this.connection = entry.connection
  }

  get release(): Effect.Effect<void> {
    return Effect.sync(() => this.giveBack())
  }

  giveBack(): void {
    this.pool.giveBack(this)
  }
}

keepHiddenClass(new Lease({ giveBack: () => undefined }, makeEntry(0.5, 0, 0.5), 0.5, FiberId.none, undefined))
