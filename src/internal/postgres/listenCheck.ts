/**
 * Finds out whether a pooler has taken away the server's process on which a connection listens.
 *
 * Notifications go to the process that has executed LISTEN. A pooler that assigns a process for each transaction
 * assigns it to other clients afterwards, and drops the notifications that it receives. One that assigns it for as long
 * as a client is connected, or that keeps it for a client that listens, delivers them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import { timeoutOption } from "../raceFirst.js"
import type { Connection } from "./connection.js"
import { serverError } from "./pg.js"
import { Pg } from "./protocol/pg.js"
import { fromPostgres } from "./sqlState.js"

/** To be run in an uninterruptible region with its `restore`. */
type Connect = (restore: Restore) => Effect.Effect<Connection, DatabaseError>

/** How long another connection may wait for a process of the pooler. If it gets none, this one was not taken away. */
const timeout = Duration.seconds(2)

/** How often to check: among other clients of the pooler, a connection can get the same process again by chance. */
const maxAttempts = 3

/** Selects the process that executes it. */
export const processSql = "SELECT pg_catalog.pg_backend_pid() AS pid"

/** The process, from the result of `processSql`, or of a text that begins with it. */
export const processOf = (result: unknown): number => {
  const [first] = [result].flat() as ReadonlyArray<{ readonly rows: ReadonlyArray<{ readonly pid: number }> }>
  return first.rows[0].pid
}

const askProcess = (connection: Connection): Effect.Effect<number, DatabaseError> =>
  Effect.map(run(connection, processSql), processOf)

const run = (connection: Connection, text: string): Effect.Effect<unknown, DatabaseError> =>
  Effect.mapError(connection.executeRaw(text, []), fromSqlError)

const refused = (): DatabaseError =>
  fromPostgres(
    serverError(
      "0A000",
      "LISTEN receives nothing behind a pooler that assigns a connection of the server for each transaction: listen on a " +
        "connection to the server itself, or through a pool in session mode"
    ),
    { phase: "statement" }
  )

/** Whether another connection gets the process, or this one has another process while the other one holds one. */
const isTakenAway = (
  connection: Connection,
  listening: number,
  channels: ReadonlyArray<string>,
  connect: Connect
): Effect.Effect<boolean, DatabaseError> => {
  const isTakenBy = (other: Connection, attemptsLeft: number): Effect.Effect<boolean, DatabaseError> =>
    Effect.gen(function*() {
      yield* run(other, "BEGIN")
      const isTaken = (yield* askProcess(other)) === listening
      if (isTaken) {
        // Later clients that get this process must not receive the notifications.
        yield* run(other, channels.map((channel) => `UNLISTEN ${Pg.escapeIdentifier(channel)}`).join("; "))
      }
      const hasMoved = !isTaken && (yield* askProcess(connection)) !== listening
      yield* run(other, "COMMIT")
      return isTaken || hasMoved || (attemptsLeft > 1 && (yield* isTakenBy(other, attemptsLeft - 1)))
    })
  return Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(connect(restore), (other) => Effect.ensuring(restore(isTakenBy(other, maxAttempts)), other.close))
  )
}

/**
 * Fails with InvalidStatement if notifications of the channels, on which the process listens, do not reach the connection.
 * Behind a pooler this takes another connection for a moment.
 */
export const checkDelivery = (
  connection: Connection,
  listening: number,
  channels: ReadonlyArray<string>,
  connect: Connect
): Effect.Effect<void, DatabaseError> =>
  // The server's own BackendKeyData has the id of its process; that of a pooler has another one.
  listening === connection.id ? Effect.void : isTakenAway(connection, listening, channels, connect).pipe(
    // If the check itself fails, the connection listens all the same.
    Effect.orElseSucceed(() => false),
    (check) => timeoutOption(check, timeout),
    Effect.map(Option.getOrElse(() => false)),
    Effect.filterOrFail((isTaken) => !isTaken, refused),
    Effect.asVoid
  )
