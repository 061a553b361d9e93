/**
 * Copies between streams and tables: in the session of the current fiber, or on a connection of the pool, recorded as a
 * statement is.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Statement from "@effect/sql/Statement"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { type DatabaseError, fromSqlError, toSqlError, typed } from "../../DatabaseError.js"
import type { Options as SessionOptions } from "../../Session.js"
import { invalidCopy } from "../copy/errors.js"
import { formatOf } from "../copy/format.js"
import type { CopyFrom, CopySource, CopyTo, Driver } from "../driver.js"
import { currentFiber } from "../fiber.js"
import { currentContext } from "../session/context.js"
import { Reserved } from "../session/reserved.js"
import { asStatementStream, refuseEscape } from "../session/statementStream.js"
import { isTraced, makeScopedSpan, useSpan } from "../telemetry/tracing.js"
import { type Environment as RunEnvironment, run, streamCursor } from "./run.js"
import { annotateSpan, type Environment as SpanEnvironment, spanName } from "./statementSpan.js"

export interface Environment
  extends Omit<RunEnvironment & SpanEnvironment, "dialect" | "slowMillis" | "transformRows">
{
  readonly driver: Driver
  readonly sql: SqlClient.SqlClient
}

type Options = Parameters<typeof formatOf>[0]

/** Any failure of the stream that is copied, on its way through the connection. */
class SourceFailure {
  constructor(readonly source: Cause.Cause<unknown>) {}
}

const sessionOptions: SessionOptions = { name: "copy" }

/** The elements of a stream. Its failures pass through the connection as a SourceFailure. */
const sourceOf = <R>(
  pull: Effect.Effect<Chunk.Chunk<unknown>, Option.Option<unknown>, R>
): CopySource<SourceFailure> => {
  const source = Effect.matchCauseEffect(pull, {
    onSuccess: (chunk) => Effect.succeed(Chunk.toReadonlyArray(chunk)),
    onFailure: (cause) => {
      const failure = Cause.failureOption(cause)
      if (Option.isSome(failure) && Option.isNone(failure.value)) {
        return Effect.fail(Option.none())
      }
      const failures = Cause.flatMap(cause, (error) => Option.isSome(error) ? Cause.fail(error.value) : Cause.empty)
      return Effect.fail(Option.some(new SourceFailure(failures)))
    }
  })
  // What the stream requires is in the context that the copy runs in.
  return source as CopySource<SourceFailure>
}

export const make = (environment: Environment) => {
  const { driver, sessions, sql } = environment
  const { dialect } = driver
  // A copy takes as long as its stream, so it is not reported as slow.
  const runEnvironment = { ...environment, dialect, slowMillis: Infinity, transformRows: undefined }

  const invalid = (reason: string): DatabaseError => invalidCopy(dialect, reason)

  const isObserved = (): boolean => {
    const fiber = currentFiber()
    return fiber !== undefined && isTraced(fiber)
  }

  const requestOf = (table: string, columns: ReadonlyArray<string>, options: Options): CopyFrom | DatabaseError => {
    const format = formatOf(options)
    if (typeof format === "string") {
      return invalid(format)
    }
    if (columns.length === 0) {
      return invalid("it has no columns")
    }
    const quote = (name: string): string => sql`${sql(name)}`.compile()[0]
    return { table: quote(table), columns: columns.map((name) => ({ name, identifier: quote(name) })), format }
  }

  /**
   * Runs a copy that consists of several statements in a session, unless a session or transaction is open around it.
   */
  const inTransaction = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> => {
    if (driver.copiesInParts !== true) {
      return effect
    }
    return Effect.suspend((): Effect.Effect<A, E | SqlError, R> => {
      const current = sessions.current(currentContext())
      return current === undefined || (current instanceof Reserved && !current.hasTransaction)
        ? sessions.run(effect, sessionOptions, toSqlError) as Effect.Effect<A, E | SqlError, R>
        : effect
    })
  }

  const copyFrom =
    (table: string, columns: ReadonlyArray<string>, options: Options = {}) =>
    <E, R>(stream: Stream.Stream<unknown, E, R>): Effect.Effect<number, Exclude<E, SqlError> | DatabaseError, R> =>
      Effect.suspend(() => {
        const request = requestOf(table, columns, options)
        if (!("format" in request)) {
          return Effect.fail(request)
        }
        const text = driver.copyText.from(request)
        const copy = (source: CopySource<SourceFailure>) => (span: Tracer.Span | undefined) => {
          if (span !== undefined) {
            annotateSpan(runEnvironment, span, "copyFrom", text)
          }
          return run<number>(
            runEnvironment,
            (connection, _sql, _params, _environment, guard) =>
              connection.copyFrom(request, source, guard) as Effect.Effect<number, SqlError>,
            text,
            [],
            span
          ) as Effect.Effect<number, SqlError | SourceFailure>
        }
        const copied = Effect.scoped(
          Effect.flatMap(Stream.toPull(stream), (pull) => {
            const copyWith = copy(sourceOf(pull))
            return isObserved()
              ? Effect.uninterruptibleMask((restore) =>
                useSpan(spanName(runEnvironment, text), (span) => restore(copyWith(span)))
              )
              : copyWith(undefined)
          })
        ).pipe(inTransaction)
        return typed(Effect.catchIf(
          copied,
          (error): error is SourceFailure => error instanceof SourceFailure,
          ({ source }) => Effect.failCause(source as Cause.Cause<E>)
        )) as Effect.Effect<number, Exclude<E, SqlError> | DatabaseError, R>
      })

  const copyTo = (
    query: string | Statement.Statement<unknown>,
    options: Options = {}
  ): Stream.Stream<Uint8Array, DatabaseError> => {
    const data = (
      request: CopyTo,
      text: string,
      span: Tracer.Span | undefined
    ): Stream.Stream<Uint8Array, SqlError> => {
      if (span !== undefined) {
        annotateSpan(runEnvironment, span, "copyTo", text)
      }
      return streamCursor(runEnvironment, (connection, guard) => connection.copyTo(request, guard), text, span)
    }
    const madeIn = sessions.current(currentContext())
    const stream = Effect.suspend(() => {
      const refusal = refuseEscape(madeIn, sessions)
      if (refusal !== undefined) {
        return Effect.fail(toSqlError(refusal))
      }
      const format = formatOf(options)
      if (typeof format === "string") {
        return Effect.fail(toSqlError(invalid(format)))
      }
      const compiled = compile(query)
      if (compiled === undefined) {
        return Effect.fail(toSqlError(invalid("its query cannot be compiled")))
      }
      const request: CopyTo = { query: compiled[0], params: compiled[1], format }
      const text = driver.copyText.to(request)
      return isObserved()
        ? Effect.map(
          makeScopedSpan(spanName(runEnvironment, text)),
          (span) => data(request, text, span)
        )
        : Effect.succeed(data(request, text, undefined))
    })
    return asStatementStream(Stream.mapError(Stream.unwrapScoped(stream), fromSqlError), sessions.database)
  }

  return { copyFrom, copyTo }
}

/** A parameter or a fragment may throw when it is read. */
const compile = (
  query: string | Statement.Statement<unknown>
): readonly [sql: string, params: ReadonlyArray<unknown>] | undefined => {
  try {
    return typeof query === "string" ? [query, []] : query.compile()
  } catch {
    return undefined
  }
}
