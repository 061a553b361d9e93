/**
 * A savepoint that stands for a transaction of its own.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import type { BeginOptions, Connection } from "../driver.js"
import type { Conversation } from "./engineClient.js"
import { fromSqlite } from "./resultCode.js"

/** Runs a statement of sqlayer's own. */
export type Command = (sql: string) => Effect.Effect<void, DatabaseError>

/** A name as SQL has it. */
export const identifier = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

/** The part of a connection that a sandbox uses. */
export const make = (
  conversation: Conversation,
  command: Command,
  description: string
): Pick<Connection, "beginWithin" | "commitWithin" | "rollbackWithin"> => {
  /** What breaks a foreign key now, and how often. */
  const violations: Effect.Effect<ReadonlyMap<string, number>, DatabaseError> = Effect.map(
    conversation.ask({
      _tag: "Run",
      sql: "PRAGMA foreign_key_check",
      params: [],
      form: "values",
      cached: false,
      safeIntegers: true
    }) as Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, DatabaseError>,
    (rows) => {
      const counts = new Map<string, number>()
      for (const row of rows) {
        const key = row.map(String).join("\0")
        counts.set(key, (counts.get(key) ?? 0) + 1)
      }
      return counts
    }
  )

  /** By `beginWithin`: what broke a foreign key then. */
  const before = new Map<string, ReadonlyMap<string, number>>()

  /** Puts back what holds for one transaction. */
  const restored = (name: string, around: BeginOptions | undefined): Effect.Effect<void, DatabaseError> =>
    Effect.suspend(() => {
      const readOnly = conversation.begun?.readOnly === true && around?.readOnly !== true
      before.delete(name)
      conversation.begun = around ?? {}
      return Effect.zipRight(
        readOnly ? command("PRAGMA query_only = OFF") : Effect.void,
        around === undefined ? command("PRAGMA defer_foreign_keys = OFF") : Effect.void
      )
    })

  return {
    beginWithin: (name, options) =>
      Effect.gen(function*() {
        yield* command(`SAVEPOINT ${identifier(name)}`)
        before.set(name, yield* violations)
        if (options.readOnly === true) {
          yield* command("PRAGMA query_only = ON")
        }
        conversation.begun = options
      }),
    // SQLite checks what is deferred at the end of the whole transaction only, and does not count for others what is left.
    commitWithin: (name, around) =>
      Effect.gen(function*() {
        const known = before.get(name)
        for (const [key, count] of yield* violations) {
          if (count > (known?.get(key) ?? 0)) {
            return yield* Effect.fail(fromSqlite(
              { message: "FOREIGN KEY constraint failed", code: "SQLITE_CONSTRAINT_FOREIGNKEY" },
              { phase: "commit", description }
            ))
          }
        }
        yield* command(`RELEASE ${identifier(name)}`)
        yield* restored(name, around)
      }),
    rollbackWithin: (name, around) =>
      Effect.gen(function*() {
        yield* command(`ROLLBACK TO ${identifier(name)}`)
        yield* command(`RELEASE ${identifier(name)}`)
        yield* restored(name, around)
      })
  }
}
