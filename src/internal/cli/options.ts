/**
 * The options that commands have in common, and the environment that they read.
 */
import * as Options from "@effect/cli/Options"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as DatabaseConfig from "../../DatabaseConfig.js"
import * as Migrations from "../../Migrations.js"
import * as Output from "./output.js"

/** Makes the exit status 1. The reason is printed before. */
export const failed = Effect.fail("failed" as const)

export const json = Options.boolean("json").pipe(
  Options.withDescription("Prints one JSON value, and nothing else, on standard output.")
)

export const directory = Options.text("migrations").pipe(
  Options.withPseudoName("directory"),
  Options.withFallbackConfig(Config.nonEmptyString("DATABASE_MIGRATIONS")),
  Options.optional
)

export const table = Options.text("table").pipe(
  Options.withDescription("The table that remembers what is applied."),
  Options.withFallbackConfig(Config.nonEmptyString("DATABASE_MIGRATIONS_TABLE")),
  Options.withDefault("effect_sql_migrations")
)

export const migrationOptions = (directory: string, table: string): Migrations.Options => ({
  loader: Migrations.fromDirectory(directory),
  table
})

/** Prints every environment variable that is not valid, and fails. */
const invalidEnvironment = (asJson: boolean) => (error: ConfigError.ConfigError) => {
  const problems = Output.invalidVariables(error)
  return Effect.zipRight(
    asJson
      ? Output.json({ ok: false, problems })
      : Console.error([
        Output.styledError("The environment is not valid:"),
        ...problems.map((problem) => `  - ${problem}`)
      ].join("\n")),
    failed
  )
}

export const settings = (asJson: boolean) => Effect.catchAll(DatabaseConfig.config, invalidEnvironment(asJson))
