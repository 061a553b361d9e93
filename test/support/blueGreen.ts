/**
 * Two clusters joined by logical replication, as for an upgrade: green receives what is committed on blue, as transactions of its
 * own.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { query } from "./client.js"
import { currentLsn } from "./cluster.js"
import { eventually } from "./eventually.js"
import { initdb, type Installation } from "./installation.js"
import { type Server, serverFrom } from "./server.js"
import type { ServerOptions } from "./serverProcess.js"

export interface BlueGreen {
  readonly blue: Server
  readonly green: Server
  /** Completes when green has applied everything that is committed on blue. */
  readonly replicated: Effect.Effect<void>
  /** Ends the replication. What is committed on blue from then on, green does not have. */
  readonly disconnect: Effect.Effect<void>
}

/** Starts both. The statements of `schema` run on both, in the database `postgres`, before green subscribes to all tables. */
export const makeBlueGreen = (
  installation: Installation,
  options: Pick<ServerOptions, "config" | "maxConnections"> & { readonly schema: string }
): Effect.Effect<BlueGreen, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { config, maxConnections, schema } = options
    const start = serverFrom(installation, {
      maxConnections,
      // A copy of the installation's would have the same system identifier.
      makeData: (directory) => initdb(installation, directory),
      config: {
        fsync: "off",
        shared_buffers: "16MB",
        wal_level: "logical",
        wal_receiver_status_interval: "1s",
        ...config
      }
    })
    const [blue, green] = yield* Effect.all([start, start], { concurrency: 2 })
    yield* Effect.forEach([blue, green], ({ url }) => query(url, schema), { concurrency: 2 })
    const { password, port, username } = new URL(blue.url)
    yield* query(blue.url, "CREATE PUBLICATION blue FOR ALL TABLES")
    yield* query(
      green.url,
      `CREATE SUBSCRIPTION green
         CONNECTION 'host=127.0.0.1 port=${port} user=${username} password=${password} dbname=postgres' PUBLICATION blue`
    )
    const copied = eventually(
      Effect.map(
        query(green.url, "SELECT bool_and(srsubstate = 'r') IS NOT FALSE AS is FROM pg_subscription_rel"),
        ([{ is }]) => is
      ),
      { timeout: "1 minute" }
    )
    const applied = (lsn: string) =>
      eventually(
        Effect.map(
          query(
            blue.url,
            "SELECT count(*) FILTER (WHERE replay_lsn >= $1::pg_lsn) > 0 AS is FROM pg_stat_replication WHERE application_name = 'green'",
            [lsn]
          ),
          ([{ is }]) => is
        ),
        { timeout: "1 minute" }
      )
    const replicated = Effect.flatMap(currentLsn(blue), applied)
    yield* copied
    yield* replicated
    return {
      blue,
      green,
      replicated,
      disconnect: Effect.asVoid(query(green.url, "ALTER SUBSCRIPTION green DISABLE"))
    }
  })
