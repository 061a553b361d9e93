/**
 * Ends with 1 if something that a run of the checks has started is still running: `leftovers.ts <directory>` takes the
 * directory that the run had for its temporary files. A process is the run's if that is in its environment, if it works
 * in there, or if its binary comes from there or from this project, as PostgreSQL's do.
 */
import * as fs from "node:fs"
import { setTimeout } from "node:timers/promises"
import { fileURLToPath } from "node:url"

const directory = process.argv[2]
const root = fileURLToPath(new URL("../..", import.meta.url))

const attempt = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    // The process has ended in the meantime.
    return undefined
  }
}

const parentOf = (pid: number): number =>
  Number(attempt(() => /^PPid:\s*(\d+)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8")))?.[1] ?? 0)

const lineage = (pid: number): ReadonlyArray<number> => pid === 0 ? [] : [pid, ...lineage(parentOf(pid))]

const isOurs = (pid: number): boolean => {
  const environment = attempt(() => fs.readFileSync(`/proc/${pid}/environ`, "latin1").split("\0")) ?? []
  const binary = attempt(() => fs.readlinkSync(`/proc/${pid}/exe`)) ?? ""
  const place = attempt(() => fs.readlinkSync(`/proc/${pid}/cwd`)) ?? ""
  return environment.includes(`TMPDIR=${directory}`)
    || binary.startsWith(root)
    || [binary, place].some((file) => `${file}/`.startsWith(`${directory}/`))
}

const leftovers = (): ReadonlyArray<string> => {
  const above = lineage(process.pid)
  return fs.readdirSync("/proc").map(Number)
    .filter((pid) => pid > 0 && !above.includes(pid) && !lineage(pid).includes(process.pid) && isOurs(pid))
    .map((pid) => `${pid} ${attempt(() => fs.readFileSync(`/proc/${pid}/cmdline`, "latin1"))?.replaceAll("\0", " ")}`)
}

// What has been told to end may take a moment.
for (let tries = 0; tries < 20 && leftovers().length > 0; tries++) {
  await setTimeout(500)
}
const left = leftovers()
if (left.length > 0) {
  console.error(`left running:\n${left.join("\n")}`)
  process.exitCode = 1
} else {
  console.log("no process is left")
}
