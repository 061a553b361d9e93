/**
 * What became of a transaction whose COMMIT got no answer.
 *
 * Its id alone does not say: a standby that was promoted without having heard of it, or a server that crashed before the
 * id was on its disk, gives it to another transaction. The first has a new timeline. The second has discarded its
 * statistics, and knows of no commit that it acknowledged only what is lost: there "aborted", or an id that is still to
 * be given, is true, and "committed" may be said of the other transaction.
 */
import * as Effect from "effect/Effect"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection, Fate, Restore } from "../driver.js"

/** How another connection can ask for a transaction. */
export interface Transaction extends History {
  readonly id: string
  readonly backend: number
}

/** The ids that were given in one are not given to others, unless it crashed meanwhile. */
interface History {
  readonly timeline: string
  /** When its statistics began. Text, as all the microseconds are needed. */
  readonly statistics: string
}

const history = "pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) AS timeline, " +
  "pg_catalog.pg_stat_get_bgwriter_stat_reset_time()::pg_catalog.text AS statistics"

/** To be asked inside of the transaction, which thereby gets its id. */
export const identify =
  `SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text AS id, pg_catalog.pg_backend_pid() AS backend, ${history}`

/** What `identify` answers. */
export const transaction = (values: ReadonlyArray<string | null>): Transaction => {
  const [id, backend, timeline, statistics] = values as ReadonlyArray<string>
  return { id, backend: Number(backend), timeline, statistics }
}

const statusOf = "SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8) AS status"

// A backend that waits for a COMMIT that was lost on its way would wait for long. One that is committing is left alone.
const endWaiting = `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
  WHERE pid = $2 AND backend_xid = $1::pg_catalog.xid8::pg_catalog.xid AND state LIKE 'idle in transaction%'`

type Status = "committed" | "aborted" | "in progress" | "not given yet"

const judge = (status: Status | null, crashed: boolean): Fate => {
  switch (status) {
    case "committed":
      return crashed ? "unknown" : "committed"
    case "aborted":
      return "aborted"
    case "not given yet":
      return crashed ? "aborted" : "unknown"
    default:
      return "unknown"
  }
}

const asked = (connection: Connection, { backend, id, statistics, timeline }: Transaction) =>
  Effect.gen(function*() {
    const [now]: ReadonlyArray<History> = yield* connection.executeUnprepared(`SELECT ${history}`, [], undefined)
    if (now.timeline !== timeline) {
      return "unknown"
    }
    const status: Status | null = yield* connection.executeUnprepared(statusOf, [id], undefined).pipe(
      Effect.map(([row]) => row.status),
      Effect.catchIf((error) => fromSqlError(error).code === "22023", () => Effect.succeed("not given yet" as const))
    )
    if (status === "in progress") {
      yield* connection.executeUnprepared(endWaiting, [id, backend], undefined)
    }
    return judge(status, now.statistics !== statistics)
  })

/** Asks once, on a connection of its own. */
export const ask = (
  establish: (restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  transaction: Transaction
): Effect.Effect<Fate, DatabaseError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      establish(restore),
      (connection) =>
        restore(asked(connection, transaction)).pipe(Effect.mapError(fromSqlError), Effect.ensuring(connection.close))
    )
  )
