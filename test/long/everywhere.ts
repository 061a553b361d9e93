/**
 * Interrupts each program at each of its points: `everywhere.ts [--dialect "sqlite file"] [--program nested]
 * [--points 100] [--seed 1]`. `--points` limits how many are tried. Exits with 1 if there were
 * problems.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import type { Dialect } from "../support/dialects.js"
import { applicable, everywhere } from "../support/everywhere.js"
import { file, postgres } from "../support/longDialects.js"
import { programs } from "../support/programs.js"
import { newSeed } from "../support/random.js"

const { values } = parseArgs({
  options: {
    dialect: { type: "string", default: "" },
    program: { type: "string", default: "" },
    points: { type: "string", default: "Infinity" },
    seed: { type: "string" }
  }
})

const seed = newSeed(values.seed)
const points = Number(values.points)
let problemCount = 0

const memory: Dialect = { name: "sqlite :memory:", dialect: "sqlite", url: Effect.succeed(":memory:"), single: true }

await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const isSelected = (name: string) => name.includes(values.dialect)
  const dialects = [
    ...(isSelected("postgres") ? [yield* postgres("everywhere")] : []),
    ...[file, memory].filter(({ name }) => isSelected(name))
  ]
  for (const dialect of dialects) {
    for (const program of programs) {
      if (applicable(program, dialect) && program.name.includes(values.program)) {
        const started = performance.now()
        const { problems, ...result } = yield* Effect.scoped(everywhere(dialect, program, { seed, points }))
        const seconds = ((performance.now() - started) / 1_000).toFixed(1)
        process.stdout.write(`${dialect.name}: ${program.name}: ${seconds} s, ${JSON.stringify(result)}\n`)
        for (const problem of problems) {
          problemCount++
          process.stdout.write(`${problem}\n`)
        }
      }
    }
  }
})))
process.stdout.write(`seed ${seed}: ${problemCount === 0 ? "no problems" : `${problemCount} problems`}\n`)
process.exitCode = problemCount === 0 ? 0 : 1
