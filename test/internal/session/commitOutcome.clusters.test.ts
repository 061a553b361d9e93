import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { promoteServer } from "../../support/cluster.js"
import { eventually } from "../../support/eventually.js"
import { blueGreen, cluster, query } from "../../support/postgres.js"
import { failure, live, numbers } from "./harness.js"
import {
  accepted,
  atCommit,
  inPlaceOfTheAnswer,
  inserting,
  itemsOf,
  lost,
  newLog,
  proxied,
  reconnected
} from "./lostCommit.js"

const verified = { commit: "verified", retry: true } as const

/**
 * With the fault, the session fails with CommitOutcomeUnknown, is not done again, and does not ask for five seconds what can
 * have no answer.
 */
const isUnknownAtOnce = (
  { db, network }: Effect.Effect.Success<ReturnType<typeof proxied>>,
  n: number,
  fault: Effect.Effect<void>
) =>
  Effect.gen(function*() {
    const before = yield* accepted(network)
    yield* fault
    const log = newLog()
    const error = yield* failure(db.session(inserting(db, n, log), verified))
    assert.strictEqual(error._tag, "CommitOutcomeUnknown")
    assert.deepStrictEqual(log, { runs: 1, hooks: [] })
    assert.isBelow((yield* accepted(network)) - before, 10)
  })

/** The process that waits for a standby to confirm its COMMIT. */
const waiting = (url: string) =>
  Effect.gen(function*() {
    const sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    yield* eventually(Effect.map(query(url, sql), (rows) => rows.length === 1), { timeout: "1 minute" })
    return (yield* query(url, sql))[0].pid as number
  })

/** A primary with a standby that its commits wait for, and a database behind a proxy. */
const synchronous = Effect.gen(function*() {
  const rig = yield* cluster({ standbys: 1, synchronous: true })
  const primary = rig.primary()
  const { db, network } = yield* proxied(primary.url)
  return { rig, primary, standby: rig.standbys()[0], db, network }
})

/**
 * While the standby is stopped, a COMMIT waits for it; then `end` ends the wait, of which the session learns nothing.
 */
const unconfirmed = (
  { network, primary, standby }: Effect.Effect.Success<typeof synchronous>,
  end: (pid: number) => Effect.Effect<unknown>
) =>
  Effect.gen(function*() {
    yield* standby.stop("fast")
    yield* inPlaceOfTheAnswer(network, "cut")
    yield* Effect.forkScoped(Effect.flatMap(waiting(primary.url), end))
  })

const terminate = (url: string) => (pid: number) => query(url, "SELECT pg_terminate_backend($1)", [pid])

