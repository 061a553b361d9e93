/**
 * The PRAGMAs that are an option, and those that sqlayer sets itself: https://sqlite.org/pragma.html. This does not use
 * Effect, so that a worker thread need not load it.
 */
import type { Database } from "./binding.js"

/** PRAGMAs by name, with the values that they are set to. */
export type Pragmas = { readonly [name: string]: string }

type Values = "boolean" | "number" | ReadonlyArray<string>

/** The PRAGMAs that the option `pragmas` accepts, and their values. A word's index is the number that SQLite takes for it. */
const accepted: { readonly [name: string]: Values } = {
  analysis_limit: "number",
  auto_vacuum: ["none", "full", "incremental"],
  automatic_index: "boolean",
  busy_timeout: "number",
  cache_size: "number",
  cache_spill: "number",
  cell_size_check: "boolean",
  checkpoint_fullfsync: "boolean",
  encoding: ["utf-8", "utf-16", "utf-16le", "utf-16be"],
  fullfsync: "boolean",
  ignore_check_constraints: "boolean",
  journal_size_limit: "number",
  legacy_alter_table: "boolean",
  max_page_count: "number",
  mmap_size: "number",
  page_size: "number",
  recursive_triggers: "boolean",
  reverse_unordered_selects: "boolean",
  secure_delete: ["off", "on", "fast"],
  soft_heap_limit: "number",
  synchronous: ["off", "normal", "full", "extra"],
  temp_store: ["default", "file", "memory"],
  threads: "number",
  trusted_schema: "boolean",
  wal_autocheckpoint: "number"
}

/** The PRAGMAs of a file, which are set before anything is written to it, and have no effect on one that has tables. */
const ofNewFile: ReadonlySet<string> = new Set(["auto_vacuum", "encoding", "page_size"])

/** The PRAGMAs that sqlayer sets itself, and what takes their place. */
export const owned: { readonly [name: string]: string } = {
  busy_timeout: "sqlayer waits for locks itself: the option lockTimeout (DATABASE_LOCK_TIMEOUT) says how long",
  foreign_keys: "foreign keys are enforced on every connection. A migration that rebuilds tables says so " +
    "(-- sqlayer: rebuild, or the option rebuild), and PRAGMA defer_foreign_keys defers the checks to the commit",
  journal_mode: "the option journalMode (DATABASE_JOURNAL_MODE) sets it for every connection",
  locking_mode: "sqlayer's own connections to the file would lock each other out",
  query_only: "the option readOnly of a session, or mode=ro in the URL, sets it"
}

/** The words of a boolean, and how SQLite reports them. */
export const booleans: { readonly [word: string]: string } = {
  on: "1",
  yes: "1",
  true: "1",
  off: "0",
  no: "0",
  false: "0"
}

/** The boolean that a word stands for, undefined if it is none. */
export const booleanOf = (word: string): boolean | undefined => {
  const value = booleans[word] ?? word
  return value === "1" ? true : value === "0" ? false : undefined
}

/** A value in the form in which SQLite reports it. Undefined if the PRAGMA does not take it. */
const valueOf = (values: Values, given: unknown): string | undefined => {
  const text = typeof given === "boolean" || typeof given === "number" ? String(given) : given
  if (typeof text !== "string") {
    return undefined
  }
  const word = text.trim().toLowerCase()
  if (values === "number") {
    return /^-?\d{1,15}$/.test(word) ? word : undefined
  }
  if (values === "boolean") {
    const value = booleanOf(word)
    return value === undefined ? undefined : String(Number(value))
  }
  return values.includes(word) ? word : /^\d$/.test(word) ? values[Number(word)] : undefined
}

const describe = (values: Values): string =>
  values === "number" ? "a whole number" : values === "boolean" ? "on or off" : `one of ${values.join(", ")}`

/** Pairs in text, as in `cache_size=-64000, synchronous=normal`. */
const parsePairs = (text: string): Record<string, string> | undefined => {
  const pairs = text.split(",").map((pair) => /^\s*(\w+)\s*=\s*([\w-]+)\s*$/.exec(pair))
  return pairs.every((pair) => pair !== null)
    ? Object.fromEntries(pairs.map(([, name, value]) => [name, value]))
    : undefined
}

/** Why a PRAGMA is not accepted. */
const problemOf = (name: string, value: unknown): string | undefined => {
  const lower = name.toLowerCase()
  const values = Object.hasOwn(accepted, lower) ? accepted[lower] : undefined
  if (values !== undefined) {
    return valueOf(values, value) === undefined ? `${lower} is ${describe(values)}` : undefined
  }
  return Object.hasOwn(owned, lower)
    ? `${lower} is not accepted: ${owned[lower]}`
    : `${/^\w{1,40}$/.test(name) ? name : "a name"} is not one of ${Object.keys(accepted).join(", ")}`
}

/** The option `pragmas` as it was read, and what is wrong with it. Undefined if it is neither a record nor pairs in text. */
export const read = (
  given: unknown
): { readonly pragmas: Pragmas; readonly problems: ReadonlyArray<string> } | undefined => {
  const record = typeof given === "string" ? parsePairs(given) : given
  if (typeof record !== "object" || record === null) {
    return undefined
  }
  const pragmas: Record<string, string> = {}
  const problems: Array<string> = []
  for (const [name, value] of Object.entries(record)) {
    const problem = value === undefined ? undefined : problemOf(name, value)
    if (problem !== undefined) {
      problems.push(problem)
    } else if (value !== undefined) {
      pragmas[name.toLowerCase()] = valueOf(accepted[name.toLowerCase()], value)!
    }
  }
  return { pragmas, problems }
}

/** Sets the PRAGMAs that only a new file can have. */
export const applyToNewFile = (database: Database, pragmas: Pragmas): void => {
  for (const [name, value] of Object.entries(pragmas)) {
    if (ofNewFile.has(name)) {
      database.pragma(`${name} = '${value}'`)
    }
  }
}

/** Sets all other PRAGMAs. The client waits for locks in SQLite's place, so `busy_timeout` stays 0. */
export const apply = (database: Database, pragmas: Pragmas): void => {
  for (const [name, value] of Object.entries(pragmas)) {
    if (!ofNewFile.has(name) && name !== "busy_timeout") {
      database.pragma(`${name} = ${value}`)
    }
  }
}
