/**
 * A statement of @effect/sql that finds its connection by the session it runs in, and whose span and metrics say what
 * it failed with.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Exit from "effect/Exit"
import { identity } from "effect/Function"
import * as Inspectable from "effect/Inspectable"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import * as Telemetry from "../../Telemetry.js"
import { currentFiber, currentSpan, fiberId, place } from "../pool/holders.js"
import { endReason } from "../session/report.js"
import { failedWith } from "../session/retry.js"
import { abridged, type Tracker, type Watched } from "../telemetry/activity.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** Where a statement runs: in a session, which operators watch, or on a connection that is taken for it. */
export interface Target extends SqlConnection.Connection {
  readonly watched: Watched | undefined
  /** From when on it has its connection, if not from the beginning; infinite before. By `performance.now`. */
  readonly since?: number
}

/** What the statements of one client share. */
export interface Environment {
  /** The session that the context belongs to, or what takes another connection for each statement. */
  readonly connection: (context: Context.Context<never>) => Target
  readonly compiler: Statement.Compiler
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  /** Whether spans hold the parameters of statements. */
  readonly spanParameters: boolean
  /** A statement that takes longer is logged. */
  readonly slowMillis: number
  readonly transformRows: TransformRows
  readonly tracker: Tracker
  /** For those who transform statements. */
  readonly constructor_: () => Statement.Constructor
}

class SqlStatement<A> extends Effectable.Class<ReadonlyArray<A>, SqlError> implements Statement.Statement<A> {
  readonly #segments: ReadonlyArray<Statement.Segment>
  readonly #environment: Environment

  constructor(segments: ReadonlyArray<Statement.Segment>, environment: Environment) {
    super()
    this.#segments = segments
    this.#environment = environment
  }

  get [Statement.FragmentId]() {
    return identity
  }

  /** Private behind the getter, because it holds the parameters, which must not be printed. */
  get segments(): ReadonlyArray<Statement.Segment> {
    return this.#segments
  }

  get withoutTransform() {
    return this.#run<ReadonlyArray<A>>(
      "executeWithoutTransform",
      (connection, sql, params) => connection.execute(sql, params, undefined),
      true
    )
  }

  get raw() {
    return this.#run<unknown>("executeRaw", (connection, sql, params) => connection.executeRaw(sql, params), true)
  }

  get values() {
    return this.#run<ReadonlyArray<ReadonlyArray<unknown>>>(
      "executeValues",
      (connection, sql, params) => connection.executeValues(sql, params)
    )
  }

  get unprepared() {
    return this.#run<ReadonlyArray<A>>(
      "executeUnprepared",
      (connection, sql, params) => connection.executeUnprepared(sql, params, this.#environment.transformRows)
    )
  }

  get stream(): Stream.Stream<A, SqlError> {
    return Stream.unwrapScoped(Effect.flatMap(
      Effect.makeSpanScoped(Telemetry.statementSpan, { kind: "client", captureStackTrace: false }),
      (span) =>
        this.#start<Stream.Stream<A, SqlError>, never>(span, "executeStream", false, (connection, sql, params) => {
          const { ended } = record(this.#environment.tracker, span, connection.watched, sql)
          const stream: Stream.Stream<A, SqlError> = connection.executeStream(
            sql,
            params,
            this.#environment.transformRows
          )
          return Effect.succeed(
            stream.pipe(
              Stream.ensuringWith((exit) => Effect.sync(() => ended(exit)))
            )
          )
        })
    ))
  }

  compile(withoutTransform = false) {
    return this.#environment.compiler.compile(this, withoutTransform)
  }

  override commit() {
    return this.#run<ReadonlyArray<A>>(
      "execute",
      (connection, sql, params) => connection.execute(sql, params, this.#environment.transformRows)
    )
  }

  toJSON(): unknown {
    return { _id: "@effect/sql/Statement", sql: this.compile()[0] }
  }

  override toString(): string {
    return Inspectable.format(this.toJSON())
  }

  [Inspectable.NodeInspectSymbol](): unknown {
    return this.toJSON()
  }

  #run<B>(
    operation: string,
    f: (
      connection: SqlConnection.Connection,
      sql: string,
      params: ReadonlyArray<unknown>
    ) => Effect.Effect<B, SqlError>,
    withoutTransform = false
  ): Effect.Effect<B, SqlError> {
    return Effect.useSpan(
      Telemetry.statementSpan,
      { kind: "client", captureStackTrace: false },
      (span) =>
        this.#start(span, operation, withoutTransform, (connection, sql, params) => {
          const { slowMillis, tracker } = this.#environment
          const { ended, started } = record(tracker, span, connection.watched, sql)
          return Effect.onExit(f(connection, sql, params), (exit) => {
            const millis = ended(exit) - (connection.since ?? started)
            return millis < slowMillis ? Effect.void : warnSlow(sql, millis, connection.watched)
          })
        })
    )
  }

  #start<B, E>(
    span: Tracer.Span,
    operation: string,
    withoutTransform: boolean,
    f: (connection: Target, sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<B, E>
  ): Effect.Effect<B, E> {
    const { connection, constructor_, spanAttributes, spanParameters } = this.#environment
    return Effect.withFiberRuntime<B, E>((fiber) => {
      const start = (statement: Statement.Statement<unknown>) => {
        const [sql, params] = statement.compile(withoutTransform)
        for (const [key, value] of spanAttributes) {
          span.attribute(key, value)
        }
        span.attribute("db.operation.name", operation)
        span.attribute("db.query.text", sql)
        if (spanParameters && span.sampled) {
          params.forEach((value, i) => span.attribute(`${Telemetry.queryParameter}.${i}`, shown(value)))
        }
        return f(connection(fiber.currentContext), sql, params)
      }
      const transformer = fiber.getFiberRef(Statement.currentTransformer)
      return transformer._tag === "None"
        ? start(this)
        : Effect.flatMap(transformer.value(this, constructor_(), fiber.getFiberRefs(), span), start)
    })
  }
}

