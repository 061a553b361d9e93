/**
 * Kills, freezes or switches over the primary of a cluster under the load of the bank, again and again:
 * `failover.ts [--fault kill|freeze|switchover] [--rounds 10] [--commit verified,recorded] [--workers 8] [--silence "10 seconds"]
 * [--seed 1]`. Prints a line for each round, then medians and worst cases. Exits with 1 if a commit was lost, doubled or
 * invented, or if a worker failed otherwise.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import { parseArgs } from "node:util"
import { makeCluster } from "../support/cluster.js"
import * as Failover from "../support/failover.js"
import { newSeed } from "../support/random.js"
import { scopedInstallation } from "../support/server.js"

const { values } = parseArgs({
  options: {
    fault: { type: "string", default: "kill" },
    rounds: { type: "string", default: "10" },
    commit: { type: "string", default: "verified,recorded" },
    workers: { type: "string", default: "8" },
    silence: { type: "string", default: "10 seconds" },
    seed: { type: "string" }
  }
})

const print = (text: string): void => void process.stdout.write(`${text}\n`)

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor((numbers.length - 1) / 2)]

const summary = (name: string, millis: ReadonlyArray<number>): void =>
  print(`${name}: median ${median(millis)} ms, worst ${Math.max(...millis)} ms`)

const program = Effect.gen(function*() {
  const seed = newSeed(values.seed)
  const cluster = yield* makeCluster(yield* scopedInstallation, {
    synchronous: true,
    config: { deadlock_timeout: "100ms" }
  })
  const application = yield* Failover.open(cluster, {
    seed,
    commits: values.commit.split(",") as Array<Failover.Commit>,
    workers: Number(values.workers),
    settings: { silence: values.silence as Duration.DurationInput }
  })
  const rounds: Array<Failover.Recovery> = []
  for (let round = 1; round <= Number(values.rounds); round++) {
    const recovery = yield* application.failOver(values.fault as Failover.Fault)
    rounds.push(recovery)
    print(`${new Date().toISOString()} round ${round}: ${JSON.stringify(recovery)}`)
    yield* cluster.restore
  }
  const { events, problems, unknown } = yield* application.finish
  print(`seed ${seed}: ${JSON.stringify(events)}`)
  summary("promotion to the first success", rounds.map(({ firstSuccess }) => firstSuccess))
  summary("promotion to every worker's success", rounds.map(({ everyWorker }) => everyWorker))
  summary("fault to every worker's success", rounds.map(({ maxGap }) => maxGap))
  print(`unknown: ${unknown("verified")} verified, ${unknown("recorded")} recorded`)
  print(`${problems.length} problems in ${rounds.length} failovers`)
  problems.forEach(print)
  return problems.length
})

const count = await Effect.runPromise(
  Effect.provide(Effect.scoped(program), Logger.minimumLogLevel(LogLevel.Error))
)
process.exitCode = count === 0 ? 0 : 1
