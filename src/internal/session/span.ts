/**
 * The span of a session.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Tracer from "effect/Tracer"
import type { Options } from "../../Session.js"
import * as Telemetry from "../../Telemetry.js"
import { currentFiber } from "../fiber.js"
import { databaseErrorOf, errorType } from "../telemetry/errorType.js"
import { isTraced } from "../telemetry/tracing.js"

/** Records the error of a session that failed, which may be one that never began. */
const recordError = (span: Tracer.Span, exit: Exit.Exit<unknown, unknown>): void => {
  if (Exit.isFailure(exit)) {
    const error = databaseErrorOf(exit)
    span.attribute(Telemetry.errorType, errorType(exit, error))
    if (error !== undefined) {
      span.attribute(Telemetry.responseStatusCode, error.code)
    }
  }
}

/** Runs a session with a span. Makes none, and passes on undefined, where no tracer records it. */
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
    return Effect.useSpan(Telemetry.sessionSpan, { kind: "client", captureStackTrace: false }, (span) => {
      for (const [key, value] of attributes) {
        span.attribute(key, value)
      }
      if (options.name !== undefined) {
        span.attribute("sqlayer.session.name", options.name)
      }
      return Effect.onExit(f(span), (exit) => Effect.sync(() => recordError(span, exit)))
    })
  })

/** Adds the event of the transaction's end. */
export const recordEnd = (span: Tracer.Span, isCommitted: boolean): void =>
  span.event(isCommitted ? "db.transaction.commit" : "db.transaction.rollback", nanosecondsNow())

const nanosecondsNow = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n
