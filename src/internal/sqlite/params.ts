/**
 * Checks parameters before they are bound, converts those that SQLite has no type for, and copies them.
 */
import * as DateTime from "effect/DateTime"
import * as Either from "effect/Either"
import { isDate, isTypedArray } from "node:util/types"
import type { DatabaseError } from "../../DatabaseError.js"
import { make } from "../makeError.js"
import { isWellFormed, malformedText } from "../wellFormed.js"
import { bytesOf, compact } from "./bytes.js"
import { textOfTime } from "./times.js"

const minInteger = -(2n ** 63n)
const maxInteger = 2n ** 63n - 1n

/** Whether a view is out of bounds because its buffer was transferred or has shrunk. It then looks like an empty one. */
const isOutOfBounds = (view: ArrayBufferView): boolean => {
  try {
    // `keys` throws for an out-of-bounds typed array. A DataView throws at `byteLength`.
    if (view.byteLength === 0 && isTypedArray(view)) {
      Uint8Array.prototype.keys.call(view)
    }
    return false
  } catch {
    return true
  }
}

/** The name of an object's class, if it can be read: a proxy may throw. */
const classNameOf = (value: object): string => {
  try {
    const name: unknown = value.constructor?.name
    return typeof name === "string" && name !== "" ? name : "object"
  } catch {
    return "object"
  }
}

const advice = "encode it to text, a number, a bigint, bytes or null"

/** The milliseconds of a Date or a DateTime. A Date may be of another realm. */
const timeOf = (param: object): number | undefined =>
  isDate(param)
    ? Date.prototype.getTime.call(param)
    : DateTime.isDateTime(param)
    ? DateTime.toEpochMillis(param)
    : undefined

/** Converts a boolean to 1 or 0, and a time to text in ISO 8601, in UTC. Undefined for all other values. */
const convert = (param: unknown): bigint | string | undefined => {
  if (typeof param === "boolean") {
    // A number would be bound as a REAL.
    return param ? 1n : 0n
  }
  const time = typeof param === "object" && param !== null && !ArrayBuffer.isView(param) ? timeOf(param) : undefined
  return time === undefined ? undefined : textOfTime(time)
}

/** Why a Date or a DateTime was not converted. */
const problemOfTime = (time: number): string =>
  Number.isNaN(time)
    ? "is an invalid Date"
    : `is a time of a year before 0000 or after 9999, which SQLite's date functions cannot read: ${advice}`

const problemOf = (param: unknown): string | undefined => {
  switch (typeof param) {
    case "string":
      return isWellFormed(param) ? undefined : `cannot be stored: ${malformedText}`
    case "number":
    case "undefined":
      return undefined
    case "bigint":
      return param < minInteger || param > maxInteger ? `is an integer of more than 64 bits: ${advice}` : undefined
    case "object": {
      if (param === null) {
        return undefined
      }
      if (ArrayBuffer.isView(param)) {
        return isOutOfBounds(param) ? `holds bytes whose ArrayBuffer was detached or shrunk: ${advice}` : undefined
      }
      const time = timeOf(param)
      return time === undefined
        ? `is of type ${classNameOf(param)}, which SQLite cannot store: ${advice}`
        : problemOfTime(time)
    }
    default:
      return `is of type ${typeof param}, which SQLite cannot store: ${advice}`
  }
}

const bindError = (statement: string, position: number, problem: string): DatabaseError =>
  make("InvalidData", {
    dialect: "sqlite",
    code: "SQLITE_MISMATCH",
    reason: `parameter ${position} ${problem}`,
    statement
  })

/**
 * The parameters as the engine binds them, or the error of the first one that cannot be bound. The error has its
 * position and type, but never its value. Each is read once, since a getter or a proxy may throw, or return another
 * value later.
 */
export const bindable = (
  statement: string,
  params: ReadonlyArray<unknown>,
  { synchronous }: { readonly synchronous: boolean }
): Either.Either<ReadonlyArray<unknown>, DatabaseError> => {
  if (!isWellFormed(statement)) {
    return Either.left(make("InvalidData", {
      dialect: "sqlite",
      code: "SQLITE_MISMATCH",
      reason: `the statement cannot be executed: ${malformedText}`,
      statement
    }))
  }
  const bound: Array<unknown> = []
  try {
    for (let i = 0; i < params.length; i++) {
      const given = params[i]
      const param = convert(given) ?? given
      const problem = problemOf(param)
      if (problem !== undefined) {
        return Either.left(bindError(statement, i + 1, problem))
      }
      if (ArrayBuffer.isView(param)) {
        const bytes = bytesOf(param)
        bound.push(synchronous ? bytes : compact(bytes))
      } else {
        bound.push(param)
      }
    }
  } catch {
    return Either.left(bindError(statement, bound.length + 1, `cannot be read: ${advice}`))
  }
  return Either.right(bound)
}
