/**
 * The applied migrations of a database: the table of @effect/sql's Migrator, created as the Migrator creates it, and a
 * table of checksums beside it. The Migrator can continue where sqlayer stopped, and the other way round.
 *
 * While a migration runs, a marker is in its place in the table of checksums. It is part of the migration's
 * transaction, in which the history row and the checksum replace it. So other connections see it only if the migration
 * has ended that transaction by a statement of its own. The marker of a migration that runs without a transaction is
 * committed before it begins.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type * as Database from "../../Database.js"
import type { MigrationDialect } from "../driver.js"
import type { Applied, Migration, Resolved } from "./model.js"

/** An applied migration, with its checksum if that is known. */
export interface Row extends Applied {
  readonly checksum: string | undefined
}

/** A migration that has a marker and is not applied. */
export interface Unfinished extends Migration {
  /** Whether it runs in a transaction, which it has then ended by a statement of its own. */
  readonly isTransactional: boolean
}

export interface Content {
  /** The applied migrations, ordered by number. */
  readonly rows: ReadonlyArray<Row>
  /** Ordered by number. */
  readonly unfinished: ReadonlyArray<Unfinished>
}

export interface History {
  /** Only reads; a table that does not exist counts as empty. */
  readonly read: Effect.Effect<Content, SqlError>
  /** Creates the tables that do not exist yet. */
  readonly prepare: Effect.Effect<void, SqlError>
  /** Marks a migration as running. */
  readonly mark: (migration: Migration, isTransactional: boolean) => Effect.Effect<void, SqlError>
  /** Records that a migration is applied, and removes its marker. */
  readonly record: (migration: Resolved) => Effect.Effect<void, SqlError>
  /** Marks a migration that is applied as being taken back: it is no longer applied. */
  readonly markDown: (migration: Migration) => Effect.Effect<void, SqlError>
  /** Removes the marker, or the checksum, of a migration that is not applied. */
  readonly unmark: (id: number) => Effect.Effect<void, SqlError>
  /** Saves the checksum of a migration that was applied without one. */
  readonly saveChecksum: (migration: Resolved) => Effect.Effect<void, SqlError>
}

interface Selected {
  readonly migration_id: number | string
  /** Null for a marker without a history row. */
  readonly name: string | null
  readonly created_at: unknown
  readonly checksum?: string | null
}

/** The name of the migration follows. No checksum has this prefix. */
const markerPrefix = "running:"
/** Ends the marker of a migration that runs without a transaction. */
const withoutTransaction = " (without a transaction)"

const markerOf = (name: string, isTransactional: boolean): string =>
  `${markerPrefix}${name}${isTransactional ? "" : withoutTransaction}`

const unfinishedOf = (id: number, marker: string): Unfinished => {
  const isTransactional = !marker.endsWith(withoutTransaction)
  const name = marker.slice(markerPrefix.length, isTransactional ? undefined : -withoutTransaction.length)
  return { id, name, isTransactional }
}

export const make = ({ sql }: Database.Service, dialect: MigrationDialect, table: string): History => {
  const checksumTable = `${table}_checksum`
  const withoutChecksums = sql<Selected>`SELECT migration_id, name, created_at FROM ${sql(table)}
ORDER BY migration_id`
  const withChecksums = sql<Selected>`SELECT m.migration_id, m.name, m.created_at, c.checksum FROM ${sql(table)} m
LEFT JOIN ${sql(checksumTable)} c ON c.migration_id = m.migration_id
UNION ALL SELECT c.migration_id, NULL, NULL, c.checksum FROM ${sql(checksumTable)} c
WHERE c.checksum LIKE ${`${markerPrefix}%`}
AND NOT EXISTS (SELECT 1 FROM ${sql(table)} m WHERE m.migration_id = c.migration_id) ORDER BY 1`

  // A row may be left from a migration whose record was deleted so that it is applied again.
  const saveChecksum = ({ 0: id, checksum }: Resolved) =>
    checksum === undefined ? Effect.void : dialect.saveChecksum(sql, checksumTable, id, checksum)

  const unmark = (id: number) => sql`DELETE FROM ${sql(checksumTable)} WHERE migration_id = ${id}`.withoutTransform
  const mark = ({ id, name }: Migration, isTransactional: boolean) =>
    dialect.saveChecksum(sql, checksumTable, id, markerOf(name, isTransactional))

  return {
    read: Effect.gen(function*() {
      if (!(yield* dialect.tableExists(sql, table))) {
        return { rows: [], unfinished: [] }
      }
      const hasChecksums = yield* dialect.tableExists(sql, checksumTable)
      const rows: Array<Row> = []
      const unfinished: Array<Unfinished> = []
      for (const row of yield* (hasChecksums ? withChecksums : withoutChecksums).withoutTransform) {
        const id = Number(row.migration_id)
        const checksum = row.checksum ?? undefined
        const isMarker = checksum?.startsWith(markerPrefix) === true
        if (row.name !== null) {
          // A marker is left where the history row of an unfinished migration was inserted by hand.
          const at = dialect.createdAt(row.created_at)
          rows.push({ id, name: row.name, at, checksum: isMarker ? undefined : checksum })
        } else if (isMarker) {
          unfinished.push(unfinishedOf(id, checksum))
        }
      }
      return { rows, unfinished }
    }),
    prepare: Effect.gen(function*() {
      if (!(yield* dialect.tableExists(sql, table))) {
        yield* dialect.createSchema(sql, table)
        yield* dialect.createTable(sql, table)
      }
      if (!(yield* dialect.tableExists(sql, checksumTable))) {
        yield* dialect.createChecksumTable(sql, checksumTable)
      }
    }),
    mark,
    markDown: (migration) =>
      Effect.zipRight(
        sql`DELETE FROM ${sql(table)} WHERE migration_id = ${migration.id}`.withoutTransform,
        mark(migration, true)
      ),
    unmark,
    record: (migration) => {
      const [migration_id, name] = migration
      return Effect.zipRight(
        sql`INSERT INTO ${sql(table)} ${sql.insert({ migration_id, name })}`.withoutTransform,
        migration.checksum === undefined
          ? unmark(migration_id)
          : saveChecksum(migration)
      )
    },
    saveChecksum
  }
}
