import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { eventually } from "./eventually.js"
import { makeKeeper } from "./keeper.js"
import type { Report } from "./orphan.js"
import { isAlive } from "./serverProcess.js"

const orphan = fileURLToPath(new URL("orphan.config.ts", import.meta.url))

/** A run of vitest that has a server of its own, and never ends by itself. */
const run = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-keeper-"))),
    (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
  )
  const report = Path.join(directory, "report")
  const vitest = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        process.execPath,
        [createRequire(import.meta.url).resolve("vitest/vitest.mjs"), "run", "--config", orphan],
        {
          env: { ...process.env, ORPHAN_REPORT: report },
          stdio: "ignore"
        }
      )
    ),
    (vitest) => Effect.sync(() => vitest.kill("SIGKILL"))
  )
  yield* eventually(Effect.sync(() => Fs.existsSync(report)), { timeout: "50 seconds" })
  return { vitest, ...JSON.parse(Fs.readFileSync(report, "utf8")) as Report }
})

describe("keeper", () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
    it.scopedLive(
      `ends servers, even paused ones, and removes their files when vitest ends by ${signal}`,
      () =>
        Effect.gen(function*() {
          const { pids, root, vitest } = yield* run
          assert.isAbove(pids.length, 10)
          assert.deepStrictEqual(pids.filter((pid) => !isAlive(pid)), [])
          vitest.kill(signal)
          yield* eventually(Effect.sync(() => !pids.some(isAlive) && !Fs.existsSync(root)), { timeout: "50 seconds" })
          assert.isFalse(Fs.existsSync(root))
        }),
      240_000
    )
  }

  it.live("removes its directory at the end", () =>
    Effect.gen(function*() {
      const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-keeper-"))
      Fs.writeFileSync(Path.join(directory, "file"), "")
      yield* Effect.promise(makeKeeper(directory).end)
      assert.isFalse(Fs.existsSync(directory))
    }))
})
