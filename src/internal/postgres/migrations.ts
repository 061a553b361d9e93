/**
 * What migrations need of PostgreSQL.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { fromSqlError, isRetryable } from "../../DatabaseError.js"
import type { MigrationDialect } from "../driver.js"
import { quoted } from "../sqlQuotes.js"
import { createTableSql, schema } from "./commitRecord.js"
import { type Engine, isRefusal } from "./engine.js"
import { locksOf } from "./locks.js"
import { milliseconds, resetSql } from "./transactionSql.js"

const quotedName = (name: string) => name.split(".").map((part) => `"${part.replaceAll("\"", "\"\"")}"`).join(".")

/** The table whose row is locked where there are no advisory locks. */
const lockTable = (table: string): string => `${table}_lock`

/**
 * duplicate_object, of the table's type, and duplicate_table. IF NOT EXISTS does not see the tables of open
 * transactions.
 */
const duplicateCodes = new Set<string | undefined>(["42710", "42P07"])

/** Whether another runner has created the table at the same time, so that creating it is tried again. */
const isCreatedConcurrently = (error: SqlError): boolean => {
  const cause = fromSqlError(error)
  return cause._tag === "UniqueViolation" || duplicateCodes.has(cause.code) || isRetryable(cause)
}

const lockTableSchedule = Schedule.intersect(Schedule.spaced("100 millis"), Schedule.recurs(20))

/**
 * The transaction has no idle timeout, since the program of a migration may run for long between its statements. While
 * a statement runs, the server notices that its client is gone only if client_connection_check_interval is set: without
 * it a killed runner would hold the lock until its statement ends. Windows does not support the setting, nor do
 * versions before 14.
 */
const tryLock = (engine: Engine): MigrationDialect["tryLock"] => (sql, table) =>
  engine.lacks("advisoryLocks")
    ? Effect.map(
      sql`SELECT id FROM ${sql(lockTable(table))} WHERE id = 1 FOR UPDATE SKIP LOCKED`.withoutTransform,
      (rows) => rows.length > 0
    )
    : Effect.map(
      sql<{ locked: boolean }>`SELECT pg_catalog.pg_try_advisory_xact_lock(
  pg_catalog.hashtextextended(${`sqlayer migrations ${table}`}, 0)
) AS locked, CASE
  WHEN pg_catalog.current_setting('client_connection_check_interval', true) = '0'
    AND pg_catalog.version() !~* 'windows|mingw|visual|msvc'
  THEN pg_catalog.set_config('client_connection_check_interval', '1s', true)
END AS interval, pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true) AS idle`.withoutTransform,
      ([{ locked }]) => locked
    )

