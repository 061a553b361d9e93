/**
 * PostgreSQL's own benchmark program, written in C, with prepared statements. It shows the time that remains when the
 * client costs almost nothing.
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import type { Open, Work } from "../peer.js"
import { accountColumns, accounts } from "../workloads.js"

const select = `SELECT ${accountColumns} FROM account WHERE id = :id`

const scripts: { readonly [W in Work]?: string } = {
  select: `${select};`,
  session:
    `BEGIN;\nSELECT balance FROM account WHERE id = :id FOR UPDATE;\nUPDATE account SET balance = balance + 1 WHERE id = :id;\nCOMMIT;`,
  empty: "BEGIN;\nCOMMIT;"
}

const numberIn = (output: string, pattern: RegExp): number => {
  const found = pattern.exec(output)
  if (found === null) {
    throw new Error(`cannot read the output of pgbench:\n${output}`)
  }
  return Number(found[1])
}

export const postgres: Open = async ({ pool, url }) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-pgbench-"))
  process.once("exit", () => fs.rmSync(directory, { recursive: true }))
  return {
    run: async ({ concurrency, millis, work }) => {
      const script = path.join(directory, work)
      fs.writeFileSync(script, `\\set id random(1, ${accounts})\n${scripts[work]}\n`)
      // pgbench takes whole seconds.
      const seconds = Math.max(1, Math.round(millis / 1_000))
      // It has no pool: each of its clients has a connection of its own.
      const clients = Math.min(concurrency, pool)
      const threads = Math.min(clients, os.availableParallelism())
      const settings = [`--client=${clients}`, `--jobs=${threads}`, `--time=${seconds}`, `--file=${script}`]
      const { stdout } = await promisify(execFile)("pgbench", [
        "--no-vacuum",
        "--protocol=prepared",
        ...settings,
        url
      ])
      return {
        operations: numberIn(stdout, /transactions actually processed: (\d+)/),
        seconds: numberIn(stdout, /transactions actually processed: (\d+)/) / numberIn(stdout, /tps = ([\d.]+)/),
        cpuMicros: null,
        p50: null,
        p99: null,
        peak: null
      }
    }
  }
}
