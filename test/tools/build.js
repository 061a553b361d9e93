/**
 * Builds the package: `node test/tools/build.js [directory]`, by default into `dist`. The declarations are a file a module;
 * the code is joined into few files, because Node.js takes longer to find and read many small ones. What is loaded on demand
 * stays in files of its own.
 */
import * as Esbuild from "esbuild"
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
const outdir = Path.resolve(process.argv[2] ?? Path.join(root, "dist"))

Fs.rmSync(outdir, { recursive: true, force: true })
const compiler = Path.join(root, "node_modules/typescript/bin/tsc")
execFileSync(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", outdir], { cwd: root, stdio: "inherit" })

const barrel = "index.ts"
const modules = Fs.readdirSync(Path.join(root, "src")).filter((name) => name.endsWith(".ts") && name !== barrel)

/** @type {(names: ReadonlyArray<string>, options: Esbuild.BuildOptions) => Promise<unknown>} */
const build = (names, options) =>
  Esbuild.build({
    absWorkingDir: root,
    entryPoints: names.map((name) => Path.join("src", name)),
    format: "esm",
    platform: "node",
    target: "node20",
    outbase: "src",
    outdir,
    logLevel: "warning",
    ...options
  })

await build([...modules, "internal/cli/main.ts"], {
  bundle: true,
  splitting: true,
  packages: "external",
  chunkNames: "internal/[name]-[hash]"
})
// Joined with the others, its namespaces would be objects, of which bundlers cannot leave out what is not used.
await build([barrel], { bundle: false })
