import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { withClient } from "./client.js"
import { prepare } from "./installation.js"
import * as Postgres from "./postgres.js"
import { makeServerProcess } from "./serverProcess.js"

/** The package with every defect that an installation of it can have. */
const brokenPackage = Effect.acquireRelease(
  Effect.promise(async () => {
    const home = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-home-"))
    const native = Path.join(home, "native")
    Fs.cpSync((await Postgres.installation()).native, native, { recursive: true, verbatimSymlinks: true })
    // npm installed it without scripts: no symbolic links, and no executable files.
    for (const name of Fs.readdirSync(Path.join(native, "lib"))) {
      const path = Path.join(native, "lib", name)
      if (Fs.lstatSync(path).isSymbolicLink()) {
        Fs.rmSync(path)
      }
    }
    for (const name of Fs.readdirSync(Path.join(native, "bin"))) {
      Fs.chmodSync(Path.join(native, "bin", name), 0o600)
    }
    // It is in a home directory that only its owner can enter.
    Fs.chmodSync(home, 0o700)
    return { home, native }
  }),
  ({ home }) => Effect.sync(() => Fs.rmSync(home, { recursive: true }))
)

/** Sets TMPDIR to an empty directory. */
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
  it.scopedLive("copies binaries that cannot be run in place", () =>
    Effect.gen(function*() {
      const { native } = yield* brokenPackage
      const { installation } = yield* Effect.acquireRelease(
        Effect.promise(() => prepare(native)),
        ({ remove }) => Effect.promise(remove)
      )
      assert.strictEqual(Path.dirname(installation.native), installation.root)
      const serverProcess = yield* Effect.acquireRelease(
        Effect.promise(() => makeServerProcess(installation)),
        (serverProcess) => Effect.promise(serverProcess.dispose)
      )
      const answer = yield* Effect.promise(() =>
        withClient({ connectionString: serverProcess.url }, (client) => client.query("SELECT 1 AS n"))
      )
      assert.deepStrictEqual(answer.rows, [{ n: 1 }])
    }))

  it.scopedLive("fails and removes its files when a binary is missing", () =>
    Effect.gen(function*() {
      const { native } = yield* brokenPackage
      Fs.rmSync(Path.join(native, "bin", "postgres"))
      const temporary = yield* privateTmpdir
      const error = yield* Effect.flip(Effect.tryPromise({ try: () => prepare(native), catch: String }))
      assert.match(error, /"postgres" is needed by initdb/)
      assert.deepStrictEqual(Fs.readdirSync(temporary), [])
    }))
})
