/**
 * SQLite's target, which a URL and the options make together.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Path from "node:path"
import * as Rule from "../config/rule.js"
import type { JournalMode, PoolOptions, Resolved, TargetOptions } from "../config/target.js"
import type { Validation } from "../config/validation.js"
import { type FunctionSource, functionsRule } from "./functionOptions.js"
import * as Pragmas from "./pragmas.js"
import { memory, type SqliteUrl } from "./url.js"

/** See DatabaseConfig.SqliteTarget. */
export interface SqliteTarget {
  readonly _tag: "sqlite"
  readonly filename: string
  readonly readOnly: boolean
  readonly mustExist?: boolean | undefined
  readonly immutable?: boolean | undefined
  readonly thread: "worker" | "main"
  readonly journalMode?: JournalMode | undefined
  readonly pragmas?: Pragmas.Pragmas | undefined
  readonly functions?: ReadonlyArray<FunctionSource> | undefined
}

const pragmasRule = (given: unknown): Rule.Rule<Pragmas.Pragmas> => {
  const read = Pragmas.read(given)
  const problems = read === undefined || read.problems.length === 0 ? "" : ` (${read.problems.join("; ")})`
  return {
    accepts: `PRAGMAs and their values, as in cache_size=-64000, synchronous=normal${problems}`,
    decode: () => read === undefined || read.problems.length > 0 ? Option.none() : Option.some(read.pragmas)
  }
}

/**
 * A SQLite database has one connection, which is never replaced. The pool options are ignored rather than refused: they
 * are often set for all environments, and the URL for one.
 */
export const resolve = (
  { timeout, ...url }: SqliteUrl,
  { functions: givenFunctions, journalMode, pragmas: given, thread }: TargetOptions,
  pool: PoolOptions,
  { parameter, value }: Validation<"url" | "pragmas" | "functions" | "lockTimeout">
): Resolved<SqliteTarget> => {
  const pragmas = value("pragmas", pragmasRule(given))
  const functions = value("functions", functionsRule(givenFunctions))
  const busyTimeout = pragmas?.busy_timeout
  return {
    target: {
      ...url,
      thread: url.filename === memory ? "main" : thread ?? "worker",
      ...(journalMode === undefined ? {} : { journalMode }),
      ...(pragmas === undefined ? {} : { pragmas }),
      ...(functions === undefined ? {} : { functions })
    },
    name: Path.basename(url.filename),
    pool: {
      ...pool,
      poolSize: 1,
      poolMaxOverflow: 0,
      poolMin: 1,
      poolRecycle: Duration.infinity,
      lockTimeout: parameter("timeout", timeout, Rule.duration(), "lockTimeout") ?? pool.lockTimeout ??
        (busyTimeout === undefined ? undefined : Duration.millis(Number(busyTimeout)))
    }
  }
}

/** Resolves a target again, with options that take precedence over those that it was resolved with. */
export const resolveAgain = (
  target: SqliteTarget,
  options: TargetOptions,
  pool: PoolOptions,
  validation: Validation<"url" | "pragmas" | "functions" | "lockTimeout">
): Resolved<SqliteTarget> =>
  // The target has what its URL said. Its other values stay unless an option replaces them.
  resolve(target, { ...options, thread: options.thread ?? target.thread }, pool, validation)
