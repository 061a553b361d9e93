import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Fs from "node:fs"
import type { TestProject } from "vitest/node"
import { eventually } from "./eventually.js"
import globalSetup from "./globalSetup.js"
import * as Postgres from "./postgres.js"
import { childrenOf } from "./serverProcess.js"
import { type Address, request } from "./sharedServer.js"

/** Runs globalSetup as vitest does, with this TEST_DATABASE_URL, and returns what it provides to the workers. */
const setUp = (existing: string) =>
  Effect.gen(function*() {
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const value = process.env.TEST_DATABASE_URL
        process.env.TEST_DATABASE_URL = existing
        return value
      }),
      (value) =>
        Effect.sync(() => {
          if (value === undefined) {
            delete process.env.TEST_DATABASE_URL
          } else {
            process.env.TEST_DATABASE_URL = value
          }
        })
    )
    let provided: Address | undefined
    const project = {
      provide: (_: string, value: Address) => {
        provided = value
      }
    }
    const tearDown = yield* Effect.promise(() => globalSetup(project as unknown as TestProject))
    let ended = false
    const end = Effect.promise(async () => {
      if (!ended) {
        ended = true
        await tearDown()
      }
    })
    yield* Effect.addFinalizer(() => end)
    return { address: provided!, end }
  })

const ask = (address: Address) => Effect.promise(() => request(address, "url"))

const failure = (address: Address) =>
  Effect.flip(Effect.tryPromise({ try: () => request(address, "url"), catch: String }))

/** The processes that this one has started while the effect ran. */
const startedBy = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const known = childrenOf(process.pid)
    yield* effect
    return childrenOf(process.pid).filter((pid) => !known.includes(pid))
  })

describe("the shared server", () => {
  it.scopedLive("is not started when no test asks for it", () =>
    Effect.gen(function*() {
      const started = yield* startedBy(Effect.gen(function*() {
        const { end } = yield* setUp("")
        yield* end
      }))
      assert.deepStrictEqual(started, [])
    }))

  it.scopedLive("is started once for all who ask, and is stopped and removed at the end", () =>
    Effect.gen(function*() {
      const { address, end } = yield* setUp("")
      const started = yield* startedBy(
        Effect.gen(function*() {
          const [first, ...others] = yield* Effect.all(Array.from({ length: 8 }, () => ask(address)), {
            concurrency: "unbounded"
          })
          assert.deepStrictEqual([...new Set([...others, yield* ask(address)])], [first])
          assert.notStrictEqual(new URL(first).port, new URL(Postgres.url()).port)
          assert.deepStrictEqual(yield* Postgres.query(first, "SELECT 1 AS n"), [{ n: 1 }])
        })
      )
      // The server, its keeper, and the keeper of the installation.
      assert.lengthOf(started, 3)
      const { root } = yield* Effect.promise(() => request(address, "installation"))
      yield* end
      assert.isFalse(Fs.existsSync(root))
      assert.deepStrictEqual(childrenOf(process.pid).filter((pid) => started.includes(pid)), [])
      assert.match(yield* failure(address), /ECONNREFUSED/)
    }))

  it.scopedLive("is stopped and removed when the run ends while it is starting", () =>
    Effect.gen(function*() {
      const started = yield* startedBy(Effect.gen(function*() {
        const { address, end } = yield* setUp("")
        const asking = yield* Effect.fork(failure(address))
        const known = childrenOf(process.pid).length
        yield* eventually(Effect.sync(() => childrenOf(process.pid).length > known))
        yield* end
        assert.match(yield* Fiber.join(asking), /The run ended|ECONNRESET/)
      }))
      assert.deepStrictEqual(started, [])
    }))

  it.scopedLive("answers nobody who does not know the secret", () =>
    Effect.gen(function*() {
      const { address } = yield* setUp("")
      assert.deepStrictEqual(
        yield* startedBy(Effect.flip(Effect.tryPromise(() => request({ ...address, secret: "guessed" }, "url")))),
        []
      )
    }))
})

describe("the shared server with TEST_DATABASE_URL", () => {
  it.scopedLive("is the one that is there", () =>
    Effect.gen(function*() {
      const started = yield* startedBy(Effect.gen(function*() {
        const { address } = yield* setUp(Postgres.url())
        assert.strictEqual(yield* ask(address), Postgres.url())
      }))
      assert.deepStrictEqual(started, [])
    }))

  it.scopedLive("comes with an installation for servers of a test's own", () =>
    Effect.gen(function*() {
      const { address, end } = yield* setUp(Postgres.url())
      const { root, template } = yield* Effect.promise(() => request(address, "installation"))
      assert.isTrue(Fs.existsSync(template))
      yield* end
      assert.isFalse(Fs.existsSync(root))
    }))

  it.scopedLive("fails every request when that server does not answer", () =>
    Effect.gen(function*() {
      const { address } = yield* setUp("postgres://postgres@127.0.0.1:1/postgres")
      assert.match(yield* failure(address), /TEST_DATABASE_URL [^]* ECONNREFUSED/)
      assert.match(yield* failure(address), /TEST_DATABASE_URL [^]* ECONNREFUSED/)
    }))
})
