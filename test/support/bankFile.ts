/**
 * The bank on SQLite: several processes share one file, and some are killed while they move money.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as Database from "../../src/Database.js"
import { type Books, countEvents, type Entry, verify } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { nodeArguments } from "./bundledProgram.js"
import { newSeed, random } from "./random.js"

/** The result of a run. */
export interface Outcome {
  readonly seed: number
  /** What went wrong; empty if nothing did. */
  readonly problems: ReadonlyArray<string>
  /** The number of journal events of each type. */
  readonly events: Readonly<Record<string, number>>
  /** The number of processes killed while they ran transfers. */
  readonly killed: number
}

interface BankProcess {
  readonly name: string
  readonly journal: string
  readonly child: ChildProcess
  readonly exited: Promise<number | null>
}

const program = new URL("bankProcess.ts", import.meta.url)

const startProcess = (directory: string, file: string, name: string, seed: number): BankProcess => {
  const journal = Path.join(directory, `${name}.journal`)
  const thread = seed % 3 === 0 ? "main" : "worker"
  const child = spawn(
    process.execPath,
    [...nodeArguments(program), file, name, String(seed), journal, thread],
    { stdio: ["pipe", "inherit", "inherit"] }
  )
  const exited = once(child, "exit").then(([code]) => code as number | null)
  return { name, journal, child, exited }
}

/** The events in a journal, without the last line, which a killed process may have left incomplete. */
const readJournal = (journal: string): ReadonlyArray<Entry> =>
  Fs.existsSync(journal)
    ? Fs.readFileSync(journal, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line) as Entry)
    : []

const readBooks = (file: string): Books & { readonly integrity: unknown } => {
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

/** Waits until the process has recorded its first event, since it takes a while to start. */
const untilStarted = async ({ child, journal }: BankProcess): Promise<void> => {
  while (readJournal(journal).length === 0 && child.exitCode === null) {
    await sleep(20)
  }
}

/** Ends the standard input of the process, upon which it must exit with 0. */
const stopProcess = async ({ child, exited, name }: BankProcess): Promise<ReadonlyArray<string>> => {
  child.stdin?.end()
  const timer = setTimeout(() => child.kill("SIGKILL"), 30_000)
  const code = await exited
  clearTimeout(timer)
  return code === 0 ? [] : [`${name} exited with ${code}`]
}

/** Runs the bank for this time, or until two processes were killed, with this many processes, and checks the result. */
export const run = async (
  options: { readonly millis: number; readonly processes: number; readonly seed?: number }
): Promise<Outcome> => {
  const seed = options.seed ?? newSeed()
  const chance = random(seed)
  const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-bank-"))
  const file = Path.join(directory, "bank.db")
  const problems: Array<string> = []
  const all: Array<BankProcess> = []
  const running: Array<BankProcess> = []
  let killed = 0
  const startNext = (): void => {
    const name = `p${all.length + 1}`
    const bankProcess = startProcess(directory, file, name, seed + all.length)
    all.push(bankProcess)
    running.push(bankProcess)
  }
  try {
    await Effect.runPromise(
      Effect.scoped(
        Effect.flatMap(Database.make({ environment: "test", url: `sqlite:///${file}` }), (db) => Workers.open(db))
      )
    )
    const deadline = performance.now() + options.millis
    for (let i = 0; i < options.processes; i++) {
      startNext()
    }
    // On a slow machine the first process may start no sooner than that.
    while (performance.now() < deadline || killed < 2) {
      const [bankProcess] = running.splice(chance.below(running.length), 1)
      await untilStarted(bankProcess)
      await sleep(chance.between(0, 800))
      if (chance.chance(0.2)) {
        problems.push(...await stopProcess(bankProcess))
      } else {
        killed++
        bankProcess.child.kill("SIGKILL")
        await bankProcess.exited
      }
      startNext()
    }
    problems.push(...(await Promise.all(running.splice(0).map(stopProcess))).flat())
    const { integrity, ...books } = readBooks(file)
    if (integrity !== "ok") {
      problems.push(`the integrity check failed: ${String(integrity)}`)
    }
    const journal = all.flatMap((bankProcess) => readJournal(bankProcess.journal))
    problems.push(...verify(journal, books))
    return { seed, problems, events: countEvents(journal), killed }
  } finally {
    for (const { child, exited } of all) {
      child.kill("SIGKILL")
      await exited
    }
    Fs.rmSync(directory, { recursive: true, force: true })
  }
}
