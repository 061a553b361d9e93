/**
 * The commands and their output.
 */
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Check from "./check.js"
import { migrate } from "./migrate.js"
import { directory, failed, json, migrationOptions, settings, table } from "./options.js"
import * as Output from "./output.js"

const instances = Options.integer("instances").pipe(
  Options.withDescription("How many processes use the database, each with such a pool."),
  Options.withSchema(Schema.Int.pipe(Schema.positive({ message: () => "--instances must be at least 1" }))),
  Options.withDefault(1)
)

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
        migrations: Option.getOrUndefined(Option.map(migrations, (directory) => migrationOptions(directory, table)))
      })
      if (json) {
        yield* Output.json(report)
      } else {
        const width = 14
        yield* Console.log(
          Check.toLines(report).map(([name, text]) => `${Output.styled("dim", name.padEnd(width))}${text}`).join("\n")
        )
        if (report.warnings.length > 0) {
          yield* Console.log(
            report.warnings.map((warning) => `${Output.styled("yellow", "warning".padEnd(width))}${warning}`).join("\n")
          )
        }
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

export const command = Command.make("sqlayer").pipe(
  Command.withDescription("The database that the environment names (DATABASE_URL and the other DATABASE_… variables)."),
  Command.withSubcommands([check, migrate])
)
