/**
 * Whatever a process was started with, a SQLite file opens, and no preload runs in its thread.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Esbuild from "esbuild"
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { threadOptions, withoutProcessFlags } from "../../../src/internal/sqlite/threadOptions.js"
import { binding, directory } from "./support.js"

const root = fileURLToPath(new URL("../../..", import.meta.url))

const optionsOf = (
  { execArgv = [], loadsTypeScript = false, nodeOptions, versions = {} }: {
    readonly execArgv?: Array<string>
    readonly nodeOptions?: string
    readonly versions?: NodeJS.Dict<string>
    readonly loadsTypeScript?: boolean
  }
) =>
  threadOptions(
    { execArgv, versions, env: nodeOptions === undefined ? {} : { NODE_OPTIONS: nodeOptions } },
    loadsTypeScript
  )

describe("the options of a thread", () => {
  it("are those of its process without preloads, if it has any", () => {
    const kept = ["--permission", "--allow-worker", "--allow-fs-read=*", "-C", "development", "-e", "code"]
    assert.deepStrictEqual(optionsOf({}), {})
    assert.deepStrictEqual(optionsOf({ execArgv: kept, nodeOptions: "--no-warnings" }), {})
    for (
      const preload of [
        ["--import", "./telemetry.mjs"],
        ["--import=./telemetry.mjs"],
        ["--require", "./telemetry.cjs"],
        ["--require=./telemetry.cjs"],
        ["-r", "./telemetry.cjs"],
        ["--loader", "./hooks.mjs"],
        ["--experimental-loader=./hooks.mjs"],
        ["--input-type=module"],
        ["--input-type", "commonjs"],
        ["--import", "tsx"],
        ["--require", "/app/node_modules/tsx/dist/preflight.cjs", "--import", "file:///tsx/dist/loader.mjs"],
        ["--import"]
      ]
    ) {
      const expected = { execArgv: kept, env: { NODE_OPTIONS: "" } }
      assert.deepStrictEqual(optionsOf({ execArgv: [...kept, ...preload] }), expected, preload[0])
      if (preload.length === 2) {
        assert.deepStrictEqual(optionsOf({ execArgv: [...preload, ...kept] }), expected, preload[0])
        assert.deepStrictEqual(optionsOf({ execArgv: kept, nodeOptions: preload.join(" ") }), expected, preload[0])
      }
    }
  })

  it("take apart NODE_OPTIONS as Node does", () => {
    assert.deepStrictEqual(
      optionsOf({
        execArgv: ["--no-addons"],
        nodeOptions: String.raw` --require "./a b/\"c\".cjs"  --conditions="x y" --import=./a.mjs --title=a`
      }),
      { execArgv: ["--conditions=x y", "--title=a", "--no-addons"], env: { NODE_OPTIONS: "" } }
    )
  })

  it("keep what packages cannot be found without, and loaders where the thread loads TypeScript", () => {
    const pnp = ["--require", "/app/.pnp.cjs", "--experimental-loader", "file:///app/.pnp.loader.mjs"]
    assert.deepStrictEqual(optionsOf({ execArgv: pnp }), {})
    assert.deepStrictEqual(optionsOf({ nodeOptions: pnp.join(" "), execArgv: ["-r", "./a.cjs"] }), {
      execArgv: pnp,
      env: { NODE_OPTIONS: "" }
    })
    for (
      const loader of [
        "tsx",
        "tsx/esm",
        "file:///app/node_modules/tsx/dist/loader.mjs",
        "ts-node/esm",
        "@swc-node/register"
      ]
    ) {
      assert.deepStrictEqual(optionsOf({ execArgv: ["--import", loader], loadsTypeScript: true }), {}, loader)
      assert.deepStrictEqual(optionsOf({ execArgv: ["--import", loader] }).execArgv, [], loader)
    }
    const telemetry = optionsOf({ execArgv: ["--import", "./tsxtra.mjs", "--import=tsx"], loadsTypeScript: true })
    assert.deepStrictEqual(telemetry.execArgv, ["--import=tsx"])
  })

  it("are those of the process on runtimes with other flags", () => {
    const execArgv = ["--import", "./telemetry.mjs"]
    assert.deepStrictEqual(optionsOf({ execArgv, versions: { bun: "1.3.0" } }), {})
    assert.deepStrictEqual(optionsOf({ execArgv, versions: { deno: "2.5.0" } }), {})
  })

  it("lose the flags of the process that an error names", () => {
    const error = (text: string) => Object.assign(new Error(text), { code: "ERR_WORKER_INVALID_EXEC_ARGV" })
    const options = { execArgv: ["--title=a", "--no-addons", "--expose-gc"], env: {} }
    assert.deepStrictEqual(
      withoutProcessFlags(options, error("Initiated Worker with invalid execArgv flags: --title=a, --expose-gc")),
      { execArgv: ["--no-addons"], env: {} }
    )
    assert.isUndefined(withoutProcessFlags(options, error("Initiated Worker with invalid execArgv flags: --other")))
    assert.isUndefined(withoutProcessFlags(options, new Error("no memory")))
    assert.isUndefined(withoutProcessFlags({}, error("Initiated Worker with invalid execArgv flags: --other")))
  })
})

const program = `
import * as Effect from "effect/Effect"
import * as Database from "./src/Database.js"

export const run = (filename) =>
  Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const { session, sql } = yield* Database.make({ environment: "test", url: "sqlite:///" + filename, connectTimeout: 60_000 })
    yield* sql\`CREATE TABLE t (a)\`
    yield* session(sql\`INSERT INTO t VALUES (7)\`)
    const rows = yield* session(sql\`SELECT a FROM t\`, { readOnly: true })
    console.log("read", JSON.stringify(rows))
  })))
`

/** A bundle of sqlayer and its worker, and preloads that record the threads which run them. */
const application: Effect.Effect<string, never, Scope.Scope> = Effect.tap(
  directory,
  (folder) =>
    Effect.promise(async () => {
      const build = (entry: Esbuild.BuildOptions, name: string) =>
        Esbuild.build({
          ...entry,
          absWorkingDir: root,
          bundle: true,
          format: "esm",
          platform: "node",
          outfile: Path.join(folder, name),
          external: ["better-sqlite3", "pg"],
          logLevel: "error"
        })
      await build({ stdin: { contents: program, resolveDir: root, loader: "ts" } }, "app.mjs")
      await build({ entryPoints: ["src/worker.ts"] }, "sqlayer-worker.js")
      const write = (name: string, text: string) => Fs.writeFileSync(Path.join(folder, name), text)
      Fs.mkdirSync(Path.join(folder, "node_modules"))
      for (const name of binding === "node:sqlite" ? [] : ["better-sqlite3", "bindings", "file-uri-to-path"]) {
        const installed = Path.join(root, "node_modules", name)
        if (Fs.existsSync(installed)) {
          Fs.symlinkSync(Fs.realpathSync(installed), Path.join(folder, "node_modules", name))
        }
      }
      const recorded = `appendFileSync(${JSON.stringify(Path.join(folder, "preloads"))}, threadId + "\\n")`
      write("package.json", `{ "type": "module" }`)
      write(
        "telemetry.mjs",
        `import { appendFileSync } from "node:fs"; import { threadId } from "node:worker_threads"; ${recorded}`
      )
      write(
        "tele metry.cjs",
        `const { appendFileSync } = require("node:fs"); const { threadId } = require("node:worker_threads"); ${recorded}`
      )
      write("main.mjs", `import { run } from "./app.mjs"; await run(process.env.FILENAME)`)
      write(
        "main.test.mjs",
        `import { test } from "node:test"; import { run } from "./app.mjs"
      test("opens", () => run(process.env.FILENAME))`
      )
      write(
        "worker.mjs",
        `import { Worker } from "node:worker_threads"; new Worker(new URL("./main.mjs", import.meta.url))`
      )
    })
)

