/**
 * Tests the tests: changes the source in one place at a time and looks whether a test fails.
 *
 * `npm run mutation -- --group errors --sample 200 --seed 1`; files, or `file:line-line`, after that narrow it. Nothing
 * is changed in the checkout: Stryker, which `npm ci --prefix test/mutation` installs, works on a copy.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parseArgs } from "node:util"
import { makeCluster } from "../support/cluster.js"
import { prepare } from "../support/installation.js"
import { newSeed } from "../support/random.js"

interface Group {
  readonly mutate: ReadonlyArray<string>
  /** Those that end soon come first; of a pattern, those that it does not name besides come last. */
  readonly tests: ReadonlyArray<string>
  /** The longest that one of these tests may take, in milliseconds. */
  readonly testTimeout: number
  /** Tables are made when a module is loaded, and consist of texts; elsewhere neither is worth the time it takes. */
  readonly tables?: boolean
}

const groups: { readonly [name: string]: Group } = {
  errors: {
    mutate: [
      "src/DatabaseError.ts",
      "src/internal/makeError.ts",
      "src/internal/mask.ts",
      "src/internal/postgres/sqlState.ts",
      "src/internal/sqlite/resultCode.ts"
    ],
    tests: [
      "test/internal/mask.test.ts",
      "test/DatabaseError.test.ts",
      "test/internal/sqlite/resultCode.test.ts",
      "test/internal/postgres/sqlState.test.ts"
    ],
    testTimeout: 10_000,
    tables: true
  },
  pool: {
    mutate: ["src/Pool.ts", "src/internal/pool/*.ts"],
    tests: [
      "test/Pool.test.ts",
      "test/Pool.lifecycle.test.ts",
      "test/Pool.overload.test.ts",
      "test/Pool.postgres.test.ts",
      "test/Pool.model.test.ts"
    ],
    testTimeout: 10_000
  },
  session: {
    mutate: ["src/Session.ts", "src/internal/session/*.ts"],
    tests: [
      "test/internal/session/connectionLock.test.ts",
      "test/Session.test.ts",
      "test/internal/session/commit.test.ts",
      "test/internal/session/options.test.ts",
      "test/internal/sqlClient/client.test.ts",
      "test/internal/session/interruption.test.ts",
      "test/internal/session/commitOutcome.test.ts",
      "test/hostile.test.ts"
    ],
    testTimeout: 15_000
  },
  postgres: {
    mutate: ["src/internal/postgres/*.ts", "!src/internal/postgres/sqlState.ts"],
    tests: [
      "test/internal/postgres/protocol/parser.test.ts",
      "test/internal/postgres/exchange.test.ts",
      "test/internal/postgres/driver.test.ts",
      "test/internal/postgres/contract.test.ts",
      "test/internal/postgres/connection.test.ts",
      "test/internal/postgres/!(sqlState).test.ts",
      "test/internal/session/commitOutcome.test.ts"
    ],
    testTimeout: 15_000
  }
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { group: { type: "string" }, sample: { type: "string" }, seed: { type: "string" } }
})
const group = groups[values.group ?? ""]
if (group === undefined) {
  throw new Error(`--group must be one of ${Object.keys(groups).join(", ")}`)
}

const root = path.resolve(import.meta.dirname, "../..")
const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-mutation-"))
const config = path.join(directory, "stryker.json")
fs.writeFileSync(
  config,
  JSON.stringify({
    tempDirName: path.join(directory, "copy"),
    ignorePatterns: ["/build", "/coverage", "/dist", "/docs", "/test/mutation/node_modules"],
    mutate: positionals.length > 0 ? positionals : group.mutate,
    mutator: { excludedMutations: group.tables === true ? [] : ["StringLiteral"] },
    ignoreStatic: group.tables !== true,
    testRunner: "vitest",
    vitest: { configFile: "test/mutation/vitest.config.ts", related: false },
    coverageAnalysis: "perTest",
    concurrency: 1,
    // For what goes on without end, and rarely: a test that waits for ever has a limit of its own.
    timeoutMS: 60_000,
    // It looks for references in it with TypeScript's API, which TypeScript 7 has not.
    tsconfigFile: "none.json",
    plugins: ["@stryker-mutator/vitest-runner", path.join(import.meta.dirname, "sample.js")],
    reporters: ["sample", "progress-append-only"]
  })
)

const { installation, remove } = await prepare()
try {
  // One server for all, since every mutant that is stopped by time would start another.
  const cluster = await makeCluster(installation, { maxConnections: 200, config: { fsync: "off" } })
  const stryker = spawn(
    process.execPath,
    [path.join(import.meta.dirname, "node_modules/@stryker-mutator/core/bin/stryker.js"), "run", config],
    {
      cwd: root,
      stdio: "inherit",
      env: {
        ...process.env,
        TEST_DATABASE_URL: cluster.url,
        MUTATION_TESTS: group.tests.join(","),
        MUTATION_TEST_TIMEOUT: String(group.testTimeout),
        MUTATION_SAMPLE: values.sample ?? "Infinity",
        MUTATION_SEED: String(newSeed(values.seed))
      }
    }
  )
  const [code] = await once(stryker, "exit")
  process.exitCode = code ?? 1
  await cluster.dispose()
} finally {
  await remove()
  fs.rmSync(directory, { recursive: true, force: true })
}
