/**
 * What a database remembers of its migrations: the table of @effect/sql's Migrator, made as that makes it, and beside it
 * a table of checksums. The Migrator can go on where this stopped, and the other way round.
 */
import type { SqlError } from "@effect/sql/SqlError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Database from "../../Database.js"
import type * as Session from "../../Session.js"
import type { Applied, Resolved } from "./model.js"

/** One applied migration; without a checksum where none was known. */
export interface Row extends Applied {
  readonly checksum: string | undefined
}

export interface History {
  /** What is applied, by number. Reads only, and takes a missing table for an empty one. */
  readonly read: Effect.Effect<ReadonlyArray<Row>, SqlError>
  /** Makes what tables are missing. */
  readonly prepare: Effect.Effect<void, SqlError>
  readonly record: (migration: Resolved) => Effect.Effect<void, SqlError>
  /** Keeps the checksum of one that was applied when none was known. */
  readonly sign: (migration: Resolved) => Effect.Effect<void, SqlError>
  /**
   * Makes this transaction the only one that migrates, until it ends; false where another one is. It does not wait: who
   * waits within a statement holds up CREATE INDEX CONCURRENTLY, and whoever it waits for may be doing that.
   */
  readonly lock: Effect.Effect<boolean, SqlError>
  /** How a session begins that is to take the lock, and may wait so long for its beginning. */
  readonly turn: (patience: Duration.Duration) => Session.Options
}

interface Read {
  readonly migration_id: number | string
  readonly name: string
  readonly created_at: Date | string
  readonly checksum?: string | null
}

export const make = ({ sql }: Database.Service, table: string): History => {
  const checksums = `${table}_checksum`
  const quoted = (name: string) => name.split(".").map((part) => `"${part.replaceAll("\"", "\"\"")}"`).join(".")

  const exists = (name: string) =>
    sql.onDialectOrElse({
      pg: () => sql<{ found: unknown }>`SELECT 1 AS found WHERE pg_catalog.to_regclass(${quoted(name)}) IS NOT NULL`,
      orElse: () => {
        const [last, schema = "main"] = name.split(".").toReversed()
        return sql<{ found: unknown }>`SELECT 1 AS found FROM pragma_table_info(${last}, ${schema}) LIMIT 1`
      }
    }).withoutTransform.pipe(Effect.map((rows) => rows.length > 0))

  const create = sql.onDialectOrElse({
    // As the Migrator's, but for the type of the number, which lets a time (20260102030405) be one.
    pg: () =>
      sql`CREATE TABLE ${sql(table)} (
  migration_id bigint primary key,
  created_at timestamp with time zone not null default now(),
  name text not null
)`,
    orElse: () =>
      sql`CREATE TABLE ${sql(table)} (
  migration_id integer PRIMARY KEY NOT NULL,
  created_at datetime NOT NULL DEFAULT current_timestamp,
  name VARCHAR(255) NOT NULL
)`
  }).withoutTransform
  const createChecksums = sql`CREATE TABLE ${sql(checksums)} (
  migration_id bigint NOT NULL PRIMARY KEY,
  checksum text NOT NULL
)`.withoutTransform

  const plain = sql<Read>`SELECT migration_id, name, created_at FROM ${sql(table)} ORDER BY migration_id`
  const joined = sql<Read>`SELECT m.migration_id, m.name, m.created_at, c.checksum FROM ${sql(table)} m
LEFT JOIN ${sql(checksums)} c ON c.migration_id = m.migration_id ORDER BY m.migration_id`

  const sign = ({ 0: migration_id, checksum }: Resolved) =>
    checksum === undefined ? Effect.void : Effect.asVoid(
      // One may be left of a migration whose row was deleted so that it is applied again.
      sql`INSERT INTO ${sql(checksums)} ${sql.insert({ migration_id, checksum })}
ON CONFLICT (migration_id) DO UPDATE SET checksum = excluded.checksum`.withoutTransform
    )

  return {
    read: Effect.gen(function*() {
      if (!(yield* exists(table))) {
        return []
      }
      const rows = yield* ((yield* exists(checksums)) ? joined : plain).withoutTransform
      return rows.map((row): Row => ({
        id: Number(row.migration_id),
        name: row.name,
        // SQLite's is UTC without saying so.
        at: new Date(typeof row.created_at === "string" ? `${row.created_at}Z` : row.created_at),
        checksum: row.checksum ?? undefined
      }))
    }),
    prepare: Effect.gen(function*() {
      if (!(yield* exists(table))) {
        yield* create
      }
      if (!(yield* exists(checksums))) {
        yield* createChecksums
      }
    }),
    record: (migration) => {
      const [migration_id, name] = migration
      return Effect.zipRight(
        sql`INSERT INTO ${sql(table)} ${sql.insert({ migration_id, name })}`.withoutTransform,
        sign(migration)
      )
    },
    sign,
    lock: sql.onDialectOrElse({
      // The server is told to look whether this process still lives, which it does not do by itself while a statement
      // runs (and cannot on Windows, nor before version 14): a killed runner would hold the lock until its statement ends.
      pg: () =>
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
      // A writing transaction of SQLite is the only one from its first statement on, which this is.
      orElse: () => Effect.as(sql`SELECT 1`, true)
    }),
    turn: (patience) =>
      sql.onDialectOrElse<Session.Options, never, Session.Options>({
        // A snapshot of before the lock would not show what was done by who held it.
        pg: () => ({ isolation: "read committed" }),
        orElse: () => ({ lockTimeout: patience })
      })
  }
}
