/**
 * What the dashboard asks a PostgreSQL server: what connections wait for, and the plan of a statement without its values.
 *
 * No text of pg_stat_activity is asked for, since those of other programs hold values.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Connection } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { BackendWait, LockHolder, Monitoring } from "../monitoring.js"
import type { Connection as PostgresConnection } from "./connection.js"
import { sections } from "./monitoringSections.js"
import { hasPlaceholders, hasPlan } from "./statementText.js"

interface WaitRow {
  readonly pid: number
  readonly event: string
  readonly lock: string | null
  readonly seconds: number | null
  /** Null if it waits for no lock. Zero stands for a prepared transaction. */
  readonly holder: number | null
  readonly holder_seconds: number | null
  readonly application: string | null
  readonly user: string | null
  readonly state: string | null
}

// pg_blocking_pids is called only for backends that wait for a lock, since it briefly locks the server's lock table. A
// process id that a pooler has made up is that of no backend, or of one of another user. `waitstart` exists since
// PostgreSQL 14. A backend that waits for a row waits for the id of the transaction that has locked it, and its lock of
// type tuple names the table.
const waitsSql = (ids: ReadonlyArray<number>): string =>
  `WITH waiting AS (
  SELECT a.pid, a.wait_event_type || ': ' || a.wait_event AS event, l.mode, l.locktype,
    coalesce(l.relation, (SELECT t.relation FROM pg_catalog.pg_locks t
      WHERE t.pid = a.pid AND t.locktype = 'tuple' AND l.pid IS NOT NULL LIMIT 1)) AS relation,
    extract(epoch FROM pg_catalog.clock_timestamp() -
      coalesce((pg_catalog.to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start))::float8 AS seconds,
    CASE WHEN l.pid IS NOT NULL THEN pg_catalog.pg_blocking_pids(a.pid) END AS holders
  FROM pg_catalog.pg_stat_activity a
    LEFT JOIN pg_catalog.pg_locks l ON l.pid = a.pid AND NOT l.granted AND a.wait_event_type = 'Lock'
  WHERE a.pid = ANY (ARRAY[${ids.join(", ")}]::int[]) AND a.datname = pg_catalog.current_database()
    AND a.usename = session_user AND a.wait_event_type IS NOT NULL AND a.wait_event_type <> 'Client'
)
SELECT w.pid, w.event, w.mode || ' on ' || CASE
    WHEN w.locktype = 'relation' THEN w.relation::regclass::text
    WHEN w.locktype IN ('transactionid', 'tuple') AND w.relation IS NOT NULL THEN 'a row of ' || w.relation::regclass::text
    WHEN w.locktype = 'transactionid' THEN 'what another transaction has written'
    ELSE w.locktype || coalesce(' of ' || w.relation::regclass::text, '') END AS lock,
  CASE WHEN w.mode IS NOT NULL THEN w.seconds END AS seconds, h.pid AS holder,
  extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start)::float8 AS holder_seconds,
  b.application_name AS application, b.usename::text AS user, b.state
FROM waiting w LEFT JOIN LATERAL (SELECT DISTINCT pg_catalog.unnest(w.holders) AS pid) h ON true
  LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = h.pid`

const holderOf = (row: WaitRow): LockHolder => ({
  connection: row.holder === 0 ? undefined : row.holder ?? undefined,
  seconds: row.holder_seconds ?? undefined,
  application: row.application ?? undefined,
  user: row.user ?? undefined,
  state: row.state ?? undefined
})

const waitsOf = (rows: ReadonlyArray<WaitRow>): ReadonlyArray<BackendWait> =>
  Array.from(new Set(rows.map(({ pid }) => pid)), (connection) => {
    const own = rows.filter(({ pid }) => pid === connection)
    const [{ event, lock, seconds }] = own
    return {
      connection,
      event,
      lock: lock === null ? undefined : {
        name: lock,
        seconds: seconds ?? undefined,
        holders: own.filter(({ holder }) => holder !== null).map(holderOf)
      }
    }
  })

/** The rows of a query of the driver's own: the application's types do not apply to it, and it leaves nothing. */
const ask = <Row extends object>(connection: Connection, sql: string) =>
  (connection as PostgresConnection).query(sql) as Effect.Effect<ReadonlyArray<Row>, DatabaseError>

const refuse = (reason: string, hint?: string): Effect.Effect<never, DatabaseError> =>
  Effect.fail(makeError("InvalidStatement", { dialect: "postgres", code: "0A000", reason, hint }))

/** The first version with GENERIC_PLAN, which plans placeholders. */
const genericPlanVersion = 160_000

const explain: Monitoring["explain"] = (connection, statement) => {
  if (!hasPlan(statement)) {
    return refuse(
      "this is not a single statement that has a plan: SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES or WITH"
    )
  }
  return Effect.flatMap(
    // It also begins the transaction, so that the next message can be a simple Query. That has no parameters: in the
    // extended protocol a placeholder is a parameter of EXPLAIN, and needs a value.
    ask<{ readonly version: number }>(
      connection,
      "SELECT pg_catalog.current_setting('server_version_num')::int AS version"
    ),
    ([{ version }]) => {
      const isGeneric = hasPlaceholders(statement)
      return isGeneric && version < genericPlanVersion
        ? refuse(
          "this server cannot plan a statement without its values",
          "PostgreSQL 16 and later can (EXPLAIN with GENERIC_PLAN)"
        )
        : Effect.map(
          ask(connection, `EXPLAIN ${isGeneric ? "(GENERIC_PLAN) " : ""}${statement}`),
          (rows) => rows.map((row) => String(Object.values(row)[0]))
        )
    }
  )
}

export const monitoring: Monitoring = {
  waits: (connection, ids) => Effect.map(ask<WaitRow>(connection, waitsSql(ids)), waitsOf),
  sections,
  explain
}
