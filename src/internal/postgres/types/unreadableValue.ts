/**
 * The error of a statement whose rows hold a value that cannot be read.
 */
import { serverError } from "../pg.js"
import type { ServerError } from "../protocol/messages.js"
import { UnreadableValue } from "../protocol/rowDescription.js"
import { builtinTypes } from "./builtin.js"

/** The name of an error's class. Anything may have been thrown. */
const nameOf = (error: unknown): string => {
  try {
    const { name } = error as Error
    return typeof name === "string" && /^\w{1,64}$/.test(name) ? name : "Error"
  } catch {
    return "Error"
  }
}

/** The error of a statement whose rows cannot be read. */
export const unreadableValue = (error: unknown): ServerError => {
  if (!(error instanceof UnreadableValue)) {
    return serverError("22000", `a value of a row cannot be read: ${nameOf(error)}`)
  }
  const { cause, field: { dataTypeID, format, name } } = error
  const type = builtinTypes().get(dataTypeID)?.name ?? `with the OID ${dataTypeID}`
  const reason = format === "binary"
    ? "it comes in binary format"
    : nameOf(cause) === "UnreadableText"
    ? "its text is not in the format of DateStyle ISO and IntervalStyle postgres"
    : nameOf(cause)
  return Object.assign(
    serverError("22000", `a value of the column "${name}" of type ${type} cannot be read: ${reason}`),
    { column: name }
  )
}
