/**
 * The readers of a database, each with a pool of its own. The driver knows whether their servers are up, and checks
 * those that are down in the background.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
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

/** One reader, and whether it can be used. */
export class Reader {
  /**
   * Whether it was not fresh when it was asked last. Then a session asks it before it sends its first statement: asked
   * along with the statement, it would log an error for each session.
   */
  asksFirst = false
  /** Whether it was too far behind when it was asked last, and not only for a moment. */
  isLagging = false
  /** Whether it was logged that it cannot be connected to. */
  isReported = false
  private lagsUntil = 0
  private unreachableUntil = 0

  constructor(readonly replica: Replica, readonly pool: Pool<Connection>) {}

  /** Whether it cannot be connected to. */
  get isUnavailable(): boolean {
    return performance.now() < this.unreachableUntil || !this.replica.isUsable()
  }

  /** Whether it is not asked now: it cannot be connected to, or has been too far behind a moment ago. */
  get isAvoided(): boolean {
    return this.isUnavailable || performance.now() < this.lagsUntil
  }

  /** Notes that it had what was asked for. */
  noteFresh(): void {
    this.asksFirst = false
    this.isLagging = false
  }

  /** Notes that it is too far behind, and not only for a moment. */
  noteLag(): void {
    this.isLagging = true
    this.lagsUntil = performance.now() + lagPause
  }

  /**
   * Notes that it could not be connected to. It is avoided for `pause` milliseconds, or until the driver finds its
   * server up again, if the driver knows that it is down.
   */
  noteUnreachable(pause: number): void {
    if (this.replica.isUsable()) {
      this.unreachableUntil = performance.now() + pause
    }
  }
}

/** The readers of one database. */
export interface Readers extends Pick<Replicas, "maxLag" | "wait"> {
  readonly dialect: Dialect
  readonly all: ReadonlyArray<Reader>
  /** Where the transaction of a session runs. */
  readonly route: (options: Options, track: Track | undefined) => Route
  /** Notes that a reader could not be connected to, and logs it once. */
  readonly unavailable: (reader: Reader, error: DatabaseError) => Effect.Effect<void>
}

/** An error with which the pool fails its waiters at once instead of retrying, so that their sessions run elsewhere. */
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
    const all = yield* Effect.forEach(servers, (replica) =>
      Effect.map(
        makePool({
          attributes: replica.attributes,
          connect: (onLost, restore) => Effect.mapError(replica.connect(onLost, restore), withoutRetry)
        }, pool),
        (pool) => new Reader(replica, pool)
      ))
    const readers: Readers = {
      dialect,
      all,
      maxLag,
      wait,
      route: (options, track) => new Route(readers, options, track, recorder),
      unavailable: (reader, error) =>
        Effect.suspend(() => {
          reader.noteUnreachable(Duration.toMillis(recheck))
          if (reader.isReported) {
            return Effect.void
          }
          reader.isReported = true
          return Effect.logWarning(
            `the reader ${reader.replica.description} is not used until it can be connected to: ${error.message}`
          )
        })
    }
    return readers
  })
