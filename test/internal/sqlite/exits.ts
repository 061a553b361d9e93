/**
 * Processes that exit while statements run in their threads.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { nodeArguments } from "../../support/bundledProgram.js"
import { random } from "../../support/random.js"
import { directory } from "./support.js"

/** The ways to exit, and their exit codes. */
const codes = { "process.exit": 7, "an exception": 1, "the end": 7 } as const

interface Options {
  readonly rounds: number
  readonly files?: number | undefined
  /** Default: TEST_SEED, or a new one. */
  readonly seed?: number | undefined
  readonly onRound?: ((round: number) => void) | undefined
}

const program = new URL("./exiting.ts", import.meta.url)

const run = (args: ReadonlyArray<string>) =>
  new Promise<{ readonly code: number | null; readonly signal: string | null; readonly output: string }>((resolve) => {
    const child = spawn(process.execPath, [...nodeArguments(program), ...args], { stdio: ["ignore", "pipe", "pipe"] })
    let output = ""
    child.stdout.on("data", (data: Buffer) => (output += data.toString()))
    child.stderr.on("data", (data: Buffer) => (output += data.toString()))
    child.once("close", (code, signal) => resolve({ code, signal, output }))
  })

/** A file is damaged, or has more than the row that was there before. */
const isWrong = (filename: string): boolean => {
  const database = new Sqlite(filename)
  try {
    const hasTable = database.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() === 1
    return database.pragma("integrity_check", { simple: true }) !== "ok" ||
      (hasTable && database.prepare("SELECT count(*) FROM t WHERE a <> 0").pluck().get() !== 0)
  } finally {
    database.close()
  }
}

/** Runs so many processes, one after the other. Dies if one ends in another way than it should, or has committed. */
export const exits = (
  { files = 6, onRound, rounds, seed = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000) }: Options
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { between } = random(seed)
    const ways = Object.keys(codes) as ReadonlyArray<keyof typeof codes>
    for (let round = 0; round < rounds; round++) {
      const way = ways[round % ways.length]
      // The last of them never ends.
      const unlockAfter = Array.from({ length: files }, (_, i) => i === files - 1 ? 0 : Math.round(between(1, 600)))
      const args = [way, Math.round(between(0, 1_000)), ...unlockAfter].map(String)
      yield* Effect.scoped(Effect.gen(function*() {
        const path = yield* directory
        const { code, output, signal } = yield* Effect.promise(() => run([path, ...args]))
        const wrong = Fs.readdirSync(path).filter((name) => name.endsWith(".db") && isWrong(Path.join(path, name)))
        if (code !== codes[way] || signal !== null || !output.includes("exiting") || wrong.length > 0) {
          const report = JSON.stringify({ args, code, signal, wrong })
          return yield* Effect.dieMessage(`round ${round} of seed ${seed} (TEST_SEED): ${report}\n${output}`)
        }
      }))
      onRound?.(round)
    }
  })
