/**
 * SQLite's target: what a URL and the options say together.
 */
import * as Duration from "effect/Duration"
import * as Path from "node:path"
import * as Rule from "../config/rule.js"
import type { PoolOptions, Resolved, TargetOptions } from "../config/target.js"
import type { Validation } from "../config/validation.js"
import { memory, type SqliteUrl } from "./url.js"

/** See DatabaseConfig.SqliteTarget. */
export interface SqliteTarget {
  readonly _tag: "sqlite"
  readonly filename: string
  readonly readOnly: boolean
  readonly thread: "worker" | "main"
}

/**
 * A SQLite database has one connection, which is never replaced. The pool options are ignored rather than refused: they
 * are often set for all environments, and the URL for one.
 */
export const resolve = (
  { timeout, ...url }: SqliteUrl,
  { thread }: TargetOptions,
  pool: PoolOptions,
  { parameter }: Validation<"url">
): Resolved<SqliteTarget> => ({
  target: { ...url, thread: url.filename === memory ? "main" : thread },
  name: Path.basename(url.filename),
  pool: {
    ...pool,
    poolSize: 1,
    poolMaxOverflow: 0,
    poolMin: 1,
    poolRecycle: Duration.infinity,
    lockTimeout: parameter("timeout", timeout, Rule.duration()) ?? pool.lockTimeout
  }
})
