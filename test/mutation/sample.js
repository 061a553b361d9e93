/**
 * A Stryker reporter that keeps a random sample of the mutants, and prints the survivors and the score.
 */
import { createHash } from "node:crypto"
import { relative } from "node:path"

const size = Number(process.env.MUTATION_SAMPLE)
const seed = process.env.MUTATION_SEED

const describe = ({ fileName, location, mutatorName, replacement }) =>
  `${relative(process.cwd(), fileName)}:${location.start.line}:${location.start.column}-${location.end.line}:` +
  `${location.end.column} ${mutatorName}: ${replacement.replaceAll(/\s+/g, " ").slice(0, 100)}`

/** A number for sorting that depends only on the seed and the mutant, so that the same seed samples the same mutants. */
const rank = (mutant) => createHash("sha256").update(`${seed} ${describe(mutant)}`).digest("hex")

class Sample {
  total = 0
  counts = {}

  onMutationTestingPlanReady({ mutantPlans }) {
    const ranks = new Map(mutantPlans.filter(({ plan }) => plan === "Run").map((plan) => [plan, rank(plan.mutant)]))
    const chosen = Array.from(ranks.keys()).sort((a, b) => ranks.get(a) < ranks.get(b) ? -1 : 1).slice(0, size)
    this.total = ranks.size
    // In place, since Stryker runs the mutants of this array.
    mutantPlans.splice(0, mutantPlans.length, ...chosen)
  }

  onMutantTested(mutant) {
    this.counts[mutant.status] = (this.counts[mutant.status] ?? 0) + 1
    if (mutant.status !== "Killed" && mutant.status !== "Timeout") {
      process.stdout.write(`${mutant.status} ${describe(mutant)}\n`)
    }
  }

  onMutationTestReportReady() {
    const { Killed = 0, NoCoverage = 0, Survived = 0, Timeout = 0 } = this.counts
    const n = Killed + Timeout + Survived + NoCoverage
    const score = (Killed + Timeout) / n
    // The Agresti-Coull interval at 95 %, with the correction for a finite population: 0 when every mutant was tried.
    const center = (Killed + Timeout + 2) / (n + 4)
    const margin = 1.96 * Math.sqrt((center * (1 - center) / (n + 4)) * (1 - n / this.total))
    process.stdout.write(
      `${(score * 100).toFixed(1)} % ± ${(margin * 100).toFixed(1)}: ${n} of ${this.total} mutants tried, ` +
        `${Killed} killed, ${Timeout} timed out, ${Survived + NoCoverage} survived, seed ${seed}\n`
    )
  }
}

export const strykerPlugins = [{ kind: "Reporter", name: "sample", injectableClass: Sample }]
