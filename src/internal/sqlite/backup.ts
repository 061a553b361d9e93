/**
 * Copies a database to a file while it is in use.
 */
import type * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import { raceFirst } from "../raceFirst.js"
import type { SqliteConnection } from "./connection.js"
import type * as Protocol from "./protocol.js"

export interface Options {
  /**
   * Called about every 50 milliseconds while pages are copied, and when the backup is complete. Default: not called.
   */
  readonly onProgress?: ((progress: SqliteClient.BackupMetadata) => Effect.Effect<void>) | undefined
}

export type Backup = (
  destination: string,
  options?: Options
) => Effect.Effect<SqliteClient.BackupMetadata, SqlError>

/** The time between two reads of the progress, in milliseconds. */
const interval = 50

/** Reports the progress of a backup until it is interrupted. */
const report = (
  progress: Int32Array,
  onProgress: NonNullable<Options["onProgress"]>,
  clock: Clock.Clock
): Effect.Effect<never> => {
  let reported = -1
  const reportNew = Effect.suspend(() => {
    const [totalPages, remainingPages] = [Atomics.load(progress, 0), Atomics.load(progress, 1)]
    if (totalPages === 0 || remainingPages === reported) {
      return Effect.void
    }
    reported = remainingPages
    return onProgress({ totalPages, remainingPages })
  })
  return Effect.forever(Effect.zipRight(Effect.withClock(Effect.sleep(interval), clock), reportNew))
}

/** A backup on a connection. `perform` runs an operation on it, and `clock` is that of real time. */
export const make = (
  perform: (operation: Protocol.Backup) => Effect.Effect<SqliteClient.BackupMetadata, SqlError>,
  clock: Clock.Clock
): Backup =>
(destination, { onProgress } = {}) =>
  Effect.suspend(() => {
    const progress = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT)
    const copied = perform({ _tag: "Backup", destination, progress })
    return onProgress === undefined
      ? copied
      : Effect.tap(raceFirst(copied, report(new Int32Array(progress), onProgress, clock)), onProgress)
  })

/**
 * Copies a file in WAL mode on a read-only connection that is opened for the backup. All pages are read in one
 * transaction: without it the backup would begin anew whenever another connection commits.
 */
export const onOwnConnection =
  (connect: Effect.Effect<SqliteConnection, DatabaseError>): Backup => (destination, options) =>
    Effect.acquireUseRelease(
      Effect.mapError(connect, toSqlError),
      (connection) =>
        Effect.mapError(connection.begin({ readOnly: true }), toSqlError).pipe(
          // The transaction begins with the first statement that reads.
          Effect.zipRight(connection.execute("SELECT count(*) FROM sqlite_schema", [], undefined)),
          Effect.zipRight(connection.backup(destination, options)),
          Effect.zipLeft(Effect.mapError(connection.rollback, toSqlError))
        ),
      (connection) => connection.close
    )
