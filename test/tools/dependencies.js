/**
 * npm runs this in a checkout after it has changed node_modules. The tests use better-sqlite3 13, which brings its binaries
 * but needs Node.js 22. On Node.js 20 its place is taken by better-sqlite3 12, whose install script downloads or compiles
 * the binary.
 */
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const modules = fileURLToPath(new URL("../../node_modules", import.meta.url))
const current = Path.join(modules, "better-sqlite3")
const older = Path.join(modules, "better-sqlite3-12")

if (Number.parseInt(process.versions.node) < 22 && Fs.existsSync(older)) {
  if (!Fs.existsSync(Path.join(older, "build", "Release", "better_sqlite3.node"))) {
    const npm = process.env.npm_execpath ?? "npm"
    const { status, stderr, stdout } = spawnSync(process.execPath, [npm, "run", "install"], {
      cwd: older,
      encoding: "utf8"
    })
    if (status !== 0) {
      process.stderr.write(`better-sqlite3 12 could not be built:\n${stdout}${stderr}`)
      process.exit(1)
    }
  }
  Fs.rmSync(current, { recursive: true, force: true })
  Fs.symlinkSync("better-sqlite3-12", current, "junction")
}
