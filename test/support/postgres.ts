/**
 * Real PostgreSQL for tests: the run's shared server, and servers of a test's own that can be stopped and killed.
 *
 * Importing this module starts the shared server unless it runs already.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { inject } from "vitest"
import { type BlueGreen, makeBlueGreen } from "./blueGreen.js"
import { query } from "./client.js"
import { type Cluster, type ClusterOptions, makeCluster } from "./cluster.js"
import type { Installation } from "./installation.js"
import { type Server, serverFrom } from "./server.js"
import type { ServerOptions } from "./serverProcess.js"
import { type Address, request } from "./sharedServer.js"

export { query } from "./client.js"
export type { Server } from "./server.js"

// When vitest is killed, its workers go on with their tests and keep their servers. `process.exit` is replaced by vitest.
process.once("disconnect", () => process.kill(process.pid, "SIGKILL"))

const address = (): Address => {
  const address: Address | undefined = inject("sharedServer")
  if (address === undefined) {
    throw new Error("vitest's globalSetup must list test/support/globalSetup.ts")
  }
  return address
}

const sharedUrl = await request(address(), "url")

/** The shared server's URL, as superuser. */
export const url = (): string => sharedUrl

/** PostgreSQL's binaries, and an empty cluster for servers of the test's own. */
export const installation = (): Promise<Installation> => request(address(), "installation")

/** A URL of the same server and user with another database. */
const withDatabase = (url: string, database: string): string => {
  const parsed = new URL(url)
  parsed.pathname = `/${encodeURIComponent(database)}`
  return parsed.toString()
}

let databases = 0

/** The URL of a new, empty database on the shared server. It is dropped when the scope closes, even if it is in use. */
export const freshDatabase: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.suspend(() => {
    const name = `sqlayer_${process.pid}_${++databases}_${randomBytes(4).toString("hex")}`
    return Effect.as(query(url(), `CREATE DATABASE ${name}`), name)
  }),
  (name) => query(url(), `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
).pipe(Effect.map((name) => withDatabase(url(), name)))

/** Starts a server. It is stopped and its data removed when the scope closes. */
export const server = (options?: ServerOptions): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.flatMap(Effect.promise(installation), (installation) => serverFrom(installation, options))

/** Starts a primary with its standbys. They are stopped and their data removed when the scope closes. */
export const cluster = (options?: ClusterOptions): Effect.Effect<Cluster, never, Scope.Scope> =>
  Effect.flatMap(Effect.promise(installation), (installation) => makeCluster(installation, options))

/** Starts two clusters joined by logical replication. They are stopped and their data removed when the scope closes. */
export const blueGreen = (options: Parameters<typeof makeBlueGreen>[1]): Effect.Effect<BlueGreen, never, Scope.Scope> =>
  Effect.flatMap(Effect.promise(installation), (installation) => makeBlueGreen(installation, options))