interface Start {
  readonly args: ReadonlyArray<string>
  readonly nodeOptions?: string
  readonly input?: string
  /** How many times preloads run. */
  readonly preloads: number
}

const [major, minor] = process.versions.node.split(".").map(Number)
const permission = major > 23 || (major === 23 && minor >= 5) || (major === 22 && minor >= 13)
  ? "--permission"
  : "--experimental-permission"
const permissions = [permission, "--allow-worker", "--allow-addons", "--allow-fs-read=*", "--allow-fs-write=*"]

const starts: Readonly<Record<string, (importing: string) => Start>> = {
  "text of a module": (importing) => ({ args: ["--input-type=module", "-e", importing], preloads: 0 }),
  "text on standard input": (importing) => ({ args: ["--input-type=module", "-"], input: importing, preloads: 0 }),
  "preloads": () => ({
    args: ["--import", "./telemetry.mjs", "--require=./tele metry.cjs", "--no-warnings", "main.mjs"],
    preloads: 2
  }),
  "preloads and the text of a module": (importing) => ({
    args: ["-r", "./tele metry.cjs", "--input-type=module", "--title=app", "--expose-gc", "-e", importing],
    preloads: 1
  }),
  "NODE_OPTIONS": () => ({
    args: ["main.mjs"],
    nodeOptions: `--import=./telemetry.mjs --require "./tele metry.cjs" --max-old-space-size=512`,
    preloads: 2
  }),
  "a loader": () => ({ args: ["--no-warnings", "--experimental-loader", "./telemetry.mjs", "main.mjs"], preloads: 1 }),
  "permissions and a preload": () => ({
    args: [...permissions, "--no-warnings", "--import", "./telemetry.mjs", "main.mjs"],
    preloads: 1
  }),
  "a thread of the application": () => ({
    args: ["--import", "./telemetry.mjs", "worker.mjs"],
    preloads: 2
  }),
  "node --test": () => ({ args: ["--test", "main.test.mjs"], preloads: 0 })
}

describe("a process with", () => {
  it.scopedLive("flags of its own opens a file, and no preload runs twice", () =>
    Effect.gen(function*() {
      const folder = yield* application
      for (const [name, makeStart] of Object.entries(starts)) {
        const filename = Path.join(yield* directory, "test.db")
        const importing = `import { run } from ${JSON.stringify(pathToFileURL(Path.join(folder, "app.mjs")).href)}
          await run(${JSON.stringify(filename)})`
        const { args, input = "", nodeOptions, preloads } = makeStart(importing)
        const recorded = Path.join(folder, "preloads")
        Fs.rmSync(recorded, { force: true })
        const { NODE_OPTIONS: _, NODE_TEST_CONTEXT: __, ...env } = process.env
        const output = yield* Effect.promise(() =>
          new Promise<string>((resolve) => {
            const child = execFile(process.execPath, args, {
              cwd: folder,
              env: { ...env, FILENAME: filename, ...(nodeOptions === undefined ? {} : { NODE_OPTIONS: nodeOptions }) },
              timeout: 60_000
            }, (error, stdout, stderr) => resolve(`${stdout}${stderr}${error?.message ?? ""}`))
            child.stdin!.end(input)
          })
        )
        assert.include(output, `read [{"a":7}]`, name)
        assert.notInclude(output, "main thread", name)
        const threads = Fs.existsSync(recorded) ? Fs.readFileSync(recorded, "utf8").trim().split("\n").sort() : []
        assert.lengthOf(threads, preloads, name)
      }
    }), 240_000)
})
