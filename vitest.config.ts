import { availableParallelism } from "node:os"
import { defineConfig, type Plugin } from "vitest/config"
import Summary from "./test/tools/summary.js"

const ci = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false"

// TEST_MISSING_PACKAGES: sqlayer's own imports of these packages fail, also in the processes of tests. With
// TEST_MISSING_PACKAGES=better-sqlite3 sqlayer runs on node:sqlite, and so do the tests.
const missing = (process.env.TEST_MISSING_PACKAGES ?? "").split(",")
const fileOf = (path: string) => new URL(path, import.meta.url)
if (missing.join("") !== "") {
  const hook = fileOf("./test/support/withoutPackages.mjs").href
  process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ""} --import ${hook}`
}

/** The package of an import: `pg` of `pg/lib/result.js`. */
const packageOf = (source: string): string => /^(?:@[^/]+\/)?[^/]+/.exec(source)?.[0] ?? source

const withoutPackages: Plugin = {
  name: "without-packages",
  enforce: "pre",
  resolveId: (source, importer = "") => {
    const name = packageOf(source)
    if (!missing.includes(name) || importer.endsWith("resultCode.test.ts")) {
      return undefined
    }
    return importer.startsWith(fileOf("./src/").pathname)
      ? `\0missing:${name}`
      : source === "better-sqlite3"
      ? fileOf("./test/support/onNodeSqlite.ts").pathname
      : undefined
  },
  load: (id) =>
    id.startsWith("\0missing:")
      ? `throw Object.assign(new Error("Cannot find package '${id.slice(9)}'"), { code: "ERR_MODULE_NOT_FOUND" })`
      : undefined
}

export default defineConfig({
  plugins: [withoutPackages],
  resolve: {
    alias: [
      { find: /^sqlayer$/, replacement: new URL("./src/index.ts", import.meta.url).pathname },
      { find: /^sqlayer\/(.*)$/, replacement: new URL("./src/$1.ts", import.meta.url).pathname }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/globalSetup.ts"],
    setupFiles: ["test/support/strictEquality.ts"],
    pool: "forks",
    // The tests mostly wait for servers and timers, so that there is work for one more than the machine has processors.
    poolOptions: { forks: { maxForks: 1 + Math.max(2, availableParallelism()) } },
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
