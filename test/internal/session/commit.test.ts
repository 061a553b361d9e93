import { assert, describe } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Database from "../../../src/Database.js"
import * as Session from "../../../src/Session.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { assertIdle, createTables, failure, insert, live, logged, numbers, open } from "./harness.js"

const small = { poolSize: 1, poolMaxOverflow: 0 }

/** Ends the server's side of the session that runs this, from outside. */
const killed = (database: Database.Service, url: string) =>
  Effect.flatMap(
    database.sql<{ readonly pid: number }>`SELECT pg_backend_pid() AS pid`,
    ([row]) => query(url, "SELECT pg_terminate_backend($1)", [row.pid])
  )

const openAt = (url: string, options: Parameters<typeof open>[1] = {}) =>
  Effect.tap(Database.make({ environment: "test", ...options, url }), createTables)

/** A database behind a proxy that does something to the answer, or to the asking, of the next COMMIT. */
const proxied = Effect.gen(function*() {
  const url = yield* freshDatabase
  const network = yield* proxy(url)
  const db = yield* openAt(network.url, { ...small, connectTimeout: "2 seconds" })
  return { db, network, url }
})

const isCommit = (chunk: Buffer) => chunk.includes("COMMIT")

describe("a commit", () => {
  live("that never comes because there was no connection in time is told as that, once", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      const [inside, finish] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
      const holder = yield* Effect.fork(
        db.session(Effect.zipRight(
          insert(db, 1),
          Effect.zipRight(Deferred.succeed(inside, undefined), Deferred.await(finish))
        ))
      )
      yield* Deferred.await(inside)
      const logs = yield* logged(Effect.exit(db.session(insert(db, 2), { timeout: "10 millis" })))
      assert.deepStrictEqual(logs.map(({ level }) => level), ["WARN"])
      assert.include(logs[0].text, "SessionTimeout")
      yield* Deferred.succeed(finish, undefined)
      yield* Fiber.join(holder)
    }))

  live("that the server answers with ROLLBACK is TransactionAborted, and no success", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      const hooks: Array<string> = []
      const error = yield* failure(db.session(Effect.gen(function*() {
        yield* Session.afterCommit(Effect.sync(() => hooks.push("commit")))
        yield* Session.afterRollback(Effect.sync(() => hooks.push("rollback")))
        yield* insert(db, 1)
        yield* Effect.ignore(insert(db, 1))
      })))
      assert.strictEqual(error._tag, "TransactionAborted")
      assert.strictEqual(
        (yield* failure(db.sql.withTransaction(Effect.ignore(db.sql`SELECT nothing`))))._tag,
        "TransactionAborted"
      )
      assert.deepStrictEqual(hooks, ["rollback"])
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live("that a deferred unique constraint refuses is a UniqueViolation", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      yield* db.sql`CREATE TABLE once (n INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)`
      const error = yield* failure(db.session(db.sql`INSERT INTO once VALUES (1), (1)`))
      assert.strictEqual(error._tag, "UniqueViolation")
      assert.deepStrictEqual(yield* db.sql`SELECT n FROM once`, [])
      yield* assertIdle(db)
    }))

  live("of a connection that was lost before is a ConnectionLost", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* openAt(url, small)
      const error = yield* failure(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* killed(db, url)
        yield* Effect.sleep("50 millis")
      })))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live(
    "whose answer was lost is CommitOutcomeUnknown, is not retried, and runs no hooks",
    () =>
      Effect.gen(function*() {
        const { db, network, url } = yield* proxied
        const hooks: Array<string> = []
        let runs = 0
        let committing = false
        yield* network.onClientData((chunk) => {
          committing = isCommit(chunk)
          return "pass"
        })
        yield* network.onServerData(() => committing ? "cut" : "pass")
        const error = yield* failure(db.session(
          Effect.gen(function*() {
            runs++
            yield* Session.afterCommit(Effect.sync(() => hooks.push("commit")))
            yield* Session.afterRollback(Effect.sync(() => hooks.push("rollback")))
            yield* insert(db, runs)
          }),
          { retry: true }
        ))
        yield* network.onClientData(undefined)
        yield* network.onServerData(undefined)
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        assert.deepStrictEqual({ runs, hooks }, { runs: 1, hooks: [] })
        assert.deepStrictEqual(yield* query(url, "SELECT n FROM items"), [{ n: 1 }])
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      })
  )

  live("that was answered is a success although the timeout ran out meanwhile", () =>
    Effect.gen(function*() {
      const { db, network } = yield* proxied
      const hooks: Array<string> = []
      yield* network.onClientData((chunk) => {
        if (isCommit(chunk)) {
          // The reply arrives two seconds after the request, which is after the timeout.
          Effect.runSync(network.delay(2_000))
        }
        return "pass"
      })
      const result = yield* db.session(
        Effect.zipRight(
          Session.afterCommit(Effect.sync(() => hooks.push("commit"))),
          Effect.zipRight(Effect.zipRight(insert(db, 1), Effect.sleep("50 millis")), Effect.succeed("result"))
        ),
        { timeout: "1500 millis" }
      )
      yield* network.onClientData(undefined)
      yield* network.delay(0)
      assert.strictEqual(result, "result")
      assert.deepStrictEqual(hooks, ["commit"])
      assert.deepStrictEqual(yield* numbers(db), [1])
      yield* assertIdle(db)
    }))
})

