/**
 * The bank for minutes: `bank.ts [--minutes 10] [--seed 1] [--round 30] [--dialect sqlite] [--verbose]`. Each round of so
 * many seconds has a seed of its own, the first the one given. Ends with 1 when something was wrong.
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
const say = (text: string): void => void process.stdout.write(`${text}\n`)

let wrong = 0

const rounds = (round: (seed: number) => Effect.Effect<{ readonly problems: ReadonlyArray<string> }>) =>
  Effect.gen(function*() {
    for (let seed = newSeed(values.seed); performance.now() < deadline; seed++) {
      const { problems, ...figures } = yield* round(seed)
      say(`${new Date().toISOString()} ${JSON.stringify(figures)}`)
      for (const problem of problems) {
        wrong++
        say(`seed ${seed}: ${problem}`)
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
        // Longer than anybody's patience, now and then.
        longest: seed % 4 === 0 ? 5_000 : 600,
        ...(values.verbose && { onStrike: (fault) => say(`  ${fault.name} for ${fault.millis} ms`) })
      })
      const late = outcome.recoveries.filter((millis) => millis >= 2_000)
      return { ...outcome, problems: [...outcome.problems, ...late.map((millis) => `healthy after ${millis} ms`)] }
    }).pipe(Effect.scoped)
  )
})

const onSqlite = rounds((seed) => Effect.promise(() => BankFile.run({ millis, seed, processes: 3 })))

await Effect.runPromise(Effect.scoped(values.dialect === "sqlite" ? onSqlite : onPostgres))
process.exitCode = wrong === 0 ? 0 : 1
