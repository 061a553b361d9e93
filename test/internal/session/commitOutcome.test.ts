import { assert, describe } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import { identityQuery, parseServerIdentity } from "../../../src/internal/postgres/serverIdentity.js"
import {
  identitySql,
  lookUp,
  parseIdentity,
  type TransactionIdentity
} from "../../../src/internal/postgres/transactionOutcome.js"
import { sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { assertIdle, failure, insert, live, numbers, open } from "./harness.js"
import { atCommit, connecting, inPlaceOfTheAnswer, inserting, newLog, proxied } from "./lostCommit.js"

const times = 25

const verified = { commit: "verified" } as const

describe("a verified commit", () => {
  live(`whose answer was lost has happened, ${times} times`, () =>
    Effect.gen(function*() {
      const { db, network } = yield* proxied(yield* freshDatabase)
      for (let n = 0; n < times; n++) {
        yield* inPlaceOfTheAnswer(network, n % 2 === 0 ? "cut" : "reset")
        const log = newLog()
        yield* db.session(inserting(db, n, log), { ...verified, retry: true })
        assert.deepStrictEqual(log, { runs: 1, hooks: ["commit"] })
      }
      assert.deepStrictEqual(yield* numbers(db), Array.from({ length: times }, (_, n) => n))
      yield* assertIdle(db)
    }))

  live(`that was lost on its way has not, and is a ConnectionLost, ${times} times`, () =>
    Effect.gen(function*() {
      const { db, network } = yield* proxied(yield* freshDatabase)
      for (let n = 0; n < times; n++) {
        yield* atCommit(network, () => n % 2 === 0 ? "cut" : "reset")
        const log = newLog()
        const error = yield* failure(db.session(inserting(db, n, log), verified))
        assert.strictEqual(error._tag, "ConnectionLost")
        assert.deepStrictEqual(log, { runs: 1, hooks: ["rollback"] })
      }
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live(`that was lost on its way is done again by retry, once, ${times} times`, () =>
    Effect.gen(function*() {
      const { db, network } = yield* proxied(yield* freshDatabase)
      for (let n = 0; n < times; n++) {
        yield* atCommit(network, () => n % 2 === 0 ? "cut" : "reset")
        const log = newLog()
        yield* db.session(inserting(db, n, log), { ...verified, retry: true })
        assert.deepStrictEqual(log, { runs: 2, hooks: ["rollback", "commit"] })
      }
      assert.deepStrictEqual(yield* numbers(db), Array.from({ length: times }, (_, n) => n))
      yield* assertIdle(db)
    }))

  live("of a session that is acquired is found out too", () =>
    Effect.gen(function*() {
      const { db, network } = yield* proxied(yield* freshDatabase)
      const acquired = (n: number) =>
        Effect.scoped(Effect.flatMap(db.acquireSession(verified), (handle) =>
          Effect.zipRight(handle.run(insert(db, n)), handle.commit)))
      yield* inPlaceOfTheAnswer(network, "cut")
      yield* acquired(1)
      yield* atCommit(network, () =>
        "cut")
      assert.strictEqual((yield* failure(acquired(2)))._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* numbers(db), [1])
    }))

  live(
    "that a server which was killed did not get is CommitOutcomeUnknown as soon as the server is back: it may be a copy",
    () =>
      Effect.gen(function*() {
        const { kill, start, url } = yield* server()
        const { db, network } = yield* proxied(url)
        yield* atCommit(network, () => {
          Effect.runFork(Effect.zipRight(kill, start))
          return "drop"
        })
        const log = newLog()
        const error = yield* failure(db.session(inserting(db, 1, log), { ...verified, retry: true }))
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        assert.deepStrictEqual(yield* query(url, "SELECT n FROM items"), [])
      })
  )

  live(
    "is never said to have happened, or not to, by mistake when the server is killed just then",
    () =>
      Effect.gen(function*() {
        const { kill, start, url } = yield* server()
        const { db, network } = yield* proxied(url)
        for (const n of [1, 2, 3]) {
          const restarted = yield* Deferred.make<void>()
          yield* atCommit(network, () => {
            const crash = Effect.zipRight(Effect.zipRight(Effect.sleep(n - 1), kill), start)
            Effect.runFork(Effect.zipRight(crash, Deferred.succeed(restarted, undefined)))
            return "pass"
          })
          const outcome = yield* Effect.either(db.session(inserting(db, n, newLog()), verified))
          yield* Deferred.await(restarted)
          const kept = (yield* query(url, "SELECT n FROM items WHERE n = $1", [n])).length === 1
          const tag = Either.isLeft(outcome) ? outcome.left._tag : "success"
          assert.include(kept ? ["success", "CommitOutcomeUnknown"] : ["ConnectionLost", "CommitOutcomeUnknown"], tag)
        }
      })
  )

  live(
    "whose outcome cannot be found out in time is CommitOutcomeUnknown, and is not done again",
    () =>
      Effect.gen(function*() {
        const { db, network } = yield* proxied(yield* freshDatabase)
        yield* atCommit(network, () => {
          Effect.runFork(network.refuse)
          return "cut"
        })
        const log = newLog()
        const [taken, error] = yield* Effect.timed(
          failure(db.session(inserting(db, 1, log), { ...verified, retry: true }))
        )
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual(log, { runs: 1, hooks: [] })
        assert.isAtLeast(Duration.toSeconds(taken), 4)
        assert.isBelow(Duration.toSeconds(taken), 60)
        yield* network.accept
        yield* assertIdle(db)
      })
  )

  live(
    "asks for nothing while all goes well: it costs no round trip more, and none at all where nothing was done",
    () =>
      Effect.gen(function*() {
        const { db, network } = yield* proxied(yield* freshDatabase)
        let sent = 0
        yield* network.onClientData(() => {
          sent++
          return "pass"
        })
        yield* db.session(Effect.void, verified)
        assert.strictEqual(sent, 0)
        yield* db.session(Effect.zipRight(insert(db, 1), insert(db, 2)), verified)
        assert.strictEqual(sent, 3)
        assert.strictEqual(network.connections().length, 1)
      })
  )

  live("that the server refuses fails as any other", () =>
    Effect.gen(function*() {
      const { db } = yield* proxied(yield* freshDatabase)
      const orphan = db.sql`INSERT INTO children (id, parent) VALUES (1, 1)`
      assert.strictEqual((yield* failure(db.session(orphan, verified)))._tag, "ForeignKeyViolation")
      assert.strictEqual(
        (yield* failure(db.session(Effect.ignore(db.sql`SELECT nothing`), verified)))._tag,
        "TransactionAborted"
      )
      yield* assertIdle(db)
    }))

  live("is like any other on SQLite", () =>
    Effect.gen(function*() {
      const db = yield* open(sqliteFile)
      yield* db.session(insert(db, 1), verified)
      assert.deepStrictEqual(yield* numbers(db), [1])
    }))
})

/** What a transaction of its own is, as it is known when it has begun. */
const begun = (url: string): Effect.Effect<TransactionIdentity> =>
  Effect.map(query(url, identitySql), ([row]) => parseIdentity(Object.values(row)))

/** An id that nobody has yet. */
const later = ({ id }: TransactionIdentity): string => String(BigInt(id!) + 1_000_000n)

describe("the outcome of a transaction", () => {
  live("whose server still waits for its COMMIT is decided: it is rolled back", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const network = yield* proxy(url)
      yield* query(url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
      const connection = yield* Effect.uninterruptibleMask(connecting(network.url))
      yield* connection.begin({ outcome: "verified" })
      yield* connection.execute("INSERT INTO items (n) VALUES ($1)", [1], undefined)
      // The server does not get to know that the connection is gone.
      network.connections()[0].silence()
      connection.destroy()
      const fate = connection.transactionOutcome
      assert(fate !== undefined)
      yield* eventually(Effect.map(fate, (found) => found === "aborted"))
      assert.deepStrictEqual(yield* query(url, "SELECT n FROM items"), [])
    }))

  live("is not asked for where the transaction did not begin so, and is not another's", () =>
    Effect.gen(function*() {
      const connection = yield* Effect.uninterruptibleMask(connecting(yield* freshDatabase))
      yield* connection.begin({ outcome: "verified" })
      assert.strictEqual(connection.transactionOutcome, undefined, "nothing was sent yet")
      yield* connection.execute("SELECT 1", [], undefined)
      yield* connection.commit
      assert.notStrictEqual(connection.transactionOutcome, undefined)
      yield* connection.begin({})
      assert.strictEqual(connection.transactionOutcome, undefined)
      yield* connection.rollback
      yield* connection.close
    }))

  live(
    "cannot be told by any server but that which was asked to commit, nor of an id that was not given yet",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const committed = yield* begun(url)
        const outcomeOf = (transaction: TransactionIdentity) => Effect.orDie(lookUp(connecting(url), transaction))
        const outcomeOn = (other: Partial<TransactionIdentity["server"]>) =>
          outcomeOf({ ...committed, server: { ...committed.server, ...other } })
        assert.strictEqual(yield* outcomeOn({}), "committed")
        assert.strictEqual(yield* outcomeOn({ timeline: 0xffff }), "unknown")
        assert.strictEqual(yield* outcomeOn({ systemIdentifier: "1" }), "unknown")
        assert.strictEqual(yield* outcomeOn({ systemIdentifier: undefined }), "unknown")
        assert.strictEqual(yield* outcomeOn({ startedAt: "1" }), "unknown")
        assert.strictEqual(yield* outcomeOf({ ...committed, id: later(committed) }), "unknown")
      })
  )

  live(
    "is not told by what may be another's commit, where a process of the server has crashed",
    () =>
      Effect.gen(function*() {
        const { url } = yield* server()
        const committed = yield* begun(url)
        // A commit of nothing is not written to the disk by itself.
        yield* query(url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
        const connection = yield* Effect.uninterruptibleMask(connecting(url))
        yield* connection.begin({})
        const values = yield* Effect.map(connection.query(identitySql), ([row]) => Object.values(row))
        const aborted = parseIdentity(values)
        process.kill(connection.id, "SIGKILL")
        // The postmaster lives on, and starts its other processes again.
        const recovered = Effect.map(
          query(url, identityQuery),
          ([row]) => parseServerIdentity(row).statistics !== committed.server.statistics
        )
        yield* eventually(Effect.map(Effect.exit(recovered), (exit) => Exit.isSuccess(exit) && exit.value))
        const outcomeOf = (transaction: TransactionIdentity) => Effect.orDie(lookUp(connecting(url), transaction))
        assert.strictEqual(yield* outcomeOf(committed), "unknown")
        assert.strictEqual(yield* outcomeOf(aborted), "aborted")
        assert.strictEqual(yield* outcomeOf({ ...committed, id: later(committed) }), "aborted")
        const { server: identity } = yield* begun(url)
        assert.strictEqual(identity.startedAt, committed.server.startedAt)
      })
  )

  live("is asked for in a history that a restart changes", () =>
    Effect.gen(function*() {
      const { start, stop, url } = yield* server()
      const before = yield* begun(url)
      yield* Effect.zipRight(stop("fast"), start)
      const { server: after } = yield* begun(url)
      assert.strictEqual(after.statistics, before.server.statistics)
      assert.notStrictEqual(after.startedAt, before.server.startedAt)
      assert.strictEqual(yield* lookUp(connecting(url), before), "unknown")
    }))

  live(
    "can be asked for by every role, and is unknown where the server may not be identified",
    () =>
      Effect.gen(function*() {
        const { url } = yield* server()
        yield* query(url, "CREATE ROLE plain LOGIN PASSWORD 'plain'")
        const plain = new URL(url)
        plain.username = plain.password = "plain"
        const committed = yield* begun(plain.toString())
        assert.strictEqual(yield* lookUp(connecting(plain.toString()), committed), "committed")
        yield* query(url, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC")
        assert.strictEqual(yield* lookUp(connecting(plain.toString()), yield* begun(plain.toString())), "unknown")
        assert.strictEqual(yield* lookUp(connecting(url), yield* begun(url)), "committed")
      })
  )
})
