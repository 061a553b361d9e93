/**
 * The bank on SQLite: several processes at one file, some of which are killed while they move money.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import * as Database from "../../src/Database.js"
import { type Books, type Entry, judge, tally } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { newSeed, random } from "./random.js"

/** What a run was like. */
export interface Outcome {
  readonly seed: number
  /** Everything that should not be. */
  readonly problems: ReadonlyArray<string>
  readonly told: Readonly<Record<string, number>>
  /** How many processes were killed while they worked. */
  readonly killed: number
}

interface Member {
  readonly name: string
  readonly journal: string
  readonly child: ChildProcess
  readonly exited: Promise<number | null>
}

const program = fileURLToPath(new URL("bankProcess.ts", import.meta.url))

const hire = (directory: string, file: string, name: string, seed: number): Member => {
  const journal = Path.join(directory, `${name}.journal`)
  const thread = seed % 3 === 0 ? "main" : "worker"
  const child = spawn(
    process.execPath,
    ["--import", "tsx", program, file, name, String(seed), journal, thread],
    { stdio: ["pipe", "inherit", "inherit"] }
  )
  const exited = once(child, "exit").then(([code]) => code as number | null)
  return { name, journal, child, exited }
}

/** A process that was killed may have been at the middle of a line. */
const read = (journal: string): ReadonlyArray<Entry> =>
  Fs.existsSync(journal)
    ? Fs.readFileSync(journal, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line) as Entry)
    : []

const inspect = (file: string): Books & { readonly integrity: unknown } => {
  const database = new Sqlite(file)
  try {
    return {
      integrity: database.pragma("integrity_check", { simple: true }),
      accounts: database.prepare<[], Books["accounts"][number]>("SELECT id, balance FROM accounts").all(),
      ledger: database.prepare<[], Books["ledger"][number]>("SELECT * FROM ledger").all()
    }
  } finally {
    database.close()
  }
}

/** Starting takes it a while. */
const atWork = async ({ child, journal }: Member): Promise<void> => {
  while (read(journal).length === 0 && child.exitCode === null) {
    await sleep(20)
  }
}

/** Ends by itself when it is asked to. */
const dismiss = async ({ child, exited, name }: Member): Promise<ReadonlyArray<string>> => {
  child.stdin?.end()
  const timer = setTimeout(() => child.kill("SIGKILL"), 30_000)
  const code = await exited
  clearTimeout(timer)
  return code === 0 ? [] : [`${name} ended with ${code}`]
}

/** Works for so long, with this many processes. */
export const run = async (
  options: { readonly millis: number; readonly processes: number; readonly seed?: number }
): Promise<Outcome> => {
  const seed = options.seed ?? newSeed()
  const chance = random(seed)
  const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-bank-"))
  const file = Path.join(directory, "bank.db")
  const problems: Array<string> = []
  const all: Array<Member> = []
  const working: Array<Member> = []
  let killed = 0
  const hireOne = (): void => {
    const name = `p${all.length + 1}`
    const member = hire(directory, file, name, seed + all.length)
    all.push(member)
    working.push(member)
  }
  try {
    await Effect.runPromise(
      Effect.scoped(
        Effect.flatMap(Database.make({ environment: "test", url: `sqlite:///${file}` }), Workers.open)
      )
    )
    const deadline = performance.now() + options.millis
    for (let i = 0; i < options.processes; i++) {
      hireOne()
    }
    while (performance.now() < deadline) {
      const [member] = working.splice(chance.below(working.length), 1)
      await atWork(member)
      await sleep(chance.between(0, 800))
      if (chance.chance(0.2)) {
        problems.push(...await dismiss(member))
      } else {
        killed++
        member.child.kill("SIGKILL")
        await member.exited
      }
      hireOne()
    }
    problems.push(...(await Promise.all(working.splice(0).map(dismiss))).flat())
    const { integrity, ...books } = inspect(file)
    if (integrity !== "ok") {
      problems.push(`the integrity check says ${String(integrity)}`)
    }
    const journal = all.flatMap((member) => read(member.journal))
    problems.push(...judge(journal, books))
    return { seed, problems, told: tally(journal), killed }
  } finally {
    for (const { child, exited } of all) {
      child.kill("SIGKILL")
      await exited
    }
    Fs.rmSync(directory, { recursive: true, force: true })
  }
}
