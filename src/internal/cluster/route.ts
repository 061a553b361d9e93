/**
 * Where the transaction of one `readOnly` session runs: on a reader that has what the session has to see, or on the
 * primary. Until its first statement is answered the session has read nothing, so the transaction can still move.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Lease, Pool, Restore } from "../../Pool.js"
import type { Options } from "../../Session.js"
import type { Connection, Freshness, Position, Staleness } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { RouteReason, RouteRecorder } from "../telemetry/recorders.js"
import type { Track } from "./causality.js"
import type { Reader, Readers } from "./readers.js"
import { stalenessOf } from "./staleness.js"

/** Where a transaction begins. */
export interface Place {
  readonly lease: Lease<Connection>
  /** What is checked with the first statement; undefined on the primary, or if it was checked already. */
  readonly required: Freshness | undefined
  readonly isReader: boolean
}

/** Takes a connection of a reader's pool, or of the primary's. */
type Take = (pool?: Pool<Connection>) => Effect.Effect<Lease<Connection>, DatabaseError>

/** Waits in real time, as pools do. */
const sleep = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

/** The code of a server that accepts no more connections. */
const tooManyConnections = "53300"

/**
 * The delays before a reader that is behind is asked again, in milliseconds: the first one doubles up to the maximum.
 */
const firstDelay = 1
const maxDelay = 16

/**
 * After these errors a session that has read nothing begins again elsewhere. A standby reports conflicts with recovery
 * as SerializationFailure or DeadlockDetected.
 */
const movesAfter = new Set<DatabaseError["_tag"]>([
  "ConnectionLost",
  "ConnectionFailed",
  "SerializationFailure",
  "DeadlockDetected"
])

const reasonTexts: { readonly [R in RouteReason]?: string } = {
  behind: "none has replayed the commits that the session has to see",
  lag: "all are too far behind the primary",
  history: "the commits that the session has to see are of another cluster or timeline",
  unknown: "only the primary is known to have the commits that the session has to see"
}

export class Route {
  /** Whether a statement was answered, so that the transaction stays where it is. */
  private isSettled = false
  /** Why it runs on the primary, once that is known. */
  private primaryReason: RouteReason | undefined = undefined
  private readonly tried = new Set<Reader>()
  /** The readers that may become fresh in time, and what each of them has answered last. */
  private readonly behind = new Map<Reader, Staleness>()
  private current: Reader | undefined = undefined
  private hasWaited = false
  private lastReason: RouteReason = "unavailable"
  private lastError: DatabaseError | undefined = undefined
  private position: Position | undefined
  /** Whether the primary was asked for its position. */
  private hasAskedPrimary = false
  private readonly requiresReader: boolean

  constructor(
    private readonly readers: Readers,
    options: Options,
    private readonly track: Track | undefined,
    private readonly recorder: RouteRecorder
  ) {
    this.requiresReader = options.reader === "replica"
    const requirement = track?.requirement
    this.position = typeof requirement === "string" ? undefined : requirement
    this.primaryReason = options.reader === "primary"
      ? "option"
      : options.isolation === "serializable"
      ? "isolation"
      : typeof requirement === "string"
      ? requirement
      : undefined
  }

  /** Whether a failure of the first statement may move the transaction. */
  get isTentative(): boolean {
    return !this.isSettled && this.primaryReason === undefined
  }

  /**
   * Whether to ask the primary for its position. The session runs there because the position that it has to see is
   * unknown or of several timelines; with the primary's position, readers can serve later sessions.
   */
  get asksPosition(): boolean {
    return this.primaryReason === "history" || this.primaryReason === "unknown"
  }

  /** Takes a connection. Must be run uninterruptibly, with the `restore` of that region. */
  take(restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    return Effect.suspend(() => {
      if (this.primaryReason !== undefined) {
        return this.takePrimary(restore, take)
      }
      const reader = this.next()
      return reader !== undefined ? this.tryReader(reader, restore, take) : this.waitForReader(restore, take)
    })
  }

