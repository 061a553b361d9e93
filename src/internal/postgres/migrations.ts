/**
 * What migrations need of PostgreSQL.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type { MigrationDialect } from "../driver.js"
import { quoted } from "../sqlQuotes.js"

const quotedName = (name: string) => name.split(".").map((part) => `"${part.replaceAll("\"", "\"\"")}"`).join(".")

export const migrations: MigrationDialect = {
  lexicon: {
    // https://www.postgresql.org/docs/current/sql-syntax-lexical.html: strings with escapes, then the common quotes, then
    // dollar-quoted strings.
    quoted: [
      /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'/y,
      ...quoted,
      /\$((?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$[^]*?\$\1\$/y
    ],
    opening: /['"]|\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y,
    nestedComments: true
  },
  tableExists: (sql, table) =>
    Effect.map(
      sql`SELECT 1 AS found WHERE pg_catalog.to_regclass(${quotedName(table)}) IS NOT NULL`.withoutTransform,
      (rows) => rows.length > 0
    ),
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
  // The application may have asked for another type of timestamps.
  createdAt: (value) => DateTime.isDateTime(value) ? DateTime.toDateUtc(value) : new Date(value as Date | string),
  // While a statement runs, the server notices that its client is gone only if client_connection_check_interval is set:
  // without it a killed runner would hold the lock until its statement ends. Windows does not support the setting, nor do
  // versions before 14.
  tryLock: (sql, table) =>
    Effect.map(
      sql<{ locked: boolean }>`SELECT pg_catalog.pg_try_advisory_xact_lock(
  pg_catalog.hashtextextended(${`sqlayer migrations ${table}`}, 0)
) AS locked, CASE
  WHEN pg_catalog.current_setting('client_connection_check_interval', true) = '0'
    AND pg_catalog.version() !~* 'windows|mingw|visual|msvc'
  THEN pg_catalog.set_config('client_connection_check_interval', '1s', true)
END AS interval`.withoutTransform,
      ([{ locked }]) => locked
    ),
  // A snapshot from before the lock was taken would not show what its previous holder committed.
  sessionOptions: () => ({ isolation: "read committed" })
}
