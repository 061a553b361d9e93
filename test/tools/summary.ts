import type { SerializedError } from "vitest"
import type { Reporter, TestCase, TestModule } from "vitest/node"

/**
 * Prints the name of every skipped test, the name and the error of every failed one, and the counts as the last line,
 * `12 passed, 0 failed`. With `failOnSkip`, a skipped test counts as failed.
 */
export default class Summary implements Reporter {
  readonly #failOnSkip: boolean

  constructor(options: { readonly failOnSkip: boolean }) {
    this.#failOnSkip = options.failOnSkip
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: ReadonlyArray<SerializedError>): void {
    const tests = modules.flatMap((module) => Array.from(module.children.allTests()))
    const inState = (state: string): Array<TestCase> => tests.filter((test) => test.result().state === state)
    // Modules that could not be loaded and errors outside of tests count as failures too.
    const broken = modules.filter((module) => module.errors().length > 0).length + unhandledErrors.length
    // A test that is still pending at the end of the run, for example after a timeout of its worker, did not run either.
    const skipped = [...inState("skipped"), ...inState("pending")]
    for (const test of skipped) {
      console.log(`skipped: ${test.module.moduleId}: ${test.fullName}`)
    }
    for (const test of inState("failed")) {
      const messages = test.result().errors?.map((error) => error.message.slice(0, 400)) ?? []
      console.log(`failed: ${test.module.moduleId}: ${test.fullName}: ${messages.join("; ")}`)
    }
    for (const module of modules) {
      for (const error of module.errors()) {
        console.log(`failed: ${module.moduleId}: ${error.message.slice(0, 400)}`)
      }
    }
    for (const error of unhandledErrors) {
      console.log(`failed outside of a test: ${error.message.slice(0, 400)}`)
    }
    const failed = inState("failed").length + broken + (this.#failOnSkip ? skipped.length : 0)
    if (failed > 0) {
      process.exitCode = 1
    }
    console.log(`\n${inState("passed").length} passed, ${failed} failed`)
  }
}
