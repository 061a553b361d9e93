/**
 * Starts the worker thread of a connection.
 */
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import type { WorkerData } from "./protocol.js"

const built = new URL("./worker.js", import.meta.url)

let bundle: string | undefined

/**
 * The worker as one script, for the tests. They run the TypeScript sources, which a thread cannot load: it does not inherit
 * the module loaders of its parent.
 */
const bundleWorker = (): string => {
  const require = createRequire(import.meta.url)
  // Otherwise esbuild starts a thread, and tests count threads. It reads this when it is loaded.
  process.env.ESBUILD_WORKER_THREADS = "0"
  const { buildSync } = createRequire(require.resolve("tsx/package.json"))("esbuild")
  delete process.env.ESBUILD_WORKER_THREADS
  const sqlite = require.resolve("better-sqlite3")
  return buildSync({
    entryPoints: [fileURLToPath(built).replace(/\.js$/, ".ts")],
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    alias: { "better-sqlite3": sqlite },
    external: [sqlite]
  }).outputFiles[0].text
}

export const startWorker = (workerData: WorkerData): Worker => {
  const options = { name: "sqlayer", workerData, transferList: [workerData.port] }
  return import.meta.url.endsWith(".js")
    ? new Worker(built, options)
    : new Worker(bundle ??= bundleWorker(), { ...options, eval: true })
}
