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
    // The tests mostly wait for servers and timers.
    poolOptions: { forks: { maxForks: Math.max(2, availableParallelism()) } },
    // Far more than any test takes, also on a slow and busy machine.
    testTimeout: 240_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
    allowOnly: !ci,
    passWithNoTests: false,
    reporters: ["default", new Summary({ failOnSkip: ci })],
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      reporter: ["text-summary", "html", "json-summary"],
      reportOnFailure: true,
      thresholds: { lines: 95, branches: 95 }
    }
  }
})