export const migrations = (engine: Engine): MigrationDialect => ({
  lexicon: {
    // https://www.postgresql.org/docs/current/sql-syntax-lexical.html: strings with escapes, which may continue on another
    // line, then the common quotes, then dollar-quoted strings.
    blank: /(?:[ \t\n\v\f\r\uFEFF]|--[^\n\r]*)+/y,
    word: /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y,
    quoted: [
      /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'(?:[ \t\f]*[\n\r]\s*'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*')*/y,
      ...quoted,
      /\$((?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$[^]*?\$\1\$/y
    ],
    opening: /['"]|\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y,
    nestedComments: true,
    // The commands of CREATE RULE.
    parenthesesEnclose: true,
    bodies: { statement: /^CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE)\b/, opening: "BEGIN ATOMIC" },
    copyData: true,
    clientCommand: /\\[^\n]*/y,
    clientName: "psql",
    // pg_dump encloses its output in these.
    ignoredCommand: /^\\(?:un)?restrict\s/,
    refusal: (words, text) =>
      /^SET (?:(?:SESSION|LOCAL) )?(?:CLIENT_ENCODING|NAMES)\b/.test(words) &&
        !/\butf-?8\b|\bunicode\b|\bdefault\b/i.test(text)
        ? "the text is sent in UTF-8, so client_encoding cannot be another one"
        : undefined
  },
  accepts: (name) => name === undefined || name === "postgres",
  tableExists: (sql, table) =>
    Effect.map(
      sql`SELECT 1 AS found WHERE pg_catalog.to_regclass(${quotedName(table)}) IS NOT NULL`.withoutTransform,
      (rows) => rows.length > 0
    ),
  // CREATE SCHEMA IF NOT EXISTS needs the privilege to create one even if it exists.
  createSchema: (sql, table) => {
    const [schema, name] = table.split(".")
    return name === undefined
      ? Effect.void
      : Effect.flatMap(
        sql`SELECT 1 AS found WHERE pg_catalog.to_regnamespace(${quotedName(schema)}) IS NOT NULL`.withoutTransform,
        ({ length }) => length > 0 ? Effect.void : sql`CREATE SCHEMA ${sql(schema)}`.withoutTransform
      )
  },
  // The Migrator's table, but for the type of the number: a bigint can hold a timestamp (20260102030405).
  createTable: (sql, table) =>
    sql`CREATE TABLE ${sql(table)} (
  migration_id bigint primary key,
  created_at timestamp with time zone not null default now(),
  name text not null
)`.withoutTransform,
  createChecksumTable: (sql, table) =>
    sql`CREATE TABLE ${sql(table)} (
  migration_id bigint NOT NULL PRIMARY KEY,
  checksum text NOT NULL
)`.withoutTransform,
  saveChecksum: (sql, table, migration_id, checksum) =>
    sql`INSERT INTO ${sql(table)} ${sql.insert({ migration_id, checksum })}
ON CONFLICT (migration_id) DO UPDATE SET checksum = excluded.checksum`.withoutTransform,
  // The application may have configured another type for timestamps.
  createdAt: (value) => DateTime.isDateTime(value) ? DateTime.toDateUtc(value) : new Date(value as Date | string),
  tryLock: tryLock(engine),
  // CREATE INDEX CONCURRENTLY waits for every older snapshot. The unnamed portal of a prepared statement keeps one
  // until another statement follows; one in a simple query does not, so that the transaction has none while it is idle.
  holdLock: (sql, table, inSession) =>
    inSession(Effect.zipLeft(tryLock(engine)(sql, table), sql.unsafe("SELECT 1; SELECT 1").unprepared)),
  // A snapshot from before the lock was taken would not show what its previous holder committed.
  sessionOptions: () => ({ isolation: "read committed" }),
  saveSettings: (sql) =>
    Effect.map(
      sql<{ path: string; role: string }>`SELECT pg_catalog.current_setting('search_path') AS path,
  pg_catalog.current_setting('role') AS role`.withoutTransform,
      ([{ path, role }]) =>
        Effect.zipRight(
          sql.unsafe(resetSql).unprepared,
          sql`SELECT pg_catalog.set_config('search_path', ${path}, true), pg_catalog.set_config('role', ${role}, true)`
            .withoutTransform
        )
    ),
  setStatementTimeout: (sql, _, timeout) =>
    sql`SELECT pg_catalog.set_config('statement_timeout', ${String(milliseconds(timeout))}, false)`.withoutTransform,
  foreignKeys: undefined,
  locksOf,
  createCommitTable: (sql) =>
    Effect.gen(function*() {
      // CREATE SCHEMA IF NOT EXISTS needs the privilege to create one even if it exists.
      const found = yield* sql`SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ${schema}`.withoutTransform
      if (found.length === 0) {
        yield* sql.unsafe(`CREATE SCHEMA ${schema}`).withoutTransform
      }
      yield* sql.unsafe(createTableSql).withoutTransform
    }),
  prepareLock: (sql, table) =>
    Effect.gen(function*() {
      if (!engine.isPostgres && !engine.lacks("advisoryLocks")) {
        yield* sql`SELECT pg_catalog.pg_try_advisory_xact_lock(0)`.withoutTransform.pipe(
          Effect.catchIf((error) => isRefusal(fromSqlError(error)), () => Effect.void)
        )
      }
      if (engine.lacks("advisoryLocks")) {
        const name = sql(lockTable(table))
        yield* sql`CREATE TABLE IF NOT EXISTS ${name} (id integer PRIMARY KEY)`.withoutTransform.pipe(
          Effect.zipRight(sql`INSERT INTO ${name} (id) VALUES (1) ON CONFLICT (id) DO NOTHING`.withoutTransform),
          Effect.retry({ schedule: lockTableSchedule, while: isCreatedConcurrently })
        )
      }
    })
})
