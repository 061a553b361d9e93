/** The tests of one group, the quickest files first. */
import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"
import base from "../../vitest.config.js"

const files = process.env.MUTATION_TESTS!.split(",")

class AsListed extends BaseSequencer {
  override async sort(specifications: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const index = ({ moduleId }: TestSpecification) => {
      const at = files.findIndex((file) => moduleId.endsWith(`/${file}`))
      return at === -1 ? files.length : at
    }
    return specifications.toSorted((a, b) => index(a) - index(b))
  }
}

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: files,
    sequence: { sequencer: AsListed },
    // Modules are loaded once for a mutant and not once for a file.
    isolate: false,
    // What hangs is found out by the one test's time, and not only by that of them all.
    testTimeout: Number(process.env.MUTATION_TEST_TIMEOUT),
    hookTimeout: 20_000,
    reporters: ["dot"],
    coverage: { enabled: false }
  }
})
