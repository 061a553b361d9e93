/** What is reported of a statement is what has happened to it: races, lost answers, ends of transactions, standbys. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, isRetryable } from "../../../src/DatabaseError.js"
import { postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import * as Hostile from "../../support/hostileServer.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { type Decision, proxy } from "../../support/proxy.js"
import { newSeed, random } from "../../support/random.js"
import { assertIdle, createTables, failure, insert, live, numbers, open } from "../session/harness.js"

describe("statements of a session at once", () => {
  live("a race is decided before its loser has a result, so never are both committed", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      const committed = { one: 0, none: 0 }
      for (let round = 0; round < 250; round++) {
        const [a, b] = [2 * round, 2 * round + 1]
        const exit = yield* Effect.exit(db.session(Effect.zipRight(
          db.sql`SELECT 1`,
          Effect.race(insert(db, a), insert(db, b))
        )))
        const kept = (yield* numbers(db)).filter((n) => n === a || n === b)
        if (Exit.isSuccess(exit)) {
          assert.lengthOf(kept, 1, `round ${round}`)
          committed.one++
        } else {
          assert.lengthOf(kept, 0, `round ${round}`)
          assert.strictEqual((yield* failure(exit))._tag, "TransactionAborted")
          committed.none++
        }
      }
      assert.strictEqual(committed.one + committed.none, 250)
      yield* assertIdle(db)
    }))

  live(
    "are answered in one read: the first decides the race, and the other is interrupted",
    () =>
      Effect.gen(function*() {
        const network = yield* proxy(yield* freshDatabase)
        const db = yield* Database.make({ url: network.url, environment: "test", poolSize: 1, poolMaxOverflow: 0 })
        yield* createTables(db)
        // What the server says of all of them arrives together.
        let held: Array<Buffer> | undefined = undefined
        let answers = 0
        yield* network.onServerData((chunk): Decision => {
          if (held === undefined) {
            return "pass"
          }
          held.push(chunk)
          answers += chunk.toString("latin1").split("INSERT 0 1").length - 1
          if (answers < 2) {
            return "drop"
          }
          const all = Buffer.concat(held)
          held = undefined
          return all
        })
        // The first statement that is repeated finds out whether there is a pooler, and nothing is sent beside it.
        for (let n = 1; n <= 3; n++) {
          yield* insert(db, -n)
        }
        yield* db.sql`DELETE FROM items`
        for (let round = 0; round < 200; round++) {
          const [a, b] = [2 * round, 2 * round + 1]
          const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
            yield* insert(db, -1)
            yield* db.sql`DELETE FROM items WHERE n = -1`
            held = []
            answers = 0
            yield* Effect.race(insert(db, a), insert(db, b))
          })))
          held = undefined
          assert.isTrue(Exit.isFailure(exit), `round ${round}`)
          assert.strictEqual((yield* failure(exit))._tag, "TransactionAborted")
        }
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      })
  )

  live("one that timed out is never committed with what replaced it", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      const seed = newSeed()
      const { between } = random(seed)
      const started = performance.now()
      for (let n = 1; n <= 50; n++) {
        yield* db.session(insert(db, -n))
      }
      const duration = (performance.now() - started) / 100
      yield* db.sql`DELETE FROM items`
      for (let round = 0; round < 300; round++) {
        const [first, second] = [2 * round, 2 * round + 1]
        const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
          yield* db.sql`SELECT 1`
          const timeout = Duration.millis(duration * between(0.3, 2))
          const done = yield* Effect.timeoutOption(insert(db, first), timeout)
          if (Option.isNone(done)) {
            yield* insert(db, second)
          }
          return done
        })))
        const kept = (yield* numbers(db)).filter((n) => n === first || n === second)
        const expected = Exit.isFailure(exit) ? [] : Option.isSome(exit.value) ? [first] : [second]
        assert.deepStrictEqual(kept, expected, `seed ${seed}, round ${round}`)
      }
      yield* assertIdle(db)
    }))
})

/** Every way to run a text. */
const ways: ReadonlyArray<
  readonly [name: string, run: (db: Database.Service, text: string) => Effect.Effect<unknown, unknown>]
