/**
 * A test that pauses a server of its own, reports the processes of the run, and never ends.
 */
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Postgres from "./postgres.js"
import { childrenOf } from "./serverProcess.js"

/** The content of the file that ORPHAN_REPORT names. */
export interface Report {
  readonly root: string
  readonly pids: ReadonlyArray<number>
}

const processTree = (pid: number): ReadonlyArray<number> => [pid, ...childrenOf(pid).flatMap(processTree)]

it.scopedLive("never ends", () =>
  Effect.gen(function*() {
    const server = yield* Postgres.server()
    yield* server.pause
    const report: Report = { root: Path.dirname(server.socketDir), pids: processTree(process.ppid) }
    const path = process.env.ORPHAN_REPORT ?? ""
    Fs.writeFileSync(`${path}.part`, JSON.stringify(report))
    Fs.renameSync(`${path}.part`, path)
    return yield* Effect.never
  }), 120_000)
