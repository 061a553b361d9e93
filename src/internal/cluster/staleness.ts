/**
 * Marks the error of a statement that a replica has not executed, since it was not fresh.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import type { Staleness } from "../driver.js"

const stale = new WeakMap<DatabaseError, Staleness>()

export const markStale = (error: DatabaseError, staleness: Staleness): DatabaseError => {
  stale.set(error, staleness)
  return error
}

/** Why the replica was not fresh; undefined if the error is any other. */
export const stalenessOf = (error: DatabaseError): Staleness | undefined => stale.get(error)
