import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { withClient } from "./client.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import * as Postgres from "./postgres.js"

it.scoped("counts connections by state", () =>
  Effect.gen(function*() {
    const url = yield* Postgres.freshDatabase
    const none = { total: 0, active: 0, inTransaction: 0, idleInTransaction: 0, waitingForLock: 0 }
    assert.deepStrictEqual(yield* connections(url), none)
    const applicationName = `observed ${new URL(url).pathname}`
    yield* Postgres.query(url, "CREATE TABLE t (n int)")
    yield* Effect.promise(() =>
      withClient({ connectionString: url, application_name: applicationName }, (holder) =>
        withClient({ connectionString: url, application_name: "another" }, async (waiter) => {
          await holder.query("BEGIN; LOCK TABLE t")
          const waiting = waiter.query("SELECT n FROM t")
          await Effect.runPromise(
            eventually(Effect.map(connections(url), ({ waitingForLock }) =>
              waitingForLock === 1))
          )
          assert.deepStrictEqual(await Effect.runPromise(connections(url)), {
            total: 2,
            active: 1,
            inTransaction: 2,
            idleInTransaction: 1,
            waitingForLock: 1
          })
          // By application name in any database, through a connection to any database.
          assert.deepStrictEqual(await Effect.runPromise(connections(Postgres.url(), { applicationName })), {
            ...none,
            total: 1,
            inTransaction: 1,
            idleInTransaction: 1
          })
          const database = new URL(url).pathname.slice(1)
          assert.strictEqual((await Effect.runPromise(connections(Postgres.url(), { database }))).total, 2)
          await holder.query("COMMIT")
          await waiting
        }))
    )
    yield* eventually(Effect.map(connections(url), ({ total }) =>
      total === 0))
  }))
