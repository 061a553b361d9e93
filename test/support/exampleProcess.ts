/**
 * The example applications of docs/examples, running as processes of their own.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { nodeArguments } from "./bundledProgram.js"
import { eventually } from "./eventually.js"
import { scopedProcess } from "./scopedProcess.js"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** An example, running. */
export interface Example {
  readonly address: string
  readonly process: ChildProcess
  readonly output: () => string
  readonly ended: Effect.Effect<number | NodeJS.Signals>
}

/** Starts an example on the database of a URL, and completes when it has said where it listens, and what it says last. */
export const start = (
  program: string,
  last: string,
  url: string,
  more: NodeJS.ProcessEnv = {}
): Effect.Effect<Example, never, Scope.Scope> =>
  Effect.gen(function*() {
    const child = yield* scopedProcess(() =>
      spawn(process.execPath, nodeArguments(program), {
        cwd: root,
        env: { ...process.env, APP_ENV: "development", DATABASE_URL: url, HOST: "127.0.0.1", PORT: "0", ...more },
        stdio: ["ignore", "pipe", "pipe"]
      })
    )
    let text = ""
    child.stdout.on("data", (chunk) => text += chunk)
    child.stderr.on("data", (chunk) => text += chunk)
    const exit = once(child, "close").then(([code, signal]) => code ?? signal)
    yield* eventually(
      Effect.suspend(() =>
        child.exitCode === null
          ? Effect.succeed(text.includes(last))
          : Effect.dieMessage(`The example ended with ${child.exitCode}: ${text}`)
      ),
      { timeout: "55 seconds" }
    )
    const address = /listens on (http:\S+\d)/.exec(text)?.[1]
    if (address === undefined) {
      throw new Error(`The example does not say where it listens: ${text}`)
    }
    return { address, process: child, output: () => text, ended: Effect.promise(() => exit) }
  })

export interface Answer {
  readonly status: number
  readonly body: any
  readonly headers: Headers
}

export const request = (example: Example, path: string, init?: RequestInit): Effect.Effect<Answer> =>
  Effect.promise(async () => {
    const response = await fetch(example.address + path, init ?? {})
    const text = await response.text()
    const isJson = response.headers.get("content-type")?.startsWith("application/json") === true
    return { status: response.status, body: isJson ? JSON.parse(text) : text, headers: response.headers }
  })

export const post = (example: Example, path: string, body: unknown): Effect.Effect<Answer> =>
  request(example, path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })
