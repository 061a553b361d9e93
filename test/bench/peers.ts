/**
 * The peers. The first of each dialect is the bare client library, the baseline for the others.
 */
import { spawnSync } from "node:child_process"
import type { Work } from "./peer.js"
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
  /** Why it does not do some of the work. */
  readonly without?: Without
}

type Without = { readonly [W in Work]?: string }

/** The command of a Python that has these modules, or undefined if there is none. */
export const python = (...modules: ReadonlyArray<string>): string | undefined =>
  [process.env.PYTHON ?? "python3", "/usr/bin/python3"].find((command) =>
    spawnSync(command, ["-c", `import ${modules.join(", ")}`]).status === 0
  )

const needsPython = (...modules: ReadonlyArray<string>) => () =>
  python(...modules) === undefined ? `no Python with ${modules.join(" and ")}` : undefined

type More = Pick<Kind, "quick" | "installed" | "missing" | "without">

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

const noCopy: Without = { copyIn: "no COPY", copyOut: "no COPY" }
const noCursor: Without = { stream: "no cursor" }
const because = (reason: string, works: ReadonlyArray<Work>): Without =>
  Object.fromEntries(works.map((work) => [work, reason]))

export const kinds: ReadonlyArray<Kind> = [
  postgres("pg", "pg", "plain", quick),
  postgres("pg (named statements)", "pg", "named", quick),
  postgres("sqlayer", "sqlayer", "postgres", quick),
  postgres("sqlayer (OpenTelemetry on)", "sqlayer", "traced"),
  postgres("@effect/sql-pg", "effectSql", "postgres", { quick: true, without: { copyOut: "no COPY" } }),
  postgres("postgres.js", "installed/postgresjs", "postgres", installed),
  postgres("Drizzle", "drizzle", "postgres", { without: { ...noCursor, ...noCopy } }),
  postgres("Kysely", "kysely", "postgres", { without: noCopy }),
  postgres("TypeORM", "installed/typeorm", "postgres", { installed: true, without: noCopy }),
  postgres("Prisma", "installed/prisma", "postgres", { installed: true, without: { ...noCursor, ...noCopy } }),
  postgres("SQLAlchemy (asyncpg)", "alchemy", "python", {
    missing: needsPython("sqlalchemy", "asyncpg"),
    without: noCopy
  }),
  postgres("pgbench (prepared)", "pgbench", "postgres", {
    missing: () => spawnSync("pgbench", ["--version"]).status === 0 ? undefined : "no pgbench",
    without: {
      ...because("only short transactions", ["read", "stream", "insert", "copyIn", "copyOut"]),
      promise: "no promises",
      mixed: "its mix is random"
    }
  }),
  postgres("psql", "psql", "postgres", {
    missing: () => spawnSync("psql", ["--version"]).status === 0 ? undefined : "no psql",
    without: because("a process for each", [
      "select",
      "promise",
      "session",
      "empty",
      "mixed",
      "read",
      "stream",
      "insert"
    ])
  }),
  sqlite("better-sqlite3", "betterSqlite3", "raw", quick),
  sqlite("sqlayer (main thread)", "sqlayer", "main", quick),
  sqlite("sqlayer (worker)", "sqlayer", "worker", quick),
  sqlite("@effect/sql-sqlite-node", "effectSql", "sqlite", {
    quick: true,
    without: { stream: "not implemented", ...noCopy }
  }),
  sqlite("Drizzle", "drizzle", "sqlite", { without: { ...noCursor, ...noCopy } }),
  sqlite("Kysely", "kysely", "sqlite", { without: noCopy }),
  sqlite("SQLAlchemy (aiosqlite)", "alchemy", "python", {
    missing: needsPython("sqlalchemy", "aiosqlite"),
    without: noCopy
  })
]
