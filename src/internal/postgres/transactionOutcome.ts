/**
 * Looks up the outcome of a transaction whose COMMIT was not answered, with `pg_xact_status`.
 *
 * Only the server that was asked to commit knows it. Any other server may have given the same transaction id to another
 * transaction: a standby that was promoted, a copy of the data, the other side of a logical replication. So the answer
 * counts only if it comes with the identity that the server had when the transaction began: system identifier, timeline
 * and start. A restart changes the start, and looks like the start of a copy.
 *
 * A server whose backend has crashed restarts its other processes, and keeps its identity but not its statistics.
 * Commits that it has acknowledged survive that, but transaction ids that were not yet durable are given again. So
 * after a crash "aborted" and an id that is not assigned yet both mean that the transaction was rolled back, while
 * "committed" may be the status of another transaction with the same id.
 *
 * "Committed" is not enough where commits wait for a synchronous standby: a server that loses its standby, or whose
 * backend is terminated while it waits, has committed what the standby does not have. There the lookup commits a
 * transaction of its own: a standby that confirms it also has everything before it.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Restore, TransactionOutcome } from "../driver.js"
import type { Connection } from "./connection.js"
import { Pg } from "./protocol/pg.js"
import {
  hasCrashed,
  identityColumns,
  type IdentityRow,
  isSameServer,
  parseServerIdentity,
  parseServerIdentityValues,
  type ServerIdentity
} from "./serverIdentity.js"

/** A transaction and its server, as they are when the transaction has begun. */
export interface TransactionIdentity {
  /** Undefined if it cannot write, or if it was not asked for. */
  readonly id: string | undefined
  /** The process id of the backend that runs it. */
  readonly processId: number
  /** Whether it is read-only, and so remains: after its first query, a transaction cannot be made to write. */
  readonly isReadOnly: boolean
  /** `synchronous_standby_names` */
  readonly standbys: string
  /** `synchronous_commit` */
  readonly durability: string
  readonly server: ServerIdentity
}

const identitySqlWith = (id: string): string =>
  `SELECT ${id} AS id, pg_catalog.pg_backend_pid()::pg_catalog.text AS backend, ` +
  "pg_catalog.current_setting('transaction_read_only') AS access, " +
  "pg_catalog.current_setting('synchronous_standby_names') AS standbys, " +
  `pg_catalog.current_setting('synchronous_commit') AS durability, ${identityColumns}`

/** To be executed in the transaction. Assigns it an id, unless it is read-only. */
export const identitySql = identitySqlWith(
  "CASE WHEN pg_catalog.current_setting('transaction_read_only') = 'off' " +
    "THEN pg_catalog.pg_current_xact_id()::pg_catalog.text END"
)

/** The same without an id. */
export const identityWithoutIdSql = identitySqlWith("NULL::pg_catalog.text")

/** Parses the row of either. */
export const parseIdentity = (values: ReadonlyArray<string | null>): TransactionIdentity => {
  const [id, processId, access, standbys, durability, ...server] = values
  return {
    id: id ?? undefined,
    processId: Number(processId),
    isReadOnly: access === "on",
    standbys: standbys ?? "",
    durability: durability ?? "on",
    server: parseServerIdentityValues(server)
  }
}

/** pg_xact_status fails for an id that is not assigned. The ids below that of the lookup's own transaction all are. */
const statusSql = (id: string): string =>
  "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL " +
  `WHEN ${id}::pg_catalog.xid8 < pg_catalog.pg_current_xact_id() THEN pg_catalog.pg_xact_status(${id}::pg_catalog.xid8) ` +
  "ELSE 'not assigned' END AS status, " +
  `pg_catalog.current_setting('synchronous_standby_names') AS standbys, ${identityColumns}`

interface StatusRow extends IdentityRow {
  /** Null for an id that is too old. */
  readonly status: "committed" | "aborted" | "in progress" | "not assigned" | null
  readonly standbys: string
}

/**
 * Ends a backend that never received COMMIT and holds the transaction open. One that is executing COMMIT is not idle, and
 * is not ended.
 */
const terminateIdleSql = (id: string, processId: number): string =>
  `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = ${processId} AND ` +
  `backend_xid = ${id}::pg_catalog.xid8::pg_catalog.xid AND state LIKE 'idle in transaction%'`

/** Writes something, so that the commit waits for the standby: one that has written nothing does not. */
const barrierSql = "SELECT pg_catalog.pg_logical_emit_message(true, 'sqlayer', '')"

const outcomeOf = ({ server }: TransactionIdentity, row: StatusRow): TransactionOutcome => {
  const current = parseServerIdentity(row)
  if (!isSameServer(server, current)) {
    return "unknown"
  }
  const crashed = hasCrashed(server, current)
  switch (row.status) {
    case "committed":
      return crashed ? "unknown" : "committed"
    case "aborted":
      return "aborted"
    case "in progress":
      return crashed ? "aborted" : "pending"
    case "not assigned":
      return crashed ? "aborted" : "unknown"
    case null:
      return "unknown"
  }
}

const waitsForStandby = (durability: string): boolean => durability !== "off" && durability !== "local"

/** Asks for everything in one transaction, which a pooler sends to one server. */
const ask = (
  connection: Connection,
  transaction: TransactionIdentity & { readonly id: string }
): Effect.Effect<TransactionOutcome, DatabaseError> =>
  Effect.gen(function*() {
    const { durability, id, processId, standbys } = transaction
    const quotedId = Pg.escapeLiteral(id)
    yield* connection.begin(waitsForStandby(durability) ? { settings: { synchronous_commit: durability } } : {})
    const [row] = (yield* connection.query(statusSql(quotedId))) as ReadonlyArray<StatusRow>
    const outcome = outcomeOf(transaction, row)
    if (outcome === "pending") {
      yield* connection.query(terminateIdleSql(quotedId, processId))
    }
    if (outcome !== "committed" || !waitsForStandby(durability) || (standbys === "" && row.standbys === "")) {
      return outcome
    }
    // If commits do not wait any more, whether this one had been confirmed before is not known.
    return row.standbys === "" ? "unknown" : yield* awaitStandby(connection)
  })

/** Pending if the standby has not confirmed it. */
const awaitStandby = (connection: Connection): Effect.Effect<TransactionOutcome, DatabaseError> =>
  connection.query(barrierSql).pipe(
    Effect.zipRight(connection.commit),
    Effect.as("committed" as const),
    Effect.catchTag("CommitOutcomeUnknown", () => Effect.succeed("pending" as const))
  )

/** Looks the outcome up once, on a connection of its own. */
export const lookUp = (
  connect: (restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  transaction: TransactionIdentity
): Effect.Effect<TransactionOutcome, DatabaseError> => {
  const { id } = transaction
  return transaction.isReadOnly
    ? Effect.succeed("aborted")
    : id === undefined
    ? Effect.succeed("unknown")
    : withOwnConnection(connect, (connection) => ask(connection, { ...transaction, id }))
}

/** Runs an effect on a connection of its own, and closes that with whatever transaction is open on it. */
export const withOwnConnection = <A>(
  connect: (restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  use: (connection: Connection) => Effect.Effect<A, DatabaseError>
): Effect.Effect<A, DatabaseError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(connect(restore), (connection) => Effect.ensuring(restore(use(connection)), connection.close))
  )
