/**
 * Asks a database what the dashboard shows of it, without getting into the application's way.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../../DatabaseError.js"
import type { OpenDatabase } from "../../database/opened.js"
import type { Connection } from "../../driver.js"
import { make as makeError } from "../../makeError.js"
import { timeoutFail, timeoutOption } from "../../raceFirst.js"
import { rollback } from "../../session/commit.js"

/** How long a query may take, and wait for a lock. */
const statementTimeout = Duration.seconds(1)
const lockTimeout = Duration.millis(200)
/** The same where the server does not end it in time: with what it takes to connect. */
const queryTimeout = Duration.seconds(4)

/** How long the only connection is waited for. */
const memoryTimeout = Duration.millis(500)

/** A server is asked in real time, whatever the Clock of the application. */
const realClock = Clock.make()

/** Runs a query in a read-only transaction, which is rolled back. Fails in limited time. */
export type Examiner = <A>(
  query: (connection: Connection) => Effect.Effect<A, DatabaseError>
) => Effect.Effect<A, DatabaseError>

const inTransaction = <A>(
  connection: Connection,
  query: (connection: Connection) => Effect.Effect<A, DatabaseError>
): Effect.Effect<A, DatabaseError> =>
  Effect.acquireUseRelease(
    connection.begin({ readOnly: true, statementTimeout, lockTimeout }),
    () => query(connection),
    () => rollback(connection)
  )

/**
 * Queries run on an idle connection of the pool while nobody waits for one and another can be had there, and otherwise on a
 * connection beside the pool, which is opened then and kept until the scope closes. In memory there is no
 * other connection, so that a query fails if that is not free soon. Queries must not run concurrently.
 */
export const make = ({ acquire, driver, poolStats }: OpenDatabase): Effect.Effect<Examiner, never, Scope.Scope> => {
  const { description, dialect, inMemory = false } = driver
  const failure = (reason: string) => () =>
    makeError("ConnectionFailed", { dialect, code: "08001", reason, transient: true })
  const busy = failure(`the connection of ${description} is in use`)
  const timedOut = failure(`${description} did not answer within ${Duration.format(queryTimeout)}`)
  let own: Connection | undefined = undefined
  const closeOwn = Effect.suspend(() => {
    const closing = own
    own = undefined
    return closing?.close ?? Effect.void
  })
  const openOwn = Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() =>
      Effect.tap(
        (driver.readers?.()?.connect ?? driver.connect)(() => undefined, restore),
        (connection) =>
          Effect.sync(() => {
            own = connection
          })
      )
    )
  )
  const useOwn = Effect.suspend(() =>
    own !== undefined && own.status() === "idle" ? Effect.succeed(own) : Effect.zipRight(closeOwn, openOwn)
  )
  // What it still does would be in the way of the next query.
  const giveUpOwn = Effect.sync(() => {
    own?.destroy()
    own = undefined
  })
  const examine: Examiner = (query) =>
    Effect.suspend(() => {
      const { idle, maximum, used, waiting } = poolStats()
      // One that is idle, or can be opened, is left to the application.
      const isPoolFree = waiting === 0 && idle > 0 && maximum - used > 1
      const run = (connection: Connection) => inTransaction(connection, query)
      const asked = inMemory
        ? Effect.scoped(Effect.flatMap(timeoutFail(acquire, memoryTimeout, busy), run))
        : isPoolFree
        ? Effect.scoped(Effect.flatMap(acquire, run))
        : Effect.flatMap(useOwn, run)
      return timeoutOption(Effect.disconnect(asked), queryTimeout).pipe(
        Effect.onInterrupt(() => giveUpOwn),
        Effect.flatMap(Option.match({
          onNone: () => Effect.zipRight(giveUpOwn, Effect.fail(timedOut())),
          onSome: Effect.succeed
        })),
        Effect.withClock(realClock)
      )
    })
  return Effect.as(Effect.addFinalizer(() => closeOwn), examine)
}
