/**
 * Processes that write to the same file and are killed while they do.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { setTimeout as sleep } from "node:timers/promises"
import { nodeArguments } from "../../support/bundledProgram.js"
import { random } from "../../support/random.js"
import { file } from "./support.js"

const writers = 2

interface Options {
  readonly rounds: number
  /** Determines how long each round lasts. Default: TEST_SEED, or a new one. */
  readonly seed?: number | undefined
  readonly onRound?: ((round: number, acknowledged: number) => void) | undefined
}

interface Killed {
  readonly rounds: number
  readonly acknowledged: number
}

/** Starts a process that writes the number of each session that was committed. */
const start = (filename: string, first: number): readonly [ChildProcess, Set<number>] => {
  const child = spawn(
    process.execPath,
    [...nodeArguments(new URL("./committing.ts", import.meta.url)), filename, String(first)],
    { stdio: ["ignore", "pipe", "inherit"] }
  )
  const acknowledged = new Set<number>()
  let rest = ""
  child.stdout.on("data", (data: Buffer) => {
    const lines = (rest + data.toString()).split("\n")
    rest = lines.pop()!
    lines.forEach((line) => acknowledged.add(Number(line)))
  })
  return [child, acknowledged]
}

const round = async (filename: string, firsts: ReadonlyArray<number>, millis: number) => {
  const started = firsts.map((first) => start(filename, first))
  try {
    while (started.some(([child, { size }]) => size === 0 && child.exitCode === null)) {
      await sleep(5)
    }
    await sleep(millis)
  } finally {
    await Promise.all(started.map(([child]) =>
      new Promise((resolve) => {
        child.once("close", resolve)
        child.kill("SIGKILL")
      })
    ))
  }
  return started.flatMap(([, acknowledged]) => Array.from(acknowledged))
}

/** Each session writes an entry with some ballast, and two halves. Returns what is missing or damaged. */
const problemsOf = (filename: string, acknowledged: ReadonlySet<number>): ReadonlyArray<unknown> => {
  const database = new Sqlite(filename)
  try {
    const integrity = database.pragma("integrity_check", { simple: true })
    const stored = new Set(database.prepare("SELECT n FROM entries").pluck().all())
    const torn = database.prepare(
      "SELECT n FROM entries WHERE (SELECT count(*) FROM halves WHERE halves.entry = entries.n) <> 2 " +
        "UNION ALL SELECT entry FROM halves WHERE entry NOT IN (SELECT n FROM entries)"
    ).all()
    return [
      ...(integrity === "ok" ? [] : [integrity]),
      ...torn,
      ...Array.from(acknowledged).filter((n) => !stored.has(n)).map((n) => `acknowledged and missing: ${n}`)
    ]
  } finally {
    database.close()
  }
}

/** Kills two processes in each round. Dies if an acknowledged session is missing, or one is stored in part. */
export const killed = (
  { onRound, rounds, seed = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000) }: Options
): Effect.Effect<Killed, never, Scope.Scope> =>
  Effect.flatMap(file, (filename) =>
    Effect.promise(async () => {
      const database = new Sqlite(filename)
      database.pragma("journal_mode = WAL")
      database.exec("CREATE TABLE entries (n INTEGER PRIMARY KEY, ballast BLOB); CREATE TABLE halves (entry INTEGER)")
      database.close()
      const { between } = random(seed)
      const acknowledged = new Set<number>()
      for (let i = 0; i < rounds; i++) {
        const firsts = Array.from({ length: writers }, (_, writer) => (i * writers + writer + 1) * 1_000_000)
        const committed = await round(filename, firsts, between(10, 200))
        committed.forEach((n) => acknowledged.add(n))
        const problems = problemsOf(filename, acknowledged)
        if (committed.length === 0 || problems.length > 0) {
          throw new Error(`round ${i} of seed ${seed} (TEST_SEED): ${JSON.stringify(problems)}`)
        }
        onRound?.(i, acknowledged.size)
      }
      return { rounds, acknowledged: acknowledged.size }
    }))
