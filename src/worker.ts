/**
 * The worker thread of a SQLite file, as a program of its own. Applications that are bundled add it to their bundle as
 * the entry `sqlayer-worker`: sqlayer starts the file `sqlayer-worker.js`, `.mjs` or `.cjs` in the directory of the
 * bundle. Without it, and without sqlayer in the application's `node_modules`, a SQLite file's statements run on the
 * main thread, and a warning says so. Importing it anywhere else does nothing.
 *
 * @since 0.1.0
 */
import { workerData } from "node:worker_threads"
import { runWorker } from "./internal/sqlite/worker.js"

runWorker(workerData)
