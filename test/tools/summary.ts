import type { SerializedError } from "vitest"
import type { Reporter, TestCase, TestModule } from "vitest/node"

/**
 * Ends the output with the counts on a line of their own, `12 passed, 0 failed`, and names every test that was skipped.
 * With `failOnSkip` a skipped test fails the run: a test that does not run proves nothing.
 */
export default class Summary implements Reporter {
  readonly #failOnSkip: boolean

  constructor(options: { readonly failOnSkip: boolean }) {
    this.#failOnSkip = options.failOnSkip
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: ReadonlyArray<SerializedError>): void {
    const tests = modules.flatMap((module) => Array.from(module.children.allTests()))
    const inState = (state: string): Array<TestCase> => tests.filter((test) => test.result().state === state)
    // A module that could not be loaded has no tests, and an error outside of a test belongs to none.
    const broken = modules.filter((module) => module.errors().length > 0).length + unhandledErrors.length
    // A test still pending when the run ends, as after a time-out of its worker, did not pass either.
    const skipped = [...inState("skipped"), ...inState("pending")]
    for (const test of skipped) {
      console.log(`skipped: ${test.module.moduleId}: ${test.fullName}`)
    }
    const failed = inState("failed").length + broken + (this.#failOnSkip ? skipped.length : 0)
    if (failed > 0) {
      process.exitCode = 1
    }
    console.log(`\n${inState("passed").length} passed, ${failed} failed`)
  }
}
