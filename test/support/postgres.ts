/**
 * Real PostgreSQL for tests: the run's shared server, and servers of a test's own that may be stopped and killed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { inject } from "vitest"
import { query } from "./client.js"
import type { ClusterOptions } from "./cluster.js"
import { type Server, serverFrom } from "./server.js"

export { query } from "./client.js"
export type { Server } from "./server.js"

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

let databases = 0

/** The URL of a new, empty database on the shared server. It is dropped, whoever uses it, when the scope closes. */
export const freshDatabase: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.suspend(() => {
    const name = `sqlayer_${process.pid}_${++databases}_${randomBytes(4).toString("hex")}`
    return Effect.as(query(url(), `CREATE DATABASE ${name}`), name)
  }),
  (name) => query(url(), `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
).pipe(Effect.map((name) => withDatabase(url(), name)))

/** Starts a server; it ends, and its data with it, when the scope closes. */
export const server = (options?: ClusterOptions): Effect.Effect<Server, never, Scope.Scope> =>
  serverFrom(() => provided(inject("postgresInstallation")), options)
