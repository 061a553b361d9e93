/**
 * How a statement runs: in its session, or on a connection that is taken for it; and how its span, the metrics and the
 * log get to know how it went.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { type Dialect, toSqlError } from "../../DatabaseError.js"
import type { Lease, Pool } from "../../Pool.js"
import * as Telemetry from "../../Telemetry.js"
import type { Connection, Refusal } from "../driver.js"
import { currentFiber, currentSpan, fiberId, place } from "../pool/leakDetection.js"
import { currentContext } from "../session/context.js"
import { endReason } from "../session/log.js"
import { failedWith } from "../session/retry.js"
import type { Sessions } from "../session/sessions.js"
import { abridged, type Tracker, type Watched } from "../telemetry/activity.js"

/** Where statements run. */
export interface Environment {
  readonly dialect: Dialect
  readonly pool: Pool<Connection>
  readonly sessions: Sessions
  /** A statement that takes longer is logged. */
  readonly slowMillis: number
  readonly transformRows: Parameters<SqlConnection.Connection["execute"]>[2]
  readonly tracker: Tracker
}

/** One of the ways in which a connection runs a statement. */
export type Operation<A> = (
  connection: Connection,
  sql: string,
  params: ReadonlyArray<unknown>,
  environment: Environment,
  refusal: Refusal | undefined
) => Effect.Effect<A, SqlError>

/** Runs a statement: in the session that it is in, or on a connection that it takes. */
export const run = <A>(
  environment: Environment,
  operation: Operation<A>,
  sql: string,
  params: ReadonlyArray<unknown>,
  span: Tracer.Span | undefined
): Effect.Effect<A, SqlError> =>
  Effect.uninterruptibleMask((restore) => {
    const { pool, sessions, slowMillis } = environment
    const session = sessions.current(currentContext())
    const running = new Running(environment, sql, session?.watched, span)
    // From when on it has its connection.
    let since = running.started
    let lease: Lease<Connection> | undefined = undefined
    /** A driver that throws must not keep the connection. */
    const begin = (connection: Connection, refusal?: Refusal): Effect.Effect<A, SqlError> => {
      try {
        return operation(connection, sql, params, environment, refusal)
      } catch (defect) {
        return Effect.die(defect)
      }
    }
    const outside = (): Effect.Effect<A, SqlError> => {
      lease = pool.takeIdle()
      if (lease !== undefined) {
        return restore(begin(lease.connection))
      }
      since = Infinity
      return Effect.flatMap(Effect.mapError(pool.take(restore), toSqlError), (taken) => {
        since = performance.now()
        lease = taken
        return restore(begin(taken.connection))
      })
    }
    const ended = (exit: Exit.Exit<A, SqlError>): Effect.Effect<A, SqlError> => {
      lease?.giveBack()
      const millis = running.ended(exit) - since
      return millis < slowMillis ? exit : Effect.zipRight(warnSlow(sql, millis, session?.watched), exit)
    }
    return Effect.matchCauseEffect(session === undefined ? outside() : restore(session.admit(begin)), {
      onSuccess: (value) => ended(Exit.succeed(value)),
      onFailure: (cause) => ended(Exit.failCause(cause))
    })
  })

/** Streams what a statement gives: as `run` runs one. */
export const stream = <A>(
  environment: Environment,
  sql: string,
  params: ReadonlyArray<unknown>,
  span: Tracer.Span | undefined
): Stream.Stream<A, SqlError> => {
  const { pool, sessions, transformRows } = environment
  const session = sessions.current(currentContext())
  const running = new Running(environment, sql, session?.watched, span)
  const rows: Stream.Stream<A, SqlError> = session === undefined
    ? Stream.unwrapScoped(
      Effect.map(
        Effect.mapError(pool.acquire, toSqlError),
        (connection) => connection.executeStream(sql, params, transformRows)
      )
    )
    : session.executeStream(sql, params, transformRows)
  return Stream.ensuringWith(rows, (exit) => Effect.sync(() => running.ended(exit)))
}

/** A statement that runs, of which operators are told, and how it went when it has ended. */
class Running {
  readonly started = performance.now()

  constructor(
    private readonly environment: Environment,
    private readonly sql: string,
    private readonly session: Watched | undefined,
    private readonly span: Tracer.Span | undefined
  ) {
    session?.runs(sql)
  }

  /** Gives the time, as `started` is. */
  ended(exit: Exit.Exit<unknown, SqlError>): number {
    const { tracker } = this.environment
    const now = performance.now()
    const seconds = (now - this.started) / 1_000
    this.session?.ran()
    tracker.statement(this.sql, seconds)
    if (Exit.isSuccess(exit)) {
      tracker.operation(seconds)
      return now
    }
    const error = failedWith(exit)
    const reason = endReason(exit, error)
    tracker.operation(seconds, reason, error?.code)
    if (this.span !== undefined) {
      this.span.attribute(Telemetry.errorType, reason)
      if (error !== undefined) {
        this.span.attribute(Telemetry.responseStatusCode, error.code)
      }
    }
    return now
  }
}

/** Says that a statement took long, and where it was run. */
const warnSlow = (sql: string, millis: number, session: Watched | undefined): Effect.Effect<void> =>
  Effect.suspend(() => {
    const fiber = currentFiber()
    return Effect.annotateLogs(
      Effect.logWarning(
        `a statement took ${Math.round(millis)} ms in ${place(fiberId(fiber), currentSpan(fiber))}: ${abridged(sql)}`
      ),
      session === undefined ? {} : { session: session.name, sessionId: session.id }
    )
  })
