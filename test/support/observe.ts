/**
 * Counts the connections of a server.
 */
import * as Effect from "effect/Effect"
import { query } from "./client.js"

/** The number of connections in each state. */
export interface Connections {
  readonly total: number
  /** Running a statement. */
  readonly active: number
  /** In a transaction, whether running a statement or not. */
  readonly inTransaction: number
  /** In a transaction, and not running a statement. */
  readonly idleInTransaction: number
  /** Waiting for a lock. */
  readonly waitingForLock: number
}

/**
 * Counts the client connections of the server with this application name or to this database; without either, those to
 * the database of the URL. The connection that runs the query is not counted.
 */
export const connections = (
  url: string,
  filter: { readonly applicationName?: string | undefined; readonly database?: string | undefined } = {}
): Effect.Effect<Connections> => {
  const database = filter.database ??
    (filter.applicationName === undefined ? decodeURIComponent(new URL(url).pathname.slice(1)) : undefined)
  return Effect.map(
    query(
      url,
      `SELECT count(*)::int AS total,
              count(*) FILTER (WHERE state = 'active')::int AS active,
              count(*) FILTER (WHERE xact_start IS NOT NULL)::int AS "inTransaction",
              count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int AS "idleInTransaction",
              count(*) FILTER (WHERE wait_event_type = 'Lock')::int AS "waitingForLock"
         FROM pg_stat_activity
        WHERE backend_type = 'client backend'
          AND pid <> pg_backend_pid()
          AND ($1::text IS NULL OR application_name = $1)
          AND ($2::text IS NULL OR datname = $2)`,
      [filter.applicationName, database]
    ),
    ([row]) => row
  )
}
