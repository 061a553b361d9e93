/**
 * Many sessions on one database: `node --expose-gc --import tsx test/long/life.ts [--sessions 100000] [--others 10000]
 * [--dialect sqlite] [--only committed,mixed] [--url postgres://…]`. Runs `--sessions` sessions that commit, as many
 * that fail, and `--others` of every other scenario. Prints the resources in use, and exits with 1 if any of them grew.
 */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { parseArgs } from "node:util"
import * as Database from "../../src/Database.js"
import * as Life from "../support/hostileLife.js"
import { scopedInstallation, serverFrom } from "../support/server.js"

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "100000" },
    others: { type: "string", default: "10000" },
    dialect: { type: "string", default: "postgres" },
    only: { type: "string" },
    url: { type: "string" },
    verbose: { type: "boolean", default: false }
  }
})

const print = (text: string): void => void process.stdout.write(`${text}\n`)

const ownServer = Effect.gen(function*() {
  const installation = yield* scopedInstallation
  return (yield* serverFrom(installation)).url
})

const ownFile = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-life-"))),
    (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
  ),
  (path) => `sqlite:///${Path.join(path, "life.db")}`
)

const long: ReadonlySet<string> = new Set(["committed", "failed"])

const main = Effect.gen(function*() {
  const url = values.url ?? (yield* values.dialect === "sqlite" ? ownFile : ownServer)
  const database = yield* Database.make({
    url,
    environment: "test",
    poolSize: Life.poolSize,
    poolMaxOverflow: 0,
    poolTimeout: "5 minutes"
  })
  yield* database.sql`CREATE TABLE life (id INTEGER PRIMARY KEY, n INTEGER)`
  yield* database.sql`INSERT INTO life VALUES (0, 0), (1, 0), (2, 0), (3, 0)`
  const runs = values.only === "leak" ? { leak: Life.leak } : Life.scenarios
  let problemCount = 0
  for (const [name, run] of Object.entries(runs)) {
    if (values.only === undefined || values.only.split(",").includes(name)) {
      const report = yield* Life.live(database, name, run, Number(long.has(name) ? values.sessions : values.others))
      const { samples, ...rest } = report
      const bytes = Math.round(Life.slope(samples, ({ heap }) => heap) * 10) / 10
      print(JSON.stringify({ ...rest, bytesEach: bytes, last: samples[samples.length - 1] }))
      if (values.verbose) {
        samples.forEach((sample) => print(`  ${JSON.stringify(sample)}`))
      }
      for (const problem of Life.problems(report)) {
        problemCount++
        print(problem)
      }
    }
  }
  return problemCount
})

const problemCount = await Effect.runPromise(Effect.scoped(main).pipe(Logger.withMinimumLogLevel(LogLevel.None)))
process.exitCode = problemCount === 0 ? 0 : 1
