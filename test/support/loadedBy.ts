import * as Esbuild from "esbuild"

/** The modules that an import of `entry` loads: all but those that are imported dynamically. Paths are relative to `folder`. */
export const loadedBy = async (folder: string, entry: string): Promise<ReadonlyArray<string>> => {
  const { metafile } = await Esbuild.build({
    absWorkingDir: folder,
    entryPoints: [entry],
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    // Node loads whatever is imported, also where a bundler sees that nothing of it is used.
    ignoreAnnotations: true,
    treeShaking: false,
    outdir: "build",
    write: false,
    metafile: true,
    external: ["pg-native"],
    logLevel: "error"
  })
  const loaded = new Set<string>()
  const load = (module: string) => {
    if (!loaded.has(module)) {
      loaded.add(module)
      for (const { external, kind, path } of metafile.inputs[module].imports) {
        if (external !== true && kind !== "dynamic-import") {
          load(path)
        }
      }
    }
  }
  load(entry)
  return Array.from(loaded)
}
