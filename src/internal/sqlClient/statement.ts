/**
 * The statements of a client: those of @effect/sql, run by the session that their fiber is in.
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
import type { Restore } from "../../Pool.js"
import * as Telemetry from "../../Telemetry.js"
import { currentFiber } from "../fiber.js"
import { make as makeError } from "../makeError.js"
import { currentContext } from "../session/context.js"
import { asStatementStream, refuseEscape } from "../session/statementStream.js"
import { isRecorded, isTraced, makeScopedSpan, useSpan } from "../telemetry/tracing.js"
import { invalidRows } from "./rows.js"
import { type Environment as RunEnvironment, type Operation, run, runMasked, stream } from "./run.js"
import { annotateSpan, type Environment as SpanEnvironment, spanName } from "./statementSpan.js"
import { hasFixedText, type TextCache } from "./texts.js"

/** The dependencies of one client's statements. */
export interface Environment extends RunEnvironment, SpanEnvironment {
  readonly compiler: Statement.Compiler
  /** Whether spans record the parameters of statements. */
  readonly spanParameters: boolean
}

interface Client extends Environment {
  /** @effect/sql's own constructor, which splits templates into segments. */
  readonly template: Statement.Constructor
  readonly texts: TextCache
  /** The client's constructor, which statement transformers are given. */
  readonly constructor_: () => Statement.Constructor
}

