/**
 * Looks up the outcome of a transaction whose COMMIT was not answered, with `pg_xact_status`.
 *
 * The transaction id alone is not enough, since another transaction can be given the same id: by a standby that is
 * promoted before it has replicated the first, and by a server that crashes before the id is durable. A promotion shows
 * in the timeline. A crash shows in the reset time of the server's statistics; commits that it has acknowledged survive
 * it. So after a crash "aborted" and an id that is not assigned yet both mean that the transaction was rolled back, but
 * "committed" may be the status of the other one.
 */
import * as Effect from "effect/Effect"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection, Restore, TransactionOutcome } from "../driver.js"

/** What another connection needs to find a transaction. */
export interface TransactionIdentity extends ServerHistory {
  readonly id: string
  /** The process id of the backend that runs it. */
  readonly processId: number
}

/** While neither changes, the server does not assign a transaction id twice. */
interface ServerHistory {
  readonly timeline: string
  /** When the statistics were reset, as text in order to keep the microseconds. */
  readonly statistics: string
}

const historyColumns =
  "pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) AS timeline, " +
  "pg_catalog.pg_stat_get_bgwriter_stat_reset_time()::pg_catalog.text AS statistics"

/** To be executed in the transaction. Assigns it an id. */
export const identitySql = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text AS id, " +
  `pg_catalog.pg_backend_pid() AS backend, ${historyColumns}`

/** Parses the row of `identitySql`. */
export const parseIdentity = (values: ReadonlyArray<string | null>): TransactionIdentity => {
  const [id, processId, timeline, statistics] = values as ReadonlyArray<string>
  return { id, processId: Number(processId), timeline, statistics }
}

const statusSql = "SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8) AS status"

/**
 * Ends a backend that never received COMMIT and holds the transaction open. One that is executing COMMIT is not idle, and
 * is not ended.
 */
const terminateIdleSql = `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
  WHERE pid = $2 AND backend_xid = $1::pg_catalog.xid8::pg_catalog.xid AND state LIKE 'idle in transaction%'`

type TransactionStatus = "committed" | "aborted" | "in progress" | "not assigned"

/** `pg_xact_status` is null for an id that is too old. */
const outcomeOf = (status: TransactionStatus | null, hasCrashed: boolean): TransactionOutcome => {
  switch (status) {
    case "committed":
      return hasCrashed ? "unknown" : "committed"
    case "aborted":
      return "aborted"
    case "not assigned":
      return hasCrashed ? "aborted" : "unknown"
    default:
      return "unknown"
  }
}

const query = (connection: Connection, { id, processId, statistics, timeline }: TransactionIdentity) =>
  Effect.gen(function*() {
    const sql = `SELECT ${historyColumns}`
    const [history]: ReadonlyArray<ServerHistory> = yield* connection.executeUnprepared(sql, [], undefined)
    if (history.timeline !== timeline) {
      return "unknown"
    }
    const status: TransactionStatus | null = yield* connection.executeUnprepared(statusSql, [id], undefined).pipe(
      Effect.map(([row]) => row.status),
      // The server rejects an id that is in the future.
      Effect.catchIf((error) => fromSqlError(error).code === "22023", () => Effect.succeed("not assigned" as const))
    )
    if (status === "in progress") {
      yield* connection.executeUnprepared(terminateIdleSql, [id, processId], undefined)
    }
    return outcomeOf(status, history.statistics !== statistics)
  })

/** Looks the outcome up once, on a connection of its own. */
export const lookUp = (
  connect: (restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  transaction: TransactionIdentity
): Effect.Effect<TransactionOutcome, DatabaseError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      connect(restore),
      (connection) =>
        restore(query(connection, transaction)).pipe(Effect.mapError(fromSqlError), Effect.ensuring(connection.close))
    )
  )
