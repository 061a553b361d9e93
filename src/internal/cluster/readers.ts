/**
 * The readers of a database, each with a pool of its own, and what is known of them. One that cannot be connected to is left
 * alone until it was found again in the background.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Pool } from "../../Pool.js"
import type { Options } from "../../Session.js"
import type { Connection, Replica, Replicas } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { RouteRecorder } from "../telemetry/recorders.js"
import type { Track } from "./causality.js"
import { Route } from "./route.js"

/** How long a reader that lags is not asked again, in milliseconds. */
const lagPause = 1_000

/** One reader. */
export class Reader {
  /** Whether it cannot be connected to. */
  isDown = false
  /**
   * Whether it was not fresh when it was asked last. Then it is asked before anything is sent to it, so that its log has no
   * error for each session.
   */
  asksFirst = false
  /** Whether it was too far behind when it was asked last, and went on to be. */
  isLagging = false
  private avoidUntil = 0

  constructor(readonly description: string, readonly pool: Pool<Connection>) {}

  get isAvoided(): boolean {
    return this.isDown || performance.now() < this.avoidUntil
  }

  /** It had what was asked for. */
  isFresh(): void {
    this.asksFirst = false
    this.isLagging = false
  }

  /** It is too far behind, and not only for a moment. */
  lags(): void {
    this.isLagging = true
    this.avoidUntil = performance.now() + lagPause
  }
}

/** The readers of one database. */
export interface Readers extends Pick<Replicas, "maxLag" | "wait"> {
  readonly dialect: Dialect
  readonly all: ReadonlyArray<Reader>
  /** Where the transaction of a session runs. */
  readonly route: (options: Options, track: Track | undefined) => Route
  /** A reader could not be connected to. */
  readonly unavailable: (reader: Reader, error: DatabaseError) => Effect.Effect<void>
}

/** The pool's waiters fail at once with such an error, so that their sessions run elsewhere. */
const withoutRetry = (error: DatabaseError): DatabaseError =>
  makeError("ConnectionFailed", {
    dialect: error.dialect,
    code: error.code,
    reason: error.reason,
    transient: false,
    cause: error
  })

/** Opens no connection. The pools shut down with the scope. */
export const make = (
  { maxLag, pool, servers, wait }: Replicas,
  dialect: Dialect,
  recheck: Duration.Duration,
  recorder: RouteRecorder,
  makePool: (
    replica: Pick<Replica, "attributes" | "connect">,
    shape: Replicas["pool"]
  ) => Effect.Effect<Pool<Connection>, never, Scope.Scope>
): Effect.Effect<Readers, never, Scope.Scope> =>
  Effect.gen(function*() {
    const runFork = Runtime.runFork(yield* Effect.runtime())
    const timers = new Set<NodeJS.Timeout>()
    let isClosed = false
    const all = yield* Effect.forEach(servers, ({ attributes, connect, description }) =>
      Effect.map(
        makePool({
          attributes,
          connect: (onLost, restore) => Effect.mapError(connect(onLost, restore), withoutRetry)
        }, pool),
        (pool) => new Reader(description, pool)
      ))
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isClosed = true
        timers.forEach(clearTimeout)
      })
    )
    /** Looks at a reader that is down until it can be connected to. */
    const lookLater = (reader: Reader): void => {
      const timer = setTimeout(() => {
        timers.delete(timer)
        runFork(reader.pool.warm).addObserver((exit) => {
          if (Exit.isSuccess(exit)) {
            reader.isDown = false
          } else if (!isClosed) {
            lookLater(reader)
          }
        })
      }, Duration.toMillis(recheck))
      timer.unref()
      timers.add(timer)
    }
    const readers: Readers = {
      dialect,
      all,
      maxLag,
      wait,
      route: (options, track) => new Route(readers, options, track, recorder),
      unavailable: (reader, error) =>
        Effect.suspend(() => {
          if (reader.isDown) {
            return Effect.void
          }
          reader.isDown = true
          lookLater(reader)
          return Effect.logWarning(
            `the reader ${reader.description} is not used until it can be connected to: ${error.message}`
          )
        })
    }
    return readers
  })
