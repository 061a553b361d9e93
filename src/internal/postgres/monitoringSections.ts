/**
 * The tables that the dashboard shows of a PostgreSQL server, each of one query of the statistics views.
 */
import * as Effect from "effect/Effect"
import type { Cell, Section } from "../monitoring.js"
import type { Connection as PostgresConnection } from "./connection.js"

/** How many rows a table has at most. */
const maxRows = 10

const readAll = "GRANT pg_read_all_stats shows it"

interface Query {
  readonly id: string
  readonly title: string
  readonly none: string
  readonly columns: Section["columns"]
  /**
   * Its columns are those of the table, in the same order, and perhaps `hidden`: the number of rows whose details this
   * user may not see.
   */
  readonly sql: string
}

const section = ({ columns, id, none, sql, title }: Query): Section => ({
  id,
  title,
  columns,
  none,
  read: (connection) =>
    Effect.map((connection as PostgresConnection).query(sql), (objects) => {
      const rows = objects as ReadonlyArray<{ readonly [column: string]: Cell }>
      const hidden = Number(rows.at(0)?.hidden ?? 0)
      return {
        rows: rows
          .map((row) => Object.entries(row).filter(([name]) => name !== "hidden").map(([, value]) => value))
          .filter((cells) => cells.some((cell) => cell !== null)),
        missing: hidden === 0 ? undefined : `Details of ${hidden} of other users are hidden: ${readAll}.`
      }
    })
})

/** A relation's name, with its schema where that is not in the search path. */
const nameOf = (oid: string): string => `${oid}::regclass::text`

const blockSize = "pg_catalog.current_setting('block_size')::float8"

// pg_relation_size waits while another transaction holds ACCESS EXCLUSIVE on the relation. Then the size is that of the
// last VACUUM or ANALYZE.
const sizeOf = (relation: string): string =>
  `CASE WHEN NOT EXISTS (SELECT 1 FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation'
      AND l.relation = ${relation}.oid AND l.mode = 'AccessExclusiveLock')
    THEN pg_catalog.pg_relation_size(${relation}.oid) ELSE ${relation}.relpages * ${blockSize} END::float8`

/** The indexes with the most pages by the last VACUUM or ANALYZE, since the size of each has to be looked up. */
const indexes = (columns: string, condition: string, order: string): string =>
  `WITH candidates AS (
  SELECT c.oid, c.relpages, s.relid, s.idx_scan, i.indisunique
  FROM pg_catalog.pg_stat_user_indexes s
    JOIN pg_catalog.pg_class c ON c.oid = s.indexrelid JOIN pg_catalog.pg_index i ON i.indexrelid = s.indexrelid
  WHERE ${condition} ORDER BY c.relpages DESC LIMIT 500
), sized AS (SELECT c.*, ${sizeOf("c")} AS size FROM candidates c)
SELECT ${columns} FROM sized s ORDER BY ${order} LIMIT ${maxRows}`

