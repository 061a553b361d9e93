/**
 * What migrations need of SQLite.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Connection, ForeignKeys, MigrationDialect } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { quoted } from "../sqlQuotes.js"
import type { SqliteConnection } from "./connection.js"
import type { LockFile } from "./lockFile.js"

const violationOf = (row: ReadonlyArray<string | number | null>): DatabaseError => {
  const [table, rowid, parent] = row
  const name = String(table)
  return makeError("ForeignKeyViolation", {
    dialect: "sqlite",
    code: "SQLITE_CONSTRAINT_FOREIGNKEY",
    reason:
      `a row of ${name}${rowid === null ? "" : ` (rowid ${String(rowid)})`} refers to a row of ${String(parent)} ` +
      "that does not exist",
    table: name
  })
}

/** The connection of the driver, which TestDatabase may have wrapped. */
const innermost = (connection: Connection): SqliteConnection => {
  const { inner } = connection as { readonly inner?: Connection }
  return inner === undefined ? connection as SqliteConnection : innermost(inner)
}

const foreignKeys: ForeignKeys = {
  enforce: (connection, enforced) => innermost(connection).enforceForeignKeys(enforced),
  check: (sql) =>
    Effect.flatMap(
      sql`PRAGMA foreign_key_check`.values,
      ([row]) =>
        row === undefined ? Effect.void : Effect.fail(violationOf(row as ReadonlyArray<string | number | null>))
    )
}

/** `lockFile` is undefined for a database in memory, whose only connection is its lock. */
export const migrations = (lockFile: LockFile | undefined): MigrationDialect => ({
  lexicon: {
    // https://sqlite.org/lang_keywords.html: the common quotes, then MySQL's and Microsoft's.
    blank: /(?:[ \t\n\f\r\uFEFF]|--[^\n]*)+/y,
    word: /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y,
    quoted: [...quoted, /`[^`]*`(?:`[^`]*`)*/y, /\[[^\]]*\]/y],
    opening: /['"`[]/y,
    nestedComments: false,
    parenthesesEnclose: false,
    // As https://sqlite.org/c3ref/complete.html.
    bodies: {
      statement: /^(?:EXPLAIN (?:QUERY PLAN )?)?CREATE (?:TEMP |TEMPORARY )?TRIGGER\b/,
      opening: undefined
    },
    copyData: false,
    clientCommand: /\.[A-Za-z][^\n]*/y,
    clientName: "the sqlite3 shell",
    ignoredCommand: /^$/,
    refusal: () => undefined
  },
  accepts: (name) => name === undefined || name === "sqlite",
  // A schema is an attached database, which is not created.
  createSchema: () => Effect.void,
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
  createCommitTable: () => Effect.void,
  // A writing transaction excludes all others from its beginning. It begins with its first statement.
  tryLock: (sql) => Effect.zipRight(sql`SELECT 1`, lockFile === undefined ? Effect.succeed(true) : lockFile.isFree),
  holdLock: () => lockFile === undefined ? Effect.succeed(true) : lockFile.hold,
  sessionOptions: (maxWait) => ({ lockTimeout: maxWait }),
  // The connection of a migration is reset, which removes what the migration has set.
  saveSettings: () => Effect.succeed(Effect.void),
  setStatementTimeout: (_, connection, timeout) => innermost(connection).setStatementTimeout(timeout),
  foreignKeys,
  // A transaction that writes excludes other writers, whatever its statements are.
  locksOf: (statement) => /^\s*vacuum\b/i.test(statement) ? "the file, which VACUUM rewrites" : undefined
})
