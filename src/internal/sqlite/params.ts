/**
 * Checks parameters before they are bound.
 */
import { isTypedArray } from "node:util/types"
import type { DatabaseError } from "../../DatabaseError.js"
import { make } from "../makeError.js"

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

const problemOf = (param: unknown): string | undefined => {
  switch (typeof param) {
    case "string":
    case "number":
    case "undefined":
      return undefined
    case "bigint":
      return param < minInteger || param > maxInteger ? "is an integer of more than 64 bits" : undefined
    case "object":
      if (param === null) {
        return undefined
      }
      return ArrayBuffer.isView(param)
        ? isOutOfBounds(param) ? "holds bytes whose memory is gone" : undefined
        : `is of type ${param.constructor?.name ?? "object"}, which SQLite cannot store`
    default:
      return `is of type ${typeof param}, which SQLite cannot store`
  }
}

/** The error of the first parameter that cannot be bound. It tells its position and type, but never its value. */
export const bindError = (statement: string, params: ReadonlyArray<unknown>): DatabaseError | undefined => {
  for (let i = 0; i < params.length; i++) {
    const problem = problemOf(params[i])
    if (problem !== undefined) {
      return make("InvalidData", {
        dialect: "sqlite",
        code: "SQLITE_MISMATCH",
        reason: `parameter ${i + 1} ${problem}: encode it to text, a number, a bigint, bytes or null`,
        statement
      })
    }
  }
  return undefined
}
