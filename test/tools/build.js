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

const database = Path.join(root, "src/Database.ts")
/** Entry points that are also of use without a database: they load little. */
const separate = new Set(
  ["DatabaseError.ts", "DatabaseTypes.ts", "worker.ts", "internal/cli/main.ts"].map((name) => Path.join(root, "src", name))
)

/**
 * Puts the modules of `Database` into one file, but for the few that entry points of `separate` reach too. esbuild puts
 * modules into the same file if the same entry points reach them, so every other entry point, and every module that is
 * imported dynamically, is loaded by a module that imports `Database` first. Nearly all of them need most of it anyway.
 *
 * @type {Esbuild.Plugin}
 */
const joinDatabase = {
  name: "join-database",
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /[.][jt]s$/ }, ({ kind, namespace, path, resolveDir }) => {
      const module = Path.resolve(resolveDir, path).replace(/js$/, "ts")
      const onDemand = kind === "dynamic-import" && path.startsWith(".")
      if (onDemand || (kind === "entry-point" && !separate.has(module))) {
        return { path: module, namespace: "joined" }
      }
      // An import without names is left out if the module has no side effects.
      return namespace === "joined" ? { path: module, sideEffects: true } : undefined
    })
    onLoad({ filter: /.*/, namespace: "joined" }, ({ path }) => ({
      contents: `import ${JSON.stringify(database)}; export * from ${JSON.stringify(path)}`,
      resolveDir: root
    }))
  }
}

await build([...modules, "internal/cli/main.ts"], {
  bundle: true,
  splitting: true,
  packages: "external",
  plugins: [joinDatabase],
  chunkNames: "internal/[name]-[hash]"
})
// Joined with the others, its namespaces would be objects, of which bundlers cannot leave out what is not used.
await build([barrel], { bundle: false })
