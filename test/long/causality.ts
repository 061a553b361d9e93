/**
 * Reads behind writes on a cluster whose standbys lag: `causality.ts [--reads 100000] [--workers 8] [--seed 1]`. Exits with 1 if
 * a read was stale.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import * as Causality from "../support/causality.js"
import { makeCluster } from "../support/cluster.js"
import { newSeed, random } from "../support/random.js"
import { scopedInstallation } from "../support/server.js"

const { values } = parseArgs({
  options: {
    reads: { type: "string", default: "100000" },
    workers: { type: "string", default: "8" },
    seed: { type: "string" }
  }
})

const program = Effect.gen(function*() {
  const seed = newSeed(values.seed)
  const rig = yield* makeCluster(yield* scopedInstallation, { standbys: 2 })
  const startedAt = performance.now()
  const outcome = yield* Causality.run(rig, {
    reads: Number(values.reads),
    workers: Number(values.workers),
    chance: random(seed)
  })
  const seconds = Math.round((performance.now() - startedAt) / 1_000)
  process.stdout.write(`seed ${seed}, ${seconds} seconds: ${JSON.stringify(outcome)}\n`)
  process.exitCode = outcome.staleWithToken + outcome.staleInProcess === 0 ? 0 : 1
})

await Effect.runPromise(Effect.scoped(program))
