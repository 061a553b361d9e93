/**
 * Other processes that use the same file.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { nodeArguments } from "../../support/bundledProgram.js"

/** A process that has written its first line. It is killed when the scope closes. */
export interface Other {
  readonly line: string
  readonly process: ChildProcess
  /** Closes its standard input, and waits until it has exited. */
  readonly end: Effect.Effect<void>
  readonly kill: Effect.Effect<void>
}

const start = (
  args: ReadonlyArray<string>,
  command: string = process.execPath
): Effect.Effect<Other, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] })
      const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()))
      const line = await new Promise<string>((resolve) => {
        child.stdout.once("data", (data: Buffer) => resolve(data.toString().trim()))
        child.once("exit", (code) => resolve(`exited with ${code}`))
      })
      return {
        line,
        process: child,
        end: Effect.promise(() => {
          child.stdin.end()
          return exited
        }),
        kill: Effect.promise(() => {
          child.kill("SIGKILL")
          return exited
        })
      }
    }),
    (other) => other.kill
  )

/** The library of a process. Where sqlayer runs without better-sqlite3, it may not run here at all. */
const library = process.env.TEST_MISSING_PACKAGES?.includes("better-sqlite3") === true
  ? `require(${JSON.stringify(fileURLToPath(new URL("../../support/onNodeSqlite.ts", import.meta.url)))}).default`
  : "require(\"better-sqlite3\")"

/** A process that runs a script with `file` defined, until its standard input ends. */
export const running = (script: string, file: string): Effect.Effect<Other, never, Scope.Scope> =>
  start([
    "-e",
    `const Sqlite = ${library}
    const file = ${JSON.stringify(file)}
    ${script}
    process.stdin.on("end", () => process.exit(0)).resume()`
  ])

/** A process that runs one of the TypeScript programs beside this file. */
export const program = (
  name: string,
  ...args: ReadonlyArray<string>
): Effect.Effect<Other, never, Scope.Scope> => start([...nodeArguments(new URL(name, import.meta.url)), ...args])

/** The same, but no file may grow beyond 1,000 blocks of 512 bytes. */
export const limited = (name: string, ...args: ReadonlyArray<string>): Effect.Effect<Other, never, Scope.Scope> =>
  start([
    "-c",
    "trap '' XFSZ; ulimit -f 1000; exec \"$@\"",
    "sh",
    process.execPath,
    ...nodeArguments(new URL(name, import.meta.url)),
    ...args
  ], "/bin/sh")