describe("a rollback on a lost connection", () => {
  live("keeps what the session failed with", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* openAt(url, small)
      const fails = <E>(cause: Cause.Cause<E>) =>
        Effect.exit(db.session(Effect.zipRight(
          insert(db, 1),
          Effect.zipRight(killed(db, url), Effect.failCause(cause))
        )))
      const failed = yield* fails(Cause.fail("mine" as const))
      assert.deepStrictEqual(failed, Exit.fail("mine" as const))
      const died = yield* fails(Cause.die("mine"))
      assert.deepStrictEqual(died, Exit.die("mine"))
      const nested = yield* Effect.exit(db.session(db.session(
        Effect.zipRight(killed(db, url), Effect.fail("nested" as const))
      )))
      assert.deepStrictEqual(nested, Exit.fail("nested" as const))
      const transaction = yield* Effect.exit(db.sql.withTransaction(
        Effect.zipRight(killed(db, url), Effect.fail("transaction" as const))
      ))
      assert.deepStrictEqual(transaction, Exit.fail("transaction" as const))
      assert.deepStrictEqual(yield* numbers(db), [])
      yield* assertIdle(db)
    }))

  live("runs what waits for the rollback", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* openAt(url, small)
      const hooks: Array<string> = []
      yield* Effect.ignore(db.session(Effect.gen(function*() {
        yield* Session.afterRollback(Effect.sync(() => hooks.push("rollback")))
        yield* killed(db, url)
        return yield* Effect.fail("mine")
      })))
      assert.deepStrictEqual(hooks, ["rollback"])
    }))
})

forEachDialect((name, _, dialect) =>
  describe(`on ${name}`, () => {
    live("hooks that fail are logged and do no harm", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const seen: Array<string> = []
        const logs = yield* logged(Effect.gen(function*() {
          const result = yield* db.session(Effect.gen(function*() {
            yield* Session.afterCommit(Effect.fail("first"))
            yield* Session.afterCommit(Effect.die("second"))
            yield* Session.afterCommit(Effect.sync(() => seen.push("third")))
            yield* insert(db, 1)
            return "result"
          }))
          assert.strictEqual(result, "result")
        }))
        assert.deepStrictEqual(seen, ["third"])
        assert.deepStrictEqual(
          logs.filter(({ level }) => level === "ERROR").map(({ text }) => text),
          Array(2).fill("a hook of Session.afterCommit failed")
        )
        assert.deepStrictEqual(yield* numbers(db), [1])
      }))

    live("hooks run although the session was interrupted, which does not wait for them", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const seen: Array<string> = []
        const release = yield* Deferred.make<void>()
        const inside = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(db.session(Effect.gen(function*() {
          yield* Session.afterRollback(Effect.zipRight(
            Deferred.await(release),
            Effect.sync(() => seen.push("rollback"))
          ))
          yield* Deferred.succeed(inside, undefined)
          return yield* Effect.never
        })))
        yield* Deferred.await(inside)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(seen, [])
        yield* assertIdle(db)
        yield* Deferred.succeed(release, undefined)
        yield* eventually(Effect.sync(() => seen.length === 1))
        assert.deepStrictEqual(seen, ["rollback"])
      }))

    live("a session that ran out of time runs what waits for the rollback", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const seen: Array<string> = []
        const error = yield* failure(db.session(
          Effect.zipRight(Session.afterRollback(Effect.sync(() => seen.push("rollback"))), Effect.never),
          { timeout: "1 second" }
        ))
        assert.strictEqual(error._tag, "SessionTimeout")
        yield* eventually(Effect.sync(() => seen.length === 1))
        assert.deepStrictEqual(seen, ["rollback"])
      }))

    live("what goes wrong is logged once, with the session's name, id and duration, as loud as it deserves", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { ...small, poolTimeout: "5 seconds" })
        const ending = <A, E>(effect: Effect.Effect<A, E>, options: Session.Options = {}) =>
          Effect.gen(function*() {
            let id = ""
            const own = Effect.map(Session.id, (value) => {
              id = value
            })
            const logs = yield* logged(
              Effect.exit(db.session(Effect.zipRight(own, effect), { name: "ours", ...options }))
            )
            assert.strictEqual(logs.length, 1, JSON.stringify(logs))
            const { annotations, cause, level, text } = logs[0]
            assert.deepInclude(annotations, { session: "ours", sessionId: id })
            assert.isAtLeast(Number(annotations.durationMillis), 0)
            assert.include(text, "the session ours was rolled back")
            return [level, text, cause] as const
          })
        yield* insert(db, 1)
        const violation = yield* ending(insert(db, 1))
        assert.strictEqual(violation[0], "DEBUG")
        assert.include(violation[1], "UniqueViolation")
        assert.strictEqual((yield* ending(db.sql`INSERT INTO children VALUES (1, 99)`))[0], "DEBUG")
        const mistake = yield* ending(db.sql`SELECT nothing`)
        assert.strictEqual(mistake[0], "ERROR")
        assert.include(mistake[1], "InvalidStatement")
        // What an application fails with may be anything, so it is not told.
        assert.deepStrictEqual(
          yield* ending(Effect.fail("mine")),
          ["DEBUG", "the session ours was rolled back: failure", Cause.empty]
        )
        assert.deepStrictEqual(
          yield* ending(Effect.die("oh")),
          ["ERROR", "the session ours was rolled back: defect", Cause.die("oh")]
        )
        assert.strictEqual((yield* ending(Effect.interrupt))[0], "DEBUG")
        const late = yield* ending(Effect.never, { timeout: "1 second" })
        assert.strictEqual(late[0], "WARN")
        assert.match(late[1], /: SessionTimeout: the session ours took longer than 1s /)
        assert.deepStrictEqual(yield* logged(db.session(insert(db, 2))), [])
        const own = db.session(insert(db, 3), { propagation: "new" })
        const waiting = yield* logged(db.session(Effect.zipRight(insert(db, 4), Effect.ignore(own))))
        assert.deepStrictEqual(
          waiting.map(({ level }) =>
            level
          ),
          ["WARN"]
        )
      }))
  })
)
