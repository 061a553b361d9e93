/**
 * A reporter for Stryker that leaves only a random sample of the mutants, and prints who survived and the score.
 */
import { createHash } from "node:crypto"
import { relative } from "node:path"

const size = Number(process.env.MUTATION_SAMPLE)
const seed = process.env.MUTATION_SEED

const shown = ({ fileName, location, mutatorName, replacement }) =>
  `${relative(process.cwd(), fileName)}:${location.start.line}:${location.start.column}-${location.end.line}:` +
  `${location.end.column} ${mutatorName}: ${replacement.replaceAll(/\s+/g, " ").slice(0, 100)}`

/** What a mutant's rank is does not depend on which others there are. */
const rank = (mutant) => createHash("sha256").update(`${seed} ${shown(mutant)}`).digest("hex")

class Sample {
  total = 0
  counts = {}

  onMutationTestingPlanReady({ mutantPlans }) {
    const ranks = new Map(mutantPlans.filter(({ plan }) => plan === "Run").map((plan) => [plan, rank(plan.mutant)]))
    const chosen = Array.from(ranks.keys()).sort((a, b) => ranks.get(a) < ranks.get(b) ? -1 : 1).slice(0, size)
    this.total = ranks.size
    // Stryker goes on with this very array.
    mutantPlans.splice(0, mutantPlans.length, ...chosen)
  }

  onMutantTested(mutant) {
    this.counts[mutant.status] = (this.counts[mutant.status] ?? 0) + 1
    if (mutant.status !== "Killed" && mutant.status !== "Timeout") {
      process.stdout.write(`${mutant.status} ${shown(mutant)}\n`)
    }
  }

  onMutationTestReportReady() {
    const { Killed = 0, NoCoverage = 0, Survived = 0, Timeout = 0 } = this.counts
    const n = Killed + Timeout + Survived + NoCoverage
    const score = (Killed + Timeout) / n
    // Of 95 %, as Agresti and Coull have it; none where every mutant was tried.
    const centre = (Killed + Timeout + 2) / (n + 4)
    const margin = 1.96 * Math.sqrt((centre * (1 - centre) / (n + 4)) * (1 - n / this.total))
    process.stdout.write(
      `${(score * 100).toFixed(1)} % ± ${(margin * 100).toFixed(1)}: of ${n} mutants tests killed ${Killed}, time ${Timeout}, ` +
        `and ${Survived + NoCoverage} survived; ${this.total} there are, seed ${seed}\n`
    )
  }
}

export const strykerPlugins = [{ kind: "Reporter", name: "sample", injectableClass: Sample }]
