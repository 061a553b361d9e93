/**
 * The databases of the programs in test/long, which run without vitest.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { query } from "./client.js"
import type { Dialect } from "./dialects.js"
import { scopedInstallation, serverFrom } from "./server.js"

const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** A server of its own, whose databases are named after the program. */
export const postgres = (program: string) =>
  Effect.gen(function*() {
    const installation = yield* scopedInstallation
    const server = yield* serverFrom(installation, { config: { fsync: "off" } })
    let databases = 0
    const url = Effect.suspend(() => {
      const name = `${program}_${++databases}`
      return Effect.map(query(server.url, `CREATE DATABASE ${name}`), () => {
        const parsed = new URL(server.url)
        parsed.pathname = `/${name}`
        return parsed.toString()
      })
    })
    return { name: "postgres", dialect: "postgres", url, single: false } satisfies Dialect
  })

export const file: Dialect = {
  name: "sqlite file",
  dialect: "sqlite",
  url: Effect.map(temporary, (path) => `sqlite:///${Path.join(path, "test.db")}`),
  single: true
}
