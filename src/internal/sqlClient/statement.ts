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
import { identity } from "effect/Function"
import * as Inspectable from "effect/Inspectable"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { fromSqlError } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** What the statements of one client share. */
export interface Environment {
  /** The connection of the session that the context belongs to, or one that takes another for each statement. */
  readonly connection: (context: Context.Context<never>) => SqlConnection.Connection
  readonly compiler: Statement.Compiler
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly transformRows: TransformRows
  readonly recorder: Telemetry.OperationRecorder
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
          const recorded = record(this.#environment.recorder, span)
          const stream: Stream.Stream<A, SqlError> = connection.executeStream(
            sql,
            params,
            this.#environment.transformRows
          )
          return Effect.succeed(
            stream.pipe(
              Stream.tapError((error) => Effect.sync(() => recorded(error))),
              Stream.ensuring(Effect.sync(() => recorded(undefined)))
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
          const recorded = record(this.#environment.recorder, span)
          return Effect.matchEffect(f(connection, sql, params), {
            onFailure: (error) => {
              recorded(error)
              return Effect.fail(error)
            },
            onSuccess: (result) => {
              recorded(undefined)
              return Effect.succeed(result)
            }
          })
        })
    )
  }

  #start<B, E>(
    span: Tracer.Span,
    operation: string,
    withoutTransform: boolean,
    f: (connection: SqlConnection.Connection, sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<B, E>
  ): Effect.Effect<B, E> {
    const { connection, constructor_, spanAttributes } = this.#environment
    return Effect.withFiberRuntime<B, E>((fiber) => {
      const start = (statement: Statement.Statement<unknown>) => {
        const [sql, params] = statement.compile(withoutTransform)
        for (const [key, value] of spanAttributes) {
          span.attribute(key, value)
        }
        span.attribute("db.operation.name", operation)
        span.attribute("db.query.text", sql)
        return f(connection(fiber.currentContext), sql, params)
      }
      const transformer = fiber.getFiberRef(Statement.currentTransformer)
      return transformer._tag === "None"
        ? start(this)
        : Effect.flatMap(transformer.value(this, constructor_(), fiber.getFiberRefs(), span), start)
    })
  }
}

/** Says once how a statement went. */
const record = (recorder: Telemetry.OperationRecorder, span: Tracer.Span) => {
  const started = performance.now()
  let done = false
  return (error: SqlError | undefined): void => {
    if (done) {
      return
    }
    done = true
    const seconds = (performance.now() - started) / 1_000
    if (error === undefined) {
      recorder.operation(seconds, undefined)
    } else {
      const known = fromSqlError(error)
      recorder.operation(seconds, known._tag)
      span.attribute(Telemetry.errorType, known._tag)
      span.attribute(Telemetry.responseStatusCode, known.code)
    }
  }
}

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
