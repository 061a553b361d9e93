import { assert, describe, it } from "@effect/vitest"
import SQLite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import Pg from "pg"
import type { Transfer } from "../../docs/examples/ledger/api.js"
import { eventually } from "../support/eventually.js"
import { type Ledger, post, request, start } from "../support/ledger.js"
import { freshDatabase, query } from "../support/postgres.js"

/** A new database, looked at and locked from outside of the ledger. */
interface Place {
  readonly url: string
  readonly rows: (sql: string) => Effect.Effect<ReadonlyArray<any>>
  /** Locks all accounts; gives what unlocks them. */
  readonly lock: Effect.Effect<Effect.Effect<void>, never, Scope.Scope>
  /** Whether as many transfers wait for the lock, as far as that can be seen. */
  readonly blocked: (transfers: number) => Effect.Effect<boolean>
}

const sqlite: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-ledger-"))),
    (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
  )
  const file = path.join(directory, "ledger.db")
  const open = Effect.acquireRelease(Effect.sync(() => new SQLite(file)), (db) => Effect.sync(() => db.close()))
  return {
    url: `sqlite:///${file}`,
    rows: (sql) => Effect.scoped(Effect.map(open, (db) => db.prepare(sql).all())),
    lock: Effect.map(open, (db) => {
      db.exec("BEGIN IMMEDIATE")
      return Effect.sync(() => db.exec("ROLLBACK"))
    }),
    blocked: () => Effect.as(Effect.promise(() => sleep(500)), true)
  }
})

const postgres: Effect.Effect<Place, never, Scope.Scope> = Effect.map(freshDatabase, (url) => ({
  url,
  rows: (sql) => query(url, sql),
  lock: Effect.gen(function*() {
    const client = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const client = new Pg.Client(url)
        await client.connect()
        return client
      }),
      (client) => Effect.promise(() => client.end())
    )
    yield* Effect.promise(() => client.query("BEGIN; SELECT * FROM account FOR UPDATE"))
    return Effect.promise(() => client.query("ROLLBACK"))
  }),
  blocked: (transfers) =>
    Effect.map(
      query(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"),
      (rows) => rows.length >= transfers
    )
}))

const open = (ledger: Ledger, owner: string, balance: number): Effect.Effect<number> =>
  Effect.map(post(ledger, "/accounts", { owner, balance }), ({ body, status }) => {
    assert.strictEqual(status, 201)
    assert.deepStrictEqual(body, { id: body.id, owner, balance })
    return body.id
  })

/** Random numbers that a seed repeats (mulberry32). */
const random = (seed: number) => (below: number): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) % below
}