> = [
  ["execute", (db, text) => db.sql.unsafe(text)],
  ["unprepared", (db, text) => db.sql.unsafe(text).unprepared],
  ["values", (db, text) => db.sql.unsafe(text).values],
  ["raw", (db, text) => db.sql.unsafe(text).raw],
  ["stream", (db, text) => Stream.runDrain(db.sql.unsafe(text).stream)]
]

describe("a transaction that cannot go on", () => {
  const texts = [
    "rollback; insert into items values (7)",
    "abort; insert into items values (7)",
    "/* a */ rollback -- b\n ; insert into items values (7)",
    "rollback and chain; insert into items values (7)",
    "rollback and chain; insert into items values (7); commit",
    "rollback; begin; insert into items values (7); commit",
    "commit; insert into items values (7)",
    "insert into items values (7)",
    "insert into items values (7); commit"
  ]

  live("runs nothing of the user's after a statement has ended it, however it is run", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      for (const [name, run] of ways) {
        for (const text of ["rollback", "abort", "commit", ...texts]) {
          const error = yield* failure(db.session(Effect.gen(function*() {
            yield* db.sql`SELECT 1`
            yield* db.sql.unsafe("COMMIT")
            yield* Effect.exit(run(db, text))
            yield* Effect.exit(run(db, text))
          })))
          assert.strictEqual(error._tag, "TransactionAborted", `${name}: ${text}`)
          assert.deepStrictEqual(yield* numbers(db), [], `${name}: ${text}`)
        }
      }
      yield* assertIdle(db)
    }))

  live("is only rolled back by a text after a statement has failed, however it is run", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      for (const [name, run] of ways) {
        for (const text of texts) {
          const error = yield* failure(db.session(Effect.gen(function*() {
            yield* Effect.ignore(db.sql`SELECT 1/0`)
            assert.isTrue(Exit.isFailure(yield* Effect.exit(run(db, text))), `${name}: ${text}`)
            yield* Effect.exit(run(db, text))
          })))
          assert.strictEqual(error._tag, "TransactionAborted", `${name}: ${text}`)
          assert.deepStrictEqual(yield* numbers(db), [], `${name}: ${text}`)
        }
      }
      yield* assertIdle(db)
    }))

  live("runs no text that waited while a statement before it failed", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      for (const text of texts) {
        const error = yield* failure(db.session(Effect.zipRight(
          db.sql`SELECT 1`,
          Effect.all([Effect.ignore(db.sql`SELECT 1/0`), Effect.ignore(db.sql.unsafe(text))], {
            concurrency: "unbounded"
          })
        )))
        assert.strictEqual(error._tag, "TransactionAborted", text)
        assert.deepStrictEqual(yield* numbers(db), [], text)
      }
    }))
})

