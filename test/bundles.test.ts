import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Esbuild from "esbuild"
import { execFile, execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, beforeAll, vi } from "vitest"
import { type Bundler, bundlers } from "./support/bundled/bundlers.js"
import { loadedBy } from "./support/loadedBy.js"
import { freshDatabase } from "./support/postgres.js"

// A bundler reads a thousand modules, and other tests run meanwhile.
vi.setConfig({ testTimeout: 280_000, hookTimeout: 280_000 })

const root = fileURLToPath(new URL("..", import.meta.url))

/** What the application needs, without the packages of the metrics route. */
const packages = ["effect", "@effect/sql", "@effect/platform", "@effect/experimental", "pg", "better-sqlite3"]

const link = (folder: string, names: ReadonlyArray<string>) => {
  for (const name of names) {
    const place = Path.join(folder, "node_modules", name)
    Fs.mkdirSync(Path.dirname(place), { recursive: true })
    Fs.symlinkSync(Path.join(root, "node_modules", name), place)
  }
}

const temporary = () => Fs.realpathSync(Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-bundles-")))

/** The folder of the application, with the packages that it has installed. */
let application: string
const main = () => Path.join(application, "main.js")
const installed = () => Path.join(application, "node_modules", "sqlayer")

beforeAll(() => {
  application = temporary()
  link(application, packages)
  Fs.mkdirSync(installed())
  Fs.copyFileSync(Path.join(root, "package.json"), Path.join(installed(), "package.json"))
  execFileSync(process.execPath, [Path.join(root, "test/tools/build.js"), Path.join(installed(), "dist")])
  const source = Fs.readFileSync(Path.join(root, "test/support/bundled/app.ts"), "utf8")
  Fs.writeFileSync(main(), Esbuild.transformSync(source, { loader: "ts", format: "esm" }).code)
  Fs.writeFileSync(Path.join(application, "package.json"), JSON.stringify({ private: true, type: "module" }))
})

afterAll(() => Fs.rmSync(application, { recursive: true, force: true }))

const worker = { "sqlayer-worker": "sqlayer/worker" }

/** Bundles the application into a folder that has nothing installed but what no bundle can hold. Returns the program. */
const bundled = (
  { bundle, extension }: Bundler,
  more: Readonly<Record<string, string>>
): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function*() {
    const folder = yield* Effect.acquireRelease(
      Effect.sync(temporary),
      (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
    )
    link(folder, ["better-sqlite3"])
    const out = Path.join(folder, "out")
    yield* Effect.promise(() => bundle({ root: application, entries: { main: main(), ...more }, out }))
    return Path.join(out, `main${extension}`)
  })

/** Runs the program where sqlayer is not installed, and returns what it prints. */
const run = (program: string, url: string): Effect.Effect<Seen> =>
  Effect.promise(async () => {
    const hidden = `${installed()}-hidden`
    Fs.renameSync(installed(), hidden)
    try {
      const { stderr, stdout } = await promisify(execFile)(process.execPath, [program], {
        env: { PATH: process.env.PATH, DATABASE_URL: url },
        timeout: 120_000
      })
      return { ...JSON.parse(stdout), stderr }
    } finally {
      Fs.renameSync(hidden, installed())
    }
  })

interface Seen {
  readonly healthy: boolean
  readonly names: ReadonlyArray<string>
  readonly failure: string
  readonly script: boolean
  readonly metrics: string
  readonly threads: number
  readonly warnings: ReadonlyArray<string>
  readonly stderr: string
}

const seen: Seen = {
  healthy: true,
  names: ["one", "two"],
  failure: "UniqueViolation",
  script: true,
  metrics: "ExporterMissing",
  threads: 0,
  warnings: [],
  stderr: ""
}

const fileOf = (program: string) => `sqlite:///${Path.join(Path.dirname(program), "app.db")}`

describe("an application in a bundle", () => {
  it.scopedLive.each(bundlers)("of $name runs on both databases", (bundler) =>
    Effect.gen(function*() {
      const program = yield* bundled(bundler, worker)
      assert.deepStrictEqual(yield* run(program, yield* freshDatabase), seen)
      assert.deepStrictEqual(yield* run(program, fileOf(program)), { ...seen, threads: 1 })
    }))

  it.scopedLive("without the worker runs on the main thread, and warns once", () =>
    Effect.gen(function*() {
      const program = yield* bundled(bundlers.find(({ name }) => name === "esbuild (cjs)")!, {})
      const found = yield* run(program, fileOf(program))
      const { warnings: [warning, ...others] } = found
      assert.deepStrictEqual(found, { ...seen, warnings: [warning] })
      assert.deepStrictEqual(others, [])
      assert.match(warning, /main thread.*add sqlayer\/worker to the bundle as sqlayer-worker/)
    }))

  it.scopedLive("starts the worker of the installed package where its bundle has none", () =>
    Effect.gen(function*() {
      const program = yield* bundled(bundlers.find(({ name }) => name === "esbuild (esm)")!, {})
      Fs.symlinkSync(installed(), Path.join(Path.dirname(program), "..", "node_modules", "sqlayer"))
      const output = yield* Effect.promise(() =>
        promisify(execFile)(process.execPath, [program], {
          env: { PATH: process.env.PATH, DATABASE_URL: fileOf(program) }
        })
      )
      assert.deepStrictEqual({ ...JSON.parse(output.stdout), stderr: output.stderr }, { ...seen, threads: 1 })
    }))
})

describe("the files of the package", () => {
  // Node.js spends about as much time on finding them as on what is in them.
  it.each([
    ["Database", 5, 400_000],
    ["DatabaseError", 3, 30_000],
    ["DatabaseTypes", 2, 30_000],
    ["Postgres", 7, 400_000],
    ["Session", 5, 400_000],
    ["TestDatabase", 7, 450_000],
    ["worker", 4, 100_000]
  ])("that %s loads are at most %i, with less than %i bytes", async (name, number, size) => {
    const files = (await loadedBy(installed(), `dist/${name}.js`)).filter((file) => file.startsWith("dist/"))
    assert.isAtMost(files.length, number)
    const sizes = files.map((file) => Fs.statSync(Path.join(installed(), file)).size)
    assert.isBelow(sizes.reduce((sum, size) => sum + size, 0), size)
  })
})
