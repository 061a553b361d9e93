/**
 * One place in the pool and the connection in it, and the lease under which a fiber holds it.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError } from "../../DatabaseError.js"
import { keep } from "../hiddenClass.js"

/**
 * What a slot is doing: `stalled` has been connecting for so long that nobody relies on it, `checking` is a ping,
 * `resetting` cleans up after a borrower, `gone` has left the pool.
 */
export type State = "connecting" | "stalled" | "idle" | "checking" | "used" | "resetting" | "closing" | "gone"

/** A place in the pool. Times are in milliseconds of the pool's clock. */
export interface Slot<A> {
  state: State
  /** There from when it is connected on. */
  connection: A
  /** How often the pool had been invalidated when the connection began: an older one is not used again. */
  readonly generation: number
  /** How long it is idle before it is pinged: of its own, so that those that came together do not come round together. */
  readonly keepAlive: number
  /** How often a connection had been lost when this one was last known to live: a lower one is pinged before use. */
  epoch: number
  /** How it broke, if the driver noticed that it did. */
  lost: DatabaseError | undefined
  readonly createdAt: number
  /** When its life ends. */
  expiresAt: number
  /** When it last came back from a borrower. The idle ones are sorted by it. */
  usedAt: number
  /** When it was last known to live. */
  aliveAt: number
  /** When the pool looks after it next; what is to be done then depends on the state. */
  due: number
  lease: Lease<A> | undefined
  /** Who wants to know how the attempt to connect ends. */
  readonly watchers: Array<(exit: Exit.Exit<void, DatabaseError>) => void>
  /** What runs on it in the background. */
  fiber: Fiber.RuntimeFiber<unknown> | undefined
}

/** A slot that begins to connect. */
export const makeSlot = <A>(now: number, generation: number, keepAlive: number): Slot<A> => ({
  state: "connecting",
  connection: undefined as A,
  generation,
  keepAlive,
  epoch: 0,
  lost: undefined,
  createdAt: now,
  expiresAt: Infinity,
  usedAt: now,
  aliveAt: now,
  due: Infinity,
  lease: undefined,
  watchers: [],
  fiber: undefined
})

/** A connection in a fiber's hands. Implements the public Lease. */
export class Lease<A> {
  readonly connection: A
  /** That its fiber waits for yet another one has been said. */
  told = false

  constructor(
    private readonly pool: { giveBack(lease: Lease<A>): void },
    readonly slot: Slot<A>,
    readonly since: number,
    /** Who took it, and where: kept as they are, because rendering them on every check-out would cost too much. */
    readonly fiber: FiberId.FiberId,
    readonly span: Tracer.AnySpan | undefined
  ) {
    this.connection = slot.connection
  }

  get release(): Effect.Effect<void> {
    return Effect.sync(() => this.giveBack())
  }

  giveBack(): void {
    this.pool.giveBack(this)
  }
}

keep(new Lease({ giveBack: () => undefined }, makeSlot(0.5, 0, 0.5), 0.5, FiberId.none, undefined))
