/**
 * Transactions of a sandbox: savepoints that behave as transactions of their own.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import type { BeginOptions, Connection } from "../driver.js"
import type { EngineClient } from "./engineClient.js"
import { fromSqlite } from "./resultCode.js"
import { quote } from "./statementText.js"

/** Runs a statement that returns nothing. */
export type Command = (sql: string) => Effect.Effect<void, DatabaseError>

/** The part of a connection that a sandbox uses. */
export const make = (
  client: EngineClient,
  command: Command,
  description: string
): Pick<Connection, "beginWithin" | "commitWithin" | "rollbackWithin"> => {
  /** The current foreign key violations, and how often each occurs. */
  const violations: Effect.Effect<ReadonlyMap<string, number>, DatabaseError> = Effect.map(
    client.perform({
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

  /** The violations that existed when a savepoint began, by its name. */
  const initialViolations = new Map<string, ReadonlyMap<string, number>>()

  /** Restores the settings of the enclosing transaction. */
  const restoreSettings = (name: string, around: BeginOptions | undefined): Effect.Effect<void, DatabaseError> =>
    Effect.suspend(() => {
      const wasReadOnly = client.transaction?.readOnly === true && around?.readOnly !== true
      initialViolations.delete(name)
      client.transaction = around ?? {}
      return Effect.zipRight(
        wasReadOnly ? command("PRAGMA query_only = OFF") : Effect.void,
        around === undefined ? command("PRAGMA defer_foreign_keys = OFF") : Effect.void
      )
    })

  return {
    beginWithin: (name, options) =>
      Effect.gen(function*() {
        yield* command(`SAVEPOINT ${quote(name)}`)
        initialViolations.set(name, yield* violations)
        if (options.readOnly === true) {
          yield* command("PRAGMA query_only = ON")
        }
        client.transaction = options
      }),
    // SQLite checks deferred constraints at COMMIT only. PRAGMA foreign_key_check finds new violations at this savepoint.
    commitWithin: (name, around) =>
      Effect.gen(function*() {
        const initial = initialViolations.get(name)
        for (const [key, count] of yield* violations) {
          if (count > (initial?.get(key) ?? 0)) {
            return yield* Effect.fail(fromSqlite(
              { message: "FOREIGN KEY constraint failed", code: "SQLITE_CONSTRAINT_FOREIGNKEY" },
              { phase: "commit", description }
            ))
          }
        }
        yield* command(`RELEASE ${quote(name)}`)
        yield* restoreSettings(name, around)
      }),
    rollbackWithin: (name, around) =>
      Effect.gen(function*() {
        yield* command(`ROLLBACK TO ${quote(name)}`)
        yield* command(`RELEASE ${quote(name)}`)
        yield* restoreSettings(name, around)
      })
  }
}
