/**
 * Identifies the server of a connection: distinguishes a running server from every other one, from copies of its data,
 * and from itself before a promotion or a restart.
 */

/** A field is undefined if the server does not report it, or the user may not ask for it. */
export interface ServerIdentity {
  readonly isStandby: boolean
  /** Given by initdb: standbys and copies of the data have that of their origin. */
  readonly systemIdentifier: string | undefined
  /** The timeline that is being written; on a standby, the highest one that it knows. */
  readonly timeline: number | undefined
  /** When the server was started, in microseconds since 1970. */
  readonly startedAt: string | undefined
  /** When the statistics were reset, in microseconds since 1970. A crash resets them, and may lose transaction ids. */
  readonly statistics: string | undefined
}

/**
 * The server checks the privileges of a function wherever a query mentions it, even in a branch of CASE that is not
 * taken. `query_to_xml` has the call in a text, which is parsed only when it is executed.
 */
const ifPermitted = (call: string, column: string): string =>
  `CASE WHEN pg_catalog.has_function_privilege('pg_catalog.${call}', 'EXECUTE') THEN pg_catalog.substring(` +
  `pg_catalog.query_to_xml('SELECT ${column} AS value FROM pg_catalog.${call}', false, true, '')::pg_catalog.text, ` +
  "'<value>([0-9]+)</value>') END"

const microseconds = (time: string): string =>
  `(EXTRACT(epoch FROM pg_catalog.${time}) * 1000000)::pg_catalog.int8::pg_catalog.text`

/** The timeline that a primary writes, in hexadecimal digits. A standby cannot be asked for it. */
export const writtenTimeline = "pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)"

const columns = [
  "pg_catalog.pg_is_in_recovery()::pg_catalog.text AS standby",
  `${ifPermitted("pg_control_system()", "system_identifier")} AS system`,
  "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.to_hex(GREATEST(" +
  `${ifPermitted("pg_control_checkpoint()", "timeline_id")}::pg_catalog.int4, ` +
  "(SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver))) " +
  `ELSE ${writtenTimeline} END AS timeline`,
  `${microseconds("pg_postmaster_start_time()")} AS started`,
  `${microseconds("pg_stat_get_bgwriter_stat_reset_time()")} AS statistics`
]

/** Columns of a query, all of type text. Needs PostgreSQL 13 or later; every role may ask. */
export const identityColumns = columns.join(", ")

/** A row of `identityColumns`, by name. */
export interface IdentityRow {
  readonly standby: string | null
  readonly system: string | null
  readonly timeline: string | null
  readonly started: string | null
  readonly statistics: string | null
}

/** A query of `identityColumns` alone. */
export const identityQuery = `SELECT ${identityColumns}`

export const parseServerIdentity = (
  { standby, started, statistics, system, timeline }: IdentityRow
): ServerIdentity => ({
  isStandby: standby === "true",
  systemIdentifier: system ?? undefined,
  timeline: timeline === null ? undefined : Number.parseInt(timeline, 16),
  startedAt: started ?? undefined,
  statistics: statistics ?? undefined
})

/** Parses `identityColumns` in their order. */
export const parseServerIdentityValues = (values: ReadonlyArray<string | null>): ServerIdentity => {
  const [standby, system, timeline, started, statistics] = values
  return parseServerIdentity({ standby, system, timeline, started, statistics })
}

/** Whether both are the same primary, which was not restarted, promoted or copied in between. False if that is not known. */
export const isSameServer = (left: ServerIdentity, right: ServerIdentity): boolean =>
  !left.isStandby && !right.isStandby && isSame(left.systemIdentifier, right.systemIdentifier) &&
  isSame(left.timeline, right.timeline) && isSame(left.startedAt, right.startedAt)

/** Whether the server has crashed between the two, and has restarted itself. */
export const hasCrashed = (left: ServerIdentity, right: ServerIdentity): boolean =>
  !isSame(left.statistics, right.statistics)

const isSame = <A>(left: A | undefined, right: A | undefined): boolean => left !== undefined && left === right
