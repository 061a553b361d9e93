/**
 * Copies the result of a query as data, by COPY TO STDOUT.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { toSqlError } from "../../../DatabaseError.js"
import type { CopyTo, Pull, StatementGuard } from "../../driver.js"
import { boundedAfterInterrupt } from "../../watchdog.js"
import * as Bulk from "../bulk.js"
import { cancelTimeout, unhurriedTimeout } from "../cancellation.js"
import * as Exchanges from "../exchanges.js"
import type { Pipeline } from "../pipeline.js"
import { cannotBeSent, type Sender } from "../send.js"
import { mayWrite } from "../statementText.js"
import { CopyOut, rollbackToSavepoint } from "./exchanges.js"
import { copyToText, inlineParameters } from "./text.js"

/**
 * The data, as it arrives. While the consumer does not pull, the socket is paused, unless another statement of the
 * session waits for the end of the copy: then the rest is kept in memory.
 *
 * If the consumer stops early, the query is canceled, and a savepoint keeps that from failing the transaction. A query
 * that writes runs to its end.
 */
export const copyTo = (
  pipeline: Pipeline,
  sender: Sender,
  request: CopyTo,
  guard: StatementGuard | undefined
): Effect.Effect<Pull, never, Scope.Scope> =>
  Effect.suspend(() => {
    const { format } = request
    const [query, params] = Bulk.insertOf(request.params)?.byValue() ?? [request.query, request.params]
    const text = copyToText(request)
    const writes = mayWrite(query)
    if (guard !== undefined) {
      guard.mayWrite = writes
    }
    let exchange: CopyOut | undefined = undefined
    /** How it has ended: with None after the last of the data. */
    let end: Effect.Effect<never, Option.Option<SqlError>> | undefined = undefined

    const open = (): Effect.Effect<never, Option.Option<SqlError>> | undefined => {
      const refused = guard?.refusal()
      if (refused !== undefined) {
        return Effect.fail(Option.some(toSqlError(refused)))
      }
      try {
        const inlined = copyToText({ format, query: inlineParameters(query, sender.encode(query, params)) })
        exchange = new CopyOut(text, inlined, query, { params, user: true }, pipeline)
      } catch (cause) {
        return Effect.fail(Option.some(toSqlError(cannotBeSent(cause))))
      }
      sender.submit(exchange, guard, (error) => {
        end = sender.withNotices(
          exchange!,
          Effect.fail(error === undefined ? Option.none() : Option.some(toSqlError(error)))
        )
        exchange!.onData()
      })
      return undefined
    }

    const pull: Pull = Effect.suspend(() => {
      const failed = exchange === undefined ? open() : undefined
      if (failed !== undefined) {
        return failed
      }
      const copy = exchange!
      const taken = copy.take()
      if (taken.length > 0) {
        return Effect.succeed(taken)
      }
      return end ?? Effect.async<ReadonlyArray<Uint8Array>, Option.Option<SqlError>>((resume) => {
        copy.onData = () => {
          const taken = copy.take()
          if (taken.length > 0 || end !== undefined) {
            copy.onData = () => undefined
            resume(taken.length > 0 ? Effect.succeed(taken) : end!)
          }
        }
        copy.onData()
        return Effect.sync(() => {
          copy.onData = () => undefined
        })
      })
    })

    /** Waits until the server has run the query, without its data. */
    const runToEnd = (copy: CopyOut): Effect.Effect<void> =>
      Effect.async<void>((resume) => {
        copy.onData = () => {
          if (end !== undefined) {
            resume(Effect.void)
          }
        }
        copy.discard()
        copy.onData()
      })

    /** Undoes the failure of a query that was canceled, if it was. No other statement runs in between. */
    const rollBackNext = (copy: CopyOut, timeout: number): Effect.Effect<void> => {
      const rollback = Exchanges.query(rollbackToSavepoint, { user: false })
      rollback.isNeeded = () => copy.isRejected && pipeline.transactionStatus === "E"
      const completed = Deferred.unsafeMake<void>(FiberId.none)
      rollback.onComplete = () => Deferred.unsafeDone(completed, Effect.void)
      pipeline.submitNext(rollback, timeout)
      return Deferred.await(completed)
    }

    const cancel = (copy: CopyOut, timeout: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        const rolledBack = copy.hasSavepoint && !writes ? rollBackNext(copy, timeout) : Effect.void
        return Effect.zipRight(pipeline.cancel(copy, timeout), rolledBack)
      })

    /** Limits an end that may take long, once the session is interrupted. */
    const untilInterrupted = (end: Effect.Effect<void>): Effect.Effect<void> =>
      Effect.asVoid(boundedAfterInterrupt(pipeline, end, undefined, guard?.session))

    const close = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
      Effect.suspend(() => {
        const copy = exchange
        if (copy === undefined || copy.isComplete) {
          return Effect.void
        }
        if (Exit.isSuccess(exit) && (writes || pipeline.hasQueued)) {
          return untilInterrupted(runToEnd(copy))
        }
        // A slow network does not cost a session its connection. Outside of a session nothing is lost with that.
        return copy.hasSavepoint && !Exit.isInterrupted(exit)
          ? untilInterrupted(cancel(copy, unhurriedTimeout))
          : cancel(copy, cancelTimeout)
      })

    return Effect.as(Effect.addFinalizer(close), pull)
  })
