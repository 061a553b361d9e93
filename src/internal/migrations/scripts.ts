/**
 * Loads what a migration does.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import { isDatabaseError } from "../../DatabaseError.js"
import {
  label,
  type Migration,
  MigrationError,
  migrationOf,
  type Options,
  type Resolved,
  type ResolvedDown,
  type Services
} from "./model.js"
import * as Record from "./record.js"

/** What applies a migration, or takes it back, and how it is run. */
export interface Script {
  readonly effect: Effect.Effect<unknown, unknown, Services>
  readonly options: Options
}

export const describe = (cause: unknown): string =>
  isDatabaseError(cause)
    ? `${cause._tag}: ${cause.message}`
    : cause instanceof Error
    ? cause.message
    : Predicate.hasProperty(cause, "_tag")
    ? String(cause._tag)
    : String(cause)

const loadError = (migration: Migration, reason: string, cause?: unknown): MigrationError =>
  new MigrationError({
    kind: "load",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} ${reason}`,
    ...(cause === undefined ? {} : { cause })
  })

/** The default export of a module. A module that was compiled to CommonJS has it one level deeper. */
const contentOf = (loaded: unknown): unknown => {
  const inner = Predicate.hasProperty(loaded, "default") ? loaded.default : undefined
  return Effect.isEffect(loaded)
    ? loaded
    : Predicate.hasProperty(inner, "default") && !Effect.isEffect(inner)
    ? inner.default
    : inner
}

/** Runs a loader. Its value should be an Effect or a definition. */
const evaluate = (
  migration: Migration,
  load: ResolvedDown["load"]
): Effect.Effect<unknown, MigrationError, SqlClient.SqlClient> =>
  Effect.catchAllCause(Effect.map(load, contentOf), (cause) => {
    const error = Cause.squash(cause)
    return Cause.isInterruptedOnly(cause)
      ? Effect.failCause(cause as Cause.Cause<never>)
      : Effect.fail(
        error instanceof MigrationError
          ? error
          : loadError(migration, `cannot be loaded: ${describe(error)}`, error)
      )
  })

/** The script of a value that a loader has returned. */
const scriptOf = (
  migration: Migration,
  value: unknown,
  options: Options,
  direction: "up" | "down"
): Effect.Effect<Script, MigrationError, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    if (Effect.isEffect(value)) {
      return { effect: value as Script["effect"], options }
    }
    if (!Record.isDefinition(value)) {
      return yield* loadError(migration, "has no Effect as its default export")
    }
    const { dialect: only, ...own } = yield* Record.optionsOf(migration, value)
    if (only !== undefined) {
      return yield* loadError(migration, `names its dialect in the file's name, as 0001_create_account.${only}.js`)
    }
    const { transaction, ...downOptions } = own
    const script = value[direction]
    if (script === undefined) {
      return yield* noDown(migration)
    }
    const given = direction === "up" && transaction !== undefined ? { ...downOptions, transaction } : downOptions
    const loaded = yield* Record.load(migration, script, { ...options, ...given })
    return yield* scriptOf(migration, yield* evaluate(migration, loaded.load), loaded.options, direction)
  })

const noDown = (migration: Migration): MigrationError =>
  new MigrationError({
    kind: "invalid",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} cannot be taken back: it has neither a file ${
      label(migration)
    }.down.sql nor down`
  })

/** Loads what applies a migration. */
export const loadUp = (resolved: Resolved): Effect.Effect<Script, MigrationError, SqlClient.SqlClient> => {
  const migration = migrationOf(resolved)
  return Effect.flatMap(
    evaluate(migration, resolved[2]),
    (value) => scriptOf(migration, value, resolved.options ?? {}, "up")
  )
}

/** Loads what takes a migration back. */
export const loadDown = (resolved: Resolved): Effect.Effect<Script, MigrationError, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    const migration = migrationOf(resolved)
    const { down, options = {}, text } = resolved
    if (down !== undefined) {
      return yield* scriptOf(migration, yield* evaluate(migration, down.load), down.options, "up")
    }
    const value = text === undefined ? yield* evaluate(migration, resolved[2]) : undefined
    if (!Record.isDefinition(value)) {
      return yield* noDown(migration)
    }
    return yield* scriptOf(migration, value, options, "down")
  })
