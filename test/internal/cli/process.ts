/**
 * The command line as a process of its own.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { nodeArguments } from "../../support/bundledProgram.js"

const root = fileURLToPath(new URL("../../..", import.meta.url))

export interface Ended {
  /** Undefined where a signal ended it. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly ended: Effect.Effect<Ended>
  /** What it has written to standard error until now. */
  readonly stderr: Effect.Effect<string>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
}

type Environment = Readonly<Record<string, string>>

/** Starts it with this environment and no other. It is killed when the scope closes. */
export const start = (
  args: ReadonlyArray<string>,
  environment: Environment
): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const child = spawn(process.execPath, [...nodeArguments("src/internal/cli/main.ts"), ...args], {
          cwd: root,
          env: { PATH: process.env.PATH, ...environment },
          stdio: ["ignore", "pipe", "pipe"]
        })
        let stdout = ""
        let stderr = ""
        child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text)
        child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text)
        const ended = new Promise<Ended>((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })))
        return { child, ended, readStderr: () => stderr }
      }),
      ({ child, ended }) => {
        child.kill("SIGKILL")
        return Effect.promise(() => ended)
      }
    ),
    ({ child, ended, readStderr }) => ({
      ended: Effect.promise(() => ended),
      stderr: Effect.sync(readStderr),
      signal: (signal) => Effect.sync(() => child.kill(signal))
    })
  )

export const run = (args: ReadonlyArray<string>, environment: Environment): Effect.Effect<Ended> =>
  Effect.scoped(Effect.flatMap(start(args, environment), ({ ended }) => ended))

/** A directory with these files, which is removed when the scope closes. */
export const directory = (files: Readonly<Record<string, string>>): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-migrations-"))
      for (const [name, text] of Object.entries(files)) {
        Fs.writeFileSync(Path.join(path, name), text)
      }
      return path
    }),
    (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
  )
