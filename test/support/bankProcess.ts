/**
 * One process of the bank on a SQLite file: `bankProcess.ts <file> <name> <seed> <journal> <thread>`. It runs until its
 * standard input ends, or until it is killed. An event is in the journal before its worker continues.
 */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Database from "../../src/Database.js"
import type { Entry } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { eventually } from "./eventually.js"
import { random } from "./random.js"

const [, , file, name, seed, journal, thread] = process.argv

const out = Fs.openSync(journal, "a")
const record = (entry: Entry): void => void Fs.writeSync(out, `${JSON.stringify(entry)}\n`)
const recordDefect = (reason: string): void => record({ id: name, event: "defect", reason })

const ended = once(process.stdin.resume(), "end")

const bank = Effect.gen(function*() {
  const db = yield* Database.make({
    environment: "test",
    url: `sqlite:///${file}`,
    thread: thread as "worker" | "main",
    connectTimeout: "20 seconds",
    lockTimeout: "2 seconds",
    poolTimeout: "5 seconds"
  })
  const workers = yield* Workers.start({ db, name, workers: 6, random: random(Number(seed)), record, maxPause: 200 })
  yield* Effect.promise(() => ended)
  yield* workers.stop
  const isIdle = Effect.zipWith(
    db.activity,
    db.poolStats,
    ({ sessions }, { used, waiting }) => sessions.length === 0 && used === 0 && waiting === 0
  )
  yield* eventually(isIdle)
  if (!(yield* db.health)) {
    recordDefect("the database is not healthy")
  }
})

await Effect.runPromise(Effect.provide(Effect.scoped(bank), Logger.remove(Logger.defaultLogger))).catch((error) =>
  recordDefect(String(error))
)
process.stdin.destroy()
