import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Fs from "node:fs"
import {
  CheckpointGap,
  type CheckpointResult,
  walLimit,
  type Writer
} from "../../../src/internal/sqlite/checkpointGap.js"
import * as Connection from "../../../src/internal/sqlite/connection.js"
import { loadBinding } from "../../../src/internal/sqlite/loadBinding.js"
import type { Operation } from "../../../src/internal/sqlite/protocol.js"
import { localTransport } from "../../../src/internal/sqlite/transport.js"
import { workerTransport } from "../../../src/internal/sqlite/workerTransport.js"
import { eventually } from "../../support/eventually.js"
import { binding, connect, connectionOptions, driver, file, openOptions } from "./support.js"

/** A gap beyond a WAL of one byte, with a writer whose checkpoints the test ends. */
const makeGap = (maxDuration = 60_000) => {
  const outcomes: Array<string> = []
  const checkpoints: Array<(result: CheckpointResult) => void> = []
  const state = { isInTransaction: false }
  const writer: Writer = {
    isInTransaction: () => state.isInTransaction,
    checkpoint: (onEnd) => checkpoints.push(onEnd)
  }
  const gap = new CheckpointGap(
    "missing.db",
    1,
    { size: () => {}, gap: (outcome) => outcomes.push(outcome) },
    maxDuration
  )
  return { gap, writer, state, checkpoints, outcomes }
}

const never = new Promise<void>(() => {})