const execute = <A>(
  ...[connection, sql, params, { transformRows }, guard]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.execute(sql, params, transformRows, guard)

const executeWithoutTransform = <A>(
  ...[connection, sql, params, , guard]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.execute(sql, params, undefined, guard)

const executeRaw: Operation<unknown> = (connection, sql, params, _, guard) => connection.executeRaw(sql, params, guard)

const executeValues: Operation<ReadonlyArray<ReadonlyArray<unknown>>> = (connection, sql, params, _, guard) =>
  connection.executeValues(sql, params, guard)

const executeTexts: Operation<ReadonlyArray<ReadonlyArray<unknown>>> = (connection, sql, params, _, guard) =>
  connection.executeTexts(sql, params, guard)

const executeUnprepared = <A>(
  ...[connection, sql, params, { transformRows }, guard]: Parameters<Operation<A>>
): Effect.Effect<ReadonlyArray<A>, SqlError> => connection.executeUnprepared(sql, params, transformRows, guard)

/** A statement's text and parameters. */
type Compiled = ReturnType<Statement.Statement<unknown>["compile"]>

const isCompiled = (result: Compiled | Effect.Effect<never, SqlError>): result is Compiled => Array.isArray(result)

/** Its fields are `#` rather than `private`, because they hold the parameters, which must never be printed. */
class SqlStatement<A> extends Effectable.Class<ReadonlyArray<A>, SqlError> implements Statement.Statement<A> {
  readonly #client: Client
  /** The strings of a template, or the whole text. */
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

  static texts(
    statement: Statement.Statement<unknown>
  ): Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, SqlError> {
    return Effect.suspend(() =>
      statement instanceof SqlStatement ? statement.#run("executeValues", executeTexts) : statement.values
    )
  }

  get unprepared(): Effect.Effect<ReadonlyArray<A>, SqlError> {
    return Effect.suspend(() => this.#run("executeUnprepared", executeUnprepared<A>))
  }

  get stream(): Stream.Stream<A, SqlError> {
    const { sessions } = this.#client
    const madeIn = sessions.current(currentContext())
    return asStatementStream(
      Stream.unwrapScoped(Effect.suspend(() => {
        const refusal = refuseEscape(madeIn, sessions)
        if (refusal !== undefined) {
          return Effect.fail(toSqlError(refusal))
        }
        const compiled = this.#compile(this, false)
        if (isObserved()) {
          return Effect.flatMap(
            makeScopedSpan(this.#spanName(compiled)),
            (span) =>
              this.#withSpan(
                span,
                "executeStream",
                false,
                compiled,
                identity,
                (sql, params) => Effect.succeed(stream<A>(this.#client, sql, params, span))
              )
          )
        }
        return isCompiled(compiled)
          ? Effect.succeed(stream<A>(this.#client, compiled[0], compiled[1], undefined))
          : compiled
      })),
      sessions.database
    )
  }

  compile(withoutTransform = false): readonly [sql: string, params: ReadonlyArray<unknown>] {
    if (this.#compiled === undefined) {
      const { compiler, texts } = this.#client
      const strings = this.#strings
      if (!hasFixedText(strings, this.#args)) {
        const reason = invalidRows(this.segments)
        if (reason !== undefined) {
          throw new TypeError(reason)
        }
        return compiler.compile(this, withoutTransform)
      }
      this.#compiled = [
        typeof strings === "string"
          ? strings
          : texts.get(strings) ?? texts.set(strings, compiler.compile(this, withoutTransform)[0]),
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

  /** Must be called by the fiber that runs the result. */
  #run<B>(name: string, operation: Operation<B>, withoutTransform = false): Effect.Effect<B, SqlError> {
    const compiled = this.#compile(this, withoutTransform)
    if (!isObserved()) {
      return isCompiled(compiled) ? run(this.#client, operation, compiled[0], compiled[1], undefined) : compiled
    }
    return Effect.uninterruptibleMask((restore) =>
      useSpan(
        this.#spanName(compiled),
        (span) =>
          this.#withSpan(
            span,
            name,
            withoutTransform,
            compiled,
            restore,
            (sql, params) => runMasked(this.#client, operation, sql, params, span, restore)
          )
      )
    )
  }

  /** The span begins before the statement transformer is called, since that is given the span. */
  #spanName(compiled: Compiled | Effect.Effect<never, SqlError>): string {
    return spanName(this.#client, isCompiled(compiled) ? compiled[0] : undefined)
  }

  /**
   * Compiles a statement. An insert or update without rows, which is a defect in @effect/sql, is an InvalidStatement. A
   * parameter that throws when @effect/sql reads it (a proxy, a getter) is InvalidData, without what it throws, which
   * may contain the value.
   */
  #compile(
    statement: Statement.Statement<unknown>,
    withoutTransform: boolean
  ): Compiled | Effect.Effect<never, SqlError> {
    try {
      return statement.compile(withoutTransform)
    } catch {
      const { dialect } = this.#client
      const reason = invalidRowsOf(statement)
      return Effect.fail(toSqlError(
        reason !== undefined
          ? makeError("InvalidStatement", { dialect, code: "42601", reason })
          : makeError("InvalidData", {
            dialect,
            code: "22023",
            reason: "the statement cannot be compiled: a parameter or fragment of it throws when it is read"
          })
      ))
    }
  }

  /** Applies the fiber's statement transformer, and adds the statement's attributes to the span. */
  #withSpan<B, E>(
    span: Tracer.Span,
    name: string,
    withoutTransform: boolean,
    own: Compiled | Effect.Effect<never, SqlError>,
    restore: Restore,
    f: (sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<B, E>
  ): Effect.Effect<B, E | SqlError> {
    const { constructor_, spanParameters } = this.#client
    return Effect.withFiberRuntime<B, E | SqlError>((fiber) => {
      const start = (statement: Statement.Statement<unknown>): Effect.Effect<B, E | SqlError> => {
        const compiled = statement === this ? own : this.#compile(statement, withoutTransform)
        if (!isCompiled(compiled)) {
          return compiled
        }
        const [sql, params] = compiled
        annotateSpan(this.#client, span, name, sql)
        if (spanParameters && isRecorded(span)) {
          params.forEach((value, i) => span.attribute(`${Telemetry.queryParameter}.${i}`, formatParameter(value)))
        }
        return f(sql, params)
      }
      const transformer = fiber.getFiberRef(Statement.currentTransformer)
      return transformer._tag === "None"
        ? start(this)
        : Effect.flatMap(restore(transformer.value(this, constructor_(), fiber.getFiberRefs(), span)), start)
    })
  }
}

/** The `values` of a statement, in which dates and times are text. */
export const textValues = SqlStatement.texts

const invalidRowsOf = (statement: Statement.Statement<unknown>): string | undefined => {
  try {
    return invalidRows(statement.segments)
  } catch {
    return undefined
  }
}

/** Whether a tracer or a statement transformer sees the statements of the current fiber. */
const isObserved = (): boolean => {
  const fiber = currentFiber()
  return fiber === undefined || isTraced(fiber) || fiber.getFiberRef(Statement.currentTransformer)._tag === "Some"
}

/** A parameter as a span attribute. */
const formatParameter = (value: unknown): string =>
  value instanceof Uint8Array
    ? `${value.byteLength} bytes`
    : Inspectable.toStringUnknown(value instanceof Date ? value.toJSON() : value, 0)

/** The `sql` of a client: the constructor of @effect/sql with statements of this module. */
export const makeConstructor = (environment: Environment, texts: TextCache): Statement.Constructor => {
  // This constructor only splits templates and never runs a statement. @effect/sql caches constructors by their acquirer,
  // so that every client needs an acquirer of its own.
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
