/**
 * The example application of docs/examples/ledger, running.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { eventually } from "./eventually.js"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** The example, running. */
export interface Ledger {
  readonly address: string
  readonly process: ChildProcess
  readonly output: () => string
  readonly ended: Effect.Effect<number | NodeJS.Signals>
}

/** Starts the example on the database of a URL, and completes when it listens. */
export const start = (url: string, more: NodeJS.ProcessEnv = {}): Effect.Effect<Ledger, never, Scope.Scope> =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, ["--import", "tsx", "docs/examples/ledger/main.ts"], {
          cwd: root,
          env: { ...process.env, APP_ENV: "development", DATABASE_URL: url, HOST: "127.0.0.1", PORT: "0", ...more },
          stdio: ["ignore", "pipe", "pipe"]
        })
      ),
      (child) =>
        Effect.promise(async () => {
          if (child.exitCode === null && child.signalCode === null) {
            child.kill("SIGKILL")
            await once(child, "exit")
          }
        })
    )
    let text = ""
    child.stdout.on("data", (chunk) => text += chunk)
    child.stderr.on("data", (chunk) => text += chunk)
    const exit = once(child, "close").then(([code, signal]) => code ?? signal)
    yield* eventually(
      Effect.suspend(() =>
        child.exitCode === null
          ? Effect.succeed(text.includes("/transfers"))
          : Effect.dieMessage(`The ledger ended with ${child.exitCode}: ${text}`)
      ),
      { timeout: "55 seconds" }
    )
    const address = /listens on (http:\S+\d)/.exec(text)?.[1]
    if (address === undefined) {
      throw new Error(`The ledger does not say where it listens: ${text}`)
    }
    return { address, process: child, output: () => text, ended: Effect.promise(() => exit) }
  })

export interface Answer {
  readonly status: number
  readonly body: any
  readonly headers: Headers
}

export const request = (ledger: Ledger, path: string, init?: RequestInit): Effect.Effect<Answer> =>
  Effect.promise(async () => {
    const response = await fetch(ledger.address + path, init ?? {})
    const text = await response.text()
    const isJson = response.headers.get("content-type")?.startsWith("application/json") === true
    return { status: response.status, body: isJson ? JSON.parse(text) : text, headers: response.headers }
  })

export const post = (ledger: Ledger, path: string, body: unknown): Effect.Effect<Answer> =>
  request(ledger, path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })
