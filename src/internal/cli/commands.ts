/**
 * The commands and their output.
 */
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Database from "../../Database.js"
import * as DatabaseConfig from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import * as Migrations from "../../Migrations.js"
import * as Check from "./check.js"
import * as Output from "./output.js"

/** Makes the exit status 1. The reason is printed before. */
const failed = Effect.fail("failed" as const)

const json = Options.boolean("json").pipe(
  Options.withDescription("Prints one JSON value, and nothing else, on standard output.")
)

const directory = Options.text("migrations").pipe(
  Options.withPseudoName("directory"),
  Options.withFallbackConfig(Config.nonEmptyString("DATABASE_MIGRATIONS")),
  Options.optional
)

const table = Options.text("table").pipe(
  Options.withDescription("The table that remembers what is applied."),
  Options.withFallbackConfig(Config.nonEmptyString("DATABASE_MIGRATIONS_TABLE")),
  Options.withDefault("effect_sql_migrations")
)

const instances = Options.integer("instances").pipe(
  Options.withDescription("How many processes use the database, each with such a pool."),
  Options.withSchema(Schema.Int.pipe(Schema.positive({ message: () => "--instances must be at least 1" }))),
  Options.withDefault(1)
)

const options = (directory: string, table: string): Migrations.Options => ({
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

const settings = (asJson: boolean) => Effect.catchAll(DatabaseConfig.config, invalidEnvironment(asJson))

const check = Command.make(
  "check",
  {
    json,
    instances,
    migrations: directory.pipe(
      Options.withDescription("Also tells which migrations of this directory are pending.")
    ),
    table
  },
  ({ instances, json, migrations, table }) =>
    Effect.gen(function*() {
      const report = yield* Check.check(yield* settings(json), {
        instances,
        migrations: Option.getOrUndefined(Option.map(migrations, (directory) => options(directory, table)))
      })
      if (json) {
        yield* Output.json(report)
      } else {
        const width = 14
        yield* Console.log(
          Check.toLines(report).map(([name, text]) => `${Output.styled("dim", name.padEnd(width))}${text}`).join("\n")
        )
        yield* report.ok
          ? Console.log(Output.styled("green", "ok"))
          : Console.log(
            report.problems.map((problem) => `${Output.styled("red", "problem".padEnd(width))}${problem}`).join("\n")
          )
      }
      if (!report.ok) {
        return yield* failed
      }
    })
).pipe(Command.withDescription(
  "Tells what database the environment names, whether and how it answers, whether the pools fit into the server, and " +
    "which migrations are pending. Exits with 0 if all is well, else with 1. Changes nothing."
))

type Progress = (progress: Migrations.Progress) => Effect.Effect<void>

const migrate = Command.make(
  "migrate",
  {
    json,
    migrations: directory.pipe(
      Options.withDescription("The directory of the migrations; default: migrations.")
    ),
    table
  },
  ({ json, migrations, table }) =>
    Effect.gen(function*() {
      const { target } = yield* settings(json)
      const applied: Array<Migrations.Migration & { readonly millis: number }> = []
      const showOnTerminal: Progress = Migrations.toTerminal(json ? process.stderr : process.stdout)
      const progress: Progress = (event) =>
        Effect.zipRight(
          Effect.sync(() => {
            if (event._tag === "Applied") {
              applied.push({ ...event.migration, millis: Output.inMillis(event.duration) })
            }
          }),
          showOnTerminal(event)
        )
      const print = (error: Output.Failure | null) =>
        json
          ? Output.json({ ok: error === null, database: DatabaseConfig.render(target), applied, error })
          : error === null
          ? Console.log(
            applied.length === 0
              ? "nothing is pending"
              : `applied ${applied.length} migration${applied.length === 1 ? "" : "s"}`
          )
          : Console.error(`${Output.styledError("failed:")} ${error.message}`)
      const directory = Option.getOrElse(migrations, () => "migrations")
      yield* Migrations.run({ ...options(directory, table), progress }).pipe(
        Effect.provide(Database.layer),
        Effect.matchEffect({
          onSuccess: () => print(null),
          onFailure: (error) => Effect.zipRight(print(failureOf(error)), failed)
        }),
        Effect.onInterrupt(() =>
          print({ tag: "Interrupted", message: "interrupted: what was under way is rolled back" })
        )
      )
    })
).pipe(Command.withDescription(
  "Applies the pending migrations of a directory, in the order of their numbers, each in a transaction of its own. Exits " +
    "with 0 if all are applied, else with 1."
))

const failureOf = (error: DatabaseError | Migrations.MigrationError | ConfigError.ConfigError): Output.Failure =>
  "message" in error && error instanceof Error
    ? Output.failure(error)
    : { tag: "ConfigError", message: Output.invalidVariables(error).join("; ") }

export const command = Command.make("sqlayer").pipe(
  Command.withDescription("The database that the environment names (DATABASE_URL and the other DATABASE_… variables)."),
  Command.withSubcommands([check, migrate])
)
