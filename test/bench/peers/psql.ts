/**
 * PostgreSQL's own client, written in C: `\\copy` from and to a file. It shows the time that remains when the client costs
 * almost nothing, apart from the start of its process.
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import { linesIn, type Open, peer } from "../peer.js"
import { copyQuery, copyRows } from "../workloads.js"

export const postgres: Open = async ({ url }) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-psql-"))
  process.once("exit", () => fs.rmSync(directory, { recursive: true }))
  const input = path.join(directory, "in.csv")
  const output = path.join(directory, "out.csv")
  fs.writeFileSync(input, copyRows.map(({ account, amount, note }) => `${account},${amount},${note}\n`).join(""))
  const psql = (command: string) => promisify(execFile)("psql", ["--no-psqlrc", `--command=${command}`, url])
  const inner = peer({
    copyIn: async () => {
      await psql(`\\copy journal (account, amount, note) from '${input}' csv`)
      return 0
    },
    copyOut: async () => {
      await psql(`\\copy (${copyQuery}) to '${output}' csv`)
      return linesIn(fs.readFileSync(output))
    }
  })
  return {
    run: async (task) => ({ ...await inner.run(task), cpuMicros: null, peak: null })
  }
}
