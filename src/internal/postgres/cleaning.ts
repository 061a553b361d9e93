/**
 * The commands that remove the last borrower's state from a connection: those that `DISCARD ALL` stands for.
 * `DEALLOCATE ALL` is sent only if statements were prepared with SQL; otherwise the driver's own stay valid. The
 * commands are sent ahead of the next borrower's first statement, in the same message.
 *
 * They are a transaction of their own: it is committed before that statement begins, so that a failure of the statement
 * does not undo it, and if one of them fails the server skips the statement.
 */
import type { Step } from "./exchange.js"

const commands: ReadonlyArray<string> = [
  "CLOSE ALL",
  "RESET SESSION AUTHORIZATION",
  "RESET ROLE",
  "RESET ALL",
  "UNLISTEN *",
  "SELECT pg_catalog.pg_advisory_unlock_all()",
  "DISCARD TEMP",
  "DISCARD SEQUENCES"
]

/** Nothing restores the state of `random()`, so it is seeded anew. */
const seedSql = (): string => `SET seed TO ${(Math.random() * 2 - 1).toFixed(15)}`

/** Drops the statements that were prepared with SQL, and the driver's own. */
const deallocateSql = "DEALLOCATE ALL"

/** A command that is sent by itself. */
interface Command {
  /** The same for each connection. */
  readonly name: string
  readonly text: string
  /** Whether a connection is not clean without it, whatever the engine. */
  readonly isRequired: boolean
}

/** The commands one by one, for an engine that may not know all of them. */
export const separateCommands = (deallocates: boolean): ReadonlyArray<Command> =>
  [...commands, ...(deallocates ? [deallocateSql] : []), seedSql()].map((text) => ({
    name: text.startsWith("SET seed") ? "SET seed" : text,
    text,
    isRequired: text === "RESET ALL" || text === deallocateSql
  }))

/** The isolation level is given, since the last borrower may have set one that waits for a snapshot. */
export const cleaningSteps = (deallocates: boolean): ReadonlyArray<Step> =>
  ["BEGIN ISOLATION LEVEL READ COMMITTED", ...commands, ...(deallocates ? [deallocateSql] : []), seedSql(), "COMMIT"]
    .map((text) => ({ text, unnamed: true }))
