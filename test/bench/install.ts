/**
 * What the peers need before they can run.
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
    const said = error?.message ?? output.join("").replaceAll(/https?:\/\/\S*/g, "(address)")
    throw new Error(`${command} ${args.join(" ")}:\n${said}`)
  }
}

const writtenAt = (file: string): number =>
  fs.statSync(path.join(folder, file), { throwIfNoEntry: false })?.mtimeMs ?? 0

/** Installs the peers that this folder's package.json names, if one of them is among these, and compiles everything. */
export const install = (kinds: ReadonlyArray<Kind>): void => {
  if (kinds.some(({ installed }) => installed)) {
    if (writtenAt("node_modules/.package-lock.json") < writtenAt("package-lock.json")) {
      console.log("Installing the peers")
      run(folder, "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"])
    }
    // It would download an engine, to do nothing with it.
    run(folder, "npx", ["prisma", "generate", "--schema=prisma/schema.prisma"], {
      PRISMA_SCHEMA_ENGINE_BINARY: process.execPath
    })
  }
  run(root, "npx", ["tsc", "-p", folder])
}