export const sections: ReadonlyArray<Section> = [
  section({
    id: "connections",
    title: "Connections of the server",
    none: "Not known.",
    columns: [["Connections", "text"], ["Number", "count"], ["Of max_connections", "share"]],
    sql: `WITH limits AS (
  SELECT pg_catalog.current_setting('max_connections')::float8 AS maximum,
    pg_catalog.current_setting('superuser_reserved_connections')::float8 +
      coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::float8 AS reserved
), backends AS (
  SELECT a.* FROM pg_catalog.pg_stat_activity a
  WHERE a.datid IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend'
), figures AS (
  SELECT 1 AS at, 'max_connections' AS what, l.maximum AS number FROM limits l
  UNION ALL SELECT 2, 'open', (SELECT count(*) FROM backends)::float8
  UNION ALL SELECT 3, 'of this database', count(*)::float8 FROM backends WHERE datname = pg_catalog.current_database()
  UNION ALL SELECT 4, 'of this user', count(*)::float8 FROM backends WHERE usename = session_user
  UNION ALL SELECT 5, state, count(*)::float8 FROM backends WHERE state IS NOT NULL GROUP BY state
  UNION ALL SELECT 6, 'reserved for administrators', l.reserved FROM limits l
  UNION ALL SELECT 7, 'limit of this user', r.rolconnlimit::float8 FROM pg_catalog.pg_roles r
    WHERE r.rolname = session_user AND r.rolconnlimit >= 0
  UNION ALL SELECT 8, 'limit of this database', d.datconnlimit::float8 FROM pg_catalog.pg_database d
    WHERE d.datname = pg_catalog.current_database() AND d.datconnlimit >= 0
)
SELECT f.what, f.number, f.number / l.maximum AS share,
  (SELECT count(*) FROM backends WHERE state IS NULL)::int AS hidden
FROM figures f CROSS JOIN limits l ORDER BY f.at, f.what`
  }),
  section({
    id: "transactions",
    title: "Long transactions",
    none: "No transaction has been open for a second.",
    columns: [
      ["Connection", "connection"],
      ["Open for", "seconds"],
      ["State", "text"],
      ["Waits for", "text"],
      ["User", "text"],
      ["Application", "text"]
    ],
    sql: `WITH backends AS (
  SELECT a.* FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datid IS NOT NULL
    AND coalesce(a.backend_type, 'client backend') = 'client backend'
), long AS (
  SELECT pid, extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::float8 AS seconds, state,
    CASE WHEN wait_event_type <> 'Client' THEN wait_event_type || ': ' || wait_event END AS event,
    usename::text AS user_name, application_name AS application
  FROM backends WHERE xact_start < pg_catalog.clock_timestamp() - interval '1 second'
  UNION ALL
  SELECT NULL, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8, 'prepared', NULL, p.owner::text, NULL
  FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()
)
SELECT l.*, h.hidden FROM (SELECT count(*)::int AS hidden FROM backends WHERE state IS NULL) h
  LEFT JOIN (SELECT * FROM long ORDER BY seconds DESC LIMIT ${maxRows}) l ON true ORDER BY l.seconds DESC`
  }),
  section({
    id: "cache",
    title: "Cache hits",
    none: "Not known.",
    columns: [["Blocks of", "text"], ["Found in memory", "share"], ["Read", "count"]],
    sql:
      `SELECT 'tables' AS what, sum(heap_blks_hit)::float8 / nullif(sum(heap_blks_hit + heap_blks_read), 0)::float8 AS share,
  sum(heap_blks_read)::float8 AS read FROM pg_catalog.pg_statio_user_tables
UNION ALL
SELECT 'indexes', sum(idx_blks_hit)::float8 / nullif(sum(idx_blks_hit + idx_blks_read), 0)::float8, sum(idx_blks_read)::float8
FROM pg_catalog.pg_statio_user_tables
UNION ALL
SELECT 'the database', blks_hit::float8 / nullif(blks_hit + blks_read, 0)::float8, blks_read::float8
FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()`
  }),
  section({
    id: "largest-indexes",
    title: "Largest indexes",
    none: "There are no indexes.",
    columns: [["Index", "text"], ["Table", "text"], ["Size", "bytes"], ["Scans", "count"]],
    sql: indexes(
      `${nameOf("s.oid")} AS index, ${nameOf("s.relid")} AS table, s.size, s.idx_scan::float8 AS scans`,
      "true",
      "s.size DESC, 1"
    )
  }),
  section({
    id: "unused-indexes",
    title: "Least used indexes",
    none: "Every index enforces a constraint.",
    columns: [["Index", "text"], ["Table", "text"], ["Scans", "count"], ["Size", "bytes"]],
    // An index that enforces a constraint is needed even if it is never scanned.
    sql: indexes(
      `${nameOf("s.oid")} AS index, ${nameOf("s.relid")} AS table, s.idx_scan::float8 AS scans, s.size`,
      "NOT i.indisunique AND NOT i.indisexclusion",
      "s.idx_scan, s.size DESC, 1"
    )
  }),
  section({
    id: "dead-tuples",
    title: "Dead tuples",
    none: "There are no tables.",
    columns: [
      ["Table", "text"],
      ["Dead", "count"],
      ["Live", "count"],
      ["Share", "share"],
      ["Vacuumed ago", "seconds"],
      ["Analyzed ago", "seconds"]
    ],
    sql: `SELECT ${nameOf("s.relid")} AS table, s.n_dead_tup::float8 AS dead, s.n_live_tup::float8 AS live,
  s.n_dead_tup::float8 / nullif(s.n_dead_tup + s.n_live_tup, 0) AS share,
  extract(epoch FROM pg_catalog.clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8 AS vacuumed,
  extract(epoch FROM pg_catalog.clock_timestamp() - greatest(s.last_analyze, s.last_autoanalyze))::float8 AS analyzed
FROM pg_catalog.pg_stat_user_tables s ORDER BY s.n_dead_tup DESC, 1 LIMIT ${maxRows}`
  }),
  section({
    id: "replication",
    title: "Replication",
    none: "No standby is connected, and there are no replication slots.",
    columns: [
      ["Of", "text"],
      ["Name", "text"],
      ["State", "text"],
      ["Commits wait", "text"],
      ["Behind", "bytes"],
      ["Behind for", "seconds"]
    ],
    sql: `WITH position AS (
  SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_receive_lsn()
    ELSE pg_catalog.pg_current_wal_lsn() END AS lsn
), figures AS (
  SELECT 'standby' AS of, coalesce(nullif(r.application_name, ''), r.pid::text) AS name, r.state, r.sync_state,
    pg_catalog.pg_wal_lsn_diff(p.lsn, r.replay_lsn)::float8 AS bytes, extract(epoch FROM r.replay_lag)::float8 AS seconds
  FROM pg_catalog.pg_stat_replication r CROSS JOIN position p
  UNION ALL
  SELECT 'this standby', (SELECT w.sender_host FROM pg_catalog.pg_stat_wal_receiver w LIMIT 1),
    coalesce((SELECT w.status FROM pg_catalog.pg_stat_wal_receiver w LIMIT 1), 'not streaming'), NULL,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::float8,
    CASE WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0 ELSE
      extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END::float8
  WHERE pg_catalog.pg_is_in_recovery()
  UNION ALL
  SELECT 'slot', s.slot_name::text, CASE WHEN s.active THEN 'active' ELSE 'not active' END, NULL,
    pg_catalog.pg_wal_lsn_diff(p.lsn, s.restart_lsn)::float8, NULL
  FROM pg_catalog.pg_replication_slots s CROSS JOIN position p
)
SELECT f.*, h.hidden FROM (SELECT count(*)::int AS hidden FROM pg_catalog.pg_stat_replication WHERE state IS NULL) h
  LEFT JOIN (SELECT * FROM figures ORDER BY 1 DESC, 2 LIMIT 20) f ON true`
  })
]