/** Tells operators of a statement that begins, and how it went when it has ended: that gives the time, as `started` is. */
const record = (tracker: Tracker, span: Tracer.Span, session: Watched | undefined, sql: string) => {
  const started = performance.now()
  session?.runs(sql)
  const ended = (exit: Exit.Exit<unknown, SqlError>): number => {
    const now = performance.now()
    const seconds = (now - started) / 1_000
    session?.ran()
    tracker.statement(sql, seconds)
    if (Exit.isSuccess(exit)) {
      tracker.operation(seconds)
      return now
    }
    const error = failedWith(exit)
    const reason = endReason(exit, error)
    tracker.operation(seconds, reason, error?.code)
    span.attribute(Telemetry.errorType, reason)
    if (error !== undefined) {
      span.attribute(Telemetry.responseStatusCode, error.code)
    }
    return now
  }
  return { started, ended }
}

/** A parameter as text, for those who asked to see it. */
const shown = (value: unknown): string =>
  value instanceof Uint8Array
    ? `${value.byteLength} bytes`
    : Inspectable.toStringUnknown(value instanceof Date ? value.toJSON() : value, 0)

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

/** The `sql` of a client: @effect/sql's own, whose statements are ours. */
export const makeConstructor = (environment: Omit<Environment, "constructor_">): Statement.Constructor => {
  // Never runs a statement of its own: it knows how a template becomes segments. It is remembered by its acquirer, which
  // therefore must be another for every client.
  const acquirer = Effect.suspend(() => Effect.never)
  const template = Statement.make(acquirer, environment.compiler, environment.spanAttributes, undefined)
  const mine: Environment = { ...environment, constructor_: () => constructor }
  const constructor: Statement.Constructor = Object.assign(
    (strings: TemplateStringsArray | string, ...args: Array<unknown>) =>
      typeof strings === "string"
        ? template(strings)
        : new SqlStatement((template(strings, ...args)).segments, mine),
    {
      ...template,
      unsafe: <A extends object>(sql: string, params?: ReadonlyArray<unknown>): Statement.Statement<A> =>
        new SqlStatement(template.unsafe(sql, params).segments, mine)
    }
  ) as Statement.Constructor
  return constructor
}