  /** Notes that a statement was answered. */
  noteAnswered(): void {
    if (this.isTentative) {
      this.isSettled = true
      if (this.current !== undefined) {
        this.current.isLagging = false
        this.current.isReported = false
        this.recorder.routed("replica", this.hasWaited ? "waited" : "fresh")
      }
    }
  }

  /** Notes that a statement has failed. Returns whether it is to be repeated elsewhere. */
  noteFailed(error: DatabaseError): boolean {
    const { current } = this
    const staleness = stalenessOf(error)
    if (current === undefined || !(staleness !== undefined || movesAfter.has(error._tag))) {
      return false
    }
    this.lastError = error
    if (staleness === undefined) {
      this.lastReason = "failed"
    } else {
      this.noteStaleness(current, staleness)
    }
    return true
  }

  private next(): Reader | undefined {
    const candidates = this.readers.all.filter((reader) => !this.tried.has(reader) && !this.isAvoided(reader))
    return candidates[Math.floor(Math.random() * candidates.length)]
  }

  private isAvoided(reader: Reader): boolean {
    const { isAvoided } = reader
    if (isAvoided && !reader.isUnavailable && this.lastReason === "unavailable") {
      this.lastReason = "lag"
    }
    return isAvoided
  }

  private noteStaleness(reader: Reader, staleness: Staleness): void {
    reader.asksFirst = true
    this.lastReason = staleness
    // After a time without commits, a standby seems to lag until it has replayed the next one.
    if (staleness === "behind" || (staleness === "lag" && !reader.isLagging)) {
      this.behind.set(reader, staleness)
    } else if (staleness === "lag") {
      reader.noteLag()
    }
  }

  private get required(): Freshness {
    return { position: this.position, maxLag: this.readers.maxLag }
  }

  private tryReader(reader: Reader, restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    this.tried.add(reader)
    this.current = reader
    return Effect.matchCauseEffect(take(reader.pool), {
      onFailure: (cause) => this.unavailable(reader, cause, restore, take),
      onSuccess: (lease) =>
        reader.asksFirst
          ? Effect.flatMap(
            this.ask(reader, lease, restore),
            (isFresh) =>
              isFresh ? Effect.succeed({ lease, required: undefined, isReader: true }) : this.take(restore, take)
          )
          : Effect.succeed({ lease, required: this.required, isReader: true })
    })
  }

  private unavailable(
    reader: Reader,
    cause: Cause.Cause<DatabaseError>,
    restore: Restore,
    take: Take
  ): Effect.Effect<Place, DatabaseError> {
    const error = Option.getOrUndefined(Cause.failureOption(cause))
    // A pool that is exhausted is no reason to load the primary.
    if (error === undefined || (error._tag !== "ConnectionFailed" && error._tag !== "AuthenticationFailed")) {
      return Effect.failCause(cause)
    }
    this.lastError = error
    this.lastReason = "unavailable"
    // A reader that has no connection left is not down.
    const noted = error.code === tooManyConnections ? Effect.void : this.readers.unavailable(reader, error)
    return Effect.zipRight(noted, this.take(restore, take))
  }

  /** Asks a reader whether it is fresh. If it is not, or cannot be asked, its connection is given back. */
  private ask(
    reader: Reader,
    lease: Lease<Connection>,
    restore: Restore,
    wait?: number
  ): Effect.Effect<boolean, DatabaseError> {
    const { staleness } = lease.connection
    return staleness === undefined ? Effect.succeed(true) : Effect.matchCauseEffect(
      restore(Effect.suspend(() => lease.connection.staleness!(this.required, wait))),
      {
        onFailure: (cause) => {
          lease.giveBack()
          const error = Option.getOrUndefined(Cause.failureOption(cause))
          if (error === undefined) {
            return Effect.failCause(cause)
          }
          this.lastError = error
          this.lastReason = "failed"
          return Effect.succeed(false)
        },
        onSuccess: (answer) => {
          if (answer === undefined) {
            if (!this.hasWaited) {
              reader.noteFresh()
            }
            return Effect.succeed(true)
          }
          lease.giveBack()
          this.noteStaleness(reader, answer)
          return Effect.succeed(false)
        }
      }
    )
  }

