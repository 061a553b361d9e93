/**
 * Mutation testing with Stryker: changes the source in one place at a time and expects a test to fail.
 *
 * `npm run mutation -- --group errors --sample 200 --seed 1` tries a random sample of a group's mutants. File names, or
 * `file:line-line`, restrict it further. Stryker is installed by `npm ci --prefix test/mutation`; it changes a copy of
 * the checkout, never the checkout itself.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parseArgs } from "node:util"
import { prepare } from "../support/installation.js"
import { newSeed } from "../support/random.js"
import { makeServerProcess } from "../support/serverProcess.js"

interface Group {
  readonly mutate: ReadonlyArray<string>
  /** Run in this order, the fastest first; files that match only a pattern run last. */
  readonly tests: ReadonlyArray<string>
  /** The timeout of one test, in milliseconds. */
  readonly testTimeout: number
  /**
   * Whether string literals and static code (which runs once, when a module is loaded) are mutated too. The tables of
   * error codes consist of these; elsewhere such mutants are not worth their time.
   */
  readonly tables?: boolean
}

/** Every file of src belongs to at least one group. */
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
    mutate: ["src/Pool.ts", "src/internal/fiber.ts", "src/internal/fifoQueue.ts", "src/internal/pool/**/*.ts"],
    tests: [
      "test/internal/fifoQueue.test.ts",
      "test/Pool.test.ts",
      "test/Pool.lifecycle.test.ts",
      "test/Pool.overload.test.ts",
      "test/Pool.postgres.test.ts",
      "test/Pool.model.test.ts"
    ],
    testTimeout: 10_000
  },
  session: {
    mutate: [
      "src/Session.ts",
      "src/internal/asyncInterrupt.ts",
      "src/internal/fiber.ts",
      "src/internal/fifoLock.ts",
      "src/internal/hiddenClass.ts",
      "src/internal/session/**/*.ts",
      "src/internal/sqlClient/**/*.ts",
      "src/internal/sqlQuotes.ts"
    ],
    tests: [
      "test/internal/fifoLock.test.ts",
      "test/internal/asyncInterrupt.test.ts",
      "test/internal/session/connectionLock.test.ts",
      "test/Session.test.ts",
      "test/internal/session/commit.test.ts",
      "test/internal/session/options.test.ts",
      "test/internal/sqlClient/client.test.ts",
      "test/internal/session/interruption.test.ts",
      "test/internal/session/commitOutcome.test.ts",
      "test/internal/session/*.test.ts",
      "test/hostile.test.ts"
    ],
    testTimeout: 15_000
  },
  postgres: {
    mutate: [
      "src/internal/postgres/**/*.ts",
      "!src/internal/postgres/sqlState.ts",
      "src/internal/rowStream.ts"
    ],
    tests: [
      "test/internal/postgres/statementText.test.ts",
      "test/internal/postgres/protocol/parser.test.ts",
      "test/internal/postgres/exchange.test.ts",
      "test/internal/postgres/driver.test.ts",
      "test/internal/postgres/contract.test.ts",
      "test/internal/postgres/connection.test.ts",
      "test/internal/postgres/!(sqlState).test.ts",
      "test/internal/postgres/*/*.test.ts",
      "test/internal/session/commitOutcome.test.ts",
      // The files that serve the configuration, migrations, the command line and TestDatabase.
      "test/internal/config/url.test.ts",
      "test/DatabaseConfig.test.ts",
      "test/Migrations.test.ts",
      "test/internal/cli/check.test.ts",
      "test/TestDatabase.test.ts"
    ],
    testTimeout: 15_000
  },
  sqlite: {
    // A mutant in code that runs in the worker thread or in a child process may stay inactive there, and survive.
    mutate: ["src/internal/sqlite/**/*.ts", "!src/internal/sqlite/resultCode.ts", "src/internal/rowStream.ts"],
    tests: [
      "test/internal/sqlite/statementText.test.ts",
      "test/internal/sqlite/requestLock.test.ts",
      "test/internal/sqlite/contract.test.ts",
      "test/internal/sqlite/!(resultCode).test.ts",
      "test/sqlite.*.test.ts",
      "test/internal/config/url.test.ts",
      "test/DatabaseConfig.test.ts",
      "test/Migrations.test.ts",
      "test/internal/cli/check.test.ts",
      "test/TestDatabase.test.ts"
    ],
    testTimeout: 15_000
  },
  database: {
    mutate: [
      "src/index.ts",
      "src/Database.ts",
      "src/DatabaseConfig.ts",
      "src/internal/config/**/*.ts",
      "src/internal/database/**/*.ts",
      "src/internal/dialects.ts",
      "src/internal/driver.ts",
      "src/internal/drivers.ts"
    ],
    tests: [
      "test/internal/config/url.test.ts",
      "test/index.test.ts",
      "test/DatabaseConfig.test.ts",
      "test/Database.test.ts"
    ],
    testTimeout: 15_000
  },
  http: {
    mutate: [
      "src/DatabaseHttp.ts",
      "src/Health.ts",
      "src/internal/databaseHttp/**/*.ts",
      "src/internal/databaseHttp/**/*.js",
      "src/internal/health/**/*.ts"
    ],
    tests: ["test/Health.test.ts", "test/DatabaseHttp*.test.ts", "test/internal/databaseHttp/*.test.ts"],
    testTimeout: 15_000
  },
  telemetry: {
    mutate: ["src/Telemetry.ts", "src/internal/telemetry/**/*.ts"],
    tests: ["test/internal/telemetry/*.test.ts", "test/Telemetry.test.ts", "test/observability.test.ts"],
    testTimeout: 15_000
  },
  migrations: {
    mutate: ["src/Migrations.ts", "src/internal/migrations/**/*.ts", "src/internal/cli/**/*.ts"],
    tests: ["test/Migrations.files.test.ts", "test/Migrations*.test.ts", "test/internal/cli/*.test.ts"],
    testTimeout: 20_000
  },
  testDatabase: {
    mutate: ["src/TestDatabase.ts", "src/internal/testDatabase/**/*.ts"],
    tests: ["test/internal/fifoLock.test.ts", "test/TestDatabase*.test.ts"],
    testTimeout: 15_000
  }
}

