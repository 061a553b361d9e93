/**
 * One PostgreSQL for the whole run, unless TEST_DATABASE_URL names one.
 */
import type { TestProject } from "vitest/node"
import { withClient } from "./client.js"
import { makeCluster } from "./cluster.js"
import { type Installation, prepare } from "./installation.js"
import { makeKeeper } from "./keeper.js"

declare module "vitest" {
  interface ProvidedContext {
    readonly postgresUrl: string
    readonly postgresInstallation: Installation
  }
}

const check = async (url: string): Promise<void> => {
  try {
    const config = { connectionString: url, connectionTimeoutMillis: 10_000 }
    await withClient(config, (client) => client.query("SELECT 1"))
  } catch (cause) {
    throw new Error("The server that TEST_DATABASE_URL names does not answer", { cause })
  }
}

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const installation = prepare()
  const keeper = makeKeeper(installation.root)
  project.provide("postgresInstallation", installation)
  try {
    const existing = process.env.TEST_DATABASE_URL
    if (existing !== undefined && existing !== "") {
      await check(existing)
      project.provide("postgresUrl", existing)
      return keeper.end
    }
    const cluster = await makeCluster(installation, {
      maxConnections: 200,
      // What it holds is thrown away, whatever happens.
      config: { fsync: "off", full_page_writes: "off" }
    })
    project.provide("postgresUrl", cluster.url)
    return async () => {
      await cluster.dispose()
      await keeper.end()
    }
  } catch (error) {
    await keeper.end()
    throw error
  }
}
