/**
 * Loads the SQLite library: better-sqlite3 if it is installed, otherwise the one that the runtime has built in. It does not
 * use Effect, so that a worker thread need not load it.
 */
import * as BetterSqlite3 from "./betterSqlite3.js"
import type { Binding, BindingName } from "./binding.js"
import * as NodeSqlite from "./nodeSqlite.js"

/** Loads better-sqlite3, or returns the error. In a `try` block, so that bundlers know that it may be missing. */
export const importBetterSqlite3 = async (): Promise<
  { readonly module?: BetterSqlite3.Module; readonly error?: unknown }
> => {
  try {
    return { module: (await import("better-sqlite3")).default }
  } catch (error) {
    return { error }
  }
}

const builtInModule = (): NodeSqlite.Module | undefined =>
  process.getBuiltinModule?.("node:sqlite") as unknown as NodeSqlite.Module | undefined

/** The node:sqlite of this runtime, unless it has none or lacks what the engine needs. */
export const builtIn = (): Binding | undefined => {
  const module = builtInModule()
  return module !== undefined && NodeSqlite.isUsable(module) ? NodeSqlite.makeBinding(module) : undefined
}

/** Loads the library that the main thread has chosen, which has found out that it is usable. */
export const loadBinding = async (name: BindingName): Promise<Binding> => {
  const loaded = name === "better-sqlite3" ? await importBetterSqlite3() : undefined
  if (loaded?.module !== undefined) {
    return BetterSqlite3.makeBinding(loaded.module)
  }
  const module = loaded === undefined ? builtInModule() : undefined
  if (module === undefined) {
    throw loaded?.error ?? new Error(`this thread has no ${name}`)
  }
  return NodeSqlite.makeBinding(module)
}
