/**
 * Compares random programs with the model for hours: `model.ts [--minutes 10] [--seed 1] [--dialect sqlite]
 * [--without streams,races] [--only nested,together] [--problems 10] [--shrink 30]`; MODEL_MINUTES is the default of `--minutes`. Exits
 * with 1 if there were problems.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import { file, postgres } from "../support/longDialects.js"
import { type Feature, features } from "../support/model/program.js"
import { runModel } from "../support/model/run.js"
import { newSeed } from "../support/random.js"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: process.env.MODEL_MINUTES ?? "10" },
    seed: { type: "string" },
    dialect: { type: "string", default: "" },
    without: { type: "string", default: "" },
    only: { type: "string", default: features.join() },
    problems: { type: "string", default: "10" },
    shrink: { type: "string", default: "30" }
  }
})

const seed = newSeed(values.seed)
const without = values.without.split(",")
const enabled = new Set(values.only.split(",").filter((name): name is Feature => !without.includes(name)))

let problemCount = 0

await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const dialects = [
    ...("postgres".includes(values.dialect) ? [yield* postgres("model")] : []),
    ...(file.name.includes(values.dialect) ? [file] : [])
  ]
  for (const dialect of dialects) {
    const { problems, programs } = yield* runModel(dialect, {
      seed,
      millis: Number(values.minutes) * 60_000 / dialects.length,
      atLeast: 1,
      features: enabled,
      problems: Number(values.problems),
      shrinkMillis: Number(values.shrink) * 1_000,
      onProblem: (problem) => process.stdout.write(`${problem}\n\n`)
    })
    problemCount += problems.length
    process.stdout.write(`${dialect.name}: ${programs} programs, ${problems.length} problems\n`)
  }
})))
process.stdout.write(`from seed ${seed}\n`)
process.exitCode = problemCount === 0 ? 0 : 1
