/**
 * Migrations in a record.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { Dialect } from "../../DatabaseError.js"
import * as Rule from "../config/rule.js"
import { checksum } from "./files.js"
import {
  type Definition,
  type Loader,
  type Migration,
  MigrationError,
  migrationOf,
  type Options,
  type Resolved,
  type ResolvedDown,
  type Script
} from "./model.js"
import * as SqlText from "./sqlText.js"

const named = /^(\d+)_(.+)$/

const isScript = (value: unknown): value is Script => typeof value === "string" || Effect.isEffect(value)

const checks: { readonly [Name in keyof Definition]-?: (value: unknown) => boolean } = {
  up: isScript,
  down: isScript,
  transaction: (value) => value === "none",
  rebuild: Predicate.isBoolean,
  dialect: (value) => Dialect.literals.some((name) => name === value),
  timeout: (value) => {
    const timeout = Duration.decodeUnknown(value)
    return Option.isSome(timeout) && Duration.toMillis(timeout.value) > 0
  }
}

/** Whether a value is a definition: it has `up`, and maybe options. */
export const isDefinition = (value: unknown): value is Definition =>
  !Effect.isEffect(value) && Predicate.hasProperty(value, "up")

/** The options of a definition, or the MigrationError of one that is not valid. */
export const optionsOf = (migration: Migration, definition: Definition): Effect.Effect<Options, MigrationError> => {
  for (const [name, value] of Object.entries(definition)) {
    const isValid = Object.hasOwn(checks, name) ? checks[name as keyof Definition] : undefined
    if (isValid === undefined || (value !== undefined && !isValid(value))) {
      const reason = isValid === undefined
        ? `there is no option ${name}`
        : `its ${name} is not valid: ${Rule.show(value)}`
      return SqlText.invalidText(migration, reason)
    }
  }
  const { timeout, up: _up, down: _down, ...options } = definition
  const all = { ...options, timeout: timeout === undefined ? undefined : Duration.decode(timeout) }
  return Effect.succeed(Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)))
}

/** The effect that loads a script, and the options together with those of its headers. */
export const load = (
  migration: Migration,
  script: Script,
  options: Options
): Effect.Effect<ResolvedDown, MigrationError> =>
  typeof script === "string"
    ? Effect.map(SqlText.withHeaders(migration, script, options), (options) => ({
      load: SqlText.migration(migration, script, options),
      options
    }))
    : Effect.succeed({ load: Effect.succeed(script), options })

/** The content of an Effect is not known, so an applied migration that is an Effect is compared by its name only. */
export const fromRecord = (migrations: { readonly [name: string]: Script | Definition }): Loader =>
  Effect.forEach(
    Object.entries(migrations),
    ([key, value]): Effect.Effect<Resolved, MigrationError> =>
      Effect.gen(function*() {
        const [, digits, name] = named.exec(key) ?? []
        if (digits === undefined) {
          return yield* new MigrationError({
            kind: "invalid",
            message: `${
              JSON.stringify(key)
            } is not the name of a migration: <number>_<name> is accepted (0001_create_account)`
          })
        }
        const id = Number(digits)
        const migration = migrationOf(Object.assign([id, name, Effect.void] as const, { label: key }))
        const { down, up, ...options } = isDefinition(value) ? value : { up: value, down: undefined }
        const given = yield* optionsOf(migration, { up, down, ...options })
        const { transaction: _, ...downOptions } = given
        const main = yield* load(migration, up, given)
        return Object.assign([id, name, main.load] as const, {
          label: key,
          options: main.options,
          down: down === undefined ? undefined : yield* loadDown(migration, down, downOptions),
          ...(typeof up === "string" ? { checksum: checksum("sql", up), text: up } : {})
        })
      })
  )

/** Taking a migration back is always one transaction. */
const loadDown = (migration: Migration, down: Script, options: Options) =>
  Effect.filterOrFail(
    load(migration, down, options),
    ({ options }) => options.transaction === undefined,
    () => SqlText.invalidText(migration, "a migration is always taken back in a transaction")
  )
