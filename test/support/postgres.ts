/**
 * Real PostgreSQL for tests: the run's shared server, and servers of a test's own that may be stopped and killed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import type * as Pg from "pg"
import { inject } from "vitest"
import { withClient } from "./client.js"
import { type ClusterOptions, makeCluster, type StopMode } from "./cluster.js"

// A worker whose vitest was killed would go on with its test, and keep its servers. vitest allows no `process.exit`.
process.once("disconnect", () => process.kill(process.pid, "SIGKILL"))

const provided = <A>(value: A | undefined): A => {
  if (value === undefined) {
    throw new Error("vitest's globalSetup must list test/support/globalSetup.ts")
  }
  return value
}

/** The shared server's URL, as superuser. */
export const url = (): string => provided(inject("postgresUrl"))

/** A URL of the same server and user with another database. */
const withDatabase = (url: string, database: string): string => {
  const parsed = new URL(url)
  parsed.pathname = `/${encodeURIComponent(database)}`
  return parsed.toString()
}

/**
 * One query on a connection of its own through a plain `pg` client, to look at things from outside. What goes wrong is
 * a defect. Interrupting it drops the connection.
 */
export const query = (
  url: string,
  sql: string,
  params?: ReadonlyArray<unknown>
): Effect.Effect<ReadonlyArray<any>> =>
  Effect.promise((signal) =>
    withClient({ connectionString: url }, async (client) => {
      // Without parameters it may be several statements; the rows are those of the last one.
      const result: Pg.QueryResult | Array<Pg.QueryResult> = await client.query(sql, params && [...params])
      return Array.isArray(result) ? result[result.length - 1]?.rows ?? [] : result.rows
    }, signal)
  )

let databases = 0

/** The URL of a new, empty database on the shared server. It is dropped, whoever uses it, when the scope closes. */
export const freshDatabase: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.suspend(() => {
    const name = `sqlayer_${process.pid}_${++databases}_${randomBytes(4).toString("hex")}`
    return Effect.as(query(url(), `CREATE DATABASE ${name}`), name)
  }),
  (name) => query(url(), `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
).pipe(Effect.map((name) => withDatabase(url(), name)))

/** A server of a test's own. It keeps its port and data when it is stopped and started again. */
export interface Server {
  /** As superuser. */
  readonly url: string
  readonly port: number
  /** The postmaster's, of the last start. */
  readonly pid: number
  /** Holds the server's Unix socket. */
  readonly socketDir: string
  /** Completes when the server has ended: in `smart` mode that is when its clients have left. */
  readonly stop: (mode: StopMode) => Effect.Effect<void>
  /** SIGKILL to the server and all of its processes: a crash. */
  readonly kill: Effect.Effect<void>
  /** SIGSTOP to all of its processes: connections stay open, new ones are accepted by the system, nothing answers. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

/** Starts a server; it ends, and its data with it, when the scope closes. */
export const server = (options?: ClusterOptions): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => makeCluster(provided(inject("postgresInstallation")), options)),
    (cluster) => Effect.promise(cluster.dispose)
  ).pipe(
    Effect.map((cluster) => ({
      url: cluster.url,
      port: cluster.port,
      get pid() {
        return cluster.pid()
      },
      socketDir: cluster.socketDir,
      stop: (mode) => Effect.promise(() => cluster.stop(mode)),
      kill: Effect.uninterruptible(Effect.promise(cluster.kill)),
      pause: Effect.uninterruptible(Effect.promise(cluster.pause)),
      resume: Effect.sync(cluster.resume),
      start: Effect.uninterruptible(Effect.promise(cluster.start))
    }))
  )
