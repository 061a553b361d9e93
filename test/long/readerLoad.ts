/**
 * How two standbys share the reads of one server: `readerLoad.ts [--sessions 5000] [--rounds 5] [--workers 16] [--rows 10000]`. Runs the same
 * sessions with and without readers, one in twenty of which writes, and prints the CPU time that each server has used. The
 * capacity is the CPU time of the single server divided by that of the busiest server of the cluster: how many times as many
 * sessions the servers can run where their CPUs are the limit. Reads the CPU times from /proc, so it needs Linux.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { parseArgs } from "node:util"
import * as Database from "../../src/Database.js"
import { query } from "../support/client.js"
import { makeCluster, type Member } from "../support/cluster.js"
import { scopedInstallation } from "../support/server.js"
import { childrenOf } from "../support/serverProcess.js"

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "5000" },
    rounds: { type: "string", default: "5" },
    workers: { type: "string", default: "16" },
    rows: { type: "string", default: "10000" }
  }
})
const sessions = Number(values.sessions)
const workers = Number(values.workers)
/** How many rows a session reads. */
const rows = Number(values.rows)

/** The unit of CPU times in /proc: 10 milliseconds on Linux. */
const tick = 10

/** The CPU time in milliseconds of a server's processes that exist now. */
const cpuTime = (server: Member): number => {
  let ticks = 0
  for (const pid of [server.pid, ...childrenOf(server.pid)]) {
    try {
      const stat = Fs.readFileSync(`/proc/${pid}/stat`, "utf8")
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // The process has ended.
    }
  }
  return ticks * tick
}

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((one, other) => one - other)[Math.floor(numbers.length / 2)]

const program = Effect.gen(function*() {
  const rig = yield* makeCluster(yield* scopedInstallation, { standbys: 2 })
  const { url } = rig.primary()
  yield* query(url, "CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL)")
  yield* query(url, "INSERT INTO account SELECT id, 0 FROM generate_series(1, 20000) id")
  // Standbys cannot set hint bits, so rows that were just written would cost them more than a primary.
  yield* query(url, "VACUUM (FREEZE, ANALYZE) account")
  yield* query(url, "CREATE TABLE journal (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount int NOT NULL)")
  const hosts = rig.standbys().map(({ port }) => `127.0.0.1:${port}`).join(",")
  const pool = { poolSize: workers, poolMaxOverflow: 0 }
  const without = yield* Database.make({ ...pool, url })
  const withReaders = yield* Database.make({ ...pool, url, readerUrl: url.replace(/@[^/]+/, `@${hosts}`) })

  const run = (database: Database.Service) =>
    Effect.forEach(Array.from({ length: sessions }, (_, i) => i), (i) =>
      i % 20 === 0
        ? database.session(database.sql`INSERT INTO journal (amount) VALUES (${i})`)
        : database.session(
          database.sql`SELECT sum(balance) FROM account WHERE id BETWEEN ${i % 9_000 + 1} AND ${i % 9_000 + rows}`,
          { readOnly: true }
        ), { concurrency: workers, discard: true })

  /** The CPU time of each member, with the primary first. */
  const measure = (database: Database.Service) =>
    Effect.gen(function*() {
      const before = rig.members.map(cpuTime)
      yield* run(database)
      return rig.members.map((member, i) => cpuTime(member) - before[i])
    })

  yield* run(without)
  yield* run(withReaders)
  const capacities: Array<number> = []
  for (let round = 1; round <= Number(values.rounds); round++) {
    const [single] = yield* measure(without)
    const shared = yield* measure(withReaders)
    const capacity = single / Math.max(...shared)
    capacities.push(capacity)
    process.stdout.write(
      `round ${round}: CPU of the single server ${single} ms; of the primary and its standbys ${
        shared.join(", ")
      } ms: ` +
        `capacity ${capacity.toFixed(2)}\n`
    )
  }
  process.stdout.write(
    `capacity ${median(capacities).toFixed(2)} (${Math.min(...capacities).toFixed(2)} to ` +
      `${Math.max(...capacities).toFixed(2)})\n`
  )
})

await Effect.runPromise(Effect.scoped(program))
