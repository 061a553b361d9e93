/**
 * Finds out, on another connection, whether a statement can be bound that could not be bound on its own connection.
 * There the transaction has failed, so the server would refuse to bind it again.
 */
import * as Effect from "effect/Effect"
import { type DatabaseError, isConnectionError } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import type { Connection } from "./connection.js"
import type { Exchange } from "./exchange.js"

/**
 * Calls back with the code of the error with which an exchange fails on another connection: undefined if it succeeds,
 * null if it could not be sent or was not answered. `limit` limits how many are sent at once.
 */
export const sendElsewhere =
  (connect: (restore: Restore) => Effect.Effect<Connection, DatabaseError>, limit: Effect.Semaphore) =>
  (exchange: Exchange, onAnswer: (code: string | null | undefined) => void): void => {
    const ask = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        Effect.either(connect(restore)),
        (connected) =>
          connected._tag === "Left" ? Effect.succeed(null) : Effect.match(connected.right.check(exchange), {
            onFailure: (error) => isConnectionError(error) ? null : error.code,
            onSuccess: () => undefined
          }).pipe(Effect.ensuring(Effect.sync(() => connected.right.destroy())))
      )
    )
    Effect.runFork(limit.withPermits(1)(ask)).addObserver((exit) =>
      onAnswer(exit._tag === "Success" ? exit.value : null)
    )
  }
