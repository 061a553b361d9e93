/**
 * What can be bound to a placeholder.
 */
import { isTypedArray } from "node:util/types"
import type { DatabaseError } from "../../DatabaseError.js"
import { make } from "../makeError.js"

const minimum = -(2n ** 63n)
const maximum = 2n ** 63n - 1n

/** Whether the memory of bytes was given away or has shrunk, so that nothing is left of them but that they are empty. */
const isGone = (view: ArrayBufferView): boolean => {
  try {
    // Only what checks the memory tells; a DataView does by itself.
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
      return param < minimum || param > maximum ? "is an integer of more than 64 bits" : undefined
    case "object":
      if (param === null) {
        return undefined
      }
      return ArrayBuffer.isView(param)
        ? isGone(param) ? "holds bytes whose memory is gone" : undefined
        : `is of type ${param.constructor?.name ?? "object"}, which SQLite cannot store`
    default:
      return `is of type ${typeof param}, which SQLite cannot store`
  }
}

/** The error of the first parameter that cannot be bound: its position and its type, never its value. */
export const unbindable = (statement: string, params: ReadonlyArray<unknown>): DatabaseError | undefined => {
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
