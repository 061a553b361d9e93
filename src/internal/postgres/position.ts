/**
 * Positions in the write-ahead log: the position after a commit, and whether a standby has replayed a position.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import { markStale } from "../cluster/staleness.js"
import type { Freshness, Position, Staleness } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { Exchange, type Step } from "./exchange.js"
import type { ServerError } from "./protocol/messages.js"
import { readTextRow } from "./protocol/rowDescription.js"
import type { Writer } from "./protocol/writer.js"
import { writtenTimeline } from "./serverIdentity.js"
import type { StatementCache } from "./statementCache.js"

const system = "(SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.text"

/**
 * A commit has flushed its record, so that the flush position covers it. With `synchronous_commit` off only the insert
 * position does. That is not used otherwise, since what is inserted and not flushed may not reach a standby for
 * seconds.
 */
const positionSql = `SELECT ${system}, ${writtenTimeline}, ` +
  "CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off' THEN pg_catalog.pg_current_wal_insert_lsn() " +
  "ELSE pg_catalog.pg_current_wal_flush_lsn() END::pg_catalog.text, pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text"

/** Asked inside the transaction, which may have changed the setting. */
const synchronousSql = "SELECT pg_catalog.current_setting('synchronous_commit')"

const parsePosition = (
  [system, timeline, committed, inserted]: ReadonlyArray<string | null>,
  isAsynchronous = false
): Position | undefined => {
  const [high, low] = (isAsynchronous ? inserted : committed)?.split("/") ?? []
  return system === null || timeline === null || high === undefined || low === undefined
    ? undefined
    : { system, timeline: Number.parseInt(timeline, 16), offset: (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`) }
}

const formatLsn = (offset: bigint): string => `${(offset >> 32n).toString(16)}/${(offset & 0xffff_ffffn).toString(16)}`

/**
 * COMMIT, and in the same message the query for the position after it. If only the query fails, the commit has not
 * failed.
 */
export class CommitWithPosition extends Exchange {
  position: Position | undefined = undefined
  private isAsynchronous: boolean | undefined = undefined
  private isCommitted = false

  constructor() {
    super("COMMIT", { user: false, commit: true })
  }

  override commandComplete(tag: string): void {
    if (this.isAsynchronous !== undefined && !this.isCommitted && tag.startsWith("SELECT")) {
      return
    }
    if (!this.isCommitted) {
      super.commandComplete(tag)
      this.isCommitted = this.result.commandTag !== undefined
    }
  }

  override dataRow(bytes: Buffer, offset: number, end: number): void {
    if (this.isCommitted) {
      this.position = parsePosition(readTextRow(bytes, offset, end), this.isAsynchronous)
    } else if (this.hasSteps) {
      super.dataRow(bytes, offset, end)
    } else {
      this.isAsynchronous = readTextRow(bytes, offset, end)[0] === "off"
    }
  }

  override errorResponse(error: ServerError): void {
    if (!this.isCommitted) {
      super.errorResponse(error)
    }
  }

  /** Prepares nothing by name: a statement that is unknown behind a pooler would keep COMMIT from being executed. */
  protected writeCommand(out: Writer): void {
    for (const text of [synchronousSql, "COMMIT", positionSql]) {
      this.writeBind(out, "", undefined, text, [])
      out.execute("", 0)
    }
    out.sync()
  }
}

/** Asks for the position, by itself or after another exchange in the same message. */
export class AskPosition extends Exchange {
  position: Position | undefined = undefined

  constructor(readonly onPosition: (position: Position | undefined) => void = () => undefined) {
    super(positionSql, { user: false })
  }

  override dataRow(bytes: Buffer, offset: number, end: number): void {
    this.position = parsePosition(readTextRow(bytes, offset, end))
  }

  protected writeCommand(out: Writer, cache: StatementCache): void {
    this.writeBind(out, "", this.lookup(cache, positionSql), positionSql, [])
    out.execute("", 0).sync()
  }
}

const recovers = "pg_catalog.pg_is_in_recovery()"
const replayed = `CASE WHEN ${recovers} THEN pg_catalog.pg_last_wal_replay_lsn() ` +
  "ELSE pg_catalog.pg_current_wal_insert_lsn() END"

/**
 * The control file has the timeline of the last restart point. The WAL receiver has the current one, but shows it only
 * to roles that may read all statistics.
 */
const timeline = `CASE WHEN ${recovers} THEN GREATEST(` +
  "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), " +
  "(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), " +
  "(SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver())) " +
  `ELSE ('x' || ${writtenTimeline})::pg_catalog.bit(32)::pg_catalog.int4 END`

/**
 * How far a server is behind its primary, in milliseconds. A standby that is connected and has replayed all that it has
 * received is not behind, however long ago the last commit was. Null if nothing was replayed yet.
 */
export const lagSql = `CASE WHEN NOT ${recovers} OR (EXISTS ` +
  "(SELECT 1 FROM pg_catalog.pg_stat_get_wal_receiver() r WHERE r.pid IS NOT NULL) AND " +
  "pg_catalog.pg_last_wal_replay_lsn() >= pg_catalog.pg_last_wal_receive_lsn()) THEN 0 " +
  "ELSE EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) * 1000 END"

const isLagging = `COALESCE(${lagSql} > $1::pg_catalog.float8, true)`

/** Null if the replica is fresh. `asksPosition`: whether the parameters have a position that it must have replayed. */
const stalenessColumn = (asksPosition: boolean, of: (staleness: Staleness) => string): string =>
  `CASE WHEN ${isLagging} THEN ${of("lag")} ` + (asksPosition ?
    `WHEN ${system} <> $2::pg_catalog.text OR ${timeline} IS DISTINCT FROM $3::pg_catalog.int4 THEN ${of("history")} ` +
    `WHEN COALESCE(${replayed} < $4::pg_catalog.pg_lsn, true) THEN ${of("behind")} ` :
    "") +
  "END"

const valuesOf = ({ maxLag, position }: Freshness): ReadonlyArray<string> =>
  position === undefined
    ? [String(maxLag)]
    : [String(maxLag), position.system, String(position.timeline), formatLsn(position.offset)]

const settingPrefix = "sqlayer.replica_is_stale_"

/** Reading a setting that does not exist is an error, which keeps the server from executing what follows. */
const failWith = (staleness: Staleness): string => `pg_catalog.current_setting('${settingPrefix}${staleness}')`

const quote = (staleness: Staleness): string => `'${staleness}'`

const sqlOf = (asksPosition: boolean) => ({
  step: `SELECT ${stalenessColumn(asksPosition, failWith)}`,
  query: `SELECT ${stalenessColumn(asksPosition, quote)} AS staleness`
})

const lagOnly = sqlOf(false)
const lagAndPosition = sqlOf(true)

const sqlFor = ({ position }: Freshness) => position === undefined ? lagOnly : lagAndPosition

const reasons: { readonly [S in Staleness]: string } = {
  behind: "it has not yet replayed the commits that the session has to see",
  lag: "it is too far behind the primary, or its lag is not known",
  history: "the commits that the session has to see are of another cluster or timeline, or it is not known of which"
}

/** The error of a statement that was not executed since the replica is not fresh. */
const staleError = (staleness: Staleness): DatabaseError =>
  markStale(
    makeError("ConnectionFailed", {
      dialect: "postgres",
      // sqlserver_rejected_establishment_of_sqlconnection
      code: "08004",
      reason: `the replica cannot be read from: ${reasons[staleness]}`,
      transient: true
    }),
    staleness
  )

/**
 * Sent ahead of a transaction: fails unless the replica is fresh. It is a transaction of its own, since the snapshot of
 * the session's transaction must not be older than the check.
 */
export const freshnessSteps = (required: Freshness): ReadonlyArray<Step> => [
  { text: "BEGIN READ ONLY", beginsTransaction: true },
  {
    text: sqlFor(required).step,
    values: valuesOf(required),
    explain: (error) => {
      const name = (["behind", "lag", "history"] as const).find((name) => error.message.includes(settingPrefix + name))
      // insufficient_privilege: the user may not ask for the cluster and the timeline.
      return name === undefined ? error.code === "42501" ? staleError("history") : undefined : staleError(name)
    }
  },
  { text: "COMMIT" }
]

/**
 * Waits until a position is replayed (https://www.postgresql.org/docs/19/sql-wait-for.html). It does not check the
 * timeline, so the query for staleness follows in any case.
 */
export const waitSql = ({ offset }: Position, millis: number): string =>
  `WAIT FOR LSN '${formatLsn(offset)}' WITH (TIMEOUT '${Math.ceil(millis)}', NO_THROW)`

/** A query for whether a replica is fresh, with its parameters. */
export const stalenessQuery = (required: Freshness): readonly [sql: string, params: ReadonlyArray<string>] => [
  sqlFor(required).query,
  valuesOf(required)
]
