/**
 * Starts the worker thread of a connection.
 */
import { Worker } from "node:worker_threads"
import type { WorkerData } from "./protocol.js"

const built = new URL("./worker.js", import.meta.url)

/**
 * A worker does not inherit the module loaders of its parent. Built code needs none. In the tests the sources are
 * TypeScript, so the worker registers tsx first.
 */
export const startWorker = (workerData: WorkerData): Worker => {
  const options = { name: "sqlayer", workerData, transferList: [workerData.port] }
  if (import.meta.url.endsWith(".js")) {
    return new Worker(built, options)
  }
  const source = JSON.stringify(built.href.replace(/\.js$/, ".ts"))
  return new Worker(`import("tsx/esm/api").then((tsx) => tsx.tsImport(${source}, ${source}))`, {
    ...options,
    eval: true
  })
}
