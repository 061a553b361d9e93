/**
 * Bundles an application with each bundler, as its users configure it.
 */
import commonjs from "@rollup/plugin-commonjs"
import json from "@rollup/plugin-json"
import { nodeResolve } from "@rollup/plugin-node-resolve"
import * as Esbuild from "esbuild"
import * as Rollup from "rollup"
import * as Vite from "vite"
import webpack from "webpack"

/** What to bundle: the modules by the names of their files. */
export interface Input {
  readonly root: string
  readonly entries: Readonly<Record<string, string>>
  /** The folder of the files to write. */
  readonly out: string
}

export interface Bundler {
  readonly name: string
  /** The extension of the files that it writes. */
  readonly extension: string
  readonly bundle: (input: Input) => Promise<unknown>
}

/** It finds its binary by its own path. */
const external = ["better-sqlite3"]

const esbuild = (format: "esm" | "cjs"): Bundler => {
  const extension = format === "esm" ? ".mjs" : ".cjs"
  return {
    name: `esbuild (${format})`,
    extension,
    bundle: ({ entries, out, root }) =>
      Esbuild.build({
        absWorkingDir: root,
        entryPoints: entries,
        outdir: out,
        outExtension: { ".js": extension },
        bundle: true,
        platform: "node",
        format,
        external,
        logLevel: "error",
        // Packages in CommonJS, such as pg, call `require`.
        banner: format === "esm"
          ? { js: `import { createRequire } from "node:module"; const require = createRequire(import.meta.url);` }
          : {}
      })
  }
}

const webpackBundler: Bundler = {
  name: "webpack",
  extension: ".cjs",
  bundle: ({ entries, out, root }) =>
    new Promise<void>((resolve, reject) =>
      webpack({
        context: root,
        mode: "production",
        target: "node20",
        entry: entries,
        output: { path: out, filename: "[name].cjs" },
        externals: Object.fromEntries(external.map((name) => [name, `commonjs ${name}`])),
        optimization: { minimize: false }
      }, (error, stats) =>
        error === null && stats?.hasErrors() === false
          ? resolve()
          : reject(error ?? new Error(stats?.toString("errors-only"))))
    )
}

/** Makes a plugin. Its declarations are those of a CommonJS module, which it is not. */
const plugin = (make: unknown): Rollup.Plugin => (make as () => Rollup.Plugin)()

const rollup: Bundler = {
  name: "rollup",
  extension: ".mjs",
  bundle: async ({ entries, out, root }) => {
    const bundle = await Rollup.rollup({
      input: entries,
      plugins: [
        nodeResolve({ rootDir: root, exportConditions: ["node"], preferBuiltins: true }),
        plugin(commonjs),
        plugin(json)
      ],
      external: [...external, "pg-native"],
      onwarn: () => {}
    })
    await bundle.write({ dir: out, format: "esm", entryFileNames: "[name].mjs" })
    await bundle.close()
  }
}

const vite: Bundler = {
  name: "vite (ssr)",
  extension: ".mjs",
  bundle: async ({ entries, out, root }) => {
    const { NODE_ENV } = process.env
    // Otherwise Vite puts an error in place of pg-native, as for development.
    process.env.NODE_ENV = "production"
    try {
      await Vite.build({
        root,
        configFile: false,
        logLevel: "error",
        ssr: { noExternal: true, external },
        build: {
          ssr: true,
          outDir: out,
          emptyOutDir: true,
          rollupOptions: { input: entries, output: { entryFileNames: "[name].mjs" } }
        }
      })
    } finally {
      process.env.NODE_ENV = NODE_ENV
    }
  }
}

export const bundlers: ReadonlyArray<Bundler> = [esbuild("esm"), esbuild("cjs"), webpackBundler, rollup, vite]
