/**
 * Exits with 1 if a process that a run of the checks has started is still running: `leftovers.ts <directory>`, where the
 * directory is the run's TMPDIR. A process belongs to the run if it has this TMPDIR, if its working directory is within
 * it, or if its binary is within it or within this project, as that of PostgreSQL is.
 */
import * as fs from "node:fs"
import { setTimeout } from "node:timers/promises"
import { fileURLToPath } from "node:url"

const directory = process.argv[2]
const root = fileURLToPath(new URL("../..", import.meta.url))

const tryRead = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    // The process has ended in the meantime.
    return undefined
  }
}

const parentOf = (pid: number): number =>
  Number(tryRead(() => /^PPid:\s*(\d+)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8")))?.[1] ?? 0)

const ancestry = (pid: number): ReadonlyArray<number> => pid === 0 ? [] : [pid, ...ancestry(parentOf(pid))]

const isFromRun = (pid: number): boolean => {
  const environment = tryRead(() => fs.readFileSync(`/proc/${pid}/environ`, "latin1").split("\0")) ?? []
  const binary = tryRead(() => fs.readlinkSync(`/proc/${pid}/exe`)) ?? ""
  const workingDirectory = tryRead(() => fs.readlinkSync(`/proc/${pid}/cwd`)) ?? ""
  return environment.includes(`TMPDIR=${directory}`)
    || binary.startsWith(root)
    || [binary, workingDirectory].some((file) => `${file}/`.startsWith(`${directory}/`))
}

const leftovers = (): ReadonlyArray<string> => {
  const ancestors = ancestry(process.pid)
  return fs.readdirSync("/proc").map(Number)
    .filter((pid) => pid > 0 && !ancestors.includes(pid) && !ancestry(pid).includes(process.pid) && isFromRun(pid))
    .map((pid) => `${pid} ${tryRead(() => fs.readFileSync(`/proc/${pid}/cmdline`, "latin1"))?.replaceAll("\0", " ")}`)
}

// Processes that are being stopped may take a moment.
for (let tries = 0; tries < 20 && leftovers().length > 0; tries++) {
  await setTimeout(500)
}
const left = leftovers()
if (left.length > 0) {
  console.error(`still running:\n${left.join("\n")}`)
  process.exitCode = 1
} else {
  console.log("no process is still running")
}
