/**
 * Runs the bank for minutes: `bank.ts [--minutes 10] [--seed 1] [--round 30] [--dialect sqlite] [--verbose]`. A round
 * takes `--round` seconds and has its own seed, counted up from `--seed`. Exits with 1 if there were problems.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import * as Bank from "../support/bank.js"
import * as BankFile from "../support/bankFile.js"
import { newSeed } from "../support/random.js"
import { scopedInstallation, serverFrom } from "../support/server.js"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    seed: { type: "string" },
    round: { type: "string", default: "30" },
    dialect: { type: "string", default: "postgres" },
    verbose: { type: "boolean", default: false }
  }
})

const millis = Number(values.round) * 1_000
const deadline = performance.now() + Number(values.minutes) * 60_000
const print = (text: string): void => void process.stdout.write(`${text}\n`)

let problemCount = 0

const rounds = (round: (seed: number) => Effect.Effect<{ readonly problems: ReadonlyArray<string> }>) =>
  Effect.gen(function*() {
    for (let seed = newSeed(values.seed); performance.now() < deadline; seed++) {
      const { problems, ...result } = yield* round(seed)
      print(`${new Date().toISOString()} ${JSON.stringify(result)}`)
      for (const problem of problems) {
        problemCount++
        print(`seed ${seed}: ${problem}`)
      }
    }
  })

const onPostgres = Effect.gen(function*() {
  const installation = yield* scopedInstallation
  yield* rounds((seed) =>
    Effect.gen(function*() {
      const outcome = yield* Bank.run(yield* serverFrom(installation, Bank.serverOptions), {
        millis,
        seed,
        // In every fourth round, longer than all timeouts.
        maxMillis: seed % 4 === 0 ? 5_000 : 600,
        ...(values.verbose && { onFault: (fault) => print(`  ${fault.name} for ${fault.millis} ms`) })
      })
      const slow = outcome.recoveries.filter((millis) => millis >= 2_000)
      return {
        ...outcome,
        problems: [...outcome.problems, ...slow.map((millis) => `the health check succeeded only after ${millis} ms`)]
      }
    }).pipe(Effect.scoped)
  )
})

const onSqlite = rounds((seed) => Effect.promise(() => BankFile.run({ millis, seed, processes: 3 })))

await Effect.runPromise(Effect.scoped(values.dialect === "sqlite" ? onSqlite : onPostgres))
process.exitCode = problemCount === 0 ? 0 : 1
