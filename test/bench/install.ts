/**
 * Installs and compiles what the peers need.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Kind } from "./peers.js"
import { folder, root } from "./remote.js"

const run = (directory: string, command: string, args: ReadonlyArray<string>, environment = {}): void => {
  const { error, output, status } = spawnSync(command, args, {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, ...environment }
  })
  if (status !== 0) {
    const details = error?.message ?? output.join("").replaceAll(/https?:\/\/\S*/g, "(address)")
    throw new Error(`${command} ${args.join(" ")}:\n${details}`)
  }
}

const modifiedAt = (file: string): number =>
  fs.statSync(path.join(folder, file), { throwIfNoEntry: false })?.mtimeMs ?? 0

/** Compiles the peers; before that, installs this folder's package.json if one of these peers needs it. */
export const install = (kinds: ReadonlyArray<Kind>): void => {
  if (kinds.some(({ installed }) => installed)) {
    if (modifiedAt("node_modules/.package-lock.json") < modifiedAt("package-lock.json")) {
      console.log("Installing the peers")
      run(folder, "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"])
    }
    // With an engine given, Prisma does not download one that nothing here uses.
    run(folder, "npx", ["prisma", "generate", "--schema=prisma/schema.prisma"], {
      PRISMA_SCHEMA_ENGINE_BINARY: process.execPath
    })
  }
  run(root, "npx", ["tsc", "-p", folder])
  // How an application starts is measured with the modules as the package has them, which are imported by its name.
  run(root, process.execPath, ["test/tools/build.js"])
  const packages = path.join(folder, "build/node_modules")
  fs.mkdirSync(packages, { recursive: true })
  fs.rmSync(path.join(packages, "sqlayer"), { force: true })
  fs.symlinkSync(root, path.join(packages, "sqlayer"), "junction")
  // Where an application that is not the installed package has the program of SQLite's thread: beside its own.
  fs.writeFileSync(path.join(folder, "build/test/bench/sqlayer-worker.js"), "import \"../../src/worker.js\"\n")
}
