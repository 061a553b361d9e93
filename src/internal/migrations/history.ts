/**
 * The applied migrations of a database: the table of @effect/sql's Migrator, created as the Migrator creates it, and a
 * table of checksums beside it. The Migrator can continue where sqlayer stopped, and the other way round.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type * as Database from "../../Database.js"
import type { MigrationDialect } from "../driver.js"
import type { Applied, Resolved } from "./model.js"

/** An applied migration, with its checksum if that is known. */
export interface Row extends Applied {
  readonly checksum: string | undefined
}

export interface History {
  /** The applied migrations, ordered by number. Only reads; a table that does not exist counts as empty. */
  readonly read: Effect.Effect<ReadonlyArray<Row>, SqlError>
  /** Creates the tables that do not exist yet. */
  readonly prepare: Effect.Effect<void, SqlError>
  /** Records that a migration is applied. */
  readonly record: (migration: Resolved) => Effect.Effect<void, SqlError>
  /** Saves the checksum of a migration that was applied without one. */
  readonly saveChecksum: (migration: Resolved) => Effect.Effect<void, SqlError>
}

interface Selected {
  readonly migration_id: number | string
  readonly name: string
  readonly created_at: unknown
  readonly checksum?: string | null
}

export const make = ({ sql }: Database.Service, dialect: MigrationDialect, table: string): History => {
  const checksumTable = `${table}_checksum`
  const withoutChecksums = sql<Selected>`SELECT migration_id, name, created_at FROM ${sql(table)}
ORDER BY migration_id`
  const withChecksums = sql<Selected>`SELECT m.migration_id, m.name, m.created_at, c.checksum FROM ${sql(table)} m
LEFT JOIN ${sql(checksumTable)} c ON c.migration_id = m.migration_id ORDER BY m.migration_id`

  // A row may be left from a migration whose record was deleted so that it is applied again.
  const saveChecksum = ({ 0: id, checksum }: Resolved) =>
    checksum === undefined ? Effect.void : dialect.saveChecksum(sql, checksumTable, id, checksum)

  return {
    read: Effect.gen(function*() {
      if (!(yield* dialect.tableExists(sql, table))) {
        return []
      }
      const hasChecksums = yield* dialect.tableExists(sql, checksumTable)
      const rows = yield* (hasChecksums ? withChecksums : withoutChecksums).withoutTransform
      return rows.map((row): Row => ({
        id: Number(row.migration_id),
        name: row.name,
        at: dialect.createdAt(row.created_at),
        checksum: row.checksum ?? undefined
      }))
    }),
    prepare: Effect.gen(function*() {
      if (!(yield* dialect.tableExists(sql, table))) {
        yield* dialect.createTable(sql, table)
      }
      if (!(yield* dialect.tableExists(sql, checksumTable))) {
        yield* dialect.createChecksumTable(sql, checksumTable)
      }
    }),
    record: (migration) => {
      const [migration_id, name] = migration
      return Effect.zipRight(
        sql`INSERT INTO ${sql(table)} ${sql.insert({ migration_id, name })}`.withoutTransform,
        saveChecksum(migration)
      )
    },
    saveChecksum
  }
}