/** A database behind a network that loses the answer to what is sent next. */
const losing = (options: Parameters<typeof Database.make>[0] = {}) =>
  Effect.gen(function*() {
    const database = yield* freshDatabase
    yield* query(database, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
    yield* query(database, "CREATE TABLE counters (n INTEGER); INSERT INTO counters VALUES (0)")
    yield* query(
      database,
      "CREATE PROCEDURE bump() LANGUAGE plpgsql AS 'BEGIN UPDATE counters SET n = n + 1; COMMIT; END'"
    )
    const network = yield* proxy(database)
    const db = yield* Database.make({ environment: "test", ...options, url: network.url })
    yield* db.sql`SELECT 1`
    /** Loses the connection on the answer to what holds this. */
    const loseAnswer = (of: string) => {
      let isSent = false
      return Effect.zipRight(
        network.onClientData((chunk) => {
          isSent ||= chunk.includes(of)
          return "pass"
        }),
        network.onServerData(() => {
          const isLost = isSent
          isSent = false
          return isLost ? "cut" : "pass"
        })
      )
    }
    const heal = Effect.zipRight(network.onClientData(undefined), network.onServerData(undefined))
    const read = Effect.map(query(database, "SELECT n FROM counters"), ([row]) => row.n as number)
    return { db, loseAnswer, heal, network, read, database }
  })

const update = "UPDATE counters SET n = n + 1"

const isUnknown = (error: DatabaseError, what: string): void => {
  assert.strictEqual(error._tag, "CommitOutcomeUnknown", `${what}: ${error.message}`)
  assert.isFalse(isRetryable(error), what)
}

const isLost = (error: DatabaseError, what: string): void => {
  assert.strictEqual(error._tag, "ConnectionLost", `${what}: ${error.message}`)
  assert.isTrue(isRetryable(error), what)
}

describe("the answer is lost", () => {
  live(
    "to a statement outside of a session: unknown if it may have written, and lost if not",
    () =>
      Effect.gen(function*() {
        const { db, heal, loseAnswer, read } = yield* losing()
        const writing = [
          update,
          `/* a */ ${update} RETURNING n`,
          "WITH u AS (UPDATE counters SET n = n + 1 RETURNING n) SELECT n FROM u",
          "DO $$ BEGIN UPDATE counters SET n = n + 1; END $$",
          "CALL bump()",
          `BEGIN; ${update}; COMMIT`,
          `${update}; SELECT 1`
        ]
        for (const [i, text] of writing.entries()) {
          yield* loseAnswer("counters SET n".slice(0, text.includes("bump") ? 0 : undefined) || "bump")
          const error = yield* failure(db.sql.unsafe(text))
          yield* heal
          isUnknown(error, text)
          assert.include(error.message, "whether it was executed and committed is not known")
          assert.strictEqual(error.statement, text)
          yield* eventually(Effect.map(read, (n) => n === i + 1))
        }
        for (const text of ["SELECT n FROM counters", "SHOW port", "SELECT count(*) FROM items", "VALUES (1)"]) {
          yield* loseAnswer(text)
          const error = yield* failure(db.sql.unsafe(text))
          yield* heal
          isLost(error, text)
        }
        yield* loseAnswer("INSERT")
        const inserted = yield* failure(db.sql`INSERT INTO items ${db.sql.insert({ n: 1 })}`)
        yield* heal
        isUnknown(inserted, "an insert")
      })
  )

  live(
    "to an insert of many rows: lost while it is described, unknown when it is executed",
    () =>
      Effect.gen(function*() {
        const { database, db, heal, loseAnswer } = yield* losing()
        const many = Array.from({ length: 600 }, (_, n) => ({ n }))
        const inserting = Effect.suspend(() => failure(db.sql`INSERT INTO items ${db.sql.insert(many)}`))
        yield* loseAnswer("VALUES")
        const described = yield* inserting
        yield* heal
        isLost(described, "described")
        yield* loseAnswer("unnest")
        const executed = yield* inserting
        yield* heal
        isUnknown(executed, "executed")
        yield* eventually(
          Effect.map(query(database, "SELECT count(*)::int AS n FROM items"), ([{ n }]) => n === many.length)
        )
      })
  )

  live("in a session: the statement is lost, and COMMIT is unknown", () =>
    Effect.gen(function*() {
      const { db, heal, loseAnswer, read } = yield* losing()
      for (const isFirst of [true, false]) {
        const first: Effect.Effect<unknown, SqlError> = isFirst ? Effect.void : db.sql`SELECT 1`
        yield* loseAnswer("counters SET n")
        const error = yield* failure(db.session(Effect.zipRight(first, db.sql.unsafe(update))))
        yield* heal
        isLost(error, "a statement of a session")
        yield* loseAnswer("DO $$")
        const block = yield* failure(
          db.session(Effect.zipRight(first, db.sql.unsafe("DO $$ BEGIN UPDATE counters SET n = n + 1; END $$")))
        )
        yield* heal
        isLost(block, "a block in a session")
      }
      assert.strictEqual(yield* read, 0)
      yield* loseAnswer("COMMIT")
      const byHand = yield* failure(db.session(Effect.zipRight(db.sql.unsafe(update), db.sql.unsafe("COMMIT"))))
      yield* heal
      isUnknown(byHand, "COMMIT by hand")
      yield* eventually(Effect.map(read, (n) => n === 1))
      yield* loseAnswer("COMMIT")
      const own = yield* failure(db.session(db.sql.unsafe(update)))
      yield* heal
      isUnknown(own, "COMMIT")
    }))

  live(
    "on a reserved connection: what may be committed is unknown, what cannot be is lost",
    () =>
      Effect.gen(function*() {
        const { db, heal, loseAnswer, read } = yield* losing()
        type Run = (sql: string) => Effect.Effect<unknown, SqlError>
        const reserved = (f: (run: Run) => Effect.Effect<unknown, SqlError>) =>
          Effect.scoped(Effect.flatMap(
            db.sql.reserve,
            (connection) => failure(f((sql) => connection.executeUnprepared(sql, [], undefined)))
          ))
        yield* loseAnswer("counters SET n")
        const alone = yield* reserved((run) => run(update))
        yield* heal
        isUnknown(alone, "alone")
        yield* eventually(Effect.map(read, (n) => n === 1))
        yield* loseAnswer("counters SET n")
        const inTransaction = yield* reserved((run) => Effect.zipRight(run("BEGIN"), run(update)))
        yield* heal
        isLost(inTransaction, "in a transaction")
        yield* loseAnswer("COMMIT")
        const commit = yield* reserved((run) => Effect.all([run("BEGIN"), run(update), run("COMMIT")]))
        yield* heal
        isUnknown(commit, "COMMIT")
        yield* eventually(Effect.map(read, (n) => n === 2))
        yield* loseAnswer("ROLLBACK")
        const rollback = yield* reserved((run) => Effect.all([run("BEGIN"), run(update), run("ROLLBACK")]))
        yield* heal
        isLost(rollback, "ROLLBACK")
        assert.strictEqual(yield* read, 2)
      })
  )

  live(
    "in a stream with a transaction of its own: its batches are lost, and its COMMIT is unknown if it writes",
    () =>
      Effect.gen(function*() {
        const { db, heal, loseAnswer, read } = yield* losing()
        const reading = "SELECT n, i FROM counters, generate_series(1, 100) i"
        const writing = `${update} RETURNING n`
        for (
          const [text, on, check] of [
            [reading, "counters", isLost],
            [writing, "counters", isLost],
            [reading, "COMMIT", isLost],
            [writing, "COMMIT", isUnknown]
          ] as const
        ) {
          yield* loseAnswer(on)
          const error = yield* failure(Stream.runDrain(db.sql.unsafe(text).stream))
          yield* heal
          check(error, `${on} of ${text}`)
        }
        yield* eventually(Effect.map(read, (n) => n === 1))
      })
  )

  live(
    "to the COMMIT of a stream on a reserved connection: unknown if something has run beside it",
    () =>
      Effect.gen(function*() {
        const { db, heal, loseAnswer } = yield* losing()
        for (const isBeside of [false, true]) {
          yield* loseAnswer("COMMIT")
          const error = yield* Effect.scoped(Effect.flatMap(db.sql.reserve, (connection) =>
            failure(Stream.runForEach(
              connection.executeStream("SELECT i FROM generate_series(1, 100) i", [], undefined),
              ({ i }: any) => isBeside && i === 1 ? connection.execute(update, [], undefined) : Effect.void
            ))))
          yield* heal
          const check = isBeside ? isUnknown : isLost
          check(error, String(isBeside))
        }
      })
  )

  live("to a session that is read-only by default: nothing was written", () =>
    Effect.gen(function*() {
      const { database, heal, loseAnswer, network } = yield* losing()
      yield* query(
        database,
        `ALTER DATABASE "${new URL(database).pathname.slice(1)}" SET default_transaction_read_only = on`
      )
      const db = yield* Database.make({ environment: "test", url: network.url })
      yield* loseAnswer("nextval")
      const error = yield* failure(db.sql.unsafe("SELECT nextval('nothing')"))
      yield* heal
      isLost(error, "read-only")
      yield* loseAnswer("READ WRITE")
      const writing = yield* failure(db.sql.unsafe(`BEGIN READ WRITE; ${update}; COMMIT`))
      yield* heal
      isUnknown(writing, "read write")
    }))

  live("because the server says that it ended the statement: it was rolled back", () =>
    Effect.gen(function*() {
      const { database, db, read } = yield* losing()
      const fiber = yield* Effect.fork(failure(db.sql.unsafe(`${update} WHERE pg_sleep(60) IS NOT NULL`)))
      yield* eventually(Effect.map(
        query(
          database,
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        ),
        (rows) => rows.length > 0
      ))
      const error = yield* Fiber.join(fiber)
      isLost(error, "terminated")
      assert.strictEqual(error.code, "57P01")
      assert.strictEqual(yield* read, 0)
      // A part of this was committed.
      const part = yield* Effect.fork(failure(db.sql.unsafe(`BEGIN; ${update}; COMMIT; SELECT pg_sleep(61)`)))
      yield* eventually(Effect.map(
        query(
          database,
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(61)%' AND pid <> pg_backend_pid()"
        ),
        (rows) => rows.length > 0
      ))
      isUnknown(yield* Fiber.join(part), "terminated in part")
      assert.strictEqual(yield* read, 1)
    }))
})

describe("a commit that no standby has confirmed", () => {
  const standby = { synchronous_standby_names: "nowhere", synchronous_commit: "local" }

  live("is unknown, and says why, whether it is a session's or a statement's own", () =>
    Effect.gen(function*() {
      const own = yield* server({ config: standby })
      yield* query(own.url, "CREATE TABLE items (n INTEGER PRIMARY KEY)")
      const db = yield* Database.make({ environment: "test", url: own.url })
      const confirmed = "SET synchronous_commit = on"
      const end = (f: "pg_cancel_backend" | "pg_terminate_backend") =>
        eventually(Effect.map(
          query(own.url, `SELECT ${f}(pid) AS ended FROM pg_stat_activity WHERE wait_event = 'SyncRep'`),
          (rows) => rows.length > 0
        ))
      let n = 0
      for (const f of ["pg_cancel_backend", "pg_terminate_backend"] as const) {
        for (const commit of [undefined, "verified"] as const) {
          const fiber = yield* Effect.fork(failure(db.session(
            Effect.zipRight(db.sql.unsafe(confirmed.replace("SET", "SET LOCAL")), insert(db, ++n)),
            commit === undefined ? {} : { commit }
          )))
          yield* end(f)
          const error = yield* Fiber.join(fiber)
          isUnknown(error, `${f}, ${commit}`)
          assert.include(error.message, "no synchronous standby has confirmed")
        }
        yield* Effect.scoped(Effect.gen(function*() {
          const connection = yield* db.sql.reserve
          yield* connection.executeUnprepared(confirmed, [], undefined)
          const fiber = yield* Effect.fork(
            failure(connection.execute("INSERT INTO items VALUES ($1)", [++n], undefined))
          )
          yield* end(f)
          const error = yield* Fiber.join(fiber)
          isUnknown(error, f)
          assert.include(error.message, "no synchronous standby has confirmed")
        }))
      }
      assert.deepStrictEqual(yield* numbers(db), Array.from({ length: n }, (_, i) => i + 1))
      yield* assertIdle(db)
    }))

  live("is only what the server says so of: notices of others mean nothing", () =>
    Effect.gen(function*() {
      const warning = (fields: Readonly<Record<string, string>>) => Hostile.problem({ S: "WARNING", ...fields }, "N")
      const wait = { C: "01000", M: "canceling wait for synchronous replication due to user request" }
      for (
        const [notice, tag] of [
          [warning({ ...wait, R: "SyncRepWaitForLSN" }), "CommitOutcomeUnknown"],
          [warning({ ...wait, R: "exec_stmt_raise" }), undefined],
          [warning({ C: "01000", M: "SyncRepWaitForLSN", R: "exec_stmt_raise" }), undefined],
          [warning({ M: "RSyncRepWaitForLSN" }), undefined]
        ] as const
      ) {
        const hostile = yield* Hostile.hostileServer((socket, piece, nth) => {
          if (nth === 0) {
            socket.write(Hostile.welcome)
          } else if (piece[0] === 0x50 || piece[0] === 0x51) {
            socket.write(Buffer.concat([
              ...(piece[0] === 0x50 ? [Hostile.message("1"), Hostile.message("2"), Hostile.message("n")] : []),
              notice,
              Hostile.commandComplete("INSERT 0 1"),
              Hostile.ready()
            ]))
          }
        })
        const db = yield* Database.make({ environment: "test", url: hostile.url, sslMode: "disable" })
        for (const text of ["INSERT INTO items VALUES (1)", "INSERT INTO items VALUES (1);"]) {
          if (tag === undefined) {
            yield* db.sql.unsafe(text)
          } else {
            assert.strictEqual((yield* failure(db.sql.unsafe(text)))._tag, tag)
          }
        }
      }
    }))
})

describe("a session that fails while another fiber's statement runs on its connection", () => {
  const running = (database: string, text: string) =>
    Effect.map(
      query(
        database,
        `SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%${text}%' AND pid <> pg_backend_pid()`
      ),
      (rows) => rows.length > 0
    )

  for (const nested of [false, true]) {
    live(`cancels it, and its locks are released: ${nested ? "nested" : "outermost"}`, () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const db = yield* Database.make({ environment: "test", url: database })
        yield* createTables(db)
        yield* insert(db, 1)
        for (let round = 0; round < 5; round++) {
          const fibers: Array<Fiber.RuntimeFiber<DatabaseError>> = []
          const inner = Effect.gen(function*() {
            yield* db.sql`SELECT n FROM items WHERE n = 1 FOR UPDATE`
            fibers.push(yield* Effect.forkDaemon(failure(db.sql`SELECT pg_sleep(77)`)))
            fibers.push(yield* Effect.forkDaemon(failure(db.sql.unsafe("INSERT INTO items VALUES (2); SELECT 3"))))
            yield* eventually(running(database, "pg_sleep(77)"))
            return yield* Effect.fail("mine" as const)
          })
          const exit = yield* Effect.exit(
            nested
              ? db.session(Effect.zipRight(
                Effect.ignore(db.session(inner)),
                Effect.flatMap(running(database, "pg_sleep(77)"), (runs) => Effect.sync(() => assert.isFalse(runs)))
              ))
              : db.session(inner)
          )
          assert.strictEqual(Exit.isSuccess(exit), nested, String(exit))
          yield* eventually(Effect.map(running(database, "pg_sleep(77)"), (runs) => !runs))
          yield* query(database, "SET lock_timeout = '5s'; UPDATE items SET n = 1 WHERE n = 1")
          for (const fiber of fibers) {
            const { _tag } = yield* Fiber.join(fiber)
            assert.include(["StatementCanceled", "ConnectionLost", "SessionClosed", "TransactionAborted"], _tag)
          }
        }
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      }))
  }

  live("cancels what runs on a connection that is destroyed", () =>
    Effect.gen(function*() {
      const database = yield* freshDatabase
      yield* Effect.scoped(Effect.gen(function*() {
        const db = yield* Database.make({ environment: "test", url: database, shutdownTimeout: "10 millis" })
        yield* Effect.forkDaemon(Effect.uninterruptible(Effect.exit(db.sql`SELECT pg_sleep(78)`)))
        yield* eventually(running(database, "pg_sleep(78)"))
      }))
      yield* eventually(Effect.map(running(database, "pg_sleep(78)"), (runs) => !runs))
    }))
})
