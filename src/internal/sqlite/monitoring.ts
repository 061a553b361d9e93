/**
 * What the dashboard shows of a SQLite database, and the plan of a statement without its values. SQLite counts neither
 * reads nor the uses of an index.
 */
import * as Effect from "effect/Effect"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { Monitoring, Section } from "../monitoring.js"
import { isDataStatement, parameterCount } from "./statementText.js"

const maxRows = 20

/** Computing the sizes of tables reads every page of the file, so they are shown only for files up to this size. */
const maxSizedBytes = 64 * 1024 * 1024

const ask = <Row extends object>(
  connection: Connection,
  sql: string,
  params: ReadonlyArray<unknown> = []
): Effect.Effect<ReadonlyArray<Row>, DatabaseError> =>
  Effect.mapError(connection.executeUnprepared(sql, params, undefined), fromSqlError) as Effect.Effect<
    ReadonlyArray<Row>,
    DatabaseError
  >

interface FileRow {
  readonly pages: number
  readonly free: number
  readonly page_size: number
}

const askFile = (connection: Connection): Effect.Effect<FileRow, DatabaseError> =>
  Effect.map(
    ask<FileRow>(
      connection,
      `SELECT (SELECT page_count FROM pragma_page_count) AS pages, (SELECT freelist_count FROM pragma_freelist_count) AS free,
  (SELECT page_size FROM pragma_page_size) AS page_size`
    ),
    ([row]) => row
  )

const sizes = (isMemory: boolean): Section => ({
  id: "size",
  title: isMemory ? "Memory" : "File",
  none: "Not known.",
  columns: [["Part", "text"], ["Size", "bytes"], ["Pages", "count"], ["Share", "share"]],
  read: (connection) =>
    Effect.map(askFile(connection), ({ free, page_size, pages }) => {
      return {
        rows: [
          ["All", pages * page_size, pages, 1],
          ["Free pages, which VACUUM removes", free * page_size, free, pages === 0 ? null : free / pages]
        ]
      }
    })
})

const pragmas = [
  "journal_mode",
  "synchronous",
  "foreign_keys",
  "auto_vacuum",
  "cache_size",
  "mmap_size",
  "user_version"
]

const settings: Section = {
  id: "pragmas",
  title: "PRAGMAs",
  none: "Not known.",
  columns: [["PRAGMA", "text"], ["Value", "text"]],
  read: (connection) =>
    Effect.map(
      Effect.forEach(pragmas, (name) => ask(connection, `PRAGMA ${name}`)),
      (answers) => ({
        rows: answers.map((rows, index) => [pragmas[index], String(Object.values(rows.at(0) ?? { none: "–" })[0])])
      })
    )
}

interface ObjectRow {
  readonly name: string
  readonly kind: string
  readonly table_name: string
  readonly statistics: string | null
  readonly size?: number
}

/** Names, kinds and the statistics of the last ANALYZE, whose first number is the number of rows. */
const objectsSql = (hasStatistics: boolean, hasSizes: boolean): string =>
  `SELECT m.name, m.type AS kind, m.tbl_name AS table_name,
  ${
    hasStatistics
      ? "(SELECT s.stat FROM sqlite_stat1 s WHERE s.tbl = m.tbl_name AND (s.idx = m.name OR m.type = 'table') LIMIT 1)"
      : "NULL"
  } AS statistics
  ${hasSizes ? ", (SELECT d.pgsize FROM dbstat d WHERE d.aggregate AND d.name = m.name) AS size" : ""}
FROM sqlite_schema m WHERE m.type IN ('table', 'index') AND m.name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'
ORDER BY ${hasSizes ? "size DESC, " : ""}m.tbl_name, m.type DESC, m.name LIMIT ${maxRows}`

const objects = (isRead: boolean): Section => ({
  id: "objects",
  title: "Tables and indexes",
  none: "There are no tables.",
  columns: [["Name", "text"], ["Kind", "text"], ["Table", "text"], ["Size", "bytes"], [
    "Rows at the last ANALYZE",
    "count"
  ]],
  read: (connection) =>
    Effect.gen(function*() {
      const { page_size, pages } = yield* askFile(connection)
      const [{ has }] = yield* ask<{ readonly has: number }>(
        connection,
        "SELECT count(*) AS has FROM sqlite_schema WHERE name = 'sqlite_stat1'"
      )
      const isSmall = isRead && pages * page_size <= maxSizedBytes
      const plain = ask<ObjectRow>(connection, objectsSql(has > 0, false))
      const rows = yield* isSmall
        // Libraries may be built without dbstat.
        ? Effect.catchTag(ask<ObjectRow>(connection, objectsSql(has > 0, true)), "InvalidStatement", () => plain)
        : plain
      const hasSizes = rows.some(({ size }) => size !== undefined)
      return {
        rows: rows.map(({ kind, name, size, statistics, table_name }) => [
          name,
          kind,
          table_name,
          size,
          statistics === null ? null : Number.parseInt(statistics)
        ]),
        missing: hasSizes
          ? undefined
          : "Sizes need a SQLite library with dbstat, and a file of at most 64 MiB in a thread of its own."
      }
    })
})

interface PlanRow {
  readonly id: number
  readonly parent: number
  readonly detail: string
}

const linesOf = (rows: ReadonlyArray<PlanRow>): ReadonlyArray<string> => {
  const depths = new Map<number, number>()
  return rows.map(({ detail, id, parent }) => {
    const depth = parent === 0 ? 0 : (depths.get(parent) ?? 0) + 1
    depths.set(id, depth)
    return `${"  ".repeat(depth)}${detail}`
  })
}

const explain: Monitoring["explain"] = (connection, statement) =>
  isDataStatement(statement)
    ? Effect.map(
      // A plan does not depend on values, but all have to be bound.
      ask<PlanRow>(
        connection,
        `EXPLAIN QUERY PLAN ${statement}`,
        Array.from({ length: parameterCount(statement) }, () => null)
      ),
      linesOf
    )
    : Effect.fail(makeError("InvalidStatement", {
      dialect: "sqlite",
      code: "SQLITE_ERROR",
      reason: "this is not a statement that has a plan: SELECT, INSERT, REPLACE, UPDATE, DELETE, VALUES or WITH"
    }))

/** `hasThread` says whether statements run in a thread of their own. */
export const monitoring = (isMemory: boolean, hasThread: boolean): Monitoring => ({
  sections: [sizes(isMemory), objects(!isMemory && hasThread), settings],
  explain
})
