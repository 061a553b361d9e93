/** Connections of memory, for the pool's tests: they count what is done with them and die when they are told to. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import type * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import {
  AuthenticationFailed,
  ConnectionFailed,
  ConnectionLost,
  type DatabaseError
} from "../../../src/DatabaseError.js"
import type { PoolClock } from "../../../src/internal/pool/clock.js"
import { makeWith } from "../../../src/internal/pool/make.js"
import * as Pool from "../../../src/Pool.js"

export interface FakeConnection {
  readonly id: number
  /** What it says of itself; a dead one says `closed`. */
  status: ReturnType<Pool.Options<FakeConnection>["status"]>
  /** The other end has gone, whether or not anybody noticed. */
  dead: boolean
  open: boolean
  pings: number
  resets: number
  readonly onLost: (error: DatabaseError) => void
}

export const refused = new ConnectionFailed({
  dialect: "postgres",
  code: "08006",
  reason: "connection refused",
  transient: true
})

export const wrongPassword = new AuthenticationFailed({ dialect: "postgres", code: "28P01", reason: "wrong password" })

export const lost = new ConnectionLost({ dialect: "postgres", code: "08006", reason: "terminated" })

/** A server of memory. What it does can be changed at any time. */
export class FakeServer {
  readonly connections: Array<FakeConnection> = []
  attempts = 0
  /** The most that were open at once. */
  maxOpen = 0
  /** What an attempt does before it succeeds. */
  connecting: Effect.Effect<void, DatabaseError> = Effect.void
  pinging: Effect.Effect<void, DatabaseError> = Effect.void
  resetting: Effect.Effect<void, DatabaseError> = Effect.void
  closing: Effect.Effect<void> = Effect.void

  get open(): ReadonlyArray<FakeConnection> {
    return this.connections.filter(({ open }) => open)
  }

  readonly connect: Pool.Options<FakeConnection>["connect"] = (onLost, restore) =>
    Effect.suspend(() => {
      this.attempts++
      return restore(this.connecting)
    }).pipe(
      Effect.map(() => {
        const connection: FakeConnection = {
          id: this.connections.length + 1,
          status: "idle",
          dead: false,
          open: true,
          pings: 0,
          resets: 0,
          onLost
        }
        this.connections.push(connection)
        this.maxOpen = Math.max(this.maxOpen, this.open.length)
        return connection
      })
    )

  readonly ping = (connection: FakeConnection): Effect.Effect<void, DatabaseError> =>
    Effect.suspend(() => {
      connection.pings++
      return connection.dead ? Effect.fail(lost) : this.pinging
    })

  readonly reset = (connection: FakeConnection): Effect.Effect<void, DatabaseError> =>
    Effect.suspend(() => {
      connection.resets++
      return connection.dead ? Effect.fail(lost) : this.resetting
    }).pipe(
      Effect.tap(Effect.sync(() => {
        connection.status = "idle"
      }))
    )

  readonly close = (connection: FakeConnection): Effect.Effect<void> =>
    Effect.tap(Effect.suspend(() => this.closing), Effect.sync(() => this.destroy(connection)))

  readonly destroy = (connection: FakeConnection): void => {
    connection.open = false
    connection.status = "closed"
  }

  /** Ends a connection from the other side; `silently` if the driver does not get to know. */
  kill(connection: FakeConnection, silently = false): void {
    connection.dead = true
    if (!silently) {
      connection.status = "closed"
      connection.onLost(lost)
    }
  }
}

/** A pool's clock that follows the Clock of the test, so that a TestClock drives it. */
const effectClock: Effect.Effect<PoolClock> = Effect.map(
  Effect.zip(Effect.clock, Effect.runtime()),
  ([clock, runtime]) => ({
    now: () => Number(clock.unsafeCurrentTimeNanos()) / 1_000_000,
    schedule: (f, delay) => {
      let isCanceled = false
      const run = () => isCanceled ? undefined : f()
      const fiber = Runtime.runFork(runtime, Effect.map(Effect.sleep(Duration.millis(delay)), run))
      return {
        cancel: () => {
          // The sleep may have ended already, without its fiber having run.
          isCanceled = true
          fiber.unsafeInterruptAsFork(FiberId.none)
        },
        keepAlive: () => undefined
      }
    }
  })
)

export const optionsOf = (
  world: FakeServer,
  options: Partial<Pool.Options<FakeConnection>>
): Pool.Options<FakeConnection> => ({
  name: "memory",
  dialect: "postgres",
  size: 2,
  maxOverflow: 0,
  timeout: "30 seconds",
  recycle: "30 minutes",
  connect: world.connect,
  status: (connection) => connection.status,
  ping: world.ping,
  reset: world.reset,
  close: world.close,
  destroy: world.destroy,
  ...options
})

type MakePool = (
  world: FakeServer,
  options?: Partial<Pool.Options<FakeConnection>>
) => Effect.Effect<Pool.Pool<FakeConnection>, never, Scope.Scope>

/** A pool that lives on the Clock of the test. */
export const makePool: MakePool = (world, options = {}) =>
  Effect.flatMap(effectClock, (clock) => makeWith(optionsOf(world, options), clock))

/** A pool as an application has it, in real time. */
export const makeRealPool: MakePool = (world, options = {}) => Pool.make(optionsOf(world, options))

/** Takes a connection, and gives it back when the scope closes, if not before. */
export const take = <A>(
  pool: Pool.Pool<A>,
  holding?: ReadonlyArray<Pool.Lease<A>>
): Effect.Effect<Pool.Lease<A>, DatabaseError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.tap(pool.take(restore, holding), (lease) => Effect.addFinalizer(() => lease.release))
  )

/** Lets every fiber run until nothing can go on without time passing. */
export const settle: Effect.Effect<void> = Effect.repeatN(Effect.yieldNow(), 30)

/** Collects what is logged. */
export const collect = (messages: Array<string>): Layer.Layer<never> =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ message }) => {
      messages.push(String(message))
    })
  )

/** The connections that a pool closed, for whatever reason. */
export const closed = (stats: Pool.Stats): number => Object.values(stats.closed).reduce((sum, count) => sum + count, 0)