const root = path.resolve(import.meta.dirname, "../..")

const belongs = (file: string, { mutate }: Group): boolean => {
  const matches = (pattern: string) => path.matchesGlob(file, pattern)
  return mutate.some(matches) && !mutate.some((pattern) => pattern.startsWith("!") && matches(pattern.slice(1)))
}

const ungrouped = fs.readdirSync(path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .map((file) => `src/${file}`)
  .filter((file) => /\.[jt]s$/.test(file) && !Object.values(groups).some((group) => belongs(file, group)))
if (ungrouped.length > 0) {
  throw new Error(`these files belong to no group: ${ungrouped.join(", ")}`)
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { group: { type: "string" }, sample: { type: "string" }, seed: { type: "string" } }
})
const group = groups[values.group ?? ""]
if (group === undefined) {
  throw new Error(`--group must be one of ${Object.keys(groups).join(", ")}`)
}

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
    // Stops a mutant whose code loops forever. A test that waits forever fails by its own timeout.
    timeoutMS: 60_000,
    // A file that does not exist: Stryker reads a tsconfig with TypeScript's API, which TypeScript 7 lacks.
    tsconfigFile: "none.json",
    plugins: ["@stryker-mutator/vitest-runner", path.join(import.meta.dirname, "sample.js")],
    reporters: ["sample", "progress-append-only"]
  })
)

const { installation, remove } = await prepare()
try {
  // One server for the whole run: each mutant that is stopped by its timeout would otherwise start another one.
  const serverProcess = await makeServerProcess(installation, { maxConnections: 200, config: { fsync: "off" } })
  const stryker = spawn(
    process.execPath,
    [path.join(import.meta.dirname, "node_modules/@stryker-mutator/core/bin/stryker.js"), "run", config],
    {
      cwd: root,
      stdio: "inherit",
      env: {
        ...process.env,
        TEST_DATABASE_URL: serverProcess.url,
        MUTATION_TESTS: group.tests.join(","),
        MUTATION_TEST_TIMEOUT: String(group.testTimeout),
        MUTATION_SAMPLE: values.sample ?? "Infinity",
        MUTATION_SEED: String(newSeed(values.seed))
      }
    }
  )
  const [code] = await once(stryker, "exit")
  process.exitCode = code ?? 1
  await serverProcess.dispose()
} finally {
  await remove()
  fs.rmSync(directory, { recursive: true, force: true })
}
