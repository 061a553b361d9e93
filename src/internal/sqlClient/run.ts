/**
 * Runs a statement in its session, or on a connection of its own, and records it in the span, the metrics and the log.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import * as LogLevel from "effect/LogLevel"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { type DatabaseError, type Dialect, toSqlError } from "../../DatabaseError.js"
import type { Lease, Pool, Restore } from "../../Pool.js"
import * as Telemetry from "../../Telemetry.js"
import { AsyncInterrupt, registerMasked, type Resume } from "../asyncInterrupt.js"
import { trackStatements } from "../cluster/causality.js"
import type { Connection, StatementGuard } from "../driver.js"
import { currentFiber, currentSpan, fiberId, fiberLocation } from "../fiber.js"
import { rowStream } from "../rowStream.js"
import type { OpenCursor } from "../session/borrowedConnection.js"
import { currentContext } from "../session/context.js"
import { interruptibilityOfMask } from "../session/interruptibility.js"
import type { Sessions } from "../session/sessions.js"
import { recordServer } from "../session/span.js"
import { type Enclosing, Transaction } from "../session/transaction.js"
import type { ActivityTracker, SessionActivity } from "../telemetry/activity.js"
import { databaseErrorOf, errorType } from "../telemetry/errorType.js"
import { isRecorded } from "../telemetry/tracing.js"
import { truncateText } from "../telemetry/truncateText.js"

/** The dependencies of one client's statements, where they run. */
export interface Environment {
  readonly dialect: Dialect
  readonly pool: Pool<Connection>
  readonly sessions: Sessions
  /** Statements that take at least this long, in milliseconds, are logged. */
  readonly slowMillis: number
  readonly transformRows: Parameters<SqlConnection.Connection["execute"]>[2]
  readonly tracker: ActivityTracker
}

/** A method of the connection that runs a statement. */
export type Operation<A> = (
  connection: Connection,
  sql: string,
  params: ReadonlyArray<unknown>,
  environment: Environment,
  guard: StatementGuard | undefined
) => Effect.Effect<A, SqlError>

/** Runs a statement in the session of the current fiber, or on a connection that it takes from the pool. */
export const run = <A>(
  environment: Environment,
  operation: Operation<A>,
  sql: string,
  params: ReadonlyArray<unknown>,
  span: Tracer.Span | undefined
): Effect.Effect<A, SqlError> =>
  Effect.uninterruptibleMask((restore) => runMasked(environment, operation, sql, params, span, restore))

