/** WAIT FOR LSN of PostgreSQL 19, by its documentation: a server that reports that version, and answers in its place. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { engineServer, type Treatment } from "../../support/engine.js"
import { query } from "../../support/postgres.js"
import { connected } from "./harness.js"

const opened = (version: string, treatment: Treatment) =>
  Effect.gen(function*() {
    const server = yield* engineServer({
      parameters: { server_version: version, in_hot_standby: "off" },
      treatments: [[/^WAIT FOR/, treatment]]
    })
    const { connection } = yield* connected(server.url)
    const [{ system, offset }] = yield* query(
      server.database,
      "SELECT system_identifier::text AS system, pg_current_wal_insert_lsn() - '0/0' AS offset FROM pg_control_system()"
    )
    const ask = (offset: bigint, wait?: number) =>
      connection.staleness!({ position: { system, timeline: 1, offset }, maxLag: 1_000 }, wait)
    const waits = () => server.statements.filter((statement) => statement.startsWith("WAIT"))
    return { ask, waits, statements: server.statements, replayed: BigInt(offset), server }
  })

const status: Treatment = { text: "SELECT 'success' AS status" }

describe("a replica of PostgreSQL 19", () => {
  it.scopedLive("waits for a position until it is replayed, and is then asked whether it is fresh", () =>
    Effect.gen(function*() {
      const { ask, replayed, statements, waits } = yield* opened("19.1", status)
      assert.isUndefined(yield* ask(0xabn, 49.5))
      assert.deepStrictEqual(waits(), ["WAIT FOR LSN '0/ab' WITH (TIMEOUT '50', NO_THROW)"])
      assert.include(statements.at(-1), "staleness")
      // It is not believed: what it is asked afterwards tells.
      assert.strictEqual(yield* ask(replayed + 0x10_0000_0000n, 5), "behind")
      // Without a time to wait it is only asked.
      yield* ask(0n)
      yield* ask(0n, 0)
      assert.strictEqual(waits().length, 2)
    }))

  it.scopedLive("is asked also if the wait was canceled, and not to wait again if it does not know how to", () =>
    Effect.gen(function*() {
      const canceled = yield* opened("19.1", {
        code: "40001",
        message: "canceling statement due to conflict with recovery"
      })
      assert.isUndefined(yield* canceled.ask(0n, 50))
      assert.isUndefined(yield* canceled.ask(0n, 50))
      assert.strictEqual(canceled.waits().length, 2)
      const unknown = yield* opened("19devel", { code: "42601", message: "syntax error at or near \"WAIT\"" })
      assert.isUndefined(yield* unknown.ask(0n, 50))
      assert.isUndefined(yield* unknown.ask(0n, 50))
      assert.strictEqual(unknown.waits().length, 1)
    }))

  it.scopedLive("and one that is older is only asked", () =>
    Effect.gen(function*() {
      const { ask, waits } = yield* opened("18.3", status)
      assert.isUndefined(yield* ask(0n, 50))
      assert.deepStrictEqual(waits(), [])
    }))
})