describe("a verified commit", () => {
  live("that was done on blue is not told by green", () =>
    Effect.gen(function*() {
      const { blue, green } = yield* blueGreen({ schema: "SELECT 1" })
      const database = yield* proxied(blue.url)
      const { db, network } = database
      yield* query(green.url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
      yield* numbers(db)
      yield* network.retarget(green.url)
      yield* isUnknownAtOnce(database, 1, inPlaceOfTheAnswer(network, "cut"))
      assert.deepStrictEqual(yield* itemsOf(blue.url), [1])
      yield* network.cutAll
      yield* network.retarget(blue.url)
      yield* reconnected(db)
      yield* isUnknownAtOnce(
        database,
        2,
        atCommit(network, () => {
          Effect.runSync(network.retarget(green.url))
          return "cut"
        })
      )
      assert.deepStrictEqual(yield* itemsOf(green.url), [])
    }))

  live("that was done on one cold copy is not told by another one", () =>
    Effect.gen(function*() {
      const rig = yield* cluster({ standbys: 0 })
      const origin = rig.primary()
      yield* origin.stop("fast")
      const first = yield* rig.coldCopy(origin)
      yield* promoteServer(first)
      const second = yield* rig.coldCopy(origin)
      yield* promoteServer(second)
      const database = yield* proxied(first.url)
      yield* query(second.url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
      yield* database.network.retarget(second.url)
      yield* isUnknownAtOnce(database, 1, inPlaceOfTheAnswer(database.network, "reset"))
      assert.deepStrictEqual([yield* itemsOf(first.url), yield* itemsOf(second.url)], [[1], []])
    }))

  live(
    "that only the primary has is no success, when its wait for the standby was ended",
    () =>
      Effect.gen(function*() {
        const all = yield* synchronous
        const { db, network, primary, rig, standby } = all
        yield* unconfirmed(all, terminate(primary.url))
        const log = newLog()
        const error = yield* failure(db.session(inserting(db, 1, log), verified))
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        assert.deepStrictEqual(yield* itemsOf(primary.url), [1], "the primary has committed it")
        yield* primary.kill
        yield* standby.start
        yield* rig.promote(standby)
        assert.deepStrictEqual(yield* itemsOf(standby.url), [], "and nobody else")
        yield* network.retarget(standby.url)
        yield* reconnected(db)
        assert.deepStrictEqual(yield* numbers(db), [])
      })
  )

  live("that only the primary has is no success after a restart", () =>
    Effect.gen(function*() {
      const all = yield* synchronous
      const { db, primary } = all
      yield* unconfirmed(all, () => Effect.zipRight(primary.stop("fast"), primary.start))
      const log = newLog()
      assert.strictEqual((yield* failure(db.session(inserting(db, 1, log), verified)))._tag, "CommitOutcomeUnknown")
      assert.deepStrictEqual(log, { runs: 1, hooks: [] })
      assert.deepStrictEqual(yield* itemsOf(primary.url), [1])
    }))

  live("is a success once a standby has confirmed it, and then the standby has it", () =>
    Effect.gen(function*() {
      const all = yield* synchronous
      const { db, primary, rig, standby } = all
      yield* unconfirmed(all, (pid) =>
        Effect.zipRight(terminate(primary.url)(pid), Effect.zipRight(waiting(primary.url), standby.start)))
      const log = newLog()
      yield* db.session(inserting(db, 1, log), verified)
      assert.deepStrictEqual(log, { runs: 1, hooks: ["commit"] })
      yield* primary.kill
      yield* rig.promote(standby)
      assert.deepStrictEqual(yield* itemsOf(standby.url), [1])
    }))

  live("does not wait for a standby where the session does not", () =>
    Effect.gen(function*() {
      const { db, network, primary, standby } = yield* synchronous
      yield* standby.pause
      yield* inPlaceOfTheAnswer(network, "cut")
      const local = { ...verified, settings: { synchronous_commit: "local" } }
      const log = newLog()
      yield* db.session(inserting(db, 1, log), local)
      assert.deepStrictEqual(log, { runs: 1, hooks: ["commit"] })
      // Unless a statement of it changes that.
      yield* reconnected(db)
      yield* lost(network, "answer", Effect.void)
      yield* Effect.forkScoped(Effect.flatMap(waiting(primary.url), terminate(primary.url)))
      const waits = Effect.zipRight(db.sql`SET LOCAL synchronous_commit = on`, inserting(db, 2, log))
      assert.strictEqual((yield* failure(db.session(waits, local)))._tag, "CommitOutcomeUnknown")
      yield* standby.resume
    }))

  live(
    "whose wait for the standby was canceled is CommitOutcomeUnknown, with its connection alive",
    () =>
      Effect.gen(function*() {
        const { db, primary, standby } = yield* synchronous
        yield* standby.pause
        yield* Effect.forkScoped(
          Effect.flatMap(waiting(primary.url), (pid) => query(primary.url, "SELECT pg_cancel_backend($1)", [pid]))
        )
        const log = newLog()
        const error = yield* failure(db.session(inserting(db, 1, log), verified))
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        assert.strictEqual(error.code, "01000")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        yield* standby.resume
      })
  )

  live("is not told by a standby, nor by one that was promoted", () =>
    Effect.gen(function*() {
      const rig = yield* cluster({ standbys: 1 })
      const primary = rig.primary()
      const [standby] = rig.standbys()
      const database = yield* proxied(primary.url)
      const { db, network } = database
      yield* network.retarget(standby.url)
      yield* isUnknownAtOnce(database, 1, inPlaceOfTheAnswer(network, "cut"))
      yield* network.cutAll
      yield* network.retarget(primary.url)
      yield* reconnected(db)
      assert.deepStrictEqual(yield* numbers(db), [1])
      yield* rig.promote(standby)
      yield* network.retarget(standby.url)
      yield* isUnknownAtOnce(database, 2, inPlaceOfTheAnswer(network, "cut"))
    }))

  live("of a session that cannot write has nothing to find out, on a standby too", () =>
    Effect.gen(function*() {
      const rig = yield* cluster({ standbys: 1 })
      const [standby] = rig.standbys()
      const { db, network } = yield* proxied(rig.primary().url)
      yield* rig.replayed(standby)
      for (const { url } of [rig.primary(), standby]) {
        yield* network.cutAll
        yield* network.retarget(url)
        yield* reconnected(db)
        yield* inPlaceOfTheAnswer(network, "cut")
        let runs = 0
        const reading = Effect.zipRight(Effect.sync(() => runs++), numbers(db))
        yield* db.session(reading, { ...verified, readOnly: true })
        assert.strictEqual(runs, 2)
      }
    }))
})
