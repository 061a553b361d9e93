/** Runs the test files of one group in the order in which the group lists them. */
import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"
import base from "../../vitest.config.js"

const files = process.env.MUTATION_TESTS!.split(",")

class ListedOrder extends BaseSequencer {
  override async sort(specifications: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const position = ({ moduleId }: TestSpecification) => {
      const index = files.findIndex((file) => moduleId.endsWith(`/${file}`))
      return index === -1 ? files.length : index
    }
    return specifications.toSorted((a, b) => position(a) - position(b))
  }
}

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: files,
    sequence: { sequencer: ListedOrder },
    // Loads each module once per mutant instead of once per test file.
    isolate: false,
    // A mutant that makes a test hang is detected by this test's timeout, long before the timeout of the whole run.
    testTimeout: Number(process.env.MUTATION_TEST_TIMEOUT),
    hookTimeout: 20_000,
    reporters: ["dot"],
    coverage: { enabled: false }
  }
})
