/**
 * How long an application takes to start: from a new process to its first answered query, and what it weighs then.
 */
import { spawnSync } from "node:child_process"
import * as path from "node:path"
import { folder, root } from "./remote.js"
import { table } from "./report.js"
import { median } from "./rounds.js"
import type { Result } from "./startChild.js"
import type { Dialect } from "./workloads.js"

/** The programs of startChild.ts. */
const programs: { readonly [D in Dialect]: ReadonlyArray<string> } = {
  postgres: ["pg", "sqlayer", "sqlayer (all modules)", "@effect/sql-pg", "Drizzle"],
  sqlite: [
    "better-sqlite3",
    "sqlayer",
    "sqlayer (main thread)",
    "sqlayer (all modules)",
    "@effect/sql-sqlite-node",
    "Drizzle"
  ]
}

const startOnce = (name: string, dialect: Dialect, url: string): Result => {
  const child = path.join(folder, "build/test/bench/startChild.js")
  const { output, status, stdout } = spawnSync(process.execPath, ["--expose-gc", child, name, dialect, url], {
    cwd: root,
    encoding: "utf8"
  })
  if (status !== 0) {
    throw new Error(`${name}: ${output.join("")}`)
  }
  return JSON.parse(stdout)
}

/** The table of one database: medians of this number of starts. `more` are programs that need other packages. */
export const start = (dialect: Dialect, url: string, rounds: number, more: ReadonlyArray<string>): string => {
  const results = new Map([...programs[dialect], ...more].map((name): [string, Array<Result>] => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, found] of results) {
      found.push(startOnce(name, dialect, url))
    }
  }
  const titles = { postgres: "PostgreSQL", sqlite: "SQLite, a file" }
  const cell = (found: ReadonlyArray<Result>, key: keyof Result) =>
    median(found.map((result) => result[key])).toFixed(0)
  return `${titles[dialect]}: medians of ${rounds} starts.\n\n${
    table([
      ["", "modules loaded, ms", "first query answered, ms", "CPU time, ms", "memory at rest, MB"],
      ...Array.from(results, ([name, found]) => [
        name,
        cell(found, "imported"),
        cell(found, "answered"),
        cell(found, "cpu"),
        cell(found, "memory")
      ])
    ])
  }`
}
