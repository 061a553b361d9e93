/**
 * What `sqlayer check` shows of a SQLite file.
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Fs from "node:fs"
import type { SqliteTarget } from "../../DatabaseConfig.js"
import { ConnectionFailed, type DatabaseError } from "../../DatabaseError.js"
import type { Inspection } from "../driver.js"
import { memory } from "./binding.js"
import { byteAt } from "./staleWal.js"

/** Whether a file is in WAL mode: its format's write version (https://sqlite.org/fileformat.html) is 2. */
const isWal = (filename: string): boolean => byteAt(filename, 18) === 2

const cannotOpen = (reason: string): DatabaseError =>
  new ConnectionFailed({ dialect: "sqlite", code: "SQLITE_CANTOPEN", reason, transient: false })

/**
 * A target that can be opened without changing the file. Opening a file usually creates it if it does not exist, and
 * switches it to WAL mode. So a missing file is an error, and a file
 * in another mode is opened read-only. A file in WAL mode is opened for writing: a reader alone would leave its WAL and
 * shared memory behind when it closes.
 */
const unchanged = (target: SqliteTarget): Effect.Effect<SqliteTarget, DatabaseError> =>
  target.filename === memory || target.readOnly ? Effect.succeed(target) : Effect.try({
    try: () => {
      Fs.accessSync(target.filename, Fs.constants.R_OK | Fs.constants.W_OK)
      return isWal(target.filename) ? target : { ...target, readOnly: true }
    },
    catch: (error) =>
      cannotOpen(
        Predicate.hasProperty(error, "code") && error.code === "ENOENT"
          ? `${target.filename} does not exist yet: the application or sqlayer migrate creates it`
          : `could not open ${target.filename}: ${error instanceof Error ? error.message : String(error)}`
      )
  })

export const inspection = (target: SqliteTarget): Inspection => ({
  target: unchanged(target),
  details: (sql) =>
    Effect.map(sql<{ version: string }>`SELECT sqlite_version() AS version`, ([{ version }]) => ({
      version: `SQLite ${version}`,
      role: "embedded" as const,
      user: null,
      tls: null,
      connections: null
    }))
})
