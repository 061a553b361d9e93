import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Database from "../../../src/Database.js"
import { eventually } from "../../support/eventually.js"
import { blueGreen, cluster, query } from "../../support/postgres.js"
import { failure, live, numbers } from "./harness.js"
import { inserting, itemsOf, lost, migrated, newLog, proxied, reconnected, recorded } from "./lostCommit.js"

/** A session that inserts a number, and how often that was done. */
const runs = (db: Database.Service, n: number) => {
  const log = newLog()
  return Effect.map(db.session(inserting(db, n, log), recorded), () => log.runs)
}

describe("a recorded commit", () => {
  live("is found out on the standby that was promoted when its server died", () =>
    Effect.gen(function*() {
      for (const what of ["answer", "request"] as const) {
        const rig = yield* cluster({ standbys: 1, synchronous: true })
        const primary = rig.primary()
        const [standby] = rig.standbys()
        const { db, network } = yield* migrated(primary.url)
        yield* lost(
          network,
          what,
          primary.kill.pipe(Effect.zipRight(rig.promote(standby)), Effect.zipRight(network.retarget(standby.url)))
        )
        assert.strictEqual(yield* runs(db, 1), what === "answer" ? 1 : 2)
        assert.deepStrictEqual(yield* numbers(db), [1])
      }
    }))

  live("that an asynchronous standby does not have is done again there", () =>
    Effect.gen(function*() {
      const rig = yield* cluster({ standbys: 1 })
      const primary = rig.primary()
      const [standby] = rig.standbys()
      const { db, network } = yield* migrated(primary.url)
      yield* rig.replayed(standby)
      yield* standby.stop("fast")
      yield* lost(
        network,
        "answer",
        Effect.all([primary.kill, standby.start, rig.promote(standby), network.retarget(standby.url)])
      )
      assert.strictEqual(yield* runs(db, 1), 2)
      assert.deepStrictEqual(yield* numbers(db), [1])
    }))

  live(
    "that only the primary has is no success, and one that a standby has confirmed is",
    () =>
      Effect.gen(function*() {
        const rig = yield* cluster({ standbys: 1, synchronous: true })
        const primary = rig.primary()
        const [standby] = rig.standbys()
        const { db, network } = yield* migrated(primary.url)
        const waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        const terminated = Effect.zipRight(
          eventually(Effect.map(query(primary.url, waiting), (rows) => rows.length === 1), { timeout: "1 minute" }),
          query(primary.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        )
        // What ends the wait is the warning that goes to nobody.
        yield* standby.stop("fast")
        yield* lost(network, "answer", Effect.void)
        yield* Effect.forkScoped(terminated)
        const log = newLog()
        assert.strictEqual((yield* failure(db.session(inserting(db, 1, log), recorded)))._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        yield* standby.start
        yield* reconnected(db)
        // The questions that nobody waits for any more end with the standby's confirmation.
        yield* eventually(Effect.map(query(primary.url, waiting), (rows) => rows.length === 0), { timeout: "1 minute" })
        yield* standby.stop("fast")
        yield* lost(network, "answer", Effect.void)
        yield* Effect.forkScoped(Effect.zipRight(terminated, standby.start))
        assert.strictEqual(yield* runs(db, 2), 1)
        yield* rig.replayed(standby)
        assert.deepStrictEqual(yield* itemsOf(standby.url), [1, 2])
      })
  )

  live(
    "whose wait for the standby was ended by a shutdown is found on that standby, once it is promoted",
    () =>
      Effect.gen(function*() {
        const rig = yield* cluster({ standbys: 1, synchronous: true })
        const primary = rig.primary()
        const [standby] = rig.standbys()
        const { db, network } = yield* migrated(primary.url)
        const waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        yield* rig.pauseReplay(standby)
        // The answer says that the standby has not confirmed it.
        yield* lost(
          network,
          "end",
          primary.stop("fast").pipe(
            Effect.zipRight(rig.resumeReplay(standby)),
            Effect.zipRight(rig.promote(standby)),
            Effect.zipRight(network.retarget(standby.url))
          )
        )
        yield* Effect.forkScoped(Effect.zipRight(
          eventually(Effect.map(query(primary.url, waiting), (rows) => rows.length === 1), { timeout: "1 minute" }),
          primary.stop("fast")
        ))
        const log = newLog()
        yield* db.session(inserting(db, 1, log), { ...recorded, settings: { synchronous_commit: "remote_apply" } })
        assert.deepStrictEqual(log, { runs: 1, hooks: ["commit"] })
        assert.deepStrictEqual(yield* itemsOf(standby.url), [1])
      })
  )

  live(
    "that was done on blue is found on green, and is unknown while green does not have it",
    () =>
      Effect.gen(function*() {
        const schema = "CREATE TABLE items (n INTEGER PRIMARY KEY); CREATE SCHEMA sqlayer; " +
          "CREATE TABLE sqlayer.commits (id uuid PRIMARY KEY, committed boolean NOT NULL, at timestamptz NOT NULL)"
        const { blue, disconnect, green, replicated } = yield* blueGreen({ schema })
        const { db, network } = yield* proxied(blue.url, () => Effect.void)
        const moved = network.retarget(green.url)
        yield* lost(network, "answer", Effect.zipRight(replicated, moved))
        assert.strictEqual(yield* runs(db, 1), 1)
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* network.cutAll
        yield* network.retarget(blue.url)
        yield* reconnected(db)
        yield* disconnect
        yield* lost(network, "answer", moved)
        const log = newLog()
        assert.strictEqual((yield* failure(db.session(inserting(db, 2, log), recorded)))._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        assert.deepStrictEqual(yield* query(green.url, "SELECT 1 FROM sqlayer.commits WHERE NOT committed"), [])
      })
  )
})
