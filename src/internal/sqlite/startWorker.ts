/**
 * Starts the thread of a connection.
 */
import { Worker } from "node:worker_threads"
import type { ThreadData } from "./protocol.js"

const built = new URL("./worker.js", import.meta.url)

/**
 * A thread gets none of its parent's module loaders. Once built there is nothing to load but JavaScript; beside the
 * TypeScript sources, where the tests run, it begins with the loader that those need.
 */
export const startWorker = (workerData: ThreadData): Worker => {
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
