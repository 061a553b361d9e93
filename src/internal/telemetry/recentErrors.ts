/**
 * The latest errors of statements and sessions, without values, in bounded memory.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import type { RecentError } from "../../Telemetry.js"
import { truncateText } from "./truncateText.js"

/** How many different errors are kept. */
const maxErrors = 50

/** Where an error has happened. */
export interface Where {
  /** Undefined outside of a session. */
  readonly session: { readonly name: string; readonly id: string | undefined } | undefined
  readonly statement: string | undefined
}

/** Equal errors of the same session and statement are kept once, with their number. */
export class RecentErrors {
  /** In the order in which they happened last. */
  private readonly errors = new Map<string, RecentError>()
  /** The errors that were added. The error of a statement may also be that of its session, and is counted once. */
  private readonly added = new WeakSet<DatabaseError>()

  add(error: DatabaseError, { session, statement }: Where): void {
    if (this.added.has(error)) {
      return
    }
    this.added.add(error)
    const text = statement === undefined ? undefined : truncateText(statement)
    const message = truncateText(error.message)
    const key = JSON.stringify([error._tag, message, session?.name, text])
    const count = (this.errors.get(key)?.count ?? 0) + 1
    this.errors.delete(key)
    this.errors.set(key, {
      time: Date.now(),
      count,
      error: error._tag,
      code: error.code,
      message,
      session: session?.name,
      sessionId: session?.id,
      statement: text
    })
    if (this.errors.size > maxErrors) {
      this.errors.delete(this.errors.keys().next().value!)
    }
  }

  /** The latest first. */
  snapshot(): ReadonlyArray<RecentError> {
    return Array.from(this.errors.values()).toReversed()
  }
}
