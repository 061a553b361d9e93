/**
 * Finds and starts the worker thread of a connection.
 */
import { existsSync } from "node:fs"
import * as Module from "node:module"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { Worker, type WorkerOptions } from "node:worker_threads"
import type { WorkerData } from "./protocol.js"
import { type ThreadOptions, threadOptions, withoutProcessFlags } from "./threadOptions.js"

/** The program of the thread: the path of a file, or a script. */
type Program = { readonly file: string } | { readonly script: string }

/** The name of the worker's file next to a bundle. */
const bundledName = "sqlayer-worker"

const ownFile = (): string | undefined => {
  const url: unknown = import.meta.url
  return typeof url === "string" && url.startsWith("file:") ? fileURLToPath(url) : undefined
}

/**
 * Where this module may be. `import.meta.url` is empty in a CommonJS bundle of esbuild, and in one of webpack the place of
 * the module when it was built; `__filename` is known in CommonJS only.
 */
const ownFiles = (): ReadonlyArray<string> =>
  [ownFile(), typeof __filename === "string" ? __filename : undefined].filter((file) => file !== undefined)

/** Whether the tests run this module, from its TypeScript source. */
const isSource = (file: string): boolean => file.endsWith(Path.join("internal", "sqlite", "startWorker.ts"))

/**
 * The worker as one script, for the tests. They run the TypeScript sources, which a thread cannot load: it does not inherit
 * the module loaders of its parent.
 */
const bundleWorker = (source: string): string => {
  const require = Module.createRequire(source)
  // Otherwise esbuild starts a thread, and tests count threads. It reads this when it is loaded.
  process.env.ESBUILD_WORKER_THREADS = "0"
  const { buildSync } = Module.createRequire(require.resolve("tsx/package.json"))("esbuild")
  delete process.env.ESBUILD_WORKER_THREADS
  const sqlite = require.resolve("better-sqlite3")
  return buildSync({
    entryPoints: [Path.join(Path.dirname(source), "../../worker.ts")],
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    alias: { "better-sqlite3": sqlite },
    external: [sqlite]
  }).outputFiles[0].text
}

/** The worker of the installed package. A package also finds itself by its name. */
const tryResolve = (file: string): string | undefined => {
  try {
    return Module.createRequire(file).resolve("sqlayer/worker")
  } catch {
    return undefined
  }
}

/** The worker is beside the bundle, or in the installed package. */
const search = (): Program | undefined => {
  const own = ownFiles()
  const source = own.find(isSource)
  if (source !== undefined) {
    return { script: bundleWorker(source) }
  }
  // Bundlers put what is loaded later into files of its own, some of them into a folder beside the program.
  const folders = own.map((file) => Path.dirname(file)).flatMap((folder) => [folder, Path.dirname(folder)])
  const beside = [...folders, ...process.argv.slice(1, 2).map((file) => Path.dirname(file))].flatMap((folder) =>
    [".js", ".mjs", ".cjs"].map((extension) => Path.join(folder, bundledName + extension))
  )
  const file = beside.find((file) => existsSync(file)) ?? own.map(tryResolve).find((file) => file !== undefined)
  return file === undefined ? undefined : { file }
}

let found: Program | undefined

const find = (): Program | undefined => found ??= search()

/** Whether the worker's file can be found. It cannot if a bundle was built without it. */
export const hasWorker = (): boolean => find() !== undefined

/** What to do if it cannot be found. */
export const missingWorker =
  `the program of its thread was not found: add sqlayer/worker to the bundle as ${bundledName}`

/** Starts a thread, without the flags of the process that no thread can have. */
const start = (program: Program, options: WorkerOptions, inherited: ThreadOptions): Worker => {
  try {
    return "file" in program
      ? new Worker(program.file, { ...options, ...inherited })
      : new Worker(program.script, { ...options, ...inherited, eval: true })
  } catch (error) {
    const remaining = withoutProcessFlags(inherited, error)
    if (remaining === undefined) {
      throw error
    }
    return start(program, options, remaining)
  }
}

export const startWorker = (workerData: WorkerData): Worker => {
  const program = find()
  if (program === undefined) {
    throw new Error(missingWorker)
  }
  const options = { name: "sqlayer", workerData, transferList: [workerData.port] }
  return start(
    program,
    options,
    threadOptions(process, workerData.options.functions.some(({ module }) => /\.[cm]?tsx?$/.test(module)))
  )
}
