/**
 * The span of a session.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type * as Tracer from "effect/Tracer"
import type { Options } from "../../Session.js"
import * as Telemetry from "../../Telemetry.js"
import type { Server } from "../cluster/servers.js"
import { currentFiber } from "../fiber.js"
import { databaseErrorOf, errorType } from "../telemetry/errorType.js"
import { serverAttributes } from "../telemetry/recorders.js"
import { isRecorded, isTraced, makeScopedSpan, useSpan } from "../telemetry/tracing.js"

/** Records the error of a session that failed, also if it never began. */
const recordError = (span: Tracer.Span, exit: Exit.Exit<unknown, unknown>): void => {
  if (Exit.isFailure(exit) && isRecorded(span)) {
    const error = databaseErrorOf(exit)
    span.attribute(Telemetry.errorType, errorType(exit, error))
    if (error !== undefined) {
      span.attribute(Telemetry.responseStatusCode, error.code)
    }
  }
}

const annotate = (
  span: Tracer.Span,
  { name }: Options,
  attributes: ReadonlyArray<readonly [string, unknown]>
): void => {
  if (!isRecorded(span)) {
    return
  }
  for (const [key, value] of attributes) {
    span.attribute(key, value)
  }
  if (name !== undefined) {
    span.attribute("sqlayer.session.name", name)
  }
}

/** Runs a session with a span, or with none if no tracer would record it. Must be run uninterruptibly. */
export const withSessionSpan = <A, E, R>(
  options: Options,
  attributes: ReadonlyArray<readonly [string, unknown]>,
  f: (span: Tracer.Span | undefined) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const fiber = currentFiber()
    if (fiber === undefined || !isTraced(fiber)) {
      return f(undefined)
    }
    return useSpan(
      Telemetry.sessionSpan,
      (span) => {
        annotate(span, options, attributes)
        return f(span)
      },
      recordError
    )
  })

/** The span of a session that lasts until its scope closes. Undefined if no tracer would record it. */
export const scopedSessionSpan = (
  options: Options,
  attributes: ReadonlyArray<readonly [string, unknown]>
): Effect.Effect<Tracer.Span | undefined, never, Scope.Scope> =>
  Effect.suspend(() => {
    const fiber = currentFiber()
    if (fiber === undefined || !isTraced(fiber)) {
      return Effect.succeed(undefined)
    }
    return Effect.tap(makeScopedSpan(Telemetry.sessionSpan), (span) => {
      annotate(span, options, attributes)
      return Effect.addFinalizer((exit) => Effect.sync(() => recordError(span, exit)))
    })
  })

/** Adds the id of the session. */
export const recordId = (span: Tracer.Span | undefined, id: string): void => {
  if (span !== undefined && isRecorded(span)) {
    span.attribute("sqlayer.session.id", id)
  }
}

/** Adds the event of the transaction's end, and the server that it ran on. */
export const recordEnd = (span: Tracer.Span | undefined, isCommitted: boolean, server: Server | undefined): void => {
  if (span === undefined || !isRecorded(span)) {
    return
  }
  recordServer(span, server)
  span.event(isCommitted ? "db.transaction.commit" : "db.transaction.rollback", nanosecondsNow())
}

/**
 * Adds the server of a statement or a transaction, if its role is known. A single server's address is there already.
 */
export const recordServer = (span: Tracer.Span, server: Server | undefined): void => {
  if (server !== undefined && server.role !== "unknown" && isRecorded(span)) {
    for (const [key, value] of serverAttributes(server)) {
      span.attribute(key, value)
    }
    span.attribute(Telemetry.serverRole, server.role)
  }
}

const nanosecondsNow = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n
