/**
 * The package where nothing is installed but what it cannot do without.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))

const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href

interface Manifest {
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean }>>
}

/** A directory with the sources, and with packages beside them, which is removed when the scope closes. */
export const bare: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const { peerDependencies, peerDependenciesMeta }: Manifest = JSON.parse(
      Fs.readFileSync(Path.join(root, "package.json"), "utf8")
    )
    const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-bare-"))
    for (const name of ["package.json", "tsconfig.json", "src"]) {
      Fs.cpSync(Path.join(root, name), Path.join(path, name), { recursive: true })
    }
    for (const name of Object.keys(peerDependencies)) {
      if (!peerDependenciesMeta[name]?.optional) {
        const place = Path.join(path, "node_modules", name)
        Fs.mkdirSync(Path.dirname(place), { recursive: true })
        Fs.symlinkSync(Path.join(root, "node_modules", name), place)
      }
    }
    return path
  }),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** Runs Node.js there. */
export const node = (directory: string, ...args: ReadonlyArray<string>) =>
  Effect.sync(() =>
    spawnSync(process.execPath, ["--import", loader, ...args], {
      cwd: directory,
      env: { PATH: process.env.PATH },
      encoding: "utf8"
    })
  )
