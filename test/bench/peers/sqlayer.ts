import type * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import * as DatabaseError from "../../../src/DatabaseError.js"
import type { Open, Options } from "../peer.js"
import { copyQuery, copyRows } from "../workloads.js"
import { type Client, open } from "./effect.js"

const client = (options: DatabaseConfig.Options): Client<Database.Database | SqlClient.SqlClient> => ({
  layer: Database.layerFrom(options),
  session: (context) => (effect) => Context.get(context, Database.Database).session(effect),
  copy: (context) => {
    const { copyFrom, copyTo } = Context.get(context, Database.Database)
    return {
      copyIn: copyFrom("journal", ["account", "amount", "note"])(Stream.fromIterable(copyRows)),
      copyOut: copyTo(copyQuery, { format: "csv" })
    }
  },
  isRefusal: (error) => DatabaseError.isDatabaseError(error) && error._tag === "PoolTimeout"
})

const overPostgres = ({ pool, timeout, url }: Options) =>
  client({ url, poolSize: pool, poolMaxOverflow: 0, ...(timeout === undefined ? {} : { poolTimeout: timeout }) })

export const postgres: Open = (options) => open(overPostgres(options), options)

/** With the OpenTelemetry SDK, and an exporter that drops its spans. */
export const traced: Open = async (options) => {
  const NodeSdk = await import("@effect/opentelemetry/NodeSdk")
  const { BatchSpanProcessor, InMemorySpanExporter } = await import("@opentelemetry/sdk-trace-base")
  const exporter = new InMemorySpanExporter()
  const sdk = NodeSdk.layer(() => ({
    resource: { serviceName: "bench" },
    spanProcessor: new BatchSpanProcessor({
      export: (_, done) => exporter.export([], done),
      shutdown: () => exporter.shutdown()
    })
  }))
  const plain = overPostgres(options)
  return open({ ...plain, layer: Layer.provideMerge(plain.layer, sdk) }, options)
}

const overSqlite = (thread: "main" | "worker"): Open => (options) =>
  open(client({ url: `sqlite:///${options.url}`, thread }), options)

export const main = overSqlite("main")

export const worker = overSqlite("worker")