describe("the gap for a checkpoint", () => {
  it("is made beyond the limit only", () => {
    const { checkpoints, gap, writer } = makeGap()
    gap.written(writer, 1)
    assert.strictEqual(checkpoints.length, 0)
    assert.isUndefined(gap.wait(undefined, () => {}))
    gap.written(writer, 2)
    assert.strictEqual(checkpoints.length, 1)
    assert.isDefined(gap.wait(undefined, () => {}))
    gap.closed(writer)
  })

  it("holds new transactions until those that are open have ended, and the WAL is emptied", () => {
    const { checkpoints, gap, outcomes, writer } = makeGap()
    const first = gap.addReader(never)
    const second = gap.addReader(never)
    first.began(1)
    gap.written(writer, 2)
    let ended = 0
    assert.isDefined(gap.wait(2, () => ended++))
    second.began(3)
    first.ended()
    assert.strictEqual(checkpoints.length, 0)
    second.ended()
    assert.strictEqual(checkpoints.length, 1)
    assert.strictEqual(ended, 0)
    checkpoints[0]("emptied")
    assert.strictEqual(ended, 1)
    assert.deepStrictEqual(outcomes, ["emptied"])
    assert.isUndefined(gap.wait(2, () => {}))
    gap.closed(writer)
  })

  it("does not hold a fiber that has a transaction open", () => {
    const { gap, writer } = makeGap()
    gap.addReader(never).began(1)
    gap.written(writer, 2)
    assert.isUndefined(gap.wait(1, () => {}))
    assert.isDefined(gap.wait(2, () => {}))
    gap.closed(writer)
  })

  it("waits for the end of the writer's transaction", () => {
    const { checkpoints, gap, state, writer } = makeGap()
    const reader = gap.addReader(never)
    reader.began(1)
    gap.written(writer, 2)
    state.isInTransaction = true
    reader.ended()
    assert.strictEqual(checkpoints.length, 0)
    state.isInTransaction = false
    gap.written(writer, 3)
    checkpoints[0]("inTransaction")
    gap.written(writer, 3)
    assert.strictEqual(checkpoints.length, 2)
    gap.closed(writer)
  })

  it.live("ends when a transaction does not end, and is not repeated before it does", () =>
    Effect.gen(function*() {
      const { checkpoints, gap, outcomes, writer } = makeGap(20)
      const reader = gap.addReader(never)
      reader.began(1)
      gap.written(writer, 2)
      yield* Effect.async<void>((resume) => void gap.wait(2, () => resume(Effect.void)))
      assert.deepStrictEqual(outcomes, ["readers"])
      // Longer than the pause after the gap, which is ten times as long as it.
      yield* eventually(Effect.sync(() => {
        gap.written(writer, 2)
        return reader.since !== undefined && performance.now() - reader.since > 500
      }))
      assert.isUndefined(gap.wait(2, () => {}))
      assert.deepStrictEqual(outcomes, ["readers"])
      reader.ended()
      assert.strictEqual(checkpoints.length, 1)
      gap.closed(writer)
    }))

  it.live("pauses longer each time that another process is in the way", () =>
    Effect.gen(function*() {
      const { checkpoints, gap, outcomes, writer } = makeGap()
      gap.written(writer, 2)
      for (let i = 0; i < 3; i++) {
        checkpoints[i]("busy")
        assert.isUndefined(gap.wait(2, () => {}))
        gap.written(writer, 2)
        assert.strictEqual(checkpoints.length, i + 1)
        yield* eventually(Effect.sync(() => {
          gap.written(writer, 2)
          return checkpoints.length === i + 2
        }))
      }
      assert.deepStrictEqual(outcomes, ["busy", "busy", "busy"])
      gap.closed(writer)
    }))

  it.scopedLive("a stream of the writer is not another process, and the WAL of a file that was replaced is kept", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const transport = localTransport(
        openOptions(filename),
        yield* Effect.promise(() => loadBinding(binding))
      )
      yield* Effect.addFinalizer(() => Effect.sync(transport.destroy))
      const send = (operation: Operation): unknown => {
        let value: unknown
        transport.send(
          { operation, begin: undefined, requiresTransaction: false, transactionFailed: false },
          undefined,
          (completion) => {
            assert(completion._tag === "Responded" && completion.response.failure === undefined)
            value = completion.response.value
          }
        )
        return value
      }
      const run = (sql: string) =>
        send({ _tag: "Run", sql, params: [], form: "rows", cached: false, safeIntegers: false })
      send({ _tag: "Open", keepsMode: false })
      run(
        "CREATE TABLE items AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n"
      )
      send({ _tag: "Fetch", cursor: 1, sql: "SELECT i FROM items", params: [], form: "rows", safeIntegers: false })
      assert.strictEqual(send({ _tag: "Checkpoint" }), "inTransaction")
      send({ _tag: "FetchEnd", cursor: 1, transaction: 0 })
      assert.strictEqual(send({ _tag: "Checkpoint" }), "emptied")
      run("DELETE FROM items WHERE i = 1")
      const size = Fs.statSync(`${filename}-wal`).size
      assert.isAbove(size, 0)
      Fs.copyFileSync(filename, `${filename}.copy`)
      Fs.renameSync(`${filename}.copy`, filename)
      assert.strictEqual(send({ _tag: "Checkpoint" }), "busy")
      assert.strictEqual(Fs.statSync(`${filename}-wal`).size, size)
    }))

  it("ends with the connection that writes", () => {
    const { gap, writer } = makeGap()
    let ended = 0
    gap.written(writer, 2)
    gap.wait(undefined, () => ended++)
    gap.closed(writer)
    assert.strictEqual(ended, 1)
  })

  it("has a limit above what the settings let the WAL keep, and none where checkpoints are turned off", () => {
    const megabyte = 1024 * 1024
    assert.strictEqual(walLimit({}), 16 * megabyte)
    assert.strictEqual(walLimit({ journal_size_limit: "0" }), 16 * megabyte)
    assert.strictEqual(walLimit({ journal_size_limit: String(64 * megabyte) }), 128 * megabyte)
    assert.strictEqual(walLimit({ wal_autocheckpoint: "10000" }), 160_000 * 1024)
    assert.strictEqual(walLimit({ wal_autocheckpoint: "0" }), Infinity)
  })

  it.scopedLive(
    "can be left by an interruption, and ends with the lock timeout, and what is enclosed does not wait",
    () =>
      Effect.gen(function*() {
        const filename = yield* file
        yield* connect(driver(filename))
        const { gap, outcomes, writer } = makeGap()
        const connection = yield* Effect.acquireRelease(
          Connection.make({
            ...connectionOptions(
              filename,
              workerTransport({ ...openOptions(filename), reader: true, mustExist: true })
            ),
            gap,
            isReader: true
          }),
          ({ close }) => close
        )
        const statement = connection.executeValues("SELECT count(*) FROM sqlite_schema", [])
        // Its checkpoint does not end, so the gap goes on.
        gap.written(writer, 2)

        yield* connection.begin({ readOnly: true })
        const waiting = yield* Effect.fork(statement)
        yield* Effect.yieldNow()
        assert(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
        yield* connection.rollback
        assert.strictEqual(connection.status(), "idle")

        yield* connection.begin({ readOnly: true, isEnclosed: true })
        assert.deepStrictEqual(yield* statement, [[0]])
        yield* connection.commit

        yield* connection.begin({ readOnly: true, lockTimeout: Duration.millis(10) })
        assert.deepStrictEqual(yield* statement, [[0]])
        yield* connection.commit

        yield* connection.begin({ readOnly: true, statementTimeout: Duration.seconds(10) })
        const held = yield* Effect.fork(statement)
        yield* Effect.yieldNow()
        assert.deepStrictEqual(outcomes, [])
        gap.closed(writer)
        assert.deepStrictEqual(yield* Fiber.join(held), [[0]])
        yield* connection.commit
      }),
    240_000
  )
})
