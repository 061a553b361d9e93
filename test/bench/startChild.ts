/**
 * One start of an application: loads its modules, asks the database one thing, and prints how long that took.
 */
import type { SqlClient } from "@effect/sql/SqlClient"
import type { Layer } from "effect/Layer"
import { setTimeout as sleep } from "node:timers/promises"

/** In milliseconds since the process was started, and megabytes. */
export interface Result {
  readonly imported: number
  readonly answered: number
  readonly cpu: number
  readonly memory: number
}

const [name, dialect, url] = process.argv.slice(2)

let imported = 0
let answered = 0

const ask = async (query: () => PromiseLike<unknown>): Promise<void> => {
  await query()
  answered = performance.now()
  // At rest: what is loaded later than the first query, and what is freed, is done.
  await sleep(500)
}

/** Loads the modules that make a layer, and asks with the client that it provides. */
const withClient = async (load: () => Promise<() => Layer<SqlClient, unknown>>): Promise<void> => {
  const makeLayer = await load()
  const Effect = await import("effect/Effect")
  const { SqlClient } = await import("@effect/sql/SqlClient")
  imported = performance.now()
  await Effect.runPromise(
    Effect.flatMap(SqlClient, (sql) => Effect.promise(() => ask(() => Effect.runPromise(sql`SELECT 1`)))).pipe(
      Effect.provide(makeLayer())
    )
  )
}

const sqlayer = (all: boolean, thread: "main" | "worker") =>
  withClient(async () => {
    const { layerFrom } = all
      ? (await import("sqlayer")).Database
      : await import("sqlayer/Database")
    return () => layerFrom(dialect === "postgres" ? { url } : { url: `sqlite:///${url}`, thread })
  })

/** Not known to the compiler, unless this folder's package.json is installed. */
const installedPeers: string = "./peers/installed/start.js"

const installed = async (peer: string): Promise<void> => {
  const { [peer]: start } = await import(installedPeers)
  await start(url, () => (imported = performance.now()), ask)
}

const programs: Readonly<Record<string, () => Promise<void>>> = {
  "sqlayer": () => sqlayer(false, "worker"),
  "sqlayer (main thread)": () => sqlayer(false, "main"),
  "sqlayer (all modules)": () => sqlayer(true, "worker"),
  "@effect/sql-pg": () =>
    withClient(async () => {
      const PgClient = await import("@effect/sql-pg/PgClient")
      const Redacted = await import("effect/Redacted")
      return () => PgClient.layer({ url: Redacted.make(url) })
    }),
  "@effect/sql-sqlite-node": () =>
    withClient(async () => {
      const SqliteClient = await import("@effect/sql-sqlite-node/SqliteClient")
      return () => SqliteClient.layer({ filename: url })
    }),
  "pg": async () => {
    const { default: Pg } = await import("pg")
    imported = performance.now()
    const pool = new Pg.Pool({ connectionString: url })
    await ask(() => pool.query("SELECT 1"))
    await pool.end()
  },
  "better-sqlite3": async () => {
    const { default: Sqlite } = await import("better-sqlite3")
    imported = performance.now()
    const database = new Sqlite(url)
    await ask(async () => database.prepare("SELECT 1").get())
    database.close()
  },
  "Drizzle": async () => {
    const { sql } = await import("drizzle-orm")
    if (dialect === "postgres") {
      const { drizzle } = await import("drizzle-orm/node-postgres")
      imported = performance.now()
      const database = drizzle(url)
      await ask(() => database.execute(sql`SELECT 1`))
      await database.$client.end()
    } else {
      const { drizzle } = await import("drizzle-orm/better-sqlite3")
      imported = performance.now()
      const database = drizzle(url)
      await ask(async () => database.get(sql`SELECT 1`))
      database.$client.close()
    }
  },
  "postgres.js": () => installed("postgresjs"),
  "TypeORM": () => installed("typeorm"),
  "Prisma": () => installed("prisma")
}

await programs[name]()
globalThis.gc?.()
const { system, user } = process.cpuUsage()
const result: Result = { imported, answered, cpu: (system + user) / 1_000, memory: process.memoryUsage().rss / 1e6 }
console.log(JSON.stringify(result))
