/**
 * The peers. The first of each dialect is the bare client library, the baseline for the others.
 */
import { spawnSync } from "node:child_process"
import type { Dialect } from "./workloads.js"

export interface Kind {
  readonly name: string
  readonly dialect: Dialect
  /** The file in peers/, and the name of its export. */
  readonly module: string
  readonly entry: string
  /** Included in the quick run. */
  readonly quick?: boolean
  /** Its library is installed by this folder's package.json. */
  readonly installed?: boolean
  /** Returns why the peer cannot run on this machine, or undefined if it can. */
  readonly missing?: () => string | undefined
}

/** The command of a Python that has these modules, or undefined if there is none. */
export const python = (...modules: ReadonlyArray<string>): string | undefined =>
  [process.env.PYTHON ?? "python3", "/usr/bin/python3"].find((command) =>
    spawnSync(command, ["-c", `import ${modules.join(", ")}`]).status === 0
  )

const needsPython = (...modules: ReadonlyArray<string>) => () =>
  python(...modules) === undefined ? `no Python with ${modules.join(" and ")}` : undefined

type More = Pick<Kind, "quick" | "installed" | "missing">

const on = (dialect: Dialect) => (name: string, module: string, entry: string, more: More = {}): Kind => ({
  name,
  dialect,
  module,
  entry,
  ...more
})

const postgres = on("postgres")
const sqlite = on("sqlite")
const quick = { quick: true }
const installed = { installed: true }

export const kinds: ReadonlyArray<Kind> = [
  postgres("pg", "pg", "plain", quick),
  postgres("pg (named statements)", "pg", "named", quick),
  postgres("sqlayer", "sqlayer", "postgres", quick),
  postgres("sqlayer (OpenTelemetry on)", "sqlayer", "traced"),
  postgres("@effect/sql-pg", "effectSql", "postgres", quick),
  postgres("postgres.js", "installed/postgresjs", "postgres", installed),
  postgres("Drizzle", "drizzle", "postgres"),
  postgres("Kysely", "kysely", "postgres"),
  postgres("TypeORM", "installed/typeorm", "postgres", installed),
  postgres("Prisma", "installed/prisma", "postgres", installed),
  postgres("SQLAlchemy (asyncpg)", "alchemy", "python", { missing: needsPython("sqlalchemy", "asyncpg") }),
  postgres("pgbench (prepared)", "pgbench", "postgres", {
    missing: () => spawnSync("pgbench", ["--version"]).status === 0 ? undefined : "no pgbench"
  }),
  postgres("psql", "psql", "postgres", {
    missing: () => spawnSync("psql", ["--version"]).status === 0 ? undefined : "no psql"
  }),
  sqlite("better-sqlite3", "betterSqlite3", "raw", quick),
  sqlite("sqlayer (main thread)", "sqlayer", "main", quick),
  sqlite("sqlayer (worker)", "sqlayer", "worker", quick),
  sqlite("@effect/sql-sqlite-node", "effectSql", "sqlite", quick),
  sqlite("Drizzle", "drizzle", "sqlite"),
  sqlite("Kysely", "kysely", "sqlite"),
  sqlite("SQLAlchemy (aiosqlite)", "alchemy", "python", { missing: needsPython("sqlalchemy", "aiosqlite") })
]
