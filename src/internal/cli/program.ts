/**
 * Runs the commands as a process.
 */
import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { createRequire } from "node:module"
import { command } from "./commands.js"
import * as Output from "./output.js"

const { version } = createRequire(import.meta.url)("sqlayer/package.json") as { readonly version: string }

/** The exit status of a process that SIGINT ended: 128 + 2. */
const interruptedStatus = 130

const program = Command.run(command, { name: "sqlayer", version })(process.argv).pipe(
  Output.withPlainConsole,
  // Expected errors are printed by the commands; a defect is printed here.
  Effect.tapDefect((cause) => Effect.sync(() => process.stderr.write(`${Cause.pretty(cause)}\n`))),
  Effect.provide(Layer.mergeAll(NodeContext.layer, CliConfig.layer({ showBuiltIns: false }), Output.logger))
)

export const run = (): void =>
  NodeRuntime.runMain(program, {
    disableErrorReporting: true,
    disablePrettyLogger: true,
    teardown: (exit, onExit) =>
      onExit(Exit.isSuccess(exit) ? 0 : Cause.isInterruptedOnly(exit.cause) ? interruptedStatus : 1)
  })
