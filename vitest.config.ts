import { availableParallelism } from "node:os"
import { defineConfig } from "vitest/config"
import Summary from "./test/tools/summary.js"

const ci = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false"

export default defineConfig({
  resolve: {
    alias: [
      { find: /^sqlayer$/, replacement: new URL("./src/index.ts", import.meta.url).pathname },
      { find: /^sqlayer\/(.*)$/, replacement: new URL("./src/$1.ts", import.meta.url).pathname }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/globalSetup.ts"],
    pool: "forks",
    // Much of the time is spent on waiting.
    poolOptions: { forks: { maxForks: Math.max(2, availableParallelism()) } },
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 30_000,
    allowOnly: !ci,
    passWithNoTests: false,
    reporters: ["default", new Summary({ failOnSkip: ci })],
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      reporter: ["text", "html", "json-summary"],
      reportOnFailure: true,
      thresholds: { lines: 95, branches: 95 }
    }
  }
})
