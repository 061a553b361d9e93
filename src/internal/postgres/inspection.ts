/**
 * What `sqlayer check` shows of a PostgreSQL server.
 */
import * as Effect from "effect/Effect"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import { fromSqlError } from "../../DatabaseError.js"
import type { ClusterInspection, ConnectionLimits, Inspection } from "../driver.js"
import { isLocal } from "./transport/local.js"

interface LimitRow {
  readonly version: string
  readonly maximum: number
  readonly reserved: number
  /** -1 if there is no limit. */
  readonly role_limit: number
  readonly database_limit: number
  readonly used: number
}

interface Row extends LimitRow {
  readonly standby: boolean
  readonly user: string
  readonly tls_version: string | null
  readonly cipher: string | null
}

interface ReplicationRow extends LimitRow {
  readonly clock: number
  readonly standbys: number
  readonly synchronous: boolean
  readonly encrypted: boolean | null
  readonly client: string | null
}

// Most users do not see the statements of other sessions in pg_stat_activity, but they see the sessions.
const limitColumns = `pg_catalog.current_setting('server_version') AS version,
  pg_catalog.current_setting('max_connections')::int AS maximum,
  pg_catalog.current_setting('superuser_reserved_connections')::int +
    coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int AS reserved,
  r.rolconnlimit AS role_limit, d.datconnlimit AS database_limit,
  (SELECT count(*)::int FROM pg_catalog.pg_stat_activity a
    WHERE a.datid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend') AS used`

const limitTables = `pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.rolname = session_user`

const detailsSql = `SELECT ${limitColumns}, pg_catalog.pg_is_in_recovery() AS standby, session_user AS user,
  s.version AS tls_version, s.cipher
FROM ${limitTables}
  LEFT JOIN pg_catalog.pg_stat_ssl s ON s.pid = pg_catalog.pg_backend_pid() AND s.ssl
WHERE d.datname = pg_catalog.current_database()`

// `local` and `off` wait for no standby, and without synchronous_standby_names there is none to wait for.
const replicationSql = `SELECT ${limitColumns},
  (1000 * extract(epoch FROM pg_catalog.clock_timestamp()))::float8 AS clock,
  (SELECT count(*)::int FROM pg_catalog.pg_stat_replication) AS standbys,
  pg_catalog.current_setting('synchronous_standby_names') <> '' AND
    pg_catalog.current_setting('synchronous_commit') NOT IN ('local', 'off') AS synchronous,
  (SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_catalog.pg_backend_pid()) AS encrypted,
  pg_catalog.host(pg_catalog.inet_client_addr()) AS client
FROM ${limitTables} WHERE d.datname = pg_catalog.current_database()`

const connectionLimits = ({ database_limit, maximum, reserved, role_limit, used }: LimitRow): ConnectionLimits => {
  const limits = [role_limit, database_limit].filter((limit) => limit >= 0)
  return {
    maximum,
    reserved,
    limit: limits.length === 0 ? null : Math.min(...limits),
    used,
    available: Math.min(maximum - reserved, ...limits)
  }
}

const cluster: ClusterInspection = {
  servers: (target) =>
    target._tag === "postgres"
      ? target.hosts.map((host) => ({ ...host, target: { ...target, hosts: [host], targetSessionAttrs: "any" } }))
      : [],
  examine: (connection) =>
    Effect.mapBoth(connection.executeUnprepared(replicationSql, [], undefined), {
      onFailure: fromSqlError,
      onSuccess: ([row]: ReadonlyArray<ReplicationRow>) => ({
        version: `PostgreSQL ${row.version}`,
        connections: connectionLimits(row),
        clock: row.clock,
        standbys: row.standbys,
        isSynchronous: row.synchronous,
        plainFrom: row.encrypted === false && row.client !== null && !isLocal(row.client) ? row.client : undefined
      })
    })
}

export const inspection = (target: PostgresTarget): Inspection => ({
  target: Effect.succeed(target),
  details: (sql) =>
    Effect.map(
      sql.unsafe<Row>(detailsSql),
      ([row]) => ({
        version: `PostgreSQL ${row.version}`,
        role: row.standby ? "standby" as const : "primary" as const,
        user: row.user,
        tls: row.tls_version === null ? null : { version: row.tls_version, cipher: row.cipher ?? "" },
        connections: connectionLimits(row)
      })
    ),
  cluster
})
