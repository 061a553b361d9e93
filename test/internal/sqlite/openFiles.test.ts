import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import type { Binding } from "../../../src/internal/sqlite/binding.js"
import * as Connection from "../../../src/internal/sqlite/connection.js"
import { loadBinding } from "../../../src/internal/sqlite/loadBinding.js"
import { OpenFiles } from "../../../src/internal/sqlite/openFiles.js"
import { localTransport, type Transport } from "../../../src/internal/sqlite/transport.js"
import { binding as name, connectionOptions, file, openOptions } from "./support.js"

const binding = await Effect.runPromise(Effect.promise(() => loadBinding(name)))

const make = (filename: string, text: string) => {
  const database = binding.open(filename, { readOnly: false, immutable: false, mustExist: false })
  database.exec(`CREATE TABLE items (text); INSERT INTO items VALUES ('${text}')`)
  database.close()
}

/** Opens a file on this thread. `wrap` changes the transport. */
const open = (filename: string, library: Binding, wrap: (transport: Transport) => Transport = (same) => same) => {
  const files = new OpenFiles(filename)
  const transport = files.add(wrap(localTransport({ ...openOptions(filename), mustExist: true }, library)))
  const connection = Connection.make({
    ...connectionOptions(filename, transport),
    onOpen: (opened) => files.opened(transport, opened)
  })
  return { files, connection: Effect.acquireRelease(connection, ({ close }) => close) }
}

/** Makes files until the next one gets this inode, where the file system gives those of deleted files to new ones. */
const takeInodesUntil = (ino: number, prefix: string): void => {
  for (let i = 0; i < 100; i++) {
    const taken = `${prefix}.${i}`
    Fs.writeFileSync(taken, "")
    if (Fs.statSync(taken).ino === ino) {
      return Fs.rmSync(taken)
    }
  }
}

describe("a file that is replaced while it is opened", () => {
  it.scopedLive("before the library has returned is not taken for the new one", () =>
    Effect.gen(function*() {
      const filename = yield* file
      make(filename, "old")
      make(`${filename}.new`, "new")
      const { connection } = open(filename, {
        ...binding,
        open: (...args) => {
          const database = binding.open(...args)
          if (Fs.existsSync(`${filename}.new`)) {
            Fs.renameSync(`${filename}.new`, filename)
          }
          return database
        }
      })
      const error = yield* Effect.flip(connection)
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.include(error.message, "replaced by another, while it was opened")
    }))

  it.scopedLive("before the thread has responded is known as the old one, which is closed before the new one is opened", () =>
    Effect.gen(function*() {
      const filename = yield* file
      make(filename, "old")
      make(`${filename}.new`, "new")
      const { connection, files } = open(filename, binding, (transport) => ({
        ...transport,
        send: (request, timeout, onComplete) =>
          transport.send(request, timeout, (completion) => {
            if (request.operation._tag === "Open") {
              Fs.renameSync(`${filename}.new`, filename)
            }
            onComplete(completion)
          })
      }))
      yield* connection
      assert.strictEqual(files.leaveReplaced().length, 1)
      yield* Effect.promise(() => Promise.all(files.leaveReplaced()))
      assert.strictEqual(files.leaveReplaced().length, 0)
    }))

  for (const opener of ["this process", "another process"] as const) {
    it.scopedLive(`leaves the WAL of the new one alone, which ${opener} has open`, () =>
      Effect.gen(function*() {
        const filename = yield* file
        make(filename, "old")
        make(`${filename}.new`, "new")
        const { connection, files } = open(filename, binding)
        const { ino } = yield* Effect.scoped(Effect.gen(function*() {
          const { execute } = yield* connection
          yield* execute("INSERT INTO items VALUES ('lost')", [], undefined)
          const wal = Fs.statSync(`${filename}-wal`)
          Fs.rmSync(`${filename}-wal`)
          Fs.rmSync(`${filename}-shm`)
          Fs.renameSync(`${filename}.new`, filename)
          return wal
        }))
        yield* Effect.promise(() => Promise.all(files.leaveReplaced()))
        takeInodesUntil(ino, filename)
        const writer = opener === "this process"
          ? yield* open(filename, binding).connection
          : binding.open(filename, { readOnly: false, immutable: false, mustExist: true })
        if ("execute" in writer) {
          yield* writer.execute("INSERT INTO items VALUES ('kept')", [], undefined)
        } else {
          writer.exec("PRAGMA journal_mode = WAL; INSERT INTO items VALUES ('kept')")
          yield* Effect.addFinalizer(() => Effect.sync(() => writer.close()))
        }
        assert.isUndefined(files.setAsideWal())
        assert.isTrue(Fs.existsSync(`${filename}-wal`))
      }))
  }
})
