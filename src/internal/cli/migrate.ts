/**
 * `sqlayer migrate` and its subcommands.
 */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import type * as ConfigError from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Database from "../../Database.js"
import * as DatabaseConfig from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import * as Migrations from "../../Migrations.js"
import { label } from "../migrations/model.js"
import { create } from "./newMigration.js"
import * as MigrationOptions from "./options.js"
import * as Output from "./output.js"

const { failed, json, settings, table } = MigrationOptions

type Failure = DatabaseError | Migrations.MigrationError | ConfigError.ConfigError

const failureOf = (error: Failure): Output.Failure =>
  "message" in error && error instanceof Error
    ? Output.failure(error)
    : { tag: "ConfigError", message: Output.invalidVariables(error).join("; ") }

const migrations = MigrationOptions.directory.pipe(
  Options.withDescription("The directory of the migrations; default: migrations.")
)

const directoryOf = (given: Option.Option<string>): string => Option.getOrElse(given, () => "migrations")

/** The options of every command that uses the database. */
const common = { json, migrations, table }

interface Common {
  readonly json: boolean
  readonly migrations: Option.Option<string>
  readonly table: string
}

/** A migration in JSON output. */
const summary = (migration: Migrations.Migration) => ({
  id: migration.id,
  name: migration.name,
  label: label(migration)
})

const count = (migrations: ReadonlyArray<unknown>): string =>
  `${migrations.length} migration${migrations.length === 1 ? "" : "s"}`

/**
 * Runs a command. Its result has the fields of the JSON output, without `ok`, `database` and `error`, and the text that
 * is printed without `--json`. `partial` gives the fields if the command fails.
 */
const execute = (
  { json, migrations, table }: Common,
  run: (
    options: Migrations.Options
  ) => Effect.Effect<Result, DatabaseError | Migrations.MigrationError, Database.Database>,
  partial: () => Fields = () => ({})
) =>
  Effect.gen(function*() {
    const { target } = yield* settings(json)
    const print = (error: Output.Failure | null, fields: Fields, text: string, ok = error === null) =>
      json
        ? Output.json({ ok, database: DatabaseConfig.render(target), ...fields, error })
        : error === null
        ? Console.log(text)
        : Console.error(`${Output.styledError("failed:")} ${error.message}`)
    const result = yield* run(MigrationOptions.migrationOptions(directoryOf(migrations), table)).pipe(
      Effect.provide(Database.layer),
      Effect.tapError((error) => print(failureOf(error), partial(), "")),
      Effect.mapError(() => "failed" as const),
      Effect.onInterrupt(() => {
        const { interrupted = "interrupted: what was under way is rolled back", ...fields } = partial()
        return print({ tag: "Interrupted", message: String(interrupted) }, fields, "")
      })
    )
    yield* print(null, result.fields, result.text, result.ok)
    if (!result.ok) {
      return yield* failed
    }
  })

type Fields = { readonly [name: string]: unknown }

interface Result {
  readonly ok: boolean
  readonly fields: Fields
  readonly text: string
}

/** Shows progress, and collects the migrations that were applied or taken back. */
const tracker = (asJson: boolean) => {
  const done: Array<ReturnType<typeof summary> & { readonly millis: number }> = []
  const show = Migrations.toTerminal(asJson ? process.stderr : process.stdout)
  let isTransactional = true
  return {
    done,
    /** The message of an interruption, which says what becomes of the migration that was running. */
    interrupted: () =>
      isTransactional
        ? "interrupted: what was under way is rolled back"
        : "interrupted: what was under way runs without a transaction, so that part of it may be applied: " +
          "npx sqlayer migrate status tells what to do",
    progress: (event: Migrations.Progress) =>
      Effect.zipRight(
        Effect.sync(() => {
          if (event._tag === "Started") {
            isTransactional = event.isTransactional
          }
          if (event._tag === "Applied" || event._tag === "TakenBack") {
            isTransactional = true
            done.push({ ...summary(event.migration), millis: Output.inMillis(event.duration) })
          }
        }),
        show(event)
      )
  }
}

const plannedText = (
  { isRebuild, isTransactional, label, statements }: Migrations.Planned
): string => {
  const how = [
    isTransactional ? "" : "without a transaction",
    isRebuild ? "rebuilds tables" : ""
  ].filter((text) => text !== "").join(", ")
  const title = Output.styled("bold", `${label}${how === "" ? "" : ` (${how})`}`)
  const lines = statements === undefined
    ? ["  an Effect: its statements are not known before it runs"]
    : statements.map(({ line, locks, sql }) =>
      `  line ${line}: ${sql.split("\n").join("\n    ")}${
        locks === undefined ? "" : `\n    ${Output.styled("yellow", `locks ${locks}`)}`
      }`
    )
  return [title, ...lines].join("\n")
}

const dryRun = (args: Common) =>
  execute(args, (options) =>
    Effect.map(Migrations.dryRun(options), (planned) => ({
      ok: true,
      fields: { pending: planned },
      text: [
        ...planned.map(plannedText),
        planned.length === 0
          ? "nothing is pending"
          : `${count(planned)} would be applied, under the lock that lets one runner migrate at a time`
      ].join("\n")
    })))