describe.each([["SQLite", sqlite], ["PostgreSQL", postgres]] as const)("ledger on %s", (name, place) => {
  it.scopedLive("moves money, and none appears or vanishes", () =>
    Effect.gen(function*() {
      const seed = Number(process.env.LEDGER_SEED ?? Date.now() % 2 ** 31)
      console.log(`ledger on ${name}: LEDGER_SEED=${seed}`)
      const below = random(seed)
      const db = yield* place
      const ledger = yield* start(db.url)
      const expected = new Map<number, number>()
      for (let i = 0; i < 6; i++) {
        const balance = below(1000)
        expected.set(yield* open(ledger, `owner ${i}`, balance), balance)
      }
      const total = [...expected.values()].reduce((sum, balance) => sum + balance)
      const ids = [...expected.keys()]
      const orders = Array.from({ length: 400 }, () => {
        const from = below(ids.length)
        const to = (from + 1 + below(ids.length - 1)) % ids.length
        return { from: ids[from], to: ids[to], amount: 1 + below(700) }
      })
      const answers = yield* Effect.forEach(orders, (order) => post(ledger, "/transfers", order), { concurrency: 32 })

      const done: Array<Transfer> = []
      for (const [i, { body, status }] of answers.entries()) {
        const order = orders[i]
        if (status === 201) {
          assert.deepStrictEqual(body, { id: body.id, ...order })
          done.push(body)
          expected.set(order.from, expected.get(order.from)! - order.amount)
          expected.set(order.to, expected.get(order.to)! + order.amount)
        } else {
          assert.strictEqual(status, 409, JSON.stringify(body))
          assert.strictEqual(body._tag, "InsufficientFunds")
          assert.strictEqual(body.account, order.from)
          assert.isAbove(body.missing, 0)
          assert.isAtMost(body.missing, order.amount)
        }
      }
      assert.isAbove(done.length, 0)
      assert.isBelow(done.length, orders.length)

      const { body: accounts } = yield* request(ledger, "/accounts")
      assert.deepStrictEqual(accounts.map(({ balance, id }: any) => [id, balance]), [...expected])
      assert.strictEqual(accounts.reduce((sum: number, { balance }: any) => sum + balance, 0), total)
      assert(accounts.every(({ balance }: any) => balance >= 0))

      const entries = yield* db.rows("SELECT id, from_account, to_account, amount FROM transfer ORDER BY id")
      assert.deepStrictEqual(
        entries.map((row): Transfer => ({
          id: row.id,
          from: row.from_account,
          to: row.to_account,
          amount: Number(row.amount)
        })),
        done.sort((a, b) => a.id - b.id)
      )
    }), 240_000)

  it.scopedLive(
    "answers conflicts with 409, what is unknown with 404, and what is not valid with 400",
    () =>
      Effect.gen(function*() {
        const db = yield* place
        const ledger = yield* start(db.url)

        const commands = [...ledger.output().matchAll(/curl (\S+) -H '(\S+): (\S+)' -d '(\S+)'/g)]
        const tried = yield* Effect.forEach(commands, ([, url, header, value, body]) =>
          Effect.promise(async () => {
            const response = await fetch(url, { method: "POST", headers: { [header]: value }, body })
            return [response.status, await response.json()]
          }))
        assert.deepStrictEqual(tried, [
          [201, { id: 1, owner: "Ada", balance: 10_000 }],
          [201, { id: 2, owner: "Grace", balance: 0 }],
          [201, { id: 1, from: 1, to: 2, amount: 2500 }]
        ])

        const taken = yield* post(ledger, "/accounts", { owner: "Ada", balance: 1 })
        assert.deepStrictEqual([taken.status, taken.body], [409, { _tag: "OwnerTaken", owner: "Ada" }])
        const poor = yield* post(ledger, "/transfers", { from: 2, to: 1, amount: 2600 })
        assert.deepStrictEqual([poor.status, poor.body], [409, { _tag: "InsufficientFunds", account: 2, missing: 100 }])

        const unknown = [
          yield* request(ledger, "/accounts/77"),
          yield* post(ledger, "/transfers", { from: 77, to: 1, amount: 1 }),
          yield* post(ledger, "/transfers", { from: 1, to: 77, amount: 1 })
        ]
        for (const { body, status } of unknown) {
          assert.deepStrictEqual([status, body], [404, { _tag: "AccountNotFound", account: 77 }])
        }

        const invalid = [
          { from: 1, to: 2, amount: 0 },
          { from: 1, to: 2, amount: -1 },
          { from: 1, to: 2, amount: 0.5 },
          { from: 1, to: 2, amount: "1" },
          { from: 1, to: 2, amount: 1e300 },
          { from: 1, to: 1, amount: 1 },
          { from: 1, to: 2 ** 40, amount: 1 },
          { from: 1, amount: 1 },
          "[]",
          "no JSON"
        ]
        for (const order of invalid) {
          const { status } = yield* post(ledger, "/transfers", order)
          assert.strictEqual(status, 400, JSON.stringify(order))
        }
        for (const opening of [{ owner: "" }, { owner: "a\u0000b" }, { owner: "Linus", balance: -1 }, {}]) {
          const { status } = yield* post(ledger, "/accounts", opening)
          assert.strictEqual(status, 400, JSON.stringify(opening))
        }
        assert.strictEqual((yield* request(ledger, "/accounts/one")).status, 400)

        const ada = yield* request(ledger, "/accounts/1")
        assert.deepStrictEqual([ada.status, ada.body], [200, { id: 1, owner: "Ada", balance: 7500 }])
        const all = yield* request(ledger, "/accounts")
        assert.deepStrictEqual(all.body, [ada.body, { id: 2, owner: "Grace", balance: 2500 }])
      }),
    240_000
  )

  it.scopedLive("keeps what it holds when it is started again, and is alive and ready", () =>
    Effect.gen(function*() {
      const db = yield* place
      const first = yield* start(db.url)
      const id = yield* open(first, "Ada", 12)
      first.process.kill("SIGTERM")
      assert.strictEqual(yield* first.ended, 0, first.output())

      const second = yield* start(db.url)
      assert.deepStrictEqual((yield* request(second, `/accounts/${id}`)).body, { id, owner: "Ada", balance: 12 })
      const live = yield* request(second, "/health/live")
      assert.deepStrictEqual([live.status, live.body], [200, { status: "live" }])
      const ready = yield* request(second, "/health/ready")
      assert.deepStrictEqual([ready.status, ready.body.status], [200, "ready"])
      assert.deepStrictEqual(ready.body.migrations, { applied: 2, pending: [], problems: [] })
    }), 240_000)

  it.scopedLive("shows operators its metrics, and who knows the password its dashboard", () =>
    Effect.gen(function*() {
      const db = yield* place
      const ledger = yield* start(db.url, { OPERATOR_PASSWORD: "open sesame" })
      yield* open(ledger, "Ada", 12)
      const metrics = yield* request(ledger, "/metrics")
      assert.strictEqual(metrics.status, 200)
      assert.match(metrics.body, /^sqlayer_session_committed_total\{[^}]*\} [1-9]/m)
      const knowing = (password: string) =>
        request(ledger, "/admin/database", { headers: { authorization: `Basic ${btoa(`operator:${password}`)}` } })
      const page = yield* knowing("open sesame")
      assert.deepStrictEqual([page.status, page.headers.get("content-type")], [200, "text/html; charset=utf-8"])
      const refused = [yield* request(ledger, "/admin/database"), yield* knowing("open barley")]
      assert.deepStrictEqual(refused.map(({ body, status }) => [status, body]), [[401, ""], [401, ""]])
    }), 240_000)

  it.scopedLive("finishes the requests that run when SIGTERM comes, and ends with 0", () =>
    Effect.gen(function*() {
      const db = yield* place
      const ledger = yield* start(db.url)
      const from = yield* open(ledger, "Ada", 100)
      const to = yield* open(ledger, "Grace", 0)
      const unlock = yield* db.lock
      const transfers = yield* Effect.fork(
        Effect.all(Array.from({ length: 3 }, () => post(ledger, "/transfers", { from, to, amount: 10 })), {
          concurrency: "unbounded"
        })
      )
      yield* eventually(db.blocked(3))
      ledger.process.kill("SIGTERM")
      yield* eventually(Effect.promise(() => fetch(ledger.address).then(() => false, () => true)))
      assert.strictEqual(ledger.process.exitCode, null)
      yield* unlock
      for (const { body, headers, status } of yield* Fiber.join(transfers)) {
        assert.deepStrictEqual([status, body], [201, { id: body.id, from, to, amount: 10 }])
        assert.strictEqual(headers.get("connection"), "close")
      }
      assert.strictEqual(yield* ledger.ended, 0, ledger.output())
      const balances = yield* db.rows("SELECT balance FROM account ORDER BY id")
      assert.deepStrictEqual(balances.map(({ balance }) => Number(balance)), [70, 30])
    }), 240_000)
})

describe("ledger", () => {
  it.scopedLive("is alive but not ready while its database lets nobody in", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const ledger = yield* start(url)
      const database = new URL(url).pathname.slice(1)
      const maintenance = new URL(url)
      maintenance.pathname = "/postgres"
      const readiness = Effect.map(request(ledger, "/health/ready"), ({ status }) => status)

      yield* query(maintenance.href, `ALTER DATABASE ${database} ALLOW_CONNECTIONS false`)
      yield* query(maintenance.href, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", [
        database
      ])
      const ready = yield* request(ledger, "/health/ready")
      assert.deepStrictEqual([ready.status, ready.body.status], [503, "unavailable"])
      assert.strictEqual((yield* request(ledger, "/health/live")).status, 200)

      yield* query(maintenance.href, `ALTER DATABASE ${database} ALLOW_CONNECTIONS true`)
      yield* eventually(Effect.map(readiness, (status) => status === 200))
    }), 240_000)
})
