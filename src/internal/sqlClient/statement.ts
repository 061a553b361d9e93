/**
 * A statement of @effect/sql that finds its connection by the session it runs in.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Statement from "@effect/sql/Statement"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import { identity } from "effect/Function"
import * as Inspectable from "effect/Inspectable"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { toSqlError } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"
import { make as makeError } from "../makeError.js"
import { currentFiber } from "../pool/leakDetection.js"
import { isTraced } from "../telemetry/tracing.js"
import { type Environment as Running, type Operation, run, stream } from "./run.js"
import { isPlain, type Texts } from "./texts.js"

/** What the statements of one client share. */
export interface Environment extends Running {
  readonly compiler: Statement.Compiler
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  /** Whether spans hold the parameters of statements. */
  readonly spanParameters: boolean
}

/** What is known once the client is made. */
interface Client extends Environment {
  /** @effect/sql's own, which knows how a template becomes segments. */
  readonly template: Statement.Constructor
  readonly texts: Texts
  /** For those who transform statements. */
  readonly constructor_: () => Statement.Constructor
}

const execute = <A>(
  ...[connection, sql, params, { transformRows }, refusal]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.execute(sql, params, transformRows, refusal)

const executeWithoutTransform = <A>(
  ...[connection, sql, params, , refusal]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.execute(sql, params, undefined, refusal)

const executeRaw: Operation<unknown> = (connection, sql, params, _, refusal) =>
  connection.executeRaw(sql, params, refusal)

const executeValues: Operation<ReadonlyArray<ReadonlyArray<unknown>>> = (connection, sql, params, _, refusal) =>
  connection.executeValues(sql, params, refusal)

const executeUnprepared = <A>(
  ...[connection, sql, params, { transformRows }, refusal]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.executeUnprepared(sql, params, transformRows, refusal)

type Built = ReturnType<Statement.Statement<unknown>["compile"]>

const isBuilt = (built: Built | Effect.Effect<never, SqlError>): built is Built => Array.isArray(built)

const spanOptions: Tracer.SpanOptions = { kind: "client", captureStackTrace: false }

class SqlStatement<A> extends Effectable.Class<ReadonlyArray<A>, SqlError> implements Statement.Statement<A> {
  readonly #client: Client
  /** A template's, or a whole text. */
  readonly #strings: TemplateStringsArray | string
  readonly #args: ReadonlyArray<unknown>
  #segments: ReadonlyArray<Statement.Segment> | undefined = undefined
  #compiled: readonly [sql: string, params: ReadonlyArray<unknown>] | undefined = undefined

  constructor(client: Client, strings: TemplateStringsArray | string, args: ReadonlyArray<unknown>) {
    super()
    this.#client = client
    this.#strings = strings
    this.#args = args
  }

  get [Statement.FragmentId]() {
    return identity
  }

  /** Private behind the getter, because it holds the parameters, which must not be printed. */
  get segments(): ReadonlyArray<Statement.Segment> {
    if (this.#segments === undefined) {
      const { template } = this.#client
      this.#segments = typeof this.#strings === "string"
        ? template.unsafe(this.#strings, this.#args).segments
        : template(this.#strings, ...this.#args).segments
    }
    return this.#segments
  }

  get withoutTransform(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return Effect.suspend(() => this.#run("executeWithoutTransform", executeWithoutTransform<A>, true))
  }

  get raw() {
    return Effect.suspend(() => this.#run("executeRaw", executeRaw, true))
  }

  get values() {
    return Effect.suspend(() => this.#run("executeValues", executeValues))
  }

  get unprepared(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return Effect.suspend(() => this.#run("executeUnprepared", executeUnprepared<A>))
  }

  get stream(): Stream.Stream<A, SqlError> {
    return Stream.unwrapScoped(Effect.suspend(() =>
      isLookedAt()
        ? Effect.flatMap(
          Effect.makeSpanScoped(Telemetry.statementSpan, spanOptions),
          (span) =>
            this.#described(
              span,
              "executeStream",
              false,
              (sql, params) => Effect.succeed(stream<A>(this.#client, sql, params, span))
            )
        )
        : Effect.map(
          Effect.suspend(() => {
            const built = this.#built(this, false)
            return isBuilt(built) ? Effect.succeed(built) : built
          }),
          ([sql, params]) => stream<A>(this.#client, sql, params, undefined)
        )
    ))
  }

  compile(withoutTransform = false): readonly [sql: string, params: ReadonlyArray<unknown>] {
    if (this.#compiled === undefined) {
      const { compiler, texts } = this.#client
      const strings = this.#strings
      if (!isPlain(strings, this.#args)) {
        return compiler.compile(this, withoutTransform)
      }
      this.#compiled = [
        typeof strings === "string"
          ? strings
          : texts.get(strings) ?? texts.keep(strings, compiler.compile(this, withoutTransform)[0]),
        this.#args
      ]
    }
    return this.#compiled
  }

  override commit(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return this.#run("execute", execute<A>)
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

  /** To be called by the fiber that runs what it gives. */
  #run<B>(name: string, operation: Operation<B>, withoutTransform = false): Effect.Effect<B, SqlError> {
    if (!isLookedAt()) {
      const built = this.#built(this, withoutTransform)
      return isBuilt(built) ? run(this.#client, operation, built[0], built[1], undefined) : built
    }
    return Effect.useSpan(
      Telemetry.statementSpan,
      spanOptions,
      (span) =>
        this.#described(span, name, withoutTransform, (sql, params) => run(this.#client, operation, sql, params, span))
    )
  }

  /** A statement's text and parameters, or why there are none. */
  #built(statement: Statement.Statement<unknown>, withoutTransform: boolean): Built | Effect.Effect<never, SqlError> {
    try {
      return statement.compile(withoutTransform)
    } catch (defect) {
      return statement.segments.some(hasNoRows)
        ? Effect.fail(toSqlError(makeError("InvalidStatement", {
          dialect: this.#client.dialect,
          code: "42601",
          reason: "sql.insert and sql.updateValues need at least one row, and were given none"
        })))
        : Effect.die(defect)
    }
  }

  /** Lets a transformer change the statement, and the span say what it does. */
  #described<B, E>(
    span: Tracer.Span,
    name: string,
    withoutTransform: boolean,
    f: (sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<B, E>
  ): Effect.Effect<B, E | SqlError> {
    const { constructor_, spanAttributes, spanParameters } = this.#client
    return Effect.withFiberRuntime<B, E | SqlError>((fiber) => {
      const start = (statement: Statement.Statement<unknown>): Effect.Effect<B, E | SqlError> => {
        const built = this.#built(statement, withoutTransform)
        if (!isBuilt(built)) {
          return built
        }
        const [sql, params] = built
        for (const [key, value] of spanAttributes) {
          span.attribute(key, value)
        }
        span.attribute("db.operation.name", name)
        span.attribute("db.query.text", sql)
        if (spanParameters && span.sampled) {
          params.forEach((value, i) => span.attribute(`${Telemetry.queryParameter}.${i}`, shown(value)))
        }
        return f(sql, params)
      }
      const transformer = fiber.getFiberRef(Statement.currentTransformer)
      return transformer._tag === "None"
        ? start(this)
        : Effect.flatMap(transformer.value(this, constructor_(), fiber.getFiberRefs(), span), start)
    })
  }
}

const hasNoRows = (segment: Statement.Segment): boolean =>
  (segment._tag === "RecordInsertHelper" || segment._tag === "RecordUpdateHelper") && segment.value.length === 0

/** Whether a tracer or a transformer is told of the statements of the fiber that asks. */
const isLookedAt = (): boolean => {
  const fiber = currentFiber()
  return fiber === undefined || isTraced(fiber) || fiber.getFiberRef(Statement.currentTransformer)._tag === "Some"
}

/** A parameter as text, for those who asked to see it. */
const shown = (value: unknown): string =>
  value instanceof Uint8Array
    ? `${value.byteLength} bytes`
    : Inspectable.toStringUnknown(value instanceof Date ? value.toJSON() : value, 0)

/** The `sql` of a client: @effect/sql's own, whose statements are ours. */
export const makeConstructor = (environment: Environment, texts: Texts): Statement.Constructor => {
  // Never runs a statement of its own: it knows how a template becomes segments. It is remembered by its acquirer, which
  // therefore must be another for every client.
  const acquirer = Effect.suspend(() => Effect.never)
  const template = Statement.make(acquirer, environment.compiler, environment.spanAttributes, undefined)
  const client: Client = { ...environment, template, texts, constructor_: () => constructor }
  const constructor: Statement.Constructor = Object.assign(
    (strings: TemplateStringsArray | string, ...args: Array<unknown>) =>
      Array.isArray(strings) && "raw" in strings
        ? new SqlStatement(client, strings as unknown as TemplateStringsArray, args)
        : template(strings as string),
    {
      ...template,
      unsafe: <A extends object>(sql: string, params: ReadonlyArray<unknown> = []): Statement.Statement<A> =>
        new SqlStatement(client, sql, Array.from(params))
    }
  ) as Statement.Constructor
  return constructor
}
