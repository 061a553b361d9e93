import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import type { ProvidedContext } from "vitest"
import type { TestProject } from "vitest/node"
import globalSetup from "./globalSetup.js"
import * as Postgres from "./postgres.js"

/** Runs it as vitest does, with TEST_DATABASE_URL, and answers what it provides until the scope closes. */
const setUp = (existing: string) =>
  Effect.gen(function*() {
    const provided: Partial<ProvidedContext> = {}
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const before = process.env.TEST_DATABASE_URL
        process.env.TEST_DATABASE_URL = existing
        return before
      }),
      (before) =>
        Effect.sync(() => {
          if (before === undefined) {
            delete process.env.TEST_DATABASE_URL
          } else {
            process.env.TEST_DATABASE_URL = before
          }
        })
    )
    const provide = (name: string, value: unknown) => {
      Object.assign(provided, { [name]: value })
    }
    yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: () => globalSetup({ provide } as unknown as TestProject),
        catch: (error) => ({ error, provided })
      }),
      (tearDown) => Effect.promise(tearDown)
    )
    return provided
  })

describe("globalSetup with TEST_DATABASE_URL", () => {
  it.live("uses the server that is there, and prepares for servers of one's own", () =>
    Effect.gen(function*() {
      const root = yield* Effect.scoped(Effect.gen(function*() {
        const provided = yield* setUp(Postgres.url())
        assert.strictEqual(provided.postgresUrl, Postgres.url())
        const root = provided.postgresInstallation?.root ?? ""
        const entries = Fs.readdirSync(root)
        assert.include(entries, "template")
        // A server's own directory begins so.
        assert.deepStrictEqual(entries.filter((name) => name.startsWith("s-")), [])
        return root
      }))
      assert.isFalse(Fs.existsSync(root))
    }))

  it.scopedLive("fails when that server does not answer", () =>
    Effect.gen(function*() {
      const { error, provided } = yield* Effect.flip(setUp("postgres://postgres@127.0.0.1:1/postgres"))
      assert.match(String(error), /TEST_DATABASE_URL/)
      assert.isFalse(Fs.existsSync(provided.postgresInstallation?.root ?? ""))
    }))
})
