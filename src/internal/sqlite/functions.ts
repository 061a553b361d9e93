/**
 * SQL functions of the application. Their code is in modules, which are loaded where the statements run. This does not use
 * Effect, so that a worker thread need not load it.
 */
import { isDate, isPromise } from "node:util/types"
import { type Database, SqliteError } from "./binding.js"
import { bufferOf, bytesOf } from "./bytes.js"
import type { FunctionSource } from "./functionOptions.js"
import { toExactNumber } from "./integers.js"
import { textOfTime } from "./times.js"

/** The code of an aggregate. */
interface Aggregate {
  readonly start?: unknown
  readonly step: (state: unknown, ...args: ReadonlyArray<unknown>) => unknown
  readonly inverse?: (state: unknown, ...args: ReadonlyArray<unknown>) => unknown
  readonly result?: (state: unknown) => unknown
}

export type LoadedFunction = FunctionSource & { readonly code: unknown }

/** The functions, or the error of the first one that cannot be loaded. */
export type LoadedFunctions = ReadonlyArray<LoadedFunction> | SqliteError

/** An error of a function's code, with the values that its message may quote. */
export class FunctionError extends SqliteError {
  constructor(message: string, code: string, readonly values: ReadonlyArray<unknown>) {
    super(message, code)
  }
}

const messageOf = (error: unknown): string => {
  try {
    return error instanceof Error ? error.message : String(error)
  } catch {
    return "an error that cannot be read"
  }
}

const isAggregate = (code: unknown): code is Aggregate => {
  if (typeof code !== "object" || code === null) {
    return false
  }
  const { inverse, result, step } = code as { readonly [name: string]: unknown }
  return typeof step === "function" && [inverse, result].every((f) => f === undefined || typeof f === "function")
}

const loadFunction = async (source: FunctionSource): Promise<LoadedFunction> => {
  const { aggregate, module, name } = source
  const cannotLoad = (reason: string): SqliteError =>
    new SqliteError(`the function ${name} cannot be loaded from ${module}: ${reason}`, "SQLITE_CANTOPEN")
  let exports: Record<string, unknown>
  try {
    exports = await import(module)
  } catch (error) {
    throw cannotLoad(messageOf(error))
  }
  const defaults = exports.default as Record<string, unknown> | null | undefined
  // A CommonJS module may have its exports in the default export only.
  const code = source.export in exports ? exports[source.export] : defaults?.[source.export]
  if (!(aggregate ? isAggregate(code) : typeof code === "function")) {
    throw cannotLoad(
      `its export ${source.export} is not ${
        aggregate ? "an object with a function step, and optionally result and inverse" : "a function"
      }`
    )
  }
  return { ...source, code }
}

/** Loads the modules of the functions. */
export const loadFunctions = async (sources: ReadonlyArray<FunctionSource>): Promise<LoadedFunctions> => {
  const loaded: Array<LoadedFunction> = []
  try {
    for (const source of sources) {
      loaded.push(await loadFunction(source))
    }
    return loaded
  } catch (error) {
    return error as SqliteError
  }
}

/** An argument of a function: integers are numbers if a number can hold them, and otherwise bigints. */
const argumentOf = (value: unknown): unknown =>
  typeof value === "bigint"
    ? toExactNumber(value)
    : value instanceof Uint8Array && !Buffer.isBuffer(value)
    ? bufferOf(value)
    : value

/** What a function has returned, as SQLite stores it. Undefined if it cannot. */
const resultOf = (value: unknown): string | number | bigint | Uint8Array | null | undefined => {
  switch (typeof value) {
    case "undefined":
      return null
    case "boolean":
      return value ? 1n : 0n
    case "string":
    case "number":
      return value
    case "bigint":
      return BigInt.asIntN(64, value) === value ? value : undefined
    case "object":
      return value === null
        ? null
        : ArrayBuffer.isView(value)
        ? bytesOf(value)
        : isDate(value)
        ? textOfTime(Date.prototype.getTime.call(value))
        : undefined
    default:
      return undefined
  }
}

/** Calls code of the application. */
const call = (name: string, args: ReadonlyArray<unknown>, f: (args: ReadonlyArray<unknown>) => unknown): unknown => {
  const values = args.map(argumentOf)
  try {
    return f(values)
  } catch (error) {
    throw new FunctionError(`the function ${name} has thrown: ${messageOf(error)}`, "SQLITE_ERROR", values)
  }
}

const checkResult = (name: string, value: unknown): unknown => {
  const result = resultOf(value)
  if (result === undefined) {
    throw new FunctionError(
      `the function ${name} has returned ${
        isPromise(value) ? "a Promise: functions are synchronous" : "a value that SQLite cannot store"
      }`,
      "SQLITE_MISMATCH",
      []
    )
  }
  return result
}

/** The libraries take the number of arguments from the length of the function. */
const withLength = <F>(f: F, length: number): F => Object.defineProperty(f, "length", { value: length })

const define = (database: Database, { aggregate, arity, code, deterministic, name }: LoadedFunction): void => {
  if (!aggregate) {
    const f = code as (...args: ReadonlyArray<unknown>) => unknown
    const varargs = arity === "any"
    database.defineFunction(
      name,
      { deterministic, varargs },
      withLength(
        (...args: ReadonlyArray<unknown>) => checkResult(name, call(name, args, (values) => f(...values))),
        varargs ? 0 : arity ?? f.length
      )
    )
    return
  }
  const { inverse, result, start, step } = code as Aggregate
  const varargs = arity === "any"
  const length = 1 + (varargs ? 0 : arity ?? Math.max(0, step.length - 1))
  const update = (f: Aggregate["step"]) =>
    withLength((state: unknown, ...args: ReadonlyArray<unknown>) => {
      const next = call(name, args, (values) => f(state, ...values))
      return next === undefined ? state : next
    }, length)
  database.defineAggregate(name, {
    deterministic,
    varargs,
    start: () => call(name, [], () => typeof start === "function" ? start() : start ?? null),
    step: update(step),
    inverse: inverse === undefined ? undefined : update(inverse),
    result: (state) => checkResult(name, result === undefined ? state : call(name, [], () => result(state)))
  })
}

/** Defines the functions on a connection. Throws if they could not be loaded, or the library cannot define them. */
export const defineFunctions = (database: Database, functions: LoadedFunctions): void => {
  if (functions instanceof SqliteError) {
    throw functions
  }
  for (const loaded of functions) {
    try {
      define(database, loaded)
    } catch (error) {
      throw new SqliteError(`the function ${loaded.name} cannot be defined: ${messageOf(error)}`, "SQLITE_CANTOPEN")
    }
  }
}
