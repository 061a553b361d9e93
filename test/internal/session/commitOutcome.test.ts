import { assert, describe } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Database from "../../../src/Database.js"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import type { Restore } from "../../../src/internal/driver.js"
import { connect } from "../../../src/internal/postgres/connect.js"
import { makeSetup } from "../../../src/internal/postgres/setup.js"
import { identitySql, lookUp, type TransactionIdentity } from "../../../src/internal/postgres/transactionOutcome.js"
import * as Session from "../../../src/Session.js"
import { sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { type Decision, type Proxy, proxy, type ProxyConnection } from "../../support/proxy.js"
import { assertIdle, createTables, failure, insert, live, numbers, open } from "./harness.js"

const times = 25

const verified = { commit: "verified" } as const

const isCommit = (chunk: Buffer) => chunk.includes("COMMIT")

const proxied = (url: string) =>
  Effect.gen(function*() {
    const network = yield* proxy(url)
    const options = { poolSize: 1, poolMaxOverflow: 0, connectTimeout: "2 seconds" } as const
    const db = yield* Database.make({ environment: "test", ...options, url: network.url })
    yield* createTables(db)
    return { db, network }
  })

/** Does something to the next COMMIT on its way, once. */
const atCommit = (network: Proxy, decide: (connection: ProxyConnection) => Decision) =>
  Effect.suspend(() => {
    let armed = true
    return network.onClientData((chunk, connection) => {
      if (!armed || !isCommit(chunk)) {
        return "pass"
      }
      armed = false
      return decide(connection)
    })
  })

/** Closes the connection in place of the answer to the next COMMIT. */
const inPlaceOfTheAnswer = (network: Proxy, how: "cut" | "reset") =>
  Effect.suspend(() => {
    let committing: number | undefined = undefined
    return Effect.zipRight(
      atCommit(network, ({ id }) => {
        committing = id
        return "pass"
      }),
      network.onServerData((_chunk, { id }) => {
        if (id !== committing) {
          return "pass"
        }
        committing = undefined
        return how
      })
    )
  })

interface Log {
  runs: number
  readonly hooks: Array<string>
}

const newLog = (): Log => ({ runs: 0, hooks: [] })

/** A session that inserts a number, and tells how often it ran and how it was said to have ended. */
const inserting = (db: Database.Service, n: number, log: Log) =>
  Effect.gen(function*() {
    log.runs++
    yield* Session.afterCommit(Effect.sync(() => log.hooks.push("commit")))
    yield* Session.afterRollback(Effect.sync(() => log.hooks.push("rollback")))
    yield* insert(db, n)
  })

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
    "that a server which was killed did not get is a ConnectionLost, once the server is back",
    () =>
      Effect.gen(function*() {
        const { kill, start, url } = yield* server()
        const { db, network } = yield* proxied(url)
        yield* atCommit(network, () => {
          Effect.runFork(Effect.zipRight(kill, start))
          return "drop"
        })
        const error = yield* failure(db.session(inserting(db, 1, newLog()), verified))
        assert.strictEqual(error._tag, "ConnectionLost")
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

const connecting = (url: string) => (restore: Restore) =>
  Effect.flatMap(
    Effect.orDie(DatabaseConfig.resolve({ url })),
    (settings) => connect(makeSetup(settings, settings.target as DatabaseConfig.PostgresTarget), restore)
  )

/** An id that nobody has yet. */
const later = ({ id }: TransactionIdentity): string => String(BigInt(id) + 1_000_000n)

describe("the outcome of a transaction", () => {
  live("whose server still waits for its COMMIT is decided: it is rolled back", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const network = yield* proxy(url)
      yield* query(url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
      const connection = yield* Effect.uninterruptibleMask(connecting(network.url))
      yield* connection.begin({ verified: true })
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
      yield* connection.begin({ verified: true })
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
    "cannot be told by a server of another timeline, nor of an id that was not given yet",
    () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const [committed] = yield* query(url, identitySql)
        const fateOf = (differences: Partial<TransactionIdentity>) =>
          Effect.orDie(lookUp(connecting(url), { ...committed, ...differences }))
        assert.strictEqual(yield* fateOf({}), "committed")
        assert.strictEqual(yield* fateOf({ timeline: "0000FFFF" }), "unknown")
        assert.strictEqual(yield* fateOf({ id: later(committed) }), "unknown")
      })
  )

  live("is not told by what may be another's commit, where the server crashed", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const [committed] = yield* query(url, identitySql)
      const connection = yield* Effect.uninterruptibleMask(connecting(url))
      yield* connection.begin({})
      const [aborted]: ReadonlyArray<any> = yield* connection.executeUnprepared(identitySql, [], undefined)
      yield* connection.rollback
      yield* connection.close
      const afterCrash = (transaction: TransactionIdentity) =>
        Effect.orDie(lookUp(connecting(url), { ...transaction, statistics: "2000-01-01 00:00:00+00" }))
      assert.strictEqual(yield* afterCrash(committed), "unknown")
      assert.strictEqual(yield* afterCrash(aborted), "aborted")
      assert.strictEqual(yield* afterCrash({ ...committed, id: later(committed) }), "aborted")
    }))

  live("is asked for in a history that a crash changes, and a restart does not", () =>
    Effect.gen(function*() {
      const { kill, start, stop, url } = yield* server()
      const statistics = Effect.map(query(url, identitySql), ([row]) => row.statistics)
      const before = yield* statistics
      yield* Effect.zipRight(stop("fast"), start)
      assert.strictEqual(yield* statistics, before)
      yield* Effect.zipRight(kill, start)
      assert.notStrictEqual(yield* statistics, before)
    }))
})