const apply = (args: Common) => {
  const { done, interrupted, progress } = tracker(args.json)
  return execute(
    args,
    (options) =>
      Effect.map(Migrations.run({ ...options, progress }), () => ({
        ok: true,
        fields: { applied: done },
        text: done.length === 0 ? "nothing is pending" : `applied ${count(done)}`
      })),
    () => ({ applied: done, interrupted: interrupted() })
  )
}

const status = Command.make(
  "status",
  common,
  (args) =>
    execute(args, (options) =>
      Effect.map(Migrations.status(options), ({ ahead, applied, pending, problems }) => ({
        ok: problems.length === 0,
        fields: {
          applied: applied.map((migration) => ({ ...summary(migration), at: migration.at })),
          pending: pending.map(summary),
          ahead: ahead.map(summary),
          problems
        },
        text: [
          ...applied.map((migration) => `applied  ${label(migration)}  ${migration.at.toISOString()}`),
          ...pending.map((migration) => `pending  ${label(migration)}`),
          ...ahead.map((migration) => `ahead    ${label(migration)}, not known here`),
          ...problems.map(({ message }) => `${Output.styled("red", "problem")}  ${message}`),
          `${applied.length} applied, ${pending.length} pending`
        ].join("\n")
      })))
).pipe(
  Command.withDescription(
    "Lists the migrations that are applied and pending. Changes nothing. Exits with 1 if one was edited, is missing or " +
      "unfinished."
  )
)

const number = (description: string) => Args.integer({ name: "number" }).pipe(Args.withDescription(description))

const baseline = Command.make(
  "baseline",
  { ...common, number: number("The number of the last migration that the database has.") },
  ({ number, ...args }) =>
    execute(args, (options) =>
      Effect.map(Migrations.baseline(options, number), (recorded) => ({
        ok: true,
        fields: { recorded: recorded.map(summary) },
        text: recorded.length === 0
          ? "nothing to record"
          : `recorded ${count(recorded)} as applied: ${recorded.map(label).join(", ")}`
      })))
).pipe(Command.withDescription(
  "Records the migrations up to a number as applied, without running them, for a database that has their content already."
))

const down = Command.make(
  "down",
  {
    ...common,
    to: Options.integer("to").pipe(
      Options.withDescription(
        "Takes back every migration above this number; 0 is all of them. Default: the last one only."
      ),
      Options.optional
    ),
    production: Options.boolean("production").pipe(
      Options.withDescription("Allows it in production, together with --confirm.")
    ),
    confirm: Options.text("confirm").pipe(
      Options.withDescription(
        "In production: the name of the migration that is taken back first, such as 0003_add_owner."
      ),
      Options.optional
    )
  },
  ({ confirm, production, to, ...args }) => {
    const { done, interrupted, progress } = tracker(args.json)
    return execute(
      args,
      (options) =>
        Effect.map(
          Migrations.down({
            ...options,
            progress,
            production,
            to: Option.getOrUndefined(to),
            confirm: Option.getOrUndefined(confirm)
          }),
          () => ({
            ok: true,
            fields: { takenBack: done },
            text: done.length === 0 ? "nothing is applied" : `took back ${count(done)}`
          })
        ),
      () => ({ takenBack: done, interrupted: interrupted() })
    )
  }
).pipe(Command.withDescription(
  "Takes back the last migration, or those above a number, with their .down.sql, each in a transaction."
))

const resolve = Command.make(
  "resolve",
  {
    ...common,
    state: Options.choice("as", ["applied", "rolled-back"]).pipe(
      Options.withDescription("applied: it is complete. rolled-back: it was undone, and is applied again.")
    ),
    number: number("The number of the unfinished migration.")
  },
  ({ number, state, ...args }) =>
    execute(args, (options) =>
      Effect.map(
        Migrations.resolve(options, number, state === "applied" ? "applied" : "rolled back"),
        (migration) => ({
          ok: true,
          fields: { resolved: { ...summary(migration), state } },
          text: `migration ${label(migration)} is ${state === "applied" ? "applied" : "pending again"}`
        })
      ))
).pipe(Command.withDescription("Marks a migration that is unfinished, after it was looked at. Runs nothing of it."))

const make = Command.make(
  "new",
  { migrations, name: Args.text({ name: "name" }).pipe(Args.withDescription("What it does, as create_account.")) },
  ({ migrations, name }) =>
    create(directoryOf(migrations), name).pipe(
      Effect.matchEffect({
        onSuccess: (path) => Console.log(path),
        onFailure: ({ message }) =>
          Effect.zipRight(Console.error(`${Output.styledError("failed:")} ${message}`), failed)
      })
    )
).pipe(Command.withDescription("Creates an SQL migration with the next number, and prints its path."))

export const migrate = Command.make(
  "migrate",
  {
    ...common,
    isDryRun: Options.boolean("dry-run").pipe(
      Options.withDescription("Prints what would be applied, with its SQL and what that locks, and changes nothing.")
    )
  },
  ({ isDryRun, ...args }) => isDryRun ? dryRun(args) : apply(args)
).pipe(
  Command.withDescription(
    "Applies the pending migrations of a directory, in the order of their numbers, each in a transaction of its own. Exits " +
      "with 0 if all are applied, else with 1."
  ),
  Command.withSubcommands([status, make, baseline, down, resolve])
)
