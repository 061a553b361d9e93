/**
 * The span around a session.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Tracer from "effect/Tracer"
import type { Options } from "../../Session.js"
import * as Telemetry from "../../Telemetry.js"
import { currentFiber } from "../pool/leakDetection.js"
import { isTraced } from "../telemetry/tracing.js"
import { endReason } from "./log.js"
import { failedWith } from "./retry.js"

/** Says why a session failed, of whatever kind it is and also if it never began. */
const blame = (span: Tracer.Span, exit: Exit.Exit<unknown, unknown>): void => {
  if (Exit.isFailure(exit)) {
    const error = failedWith(exit)
    span.attribute(Telemetry.errorType, endReason(exit, error))
    if (error !== undefined) {
      span.attribute(Telemetry.responseStatusCode, error.code)
    }
  }
}

/** Runs what a session does with its span, if somebody sees that. */
export const traced = <A, E, R>(
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
      return Effect.onExit(f(span), (exit) => Effect.sync(() => blame(span, exit)))
    })
  })

/** Says that a transaction is over, and how. */
export const ended = (span: Tracer.Span, isCommitted: boolean): void =>
  span.event(isCommitted ? "db.transaction.commit" : "db.transaction.rollback", now())

const now = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n