/** The same as `run`. Must be run uninterruptibly, with what `restore` undoes. */
export const runMasked = <A>(
  environment: Environment,
  operation: Operation<A>,
  sql: string,
  params: ReadonlyArray<unknown>,
  span: Tracer.Span | undefined,
  restore: Restore
): Effect.Effect<A, SqlError> => {
  const { pool, sessions, slowMillis } = environment
  // A tracer that throws does so before anything is begun.
  const recordedSpan = span !== undefined && isRecorded(span) ? span : undefined
  const fiber = currentFiber()
  const session = sessions.current(currentContext())
  const recorder = new StatementRecorder(environment, sql, session, span)
  /** When the statement got its connection. Infinity while it waits for the pool. */
  let connectedAt = session instanceof Transaction && session.connection === undefined ? Infinity : recorder.startedAt
  let lease: Lease<Connection> | undefined = undefined
  const track = session === undefined ? sessions.track(currentContext()) : undefined
  /** The context outside of the span, once it was entered. */
  let outside: Context.Context<never> | undefined = undefined
  const enter = (span: Tracer.Span): Effect.Effect<void> => {
    outside ??= currentContext()
    return FiberRef.set(FiberRef.currentContext, Context.add(outside, Tracer.ParentSpan, span))
  }
  /** Turns an exception of the driver or of the tracer into a defect, so that the connection is given back. */
  const operate = (connection: Connection): Effect.Effect<A, SqlError> => {
    if (connectedAt === Infinity) {
      connectedAt = performance.now()
    }
    try {
      if (span !== undefined) {
        recordServer(span, connection.server)
      }
      return operation(connection, sql, params, environment, session === undefined ? undefined : recorder)
    } catch (defect) {
      return Effect.die(defect)
    }
  }
  /** What the server says of the statement is logged in its span. */
  const inSpan = (result: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    recordedSpan === undefined ? result : Effect.suspend(() => Effect.zipRight(enter(recordedSpan), result))
  const operateOn = (taken: Lease<Connection>): Effect.Effect<A, SqlError> => {
    lease = taken
    trackStatements(taken.connection, track)
    return operate(taken.connection)
  }
  const giveBack = (): void => {
    if (lease !== undefined) {
      const { connection } = lease
      if (track !== undefined) {
        connection.trackPositions?.(undefined)
      }
      lease.giveBack()
      lease = undefined
    }
  }
  /** Starts a statement. What it has succeeded with is handed over when the next borrower has the connection already. */
  const start = (statement: AsyncInterrupt<A, SqlError>, resume: Resume<A, SqlError>): Effect.Effect<void> | void =>
    statement.register((result) => {
      if (!Exit.isExit(result) || Exit.isFailure(result)) {
        return resume(inSpan(result))
      }
      try {
        giveBack()
      } finally {
        resume(result)
      }
    })
  /** A statement that waits for a connection is started by whoever returns one, and its fiber sleeps until the answer. */
  const executeOnOwn = (): Effect.Effect<A, SqlError> => {
    const idle = pool.takeIdle()
    if (idle !== undefined) {
      const statement = operateOn(idle)
      return statement instanceof AsyncInterrupt
        ? registerMasked(restore, (resume) => start(statement, resume))
        : restore(inSpan(statement))
    }
    connectedAt = Infinity
    return registerMasked(restore, (resume) => {
      let cancel: Effect.Effect<void> | void = undefined
      const withdraw = pool.request((exit) => {
        if (Exit.isFailure(exit)) {
          return resume(Exit.mapError(exit as Exit.Exit<never, DatabaseError>, toSqlError))
        }
        try {
          const statement = operateOn(exit.value)
          cancel = statement instanceof AsyncInterrupt ? start(statement, resume) : resume(inSpan(statement))
        } catch (defect) {
          resume(Effect.die(defect))
        }
      })
      return Effect.suspend(() => {
        withdraw()
        return cancel ?? Effect.void
      })
    })
  }
  const finish = (exit: Exit.Exit<A, SqlError>): Effect.Effect<A, SqlError> => {
    giveBack()
    let recorded = exit
    try {
      recorder.end(exit)
    } catch (defect) {
      // A tracer that throws hides neither the result nor the end of the statement.
      recorded = Exit.zipLeft(exit, Exit.die(defect))
    }
    const millis = recorder.endedAt - connectedAt
    const ended = session?.statementEnded(recorder, fiber, interruptibilityOfMask(restore))
    const result = ended === undefined ? recorded : Effect.zipRight(ended, recorded)
    const logged = millis < slowMillis
      ? result
      : Effect.zipRight(warnSlow(environment, sql, millis, recorder.activity), result)
    return outside === undefined ? logged : Effect.zipRight(FiberRef.set(FiberRef.currentContext, outside), logged)
  }
  return Effect.matchCauseEffect(
    session === undefined
      ? executeOnOwn()
      : session.useConnection((connection) => inSpan(operate(connection)), restore),
    {
      onSuccess: (value) => finish(Exit.succeed(value)),
      onFailure: (cause) => finish(Exit.failCause(cause))
    }
  )
}

/** Streams the rows of a statement. It runs where `run` would run it, and is recorded when the stream ends. */
export const stream = <A>(
  environment: Environment,
  sql: string,
  params: ReadonlyArray<unknown>,
  span: Tracer.Span | undefined
): Stream.Stream<A, SqlError> =>
  streamCursor(environment, (connection, guard) => connection.cursor(sql, params, guard), sql, span)

/** Streams what a cursor gives, as `stream` does. */
export const streamCursor = <A>(
  environment: Environment,
  openCursor: OpenCursor,
  sql: string,
  span: Tracer.Span | undefined
): Stream.Stream<A, SqlError> => {
  const { pool, sessions, transformRows } = environment
  const session = sessions.current(currentContext())
  const track = session === undefined ? sessions.track(currentContext()) : undefined
  const recorder = new StatementRecorder(environment, sql, session, span)
  const open: OpenCursor = span === undefined ? openCursor : (connection, guard) => {
    recordServer(span, connection.server)
    return openCursor(connection, guard)
  }
  const rows = (session === undefined
    ? Stream.unwrapScoped(
      Effect.map(
        Effect.tap(
          Effect.mapError(pool.acquire, toSqlError),
          (connection) => Effect.acquireRelease(Effect.sync(() => trackStatements(connection, track)), Effect.sync)
        ),
        (connection) => rowStream(open(connection), transformRows)
      )
    )
    : session.stream(open, transformRows)) as Stream.Stream<A, SqlError>
  return Stream.ensuringWith(rows, (exit) => Effect.sync(() => recorder.end(exit)))
}

/** Records a statement that runs, and its result when it has ended. In a session it is the statement's guard too. */
class StatementRecorder implements StatementGuard {
  readonly startedAt = performance.now()
  /** NaN until it has ended. On the same clock as `startedAt`. */
  endedAt = NaN
  isSent = false
  mayWrite = true
  /** Of the session that it runs in. */
  readonly activity: SessionActivity | undefined

  constructor(
    private readonly environment: Environment,
    private readonly sql: string,
    readonly session: Exclude<Enclosing, undefined> | undefined,
    private readonly span: Tracer.Span | undefined
  ) {
    this.activity = session instanceof Transaction ? session.activity : undefined
    this.activity?.statementStarted(sql)
  }

  refusal(): DatabaseError | undefined {
    return this.session?.refusalOnSend()
  }

  wait(): Effect.Effect<void, SqlError> | undefined {
    return this.session?.waitForLock()
  }

  end(exit: Exit.Exit<unknown, SqlError>): void {
    const { environment: { tracker }, session } = this
    this.endedAt = performance.now()
    const seconds = (this.endedAt - this.startedAt) / 1_000
    this.activity?.statementEnded()
    tracker.statement(this.sql, seconds, this.activity)
    const query = tracker.queries.of(this.sql)
    if (Exit.isSuccess(exit)) {
      return tracker.operation(seconds, query)
    }
    const error = databaseErrorOf(exit)
    const type = errorType(exit, error)
    tracker.operation(seconds, query, type, error?.code)
    if (error !== undefined) {
      tracker.failed(error, this.activity, this.sql)
    }
    if (this.isSent && error !== undefined && error._tag !== "TransactionAborted" && session instanceof Transaction) {
      session.failure = error
    }
    if (this.span !== undefined) {
      this.span.attribute(Telemetry.errorType, type)
      if (error !== undefined) {
        this.span.attribute(Telemetry.responseStatusCode, error.code)
      }
    }
  }
}

/** Logs a slow statement with the fiber and the spans that ran it. */
const warnSlow = (
  { slowMillis, tracker }: Environment,
  sql: string,
  millis: number,
  session: SessionActivity | undefined
): Effect.Effect<void> =>
  Effect.suspend(() => {
    const fiber = currentFiber()
    const text = truncateText(sql)
    const line = Effect.annotateLogs(
      Effect.logWarning(
        `a statement took ${Math.round(millis)} ms in ${fiberLocation(fiberId(fiber), currentSpan(fiber))}: ${text}`
      ),
      session === undefined ? {} : { session: session.name, sessionId: session.id }
    )
    const summary = `a statement took at least ${slowMillis} ms: ${text}`
    return tracker.repeatedLogs.limit(summary, LogLevel.Warning, summary, line)
  })
