import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { nodeArguments } from "./support/bundledProgram.js"
import { freshDatabase } from "./support/postgres.js"

const root = fileURLToPath(new URL("..", import.meta.url))

/** The life in a process of its own, whose heap nothing else uses. */
const life = (...args: ReadonlyArray<string>) =>
  Effect.async<{ readonly code: number | null; readonly said: string }>((resume) => {
    const child = spawn(process.execPath, ["--expose-gc", ...nodeArguments("test/long/life.ts"), ...args], {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"]
    })
    let said = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => said += text)
    child.stderr.setEncoding("utf8").on("data", (text: string) => said += text)
    child.once("close", (code) => resume(Effect.succeed({ code, said })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const flat = ({ code, said }: { readonly code: number | null; readonly said: string }) => {
  assert.strictEqual(code, 0, said)
  assert.include(said, "\"name\":", said)
}

describe("nothing grows", () => {
  it.live(
    "with thousands of sessions, and as many that fail, on PostgreSQL",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const url = yield* freshDatabase
        flat(yield* life("--url", url, "--sessions", "5000", "--only", "committed,failed"))
      })),
    240_000
  )

  it.live(
    "with streams, nested, interrupted, retried and timed sessions, listening, health and texts, on PostgreSQL",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const url = yield* freshDatabase
        flat(yield* life("--url", url, "--others", "800", "--only", "mixed,codes"))
      })),
    240_000
  )

  it.live("with all of that on a SQLite file", () =>
    Effect.map(
      life("--dialect", "sqlite", "--sessions", "600", "--others", "300", "--only", "committed,failed,mixed,codes"),
      flat
    ), 240_000)

  it.live(
    "and what does is seen",
    () =>
      Effect.map(life("--dialect", "sqlite", "--others", "1000", "--only", "leak"), ({ code, said }) => {
        assert.strictEqual(code, 1, said)
        assert.match(said, /leak: the heap grows by \d+ bytes each time/)
        assert.match(said, /leak: listeners grew/)
      }),
    240_000
  )
})
