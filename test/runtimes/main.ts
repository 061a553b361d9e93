/**
 * Installs the packed package as a user would, with the commands of the documentation, and runs programs with it on each
 * runtime: `npm run runtimes`, after `npm install --prefix test/runtimes`, which brings the runtimes and package managers.
 * Linux x64 only, as their packages are.
 *
 * `--quick` is the part that CI runs. Without it the results are written to docs/compatibility.md. Names of runtimes, package
 * managers, "bundlers", "next" and "typescript" as arguments restrict the run to these; the other rows stay as they are.
 */
import * as Effect from "effect/Effect"
import { transformSync } from "esbuild"
import { spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { withClient } from "../support/client.js"
import { prepare } from "../support/installation.js"
import { makeServerProcess } from "../support/serverProcess.js"
import { certificates } from "../support/tls.js"
import { bundlerRows } from "./bundlers.js"
import { installCommands, readmeProgram, root } from "./documented.js"
import { nextRows } from "./next.js"
import { type Result, withServer } from "./server.js"
import { type Row, type Table, writeTable } from "./table.js"
import { typescriptRows } from "./typescript.js"

const quick = process.argv.includes("--quick")
const names = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const isSelected = (name: string): boolean => names.length === 0 || names.includes(name)
const packages = Path.join(root, "test", "runtimes", "node_modules")
const work = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-runtimes-"))

/** A program that runs JavaScript. */
interface Runtime {
  readonly name: string
  readonly command: ReadonlyArray<string>
  /** The directory that is put first on the PATH, so that package managers run with it. */
  readonly bin: string
  readonly version: string
}

const versionOf = (command: ReadonlyArray<string>): string => {
  const { stdout } = spawnSync(command[0], ["--version"], { encoding: "utf8" })
  return /\d+\.\d+\.\d+/.exec(stdout)?.[0] ?? "unknown"
}

const runtime = (name: string, file: string, args: ReadonlyArray<string> = []): Runtime => {
  const bin = Path.join(work, `bin-${name.toLowerCase().replaceAll(" ", "-")}`)
  Fs.mkdirSync(bin)
  Fs.symlinkSync(file, Path.join(bin, Path.basename(file)))
  return { name, command: [file, ...args], bin, version: versionOf([file]) }
}

const machine = runtime(`Node ${Number.parseInt(process.versions.node)}`, process.execPath)
const node24 = runtime("Node 24", Path.join(packages, "node-24", "bin", "node"))
const node26 = runtime("Node 26", Path.join(packages, "node-26", "bin", "node"))
const bun = runtime("Bun", Path.join(packages, "@oven", "bun-linux-x64", "bin", "bun"))
const deno = runtime("Deno", Path.join(packages, "@deno", "linux-x64-glibc", "deno"), ["run", "--quiet", "-A"])
const runtimes = quick
  ? [node24, node26, bun, deno]
  : [machine, runtime("Node 22", Path.join(packages, "node-22", "bin", "node")), node24, node26, bun, deno]

const environment = (more: NodeJS.ProcessEnv = {}, bin?: string): NodeJS.ProcessEnv => {
  const env: NodeJS.ProcessEnv = { ...process.env, NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", ...more }
  for (const name of Object.keys(env)) {
    // npm tells the scripts that it runs its own settings, which are not those of a user's shell.
    if (
      /^(?:npm_(?!config_(?:registry|cache|userconfig)$)|DATABASE_|PG|NODE_OPTIONS$|CI$)/i.test(name) &&
      more[name] === undefined
    ) {
      delete env[name]
    }
  }
  return bin === undefined ? env : { ...env, PATH: `${bin}:${process.env.PATH}` }
}

const execute = (
  [file, ...args]: ReadonlyArray<string>,
  options: { readonly cwd: string; readonly env?: NodeJS.ProcessEnv; readonly timeout?: number }
): Promise<Result> =>
  new Promise((resolve) => {
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? environment(),
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    child.stdout.on("data", (chunk) => output += chunk)
    child.stderr.on("data", (chunk) => output += chunk)
    const timer = setTimeout(() => child.kill("SIGKILL"), options.timeout ?? 300_000)
    child.once("error", (error) => resolve({ status: null, output: String(error) }))
    child.once("close", (status) => {
      clearTimeout(timer)
      resolve({ status, output })
    })
  })

const failures: Array<string> = []

/** Prints a result, and what a failed one has printed. */
const report = (what: string, passed: boolean, output: string): boolean => {
  console.log(`${passed ? "passed" : "failed"}: ${what}`)
  if (!passed) {
    failures.push(what)
    // Addresses of registries are left out.
    console.log(output.replaceAll(/https?:\/\/(?!127\.0\.0\.1|localhost)[^\s/]+/g, "(address)").slice(-4_000))
  }
  return passed
}

/** The package, as it would be published. */
const tarball = (): string => {
  const { status, stderr, stdout } = spawnSync("npm", [
    "pack",
    "--silent",
    "--ignore-scripts",
    "--pack-destination",
    work
  ], {
    cwd: root,
    encoding: "utf8"
  })
  if (status !== 0) {
    throw new Error(`the package cannot be packed: ${stderr}`)
  }
  return Path.join(work, stdout.trim())
}

/** A package manager, with the runtime that it runs on. */
interface Manager {
  readonly name: string
  readonly runtime: Runtime
  /** The command that adds packages. */
  readonly add: (packages: ReadonlyArray<string>) => ReadonlyArray<string>
  /** Files that the project needs before. */
  readonly files?: Readonly<Record<string, string>>
  /** How a program of the project is run. */
  readonly run?: (file: string) => ReadonlyArray<string>
}

const npmOf = (name: string, runtime: Runtime, cli: string): Manager => ({
  name,
  runtime,
  add: (
    packages
  ) => [
    runtime.command[0],
    Path.join(cli, "bin", "npm-cli.js"),
    "install",
    "--no-audit",
    "--no-fund",
    "--prefer-offline",
    ...packages
  ]
})

const npm12 = npmOf("npm 12", node26, Path.join(packages, "npm-12"))
const pnpm: Manager = {
  name: "pnpm 12",
  runtime: node24,
  add: (
    specifiers
  ) => [node24.command[0], Path.join(packages, "pnpm", "bin", "pnpm.mjs"), "add", "--prefer-offline", ...specifiers]
}

const yarnOf = (name: string, linker: string, run?: Manager["run"]): Manager => {
  const yarn = [node24.command[0], Path.join(packages, "@yarnpkg", "cli-dist", "bin", "yarn.js")]
  return {
    name,
    runtime: node24,
    add: (specifiers) => [...yarn, "add", ...specifiers],
    files: { "yarn.lock": "", ".yarnrc.yml": `nodeLinker: ${linker}\nenableTelemetry: false\n` },
    ...(run === undefined ? {} : { run: (file) => [...yarn, "node", file] })
  }
}

const managers: ReadonlyArray<Manager> = quick ? [npm12, pnpm] : [
  npmOf("npm 11", machine, Path.join(packages, "npm-11")),
  npm12,
  pnpm,
  yarnOf("Yarn 4, node_modules", "node-modules"),
  yarnOf("Yarn 4, Plug'n'Play", "pnp", (file) => [file]),
  { name: "bun add", runtime: bun, add: (specifiers) => [bun.command[0], "add", ...specifiers] }
]

/** A project in which the documented commands were run, one after the other. */
interface Project {
  readonly manager: Manager
  readonly directory: string
  readonly installed: boolean
}

const program = (source: string, loader: "ts" | "js" = "ts"): string =>
  transformSync(source, { loader, format: "esm", target: "es2022" }).code

/** Writes the programs into a project, as JavaScript. */
const writePrograms = (directory: string): void => {
  Fs.writeFileSync(Path.join(directory, "readme.mjs"), program(readmeProgram()))
  Fs.writeFileSync(
    Path.join(directory, "program.mjs"),
    program(Fs.readFileSync(Path.join(root, "test", "runtimes", "program.ts"), "utf8"))
  )
  const ledger = Path.join(root, "docs", "examples", "ledger")
  Fs.mkdirSync(Path.join(directory, "ledger"), { recursive: true })
  for (const file of Fs.readdirSync(ledger)) {
    Fs.writeFileSync(
      Path.join(directory, "ledger", file.replace(/\.ts$/, ".js")),
      program(Fs.readFileSync(Path.join(ledger, file), "utf8"))
    )
  }
}

/**
 * The packages whose install scripts are optional: they come with Effect and work without. pnpm reports skipped scripts as
 * an error, behind the installation.
 */
const optionalScripts = /^(?:\s|,|msgpackr-extract@[\d.]+|@parcel\/watcher@[\d.]+)*$/

const isInstalled = ({ output, status }: Result): boolean => {
  const [, skipped] = /ERR_PNPM_IGNORED_BUILDS[\s\S]*Ignored build scripts:(.*)/.exec(output) ?? []
  return status === 0 || (skipped !== undefined && optionalScripts.test(skipped))
}

const isMachineNode20 = ({ runtime }: Manager): boolean => runtime === machine && machine.name === "Node 20"

const install = async (manager: Manager, packed: string): Promise<Project> => {
  const directory = Path.join(work, manager.name.replace(/\W+/g, "-"))
  Fs.mkdirSync(directory)
  Fs.writeFileSync(Path.join(directory, "package.json"), JSON.stringify({ name: "app", private: true, type: "module" }))
  for (const [file, content] of Object.entries(manager.files ?? {})) {
    Fs.writeFileSync(Path.join(directory, file), content)
  }
  let installed = true
  for (const { file, packages } of installCommands()) {
    const specifiers = packages.map((specifier) =>
      specifier === "sqlayer"
        ? manager.name.startsWith("Yarn") ? `sqlayer@file:${packed}` : packed
        : specifier.startsWith("better-sqlite3@") && isMachineNode20(manager)
        // As the README says.
        ? "better-sqlite3@12"
        : specifier
    )
    const result = await execute(manager.add(specifiers), {
      cwd: directory,
      env: environment({}, manager.runtime.bin),
      // Where version 12 of better-sqlite3 is compiled, a busy machine takes long.
      timeout: 1_800_000
    })
    installed = report(`${manager.name}: the command of ${file}`, isInstalled(result), result.output) && installed
  }
  writePrograms(directory)
  return { manager, directory, installed }
}

type Database = "SQLite" | "PostgreSQL"

const { installation, remove } = await prepare()
const { server: ssl } = await Effect.runPromise(certificates())
const serverProcess = await makeServerProcess(installation, { ssl })

const databaseUrl = async (database: Database): Promise<string> => {
  const name = `run_${randomBytes(6).toString("hex")}`
  if (database === "SQLite") {
    return `sqlite:///${Path.join(work, `${name}.db`)}`
  }
  await withClient({ connectionString: serverProcess.url }, (client) => client.query(`CREATE DATABASE ${name}`))
  const url = new URL(serverProcess.url)
  url.pathname = `/${name}`
  return url.toString()
}

const readmeOutput = "welcome, ada@example.com\nada@example.com is a member already\nhealthy: true\n"

const commandOf = ({ manager }: Project, runtime: Runtime, file: string): ReadonlyArray<string> =>
  manager.run !== undefined ? manager.run(file) : [...runtime.command, file]

const runReadme = async (project: Project, runtime: Runtime, database: Database): Promise<Result> => {
  const { output, status } = await execute(commandOf(project, runtime, "readme.mjs"), {
    cwd: project.directory,
    env: environment({ DATABASE_URL: await databaseUrl(database) }, runtime.bin),
    timeout: 120_000
  })
  return { status: output.includes(readmeOutput) ? status : 1, output }
}

const runProgram = async (project: Project, runtime: Runtime, database: Database): Promise<Result> =>
  execute(commandOf(project, runtime, "program.mjs"), {
    cwd: project.directory,
    env: environment({ DATABASE_URL: await databaseUrl(database), APP_ENV: "development" }, runtime.bin),
    timeout: 240_000
  })

/** Starts the ledger, runs the requests that it prints, reads the result, and stops it. */
const runLedger = async (project: Project, runtime: Runtime, database: Database): Promise<Result> => {
  const env = environment(
    { DATABASE_URL: await databaseUrl(database), APP_ENV: "development", HOST: "127.0.0.1", PORT: "0" },
    runtime.bin
  )
  return withServer(
    commandOf(project, runtime, "ledger/main.js"),
    { cwd: project.directory, env, ready: "/transfers" },
    async ({ printed, stop }) => {
      const statuses: Array<number> = []
      for (const [, url, body] of printed().matchAll(/curl (\S+) -H '\S+ \S+' -d '(\S+)'/g)) {
        const headers = { "content-type": "application/json" }
        statuses.push((await fetch(url, { method: "POST", headers, body })).status)
      }
      const [, address] = /listens on (http:\S+\d)/.exec(printed()) ?? []
      const accounts = await (await fetch(`${address}/accounts`)).text()
      const stopped = await stop()
      const passed = statuses.join() === "201,201,201" && accounts.includes("7500") && accounts.includes("2500") &&
        stopped
      return { passed, seen: `${statuses.join()} ${accounts}` }
    }
  )
}

const databases: ReadonlyArray<Database> = ["SQLite", "PostgreSQL"]

const programs = {
  "README's program": runReadme,
  "example application": runLedger,
  "checks": runProgram
}

/** One cell of a table: what passed, of both databases. */
const onBoth = async (
  what: string,
  run: (database: Database) => Promise<Result>
): Promise<string> => {
  const passed: Array<Database> = []
  for (const database of databases) {
    const { output, status } = await run(database)
    if (report(`${what}, ${database}`, status === 0, output)) {
      passed.push(database)
    }
  }
  return passed.length === databases.length ? "yes" : passed.length === 0 ? "no" : `${passed.join()} only`
}

/** Writes a table of a full run, as soon as it is complete. */
const write = (table: Table): void => {
  if (!quick) {
    writeTable(table)
  }
}

try {
  const packed = tarball()
  const projects: Array<Project> = []
  const isNode20Selected = isSelected(machine.name)
  for (
    const manager of managers.filter((manager) =>
      isSelected(manager.name) || manager === npm12 || (isNode20Selected && manager.runtime === machine)
    )
  ) {
    projects.push(await install(manager, packed))
  }

  const runtimeRows: Array<Row> = []
  for (const runtime of runtimes.filter(({ name }) => isSelected(name))) {
    const project = projects.find(({ manager }) => manager.runtime === runtime && manager.name.startsWith("npm")) ??
      projects.find(({ manager }) => manager === npm12)!
    const cells: Array<string> = []
    for (const [name, run] of Object.entries(programs)) {
      cells.push(await onBoth(`${runtime.name}: ${name}`, (database) => run(project, runtime, database)))
    }
    runtimeRows.push([`${runtime.name} (${runtime.version})`, ...cells])
  }
  write({ marker: "runtimes", head: ["runtime", ...Object.keys(programs)], rows: runtimeRows })

  const managerRows: Array<Row> = []
  for (const project of projects.filter(({ manager }) => isSelected(manager.name))) {
    const { installed, manager } = project
    const readme = await onBoth(
      `${manager.name}: README's program`,
      (database) => runReadme(project, manager.runtime, database)
    )
    managerRows.push([manager.name, manager.runtime.name, installed ? "yes" : "no", readme])
  }
  write({
    marker: "managers",
    head: ["package manager", "on", "all install commands", "README's program"],
    rows: managerRows
  })

  if (!quick && isSelected("bundlers")) {
    write({ marker: "bundlers", head: ["bundler", "both databases"], rows: bundlerRows(report) })
  }
  if (!quick && isSelected("next")) {
    const { directory, manager } = projects.find(({ manager }) => manager === npm12)!
    const { output, status } = await execute(manager.add(["next", "react", "react-dom"]), {
      cwd: directory,
      env: environment({}, manager.runtime.bin)
    })
    if (report("npm 12: Next.js", status === 0, output)) {
      const rows = await nextRows({
        directory,
        standalone: Path.join(work, "standalone"),
        node: manager.runtime.command[0],
        environment: (more) => environment(more, manager.runtime.bin),
        databaseUrl,
        onBoth
      })
      write({ marker: "bundlers", head: ["bundler", "both databases"], rows })
    }
  }
  if (!quick && isSelected("typescript")) {
    write({
      marker: "typescript",
      head: ["TypeScript", "all packages", "without PostgreSQL's", "without SQLite's"],
      rows: typescriptRows(packed, work, report)
    })
  }
} finally {
  await serverProcess.dispose()
  await remove()
  Fs.rmSync(work, { recursive: true, force: true })
}

if (failures.length > 0) {
  console.error(`${failures.length} failed:\n${failures.join("\n")}`)
  process.exitCode = 1
}