  /** All readers were tried: waits for one that is only behind, or else falls back to the primary. */
  private waitForReader(restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    if (this.behind.size === 0 || this.hasWaited || this.readers.wait === 0) {
      return this.fallBack(restore, take)
    }
    this.hasWaited = true
    const behind = Array.from(this.behind.keys())
    const startedAt = performance.now()
    const deadline = startedAt + this.readers.wait
    const waitFor = (turn: number, delay: number): Effect.Effect<Place | undefined, DatabaseError> => {
      const remaining = deadline - performance.now()
      if (remaining <= 0) {
        return Effect.succeed(undefined)
      }
      const reader = behind[turn % behind.length]
      const askNext = Effect.suspend(() => waitFor(turn + 1, Math.min(delay * 2, maxDelay)))
      return Effect.flatMap(restore(sleep(Math.min(delay, remaining))), () => {
        // Only an idle connection is used: waiting for one may take longer than the replay.
        const lease = reader.pool.takeIdle()
        if (lease === undefined) {
          return askNext
        }
        const wait = Math.max(0, deadline - performance.now()) / behind.length
        return Effect.flatMap(this.ask(reader, lease, restore, wait), (isFresh) => {
          if (!isFresh) {
            return askNext
          }
          this.current = reader
          return Effect.succeed({ lease, required: undefined, isReader: true })
        })
      })
    }
    return Effect.flatMap(waitFor(0, firstDelay), (place) => {
      this.recorder.waited((performance.now() - startedAt) / 1_000)
      for (const [reader, staleness] of place === undefined ? this.behind : []) {
        if (staleness === "lag") {
          reader.noteLag()
        }
      }
      return place === undefined ? this.fallBack(restore, take) : Effect.succeed(place)
    })
  }

  private fallBack(restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    this.primaryReason = this.lastReason
    return this.takePrimary(restore, take)
  }

  private takePrimary(restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    if (this.requiresReader) {
      return this.asksPosition && !this.hasAskedPrimary ? this.askPrimary(restore, take) : Effect.fail(this.noReader())
    }
    this.current = undefined
    return Effect.map(take(), (lease) => {
      if (!this.isSettled) {
        this.isSettled = true
        this.recorder.routed("primary", this.primaryReason!)
      }
      return { lease, required: undefined, isReader: false }
    })
  }

  /**
   * For a session that requires a reader: asks the primary for its current position, which covers everything that the
   * session has to see, and waits for a reader that has replayed it.
   */
  private askPrimary(restore: Restore, take: Take): Effect.Effect<Place, DatabaseError> {
    this.hasAskedPrimary = true
    return Effect.flatMap(take(), (lease) => {
      const record = this.track?.beginRecording()
      return restore(lease.connection.position ?? Effect.succeed(undefined)).pipe(
        Effect.ensuring(Effect.sync(lease.giveBack)),
        Effect.flatMap((position) => {
          if (position === undefined) {
            return Effect.fail(this.noReader())
          }
          record?.(position)
          this.position = position
          this.primaryReason = undefined
          this.tried.clear()
          this.behind.clear()
          return this.take(restore, take)
        })
      )
    })
  }

  private noReader(): DatabaseError {
    const { lastError, primaryReason } = this
    const why = lastError?.reason ?? reasonTexts[primaryReason ?? "unavailable"] ?? "none can be connected to"
    return makeError("ConnectionFailed", {
      dialect: this.readers.dialect,
      code: "08004",
      reason: `the session has to run on a replica, and it can read from none: ${why}`,
      transient: true
    })
  }
}
