/**
 * Builds an application with each of Next.js's bundlers and as a standalone server, and sends it requests.
 */
import { transformSync } from "esbuild"
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { freePort } from "../support/serverProcess.js"
import { nextConfiguration, root } from "./documented.js"
import { type Result, withServer } from "./server.js"
import type { Row } from "./table.js"

interface Options<Database> {
  /** A project in which the documented commands were run, and one that installs Next.js. */
  readonly directory: string
  /** Where the standalone server is copied to: there it finds no packages but its own. */
  readonly standalone: string
  readonly node: string
  readonly environment: (more: NodeJS.ProcessEnv) => NodeJS.ProcessEnv
  readonly databaseUrl: (database: Database) => Promise<string>
  /** Runs something on both databases, and returns a cell of the table. */
  readonly onBoth: (what: string, run: (database: Database) => Promise<Result>) => Promise<string>
}

interface Variant {
  readonly name: string
  readonly configuration: string
  readonly build: ReadonlyArray<string>
  readonly isStandalone: boolean
}

const variants = (): ReadonlyArray<Variant> => [
  { name: "Next.js, Turbopack", configuration: "export default {}\n", build: ["--turbopack"], isStandalone: false },
  { name: "Next.js, webpack", configuration: "export default {}\n", build: ["--webpack"], isStandalone: false },
  { name: "Next.js, standalone", configuration: nextConfiguration(), build: [], isStandalone: true }
]

const layout = "export default ({ children }) => <html><body>{children}</body></html>\n"

const writeApplication = (directory: string): void => {
  const route = Path.join(directory, "app", "items")
  Fs.mkdirSync(route, { recursive: true })
  Fs.writeFileSync(Path.join(directory, "app", "layout.js"), layout)
  const source = Fs.readFileSync(Path.join(root, "test", "runtimes", "nextRoute.ts"), "utf8")
  Fs.writeFileSync(Path.join(route, "route.js"), transformSync(source, { loader: "ts" }).code)
}

/** What the route answers. A file of SQLite has a worker thread. */
const answer = (url: string): string =>
  JSON.stringify({
    healthy: true,
    names: ["one", "two"],
    failure: "UniqueViolation",
    threads: url.startsWith("sqlite") ? 1 : 0
  })

/** Starts a server, sends it two requests, and ends it. */
const request = (command: ReadonlyArray<string>, cwd: string, env: NodeJS.ProcessEnv): Promise<Result> =>
  withServer(command, { cwd, env, ready: "Ready in" }, async () => {
    const get = async () => (await fetch(`http://127.0.0.1:${env.PORT}/items`)).text()
    const answers = [await get(), await get()]
    return { passed: answers.every((text) => text === answer(env.DATABASE_URL!)), seen: answers.join("\n") }
  })

export const nextRows = async <Database>(
  { databaseUrl, directory, environment, node, onBoth, standalone }: Options<Database>
): Promise<ReadonlyArray<Row>> => {
  writeApplication(directory)
  const installed = Path.join(directory, "node_modules", "next")
  const next = [node, Path.join(installed, "dist", "bin", "next")]
  const { version } = JSON.parse(Fs.readFileSync(Path.join(installed, "package.json"), "utf8"))
  const rows: Array<Row> = []
  for (const { build, configuration, isStandalone, name } of variants()) {
    Fs.writeFileSync(Path.join(directory, "next.config.mjs"), configuration)
    Fs.rmSync(Path.join(directory, ".next"), { recursive: true, force: true })
    const [file, ...args] = [...next, "build", ...build]
    const { status, stderr, stdout } = spawnSync(file, args, {
      cwd: directory,
      env: environment({ NODE_ENV: "production", NEXT_TELEMETRY_DISABLED: "1" }),
      encoding: "utf8"
    })
    if (isStandalone && status === 0) {
      Fs.cpSync(Path.join(directory, ".next", "standalone"), standalone, { recursive: true })
    }
    const serve = async (database: Database): Promise<Result> => {
      if (status !== 0) {
        return { status, output: `${stdout}${stderr}` }
      }
      const port = String(await freePort())
      const env = environment({
        NODE_ENV: "production",
        NEXT_TELEMETRY_DISABLED: "1",
        HOSTNAME: "127.0.0.1",
        PORT: port,
        DATABASE_URL: await databaseUrl(database)
      })
      return isStandalone
        ? request([node, "server.js"], standalone, env)
        : request([...next, "start", "-H", "127.0.0.1", "-p", port], directory, env)
    }
    rows.push([`${name} (${version})`, await onBoth(name, serve)])
  }
  return rows
}
