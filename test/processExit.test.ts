import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { nodeArguments } from "./support/bundledProgram.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase, query, server } from "./support/postgres.js"
import { certificates } from "./support/tls.js"

const program = new URL("support/endsByItself.ts", import.meta.url)

/** What a program that closes nothing has written when it ended by itself, and how long after its last line that was. */
const ended = (what: string, url: string) =>
  Effect.promise(() =>
    new Promise<{ readonly lines: ReadonlyArray<string>; readonly millis: number }>((resolve, reject) => {
      let lastWrite = performance.now()
      const child = execFile(
        process.execPath,
        [...nodeArguments(program), what, url],
        { timeout: 180_000, killSignal: "SIGKILL" },
        (error, stdout, stderr) =>
          error === null
            ? resolve({ lines: stdout.trim().split("\n"), millis: performance.now() - lastWrite })
            : reject(new Error(`${what}: ${error.message} ${stdout} ${stderr}`))
      )
      child.stdout?.on("data", () => {
        lastWrite = performance.now()
      })
    })
  )

describe("a program that closes nothing", () => {
  it.live("ends while its pool is idle", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const { lines, millis } = yield* ended("idle", database)
      assert.deepStrictEqual(lines, ["done"])
      assert.isBelow(millis, 20_000)
      yield* eventually(Effect.map(connections(database), ({ total }) => total === 0))
    })), 240_000)

  it.live("ends while its pool is idle, with TLS", () =>
    Effect.scoped(Effect.gen(function*() {
      const { server: pair } = yield* certificates()
      const own = yield* server({ ssl: pair })
      const { lines, millis } = yield* ended("idle", `${own.url}?sslmode=require`)
      assert.deepStrictEqual(lines, ["done"])
      assert.isBelow(millis, 20_000)
    })), 240_000)

  it.live("does not end while it awaits an answer, with and without TLS", () =>
    Effect.scoped(Effect.gen(function*() {
      const { server: pair } = yield* certificates()
      const own = yield* server({ ssl: pair })
      for (const mode of ["require", "disable"]) {
        assert.strictEqual((yield* ended("running", `${own.url}?sslmode=${mode}`)).lines.at(-1), "done")
      }
    })), 240_000)

  it.live("does not end while it waits for a connection", () =>
    Effect.scoped(Effect.gen(function*() {
      const { lines } = yield* ended("waiting", yield* freshDatabase)
      assert.strictEqual(lines[0], "open")
      assert.include(lines.join("\n"), "PoolTimeout")
    })), 240_000)

  it.live("does not end while it listens", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const program = yield* Effect.fork(ended("listening", database))
      yield* Effect.sleep("4 seconds")
      yield* eventually(Effect.gen(function*() {
        yield* query(database, "SELECT pg_notify('channel', 'payload')")
        return (yield* program.status)._tag === "Done"
      }))
      assert.deepStrictEqual((yield* program.await).pipe((exit) => exit._tag === "Success" ? exit.value.lines : []), [
        "listening",
        "notified"
      ])
    })), 240_000)
})
