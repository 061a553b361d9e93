/**
 * Validates the option `functions`.
 */
import * as Option from "effect/Option"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import type * as Rule from "../config/rule.js"

/** A function, and where its code is. */
export interface FunctionSource {
  /** The name in SQL. */
  readonly name: string
  /** The URL of the module. */
  readonly module: string
  readonly export: string
  /** The number of arguments. Default: that of the code. */
  readonly arity: number | "any" | undefined
  readonly deterministic: boolean
  readonly aggregate: boolean
}

/** The maximum number of arguments that both SQLite libraries take. */
const maxArity = 100

const fields: ReadonlySet<string> = new Set(["module", "export", "arity", "deterministic", "aggregate"])

const isRecord = (given: unknown): given is Record<string, unknown> =>
  typeof given === "object" && given !== null && !Array.isArray(given)

/** The URL of a module that is given as a URL, as the text of one, or as a path. */
const moduleUrl = (given: unknown): string | undefined => {
  if (given instanceof URL) {
    return given.protocol === "file:" ? given.href : undefined
  }
  return typeof given !== "string" || given === "" || given.includes("\0")
    ? undefined
    : /^file:\/\//i.test(given)
    ? given
    : pathToFileURL(Path.resolve(given)).href
}

const isArity = (given: unknown): given is number | "any" | undefined =>
  given === undefined || given === "any" ||
  (typeof given === "number" && Number.isSafeInteger(given) && given >= 0 && given <= maxArity)

const isFlag = (given: unknown): given is boolean | undefined => given === undefined || typeof given === "boolean"

/** The function, or what is wrong with it. */
const readFunction = (name: string, given: unknown): FunctionSource | string => {
  const wrong = (problem: string): string => `${name}: ${problem}`
  if (!/^[\p{L}_][\p{L}\p{N}_$]*$/u.test(name) || Buffer.byteLength(name) > 255) {
    return wrong("a name of letters, digits and _")
  }
  if (!isRecord(given)) {
    return wrong("an object with the field module")
  }
  const unknown = Object.keys(given).find((field) => !fields.has(field))
  if (unknown !== undefined) {
    return wrong(`no field ${unknown}`)
  }
  const module = moduleUrl(given.module)
  if (module === undefined) {
    return wrong("module is the path or the file: URL of a module")
  }
  if (!(given.export === undefined || (typeof given.export === "string" && given.export !== ""))) {
    return wrong("export is the name of an export")
  }
  if (!isArity(given.arity)) {
    return wrong(`arity is a whole number from 0 to ${maxArity}, or "any"`)
  }
  if (!isFlag(given.deterministic) || !isFlag(given.aggregate)) {
    return wrong("deterministic and aggregate are true or false")
  }
  return {
    name,
    module,
    export: given.export ?? name,
    arity: given.arity,
    deterministic: given.deterministic ?? false,
    aggregate: given.aggregate ?? false
  }
}

export const functionsRule = (given: unknown): Rule.Rule<ReadonlyArray<FunctionSource>> => {
  const read = isRecord(given) ? Object.entries(given).map(([name, value]) => readFunction(name, value)) : undefined
  const problems = read?.filter((value) => typeof value === "string") ?? []
  return {
    accepts: "functions by name, as in { slugify: { module: new URL(\"./functions.js\", import.meta.url) } }" +
      (problems.length === 0 ? "" : ` (${problems.join("; ")})`),
    decode: () =>
      read === undefined || problems.length > 0
        ? Option.none()
        : Option.some(read.filter((value) => typeof value !== "string"))
  }
}
