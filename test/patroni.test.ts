/**
 * The example ledger on a cluster as operators have it: Patroni with etcd, behind HAProxy and PgBouncer.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { query } from "./support/client.js"
import { eventually } from "./support/eventually.js"
import { type Ledger, post, request, start } from "./support/ledger.js"
import { missing, patroni } from "./support/patroni.js"
import { isInstalled, pgbouncer } from "./support/pgbouncer.js"

const ci = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false"
const absent = [...missing, ...isInstalled ? [] : ["pgbouncer"]]

const accounts = 20
const balance = 1_000

/** Clients that transfer money all the time, and remember what they were answered. */
const clients = (ledgers: ReadonlyArray<Ledger>) =>
  Effect.gen(function*() {
    const acknowledged: Array<{ readonly id: number; readonly at: number }> = []
    const statuses = new Map<number, number>()
    let lost = 0
    const transfer = (client: number) =>
      Effect.gen(function*() {
        const from = 1 + (client + statuses.size + acknowledged.length) % accounts
        const to = 1 + (from + client) % accounts
        const ledger = ledgers[client % ledgers.length]
        const { body, status } = yield* post(ledger, "/transfers", {
          from,
          to: to === from ? 1 + to % accounts : to,
          amount: 1
        })
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        if (status === 201) {
          acknowledged.push({ id: body.id, at: performance.now() })
        } else {
          lost++
          yield* Effect.sleep("50 millis")
        }
      })
    const fibers = yield* Effect.forEach(
      Array.from({ length: 8 }, (_, client) => client),
      (client) => Effect.fork(Effect.forever(transfer(client)))
    )
    return {
      acknowledged,
      statuses,
      failures: () => lost,
      isAcknowledgedSince: (time: number) => Effect.sync(() => acknowledged.some(({ at }) => at > time)),
      stop: Fiber.interruptAll(fibers)
    }
  })

describe("under Patroni, behind HAProxy and PgBouncer", () => {
  it("the ledger is tested in CI", () => {
    assert.isTrue(absent.length === 0 || !ci, `not installed: ${absent.join(", ")}`)
  })

  it.scopedLive.skipIf(absent.length > 0 && !ci)(
    "the ledger outlives a switchover and the death of the leader, and loses and doubles nothing",
    () =>
      Effect.gen(function*() {
        const cluster = yield* patroni
        const pooled = yield* pgbouncer(cluster.writerUrl, "transaction", 10)
        const settings = { APP_ENV: "production", DATABASE_POOL_SIZE: "8" }
        const ledgers = yield* Effect.all([start(pooled, settings), start(pooled, settings)], { concurrency: 2 })
        for (let account = 1; account <= accounts; account++) {
          assert.strictEqual((yield* post(ledgers[0], "/accounts", { owner: `owner ${account}`, balance })).status, 201)
        }
        const { acknowledged, failures, isAcknowledgedSince, statuses, stop } = yield* clients(ledgers)
        yield* eventually(isAcknowledgedSince(0), { timeout: "1 minute" })

        yield* cluster.switchover
        yield* eventually(isAcknowledgedSince(performance.now()), { timeout: "1 minute" })
        yield* cluster.killLeader
        yield* eventually(isAcknowledgedSince(performance.now()), { timeout: "1 minute" })
        for (const ledger of ledgers) {
          yield* eventually(Effect.map(request(ledger, "/health/ready"), ({ status }) => status === 200), {
            timeout: "1 minute"
          })
        }
        yield* stop

        const { url } = yield* cluster.leader
        // In one statement: a transfer of the clients that were stopped may still be committed.
        const [{ found, rows }] = (yield* query(
          url,
          `SELECT (SELECT json_agg(transfer) FROM transfer) AS rows,
             (SELECT json_agg(json_build_array(id, balance) ORDER BY id) FROM account) AS found`
        )) as ReadonlyArray<{
          readonly rows: ReadonlyArray<{
            readonly id: number
            readonly amount: number
            readonly from_account: number
            readonly to_account: number
          }>
          readonly found: ReadonlyArray<readonly [id: number, balance: number]>
        }>
        const ids = new Set(rows.map(({ id }) => id))
        const message = JSON.stringify([...statuses])
        assert.deepStrictEqual(acknowledged.filter(({ id }) => !ids.has(id)), [], `lost: ${message}`)
        assert.strictEqual(new Set(acknowledged.map(({ id }) => id)).size, acknowledged.length, message)
        // What was not acknowledged was answered with a failure, or cut off when the clients stopped.
        assert.isAtMost(rows.length, acknowledged.length + failures() + 8, `doubled or invented: ${message}`)
        const balances = new Map(Array.from({ length: accounts }, (_, i) => [i + 1, balance]))
        for (const { amount, from_account, to_account } of rows) {
          balances.set(from_account, balances.get(from_account)! - amount)
          balances.set(to_account, balances.get(to_account)! + amount)
        }
        assert.deepStrictEqual(found, [...balances], message)
      }),
    240_000
  )
})
