import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { inject } from "vitest"
import { withClient } from "./client.js"
import { makeCluster } from "./cluster.js"
import { prepare } from "./installation.js"

/** The package's files as an unlucky checkout has them. */
const unlucky = Effect.acquireRelease(
  Effect.sync(() => {
    const home = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-home-"))
    const native = Path.join(home, "native")
    Fs.cpSync(inject("postgresInstallation").native, native, { recursive: true, verbatimSymlinks: true })
    // Installed without scripts: no links, and nothing that may be executed.
    for (const name of Fs.readdirSync(Path.join(native, "lib"))) {
      const path = Path.join(native, "lib", name)
      if (Fs.lstatSync(path).isSymbolicLink()) {
        Fs.rmSync(path)
      }
    }
    for (const name of Fs.readdirSync(Path.join(native, "bin"))) {
      Fs.chmodSync(Path.join(native, "bin", name), 0o600)
    }
    // Below a home that only its owner may enter.
    Fs.chmodSync(home, 0o700)
    return { home, native }
  }),
  ({ home }) => Effect.sync(() => Fs.rmSync(home, { recursive: true }))
)

/** A directory for temporary files that nobody else uses. */
const privateTmpdir = Effect.acquireRelease(
  Effect.sync(() => {
    const before = process.env.TMPDIR
    const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-tmp-"))
    Fs.chmodSync(directory, 0o755)
    process.env.TMPDIR = directory
    return { before, directory }
  }),
  ({ before, directory }) =>
    Effect.sync(() => {
      if (before === undefined) {
        delete process.env.TMPDIR
      } else {
        process.env.TMPDIR = before
      }
      Fs.rmSync(directory, { recursive: true })
    })
).pipe(Effect.map(({ directory }) => directory))

describe("prepare", () => {
  it.scopedLive("makes a copy of binaries that cannot be run where they are", () =>
    Effect.gen(function*() {
      const { native } = yield* unlucky
      const installation = yield* Effect.acquireRelease(
        Effect.sync(() => prepare(native)),
        ({ root }) => Effect.sync(() => Fs.rmSync(root, { recursive: true }))
      )
      assert.strictEqual(Path.dirname(installation.native), installation.root)
      const cluster = yield* Effect.acquireRelease(
        Effect.promise(() => makeCluster(installation)),
        (cluster) => Effect.promise(cluster.dispose)
      )
      const answer = yield* Effect.promise(() =>
        withClient({ connectionString: cluster.url }, (client) => client.query("SELECT 1 AS n"))
      )
      assert.deepStrictEqual(answer.rows, [{ n: 1 }])
    }))

  it.scopedLive("fails loudly, and leaves nothing behind, when a part is missing", () =>
    Effect.gen(function*() {
      const { native } = yield* unlucky
      Fs.rmSync(Path.join(native, "bin", "postgres"))
      const temporary = yield* privateTmpdir
      assert.throws(() => prepare(native), /"postgres" is needed by initdb/)
      assert.deepStrictEqual(Fs.readdirSync(temporary), [])
    }))
})
