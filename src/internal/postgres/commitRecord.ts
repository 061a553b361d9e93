/**
 * The outcome of a transaction that has written a marker row together with its COMMIT, for `commit: "recorded"`.
 *
 * The row shows the outcome on every server that has the transaction's changes: after a restart, on a promoted standby,
 * on a subscriber of logical replication. A missing row alone shows nothing, since COMMIT may still be under way. So
 * the lookup inserts a row with the same key. If that is committed, the transaction's own row can no longer be
 * inserted, and the transaction is and stays rolled back; if COMMIT is being executed, the insert waits for its end. A
 * server of another system, such as a subscriber, may not have received the row yet: there nothing is inserted, and
 * only a row that is found counts.
 *
 * A lookup that finds the row updates it. So its own commit waits for the synchronous standby where commits wait for
 * one, and the standby then has the transaction too.
 */
import * as Effect from "effect/Effect"
import { randomUUID } from "node:crypto"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection as DriverConnection, Restore, TransactionOutcome } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { Connection } from "./connection.js"
import type { Step } from "./exchange.js"
import { identityQuery, type IdentityRow, parseServerIdentity } from "./serverIdentity.js"
import { withOwnConnection } from "./transactionOutcome.js"

export const schema = "sqlayer"

/** Its schema is named, since a session may change its search_path. */
const table = `${schema}.commits`

export const createTableSql =
  `CREATE TABLE IF NOT EXISTS ${table} (id uuid PRIMARY KEY, committed boolean NOT NULL, at timestamptz NOT NULL)`

/**
 * How long rows are kept, in minutes, and how long after COMMIT was sent its outcome is looked up, in milliseconds. The
 * half hour in between allows for clocks of servers that differ.
 */
const retentionMinutes = 60
const maxAge = 30 * 60_000

/** How often rows are removed, by one of the processes that use the database, in minutes and in milliseconds. */
const cleaningMinutes = 10
export const cleaningInterval = cleaningMinutes * 60_000
const batchSize = 10_000

/** The row whose time is that of the last cleaning. */
const cleaningId = "00000000-0000-0000-0000-000000000000"

/** A COMMIT that was sent with its row. */
export interface CommitRecord {
  readonly id: string
  /**
   * The system that the transaction ran on; undefined if that is not known, and null on engines without an identifier.
   */
  readonly system: string | null | undefined
  /** When it was sent, by two clocks: this one may be set, and the monotonic one stops while the machine sleeps. */
  readonly sentAt: number
  readonly sentAtMonotonic: number
  /** `synchronous_commit` of its transaction, if that is known. */
  readonly durability: string | undefined
}

export const makeCommitRecord = (
  system: CommitRecord["system"],
  durability: CommitRecord["durability"]
): CommitRecord => ({
  id: randomUUID(),
  system,
  sentAt: Date.now(),
  sentAtMonotonic: performance.now(),
  durability
})

const insertSql = `INSERT INTO ${table} (id, committed, at) VALUES ($1, true, clock_timestamp())`

/** Inserts the row as the connection's user: the role of a session need not be allowed to. */
export const recordSteps = ({ id }: CommitRecord, role: string | undefined): ReadonlyArray<Step> => {
  const insert: Step = { text: insertSql, values: [id] }
  return role === undefined ? [insert] : [
    { text: "RESET ROLE" },
    insert,
    { text: "SELECT pg_catalog.set_config($1, $2, true)", values: ["role", role] }
  ]
}

/** The table or its schema does not exist, or the user may not use it. */
const unusableCodes = new Set(["42P01", "3F000", "42501"])

/** The error of a COMMIT whose row was rejected, with a hint if the table does not exist or may not be used. */
export const explainRejection = (error: DatabaseError): DatabaseError =>
  unusableCodes.has(error.code ?? "")
    ? makeError(error.code === "42501" ? "InsufficientPrivilege" : "InvalidStatement", {
      dialect: "postgres",
      code: error.code,
      reason: `the session cannot be committed as "recorded": ${error.reason}`,
      hint:
        `create the table with the migration Migrations.commitRecords, and grant the user of the connection USAGE on the ` +
        `schema ${schema} and SELECT, INSERT, UPDATE and DELETE on ${table}`
    })
    : error

const foundSql = (id: string): string =>
  `UPDATE ${table} SET at = clock_timestamp() WHERE id = '${id}' RETURNING committed::text AS committed`

const foundOrInsertedSql = (id: string): string =>
  `INSERT INTO ${table} AS record (id, committed, at) VALUES ('${id}', false, clock_timestamp()) ` +
  "ON CONFLICT (id) DO UPDATE SET at = excluded.at RETURNING record.committed::text AS committed"

/** Asks for the system and for the row in one transaction, which a pooler sends to one server. */
const ask = (
  connection: Connection,
  { durability, id, system }: CommitRecord
): Effect.Effect<TransactionOutcome, DatabaseError> =>
  Effect.gen(function*() {
    yield* connection.begin(
      durability === undefined ? {} : {
        isolation: "read committed",
        settings: { synchronous_commit: durability }
      }
    )
    const isSameSystem = system === null || (system !== undefined && system === (yield* systemOf(connection)))
    const rows = yield* connection.query(isSameSystem ? foundOrInsertedSql(id) : foundSql(id))
    yield* connection.commit
    const [row] = rows as ReadonlyArray<{ readonly committed: string }>
    return row === undefined ? "pending" : row.committed === "true" ? "committed" : "aborted"
  }).pipe(
    // The commit of the lookup is not confirmed, or the server is a standby that may be promoted.
    Effect.catchTags({
      CommitOutcomeUnknown: () => Effect.succeed("pending" as const),
      ReadOnlyViolation: () => Effect.succeed("pending" as const)
    })
  )

const systemOf = (connection: Connection): Effect.Effect<string | undefined, DatabaseError> =>
  Effect.map(
    connection.query(identityQuery),
    (rows) => parseServerIdentity((rows as ReadonlyArray<IdentityRow>)[0]).systemIdentifier
  )

/** Looks the outcome up once, on a connection of its own. */
export const lookUpRecord = (
  connect: (restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  record: CommitRecord
): Effect.Effect<TransactionOutcome, DatabaseError> =>
  Effect.suspend(() =>
    Math.max(Date.now() - record.sentAt, performance.now() - record.sentAtMonotonic) > maxAge
      ? Effect.succeed("unknown")
      : withOwnConnection(connect, (connection) => ask(connection, record))
  )

/** If this returns a row, the process removes old records. Otherwise that was done in the last 10 minutes. */
const claimSql = `INSERT INTO ${table} AS record (id, committed, at) ` +
  `VALUES ('${cleaningId}', false, clock_timestamp()) ON CONFLICT (id) DO UPDATE SET at = excluded.at ` +
  `WHERE record.at < excluded.at - interval '${cleaningMinutes} minutes' RETURNING '1' AS claimed`

const cleanSql = `DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table} WHERE id <> '${cleaningId}' AND ` +
  `at < clock_timestamp() - interval '${retentionMinutes} minutes' LIMIT ${batchSize}) RETURNING '1' AS removed`

/** Removes the rows that are past their retention, in batches, unless that was done in the last 10 minutes. */
export const cleanRecords = (connection: DriverConnection): Effect.Effect<void, DatabaseError> =>
  Effect.gen(function*() {
    const execute = (sql: string) => connection.executeUnprepared(sql, [], undefined)
    let count = (yield* execute(claimSql)).length === 0 ? 0 : batchSize
    while (count === batchSize) {
      count = (yield* execute(cleanSql)).length
    }
  }).pipe(Effect.mapError(fromSqlError))
