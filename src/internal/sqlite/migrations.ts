/**
 * What migrations need of SQLite.
 */
import * as Effect from "effect/Effect"
import type { MigrationDialect } from "../driver.js"
import { quoted } from "../sqlQuotes.js"

export const migrations: MigrationDialect = {
  lexicon: {
    // https://sqlite.org/lang_keywords.html: the common quotes, then MySQL's and Microsoft's.
    quoted: [...quoted, /`[^`]*`(?:`[^`]*`)*/y, /\[[^\]]*\]/y],
    opening: /['"`[]/y,
    nestedComments: false
  },
  tableExists: (sql, table) => {
    const [name, schema = "main"] = table.split(".").toReversed()
    return Effect.map(
      sql`SELECT 1 AS found FROM pragma_table_info(${name}, ${schema}) LIMIT 1`.withoutTransform,
      (rows) => rows.length > 0
    )
  },
  // The Migrator's table.
  createTable: (sql, table) =>
    sql`CREATE TABLE ${sql(table)} (
  migration_id integer PRIMARY KEY NOT NULL,
  created_at datetime NOT NULL DEFAULT current_timestamp,
  name VARCHAR(255) NOT NULL
)`.withoutTransform,
  createChecksumTable: (sql, table) =>
    sql`CREATE TABLE ${sql(table)} (
  migration_id bigint NOT NULL PRIMARY KEY,
  checksum text NOT NULL
)`.withoutTransform,
  saveChecksum: (sql, table, migration_id, checksum) =>
    sql`INSERT INTO ${sql(table)} ${sql.insert({ migration_id, checksum })}
ON CONFLICT (migration_id) DO UPDATE SET checksum = excluded.checksum`.withoutTransform,
  // current_timestamp is UTC without a time zone.
  createdAt: (value) => new Date(`${value as string}Z`),
  // A writing transaction is the only one, from its beginning on, which its first statement is.
  tryLock: (sql) => Effect.as(sql`SELECT 1`, true),
  sessionOptions: (maxWait) => ({ lockTimeout: maxWait })
}
