import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as Util from "node:util"
import Pg from "pg"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { Connection } from "../../../src/internal/driver.js"
import { freshDatabase, query, url } from "../../support/postgres.js"
import { connected, connection, executing, promptly, rows, untilKept } from "./harness.js"

const failure = <A>(effect: Effect.Effect<A, any>): Effect.Effect<DatabaseError> =>
  Effect.map(
    Effect.flip(effect),
    (error) => error._tag === "SqlError" ? fromSqlError(error) : error as DatabaseError
  ) as Effect.Effect<DatabaseError>

const table = (name: string, connection: Connection) =>
  connection.executeRaw(`CREATE TABLE ${name} (id int PRIMARY KEY, note text)`, [])

describe("postgres connection", () => {
  describe("statements", () => {
    it.scoped("returns rows with and without parameters, in the types of pg", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        assert.deepStrictEqual(
          yield* rows(
            c,
            "SELECT $1::int AS i, $2::text AS t, $3::jsonb AS j, $4::int[] AS a, $5::bytea AS b, NULL AS n",
            [
              1,
              "x",
              { a: [1] },
              [1, 2],
              Buffer.from([1, 2])
            ]
          ),
          [{ i: 1, t: "x", j: { a: [1] }, a: [1, 2], b: Buffer.from([1, 2]), n: null }]
        )
        assert.deepStrictEqual(
          yield* rows(c, "SELECT 1 AS one, '2020-01-01T00:00:00Z'::timestamptz AS at, 5::int8 AS big"),
          [{ one: 1, at: new Date("2020-01-01T00:00:00Z"), big: "5" }]
        )
        assert.deepStrictEqual(yield* rows(c, ""), [])
        assert.deepStrictEqual(yield* rows(c, "-- nothing", []), [])
      }))

    it.scoped("several statements at once have several results", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a; SELECT 2 AS b WHERE false; SELECT 3 AS c"), [
          [{ a: 1 }],
          [],
          [{ c: 3 }]
        ])
        const results = (yield* c.executeRaw("SELECT 1 AS a; SELECT 2 AS b", [])) as Array<{ rowCount: number }>
        assert.deepStrictEqual(results.map((result) => result.rowCount), [1, 1])
      }))

    it.scoped("executeRaw gives pg's result, executeValues arrays", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const result = (yield* c.executeRaw("SELECT $1::int AS a, 2 AS a", [1])) as {
          command: string
          rowCount: number
          rows: ReadonlyArray<unknown>
          fields: ReadonlyArray<{ name: string }>
        }
        assert.deepStrictEqual([result.command, result.rowCount, result.fields.map((field) => field.name)], [
          "SELECT",
          1,
          ["a", "a"]
        ])
        assert.deepStrictEqual(yield* c.executeValues("SELECT $1::int AS a, 2 AS a", [1]), [[1, 2]])
        assert.deepStrictEqual(yield* c.executeValues("SELECT 1, 2", []), [[1, 2]])
      }))

    it.scoped("transforms rows, and executes unprepared statements", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const double: any = (list: ReadonlyArray<any>) => list.map((row) => ({ twice: row.n * 2 }))
        assert.deepStrictEqual(yield* c.execute("SELECT 2 AS n", [], double), [{ twice: 4 }])
        assert.deepStrictEqual(yield* c.executeUnprepared("SELECT 3 AS n", [], double), [{ twice: 6 }])
      }))

    it.scoped("a statement that fails leaves the connection usable", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const error = yield* failure(rows(c, "SELECT 1/$1::int", [0]))
        assert.strictEqual(error._tag, "InvalidData")
        assert.strictEqual(error.statement, "SELECT 1/$1::int")
        assert.strictEqual(c.status(), "idle")
        const partial = yield* failure(rows(c, "SELECT 1; SELECT 1/0; SELECT 2"))
        assert.strictEqual(partial.code, "22012")
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      }))

    it.scoped("a parameter that cannot be sent is a typed error, and nothing is sent", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const circular: Record<string, unknown> = {}
        circular.self = circular
        const throws = {
          toPostgres: () => {
            throw new Error("confidential-value")
          }
        }
        const functions = [() => "confidential-value", Symbol("confidential-value")]
        const nothing = [...functions, functions, [[1, [functions[1]]]], new Date(NaN), [new Date(), new Date(NaN)]]
        for (const value of [circular, { big: 1n }, throws, ...nothing]) {
          const error = yield* failure(rows(c, "SELECT $1::text", [value]))
          assert.strictEqual(error._tag, "InvalidData")
          assert.include(error.reason, "$1")
          assert.notInclude(Util.inspect(error, { depth: null, showHidden: true }), "confidential")
        }
        const many = yield* failure(rows(c, "SELECT 1", Array.from({ length: 65_536 }, () => 1)))
        assert.strictEqual(many._tag, "ResourceExhausted")
        const nul = yield* failure(rows(c, "SELECT 1 \0 SELECT 2"))
        assert.strictEqual(nul._tag, "InvalidStatement")
        const text = yield* failure(rows(c, "SELECT $1::text", ["a\0b"]))
        assert.strictEqual(text._tag, "InvalidData")
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      }))

    it.scoped("a type parser that throws fails its statement only", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const original = Pg.types.getTypeParser(Pg.types.builtins.CIDR)
        yield* Effect.acquireRelease(
          Effect.sync(() =>
            Pg.types.setTypeParser(Pg.types.builtins.CIDR, () => {
              throw new Error("secret network")
            })
          ),
          () =>
            Effect.sync(() => Pg.types.setTypeParser(Pg.types.builtins.CIDR, original as (value: string) => unknown))
        )
        const error = yield* failure(rows(c, "SELECT '10.0.0.0/8'::cidr FROM generate_series(1, 3)"))
        assert.strictEqual(error._tag, "InvalidData")
        assert.notInclude(Util.inspect(error, { depth: null }), "secret")
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      }))

    it.scoped("COPY FROM STDIN and TO STDOUT are refused and leave the connection usable", () =>
      Effect.gen(function*() {
        const c = yield* connection(yield* freshDatabase)
        yield* table("copied", c)
        for (const text of ["COPY copied FROM STDIN", "COPY copied TO STDOUT"]) {
          assert.strictEqual((yield* failure(c.executeRaw(text, [])))._tag, "InvalidStatement")
          const portal = yield* Effect.exit(Stream.runDrain(c.executeStream(text, [], undefined)))
          assert.isTrue(Exit.isFailure(portal))
        }
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
      }))

    it.scoped("concurrent statements run in the order of submission", () =>
      Effect.gen(function*() {
        const c = yield* connection(yield* freshDatabase)
        yield* c.executeRaw("CREATE TABLE ordered (at serial, n int)", [])
        yield* Effect.forEach(
          Array.from({ length: 200 }, (_, n) => n),
          (n) =>
            n % 3 === 0
              ? rows(c, `INSERT INTO ordered (n) VALUES (${n})`)
              : rows(c, "INSERT INTO ordered (n) VALUES ($1)", [n]),
          { concurrency: "unbounded", discard: true }
        )
        const read = yield* c.executeValues("SELECT n FROM ordered ORDER BY at", [])
        assert.deepStrictEqual(read.map(([n]) => n), Array.from({ length: 200 }, (_, n) => n))
      }))

    it.scoped("the results of concurrent statements are not mixed, failures included", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const exits = yield* Effect.forEach(
          Array.from({ length: 100 }, (_, n) => n),
          (n) => Effect.either(rows(c, "SELECT 100 / $1::int * 0 + $2::int AS n", [n % 5, n])),
          { concurrency: "unbounded" }
        )
        exits.forEach((exit, n) => {
          if (n % 5 === 0) {
            assert.strictEqual(exit._tag, "Left")
          } else {
            assert.deepStrictEqual(exit._tag === "Right" ? exit.right : [], [{ n }])
          }
        })
      }))
  })

  describe("transactions", () => {
    it.scoped("begin sets isolation, access mode and timeouts", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const read = "SELECT current_setting('transaction_isolation') AS isolation, " +
          "current_setting('transaction_read_only') AS readonly, " +
          "current_setting('transaction_deferrable') AS deferrable, " +
          "current_setting('statement_timeout') AS st, current_setting('lock_timeout') AS lt"
        yield* c.begin({
          isolation: "serializable",
          readOnly: true,
          deferrable: true,
          statementTimeout: Duration.seconds(7),
          lockTimeout: Duration.micros(1n)
        })
        assert.strictEqual(c.status(), "active")
        assert.deepStrictEqual(yield* rows(c, read), [
          { isolation: "serializable", readonly: "on", deferrable: "on", st: "7s", lt: "1ms" }
        ])
        yield* c.commit
        assert.strictEqual(c.status(), "idle")
        for (const isolation of ["read uncommitted", "read committed", "repeatable read"] as const) {
          yield* c.begin({ isolation, readOnly: false, deferrable: false })
          assert.deepStrictEqual(yield* rows(c, read), [
            { isolation, readonly: "off", deferrable: "off", st: "0", lt: "0" }
          ])
          yield* c.rollback
        }
        yield* c.begin({ statementTimeout: Duration.infinity })
        assert.deepStrictEqual(yield* rows(c, "SHOW statement_timeout"), [{ statement_timeout: "0" }])
        yield* c.rollback
      }))

    it.scoped("commits and rolls back", () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const c = yield* connection(database)
        yield* table("kept", c)
        yield* c.begin({})
        yield* rows(c, "INSERT INTO kept VALUES (1, 'a')")
        assert.deepStrictEqual(yield* query(database, "SELECT id FROM kept"), [])
        yield* c.commit
        yield* c.begin({})
        yield* rows(c, "INSERT INTO kept VALUES (2, 'b')")
        yield* c.rollback
        assert.deepStrictEqual(yield* query(database, "SELECT id FROM kept"), [{ id: 1 }])
        yield* c.rollback
        assert.strictEqual(c.status(), "idle")
      }))

    it.scoped("savepoints are released and rolled back to", () =>
      Effect.gen(function*() {
        const c = yield* connection(yield* freshDatabase)
        yield* table("saved", c)
        yield* c.begin({})
        yield* c.savepoint("a \"b\"")
        yield* rows(c, "INSERT INTO saved VALUES (1)")
        yield* c.releaseSavepoint("a \"b\"")
        yield* c.savepoint("c")
        yield* rows(c, "INSERT INTO saved VALUES (2)")
        assert.strictEqual((yield* failure(rows(c, "SELECT 1/0")))._tag, "InvalidData")
        assert.strictEqual(c.status(), "aborted")
        assert.strictEqual((yield* failure(rows(c, "SELECT 1")))._tag, "TransactionAborted")
        yield* c.rollbackToSavepoint("c")
        assert.strictEqual(c.status(), "active")
        assert.strictEqual((yield* failure(c.rollbackToSavepoint("c")))._tag, "UnknownDatabaseError")
        yield* c.rollback
        assert.strictEqual((yield* failure(c.savepoint("d"))).code, "25P01")
      }))

    it.scoped("a COMMIT with the command tag ROLLBACK is TransactionAborted", () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const c = yield* connection(database)
        yield* table("lost", c)
        yield* c.begin({})
        yield* rows(c, "INSERT INTO lost VALUES (1)")
        yield* Effect.ignore(rows(c, "SELECT 1/0"))
        const error = yield* failure(c.commit)
        assert.strictEqual(error._tag, "TransactionAborted")
        assert.strictEqual(error.code, "25P02")
        assert.strictEqual(c.status(), "idle")
        assert.deepStrictEqual(yield* query(database, "SELECT id FROM lost"), [])
      }))

    it.scoped("a COMMIT that fails has the error of its constraint and ends the transaction", () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const c = yield* connection(database)
        yield* c.executeRaw(
          "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int UNIQUE DEFERRABLE INITIALLY DEFERRED, " +
            "parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
          []
        )
        yield* c.begin({})
        yield* rows(c, "INSERT INTO child VALUES (1, 1)")
        assert.strictEqual((yield* failure(c.commit))._tag, "ForeignKeyViolation")
        assert.strictEqual(c.status(), "idle")
        yield* c.begin({})
        yield* rows(c, "INSERT INTO child VALUES (1, NULL), (1, NULL)")
        assert.strictEqual((yield* failure(c.commit))._tag, "UniqueViolation")
        assert.deepStrictEqual(yield* query(database, "SELECT * FROM child"), [])
        const other = yield* connection(database)
        const skew = (each: Connection, from: number) =>
          Effect.zipRight(
            each.begin({ isolation: "serializable" }),
            rows(each, `INSERT INTO parent SELECT count(*) + ${from} FROM parent`)
          )
        yield* skew(c, 10)
        yield* skew(other, 20)
        yield* c.commit
        assert.strictEqual((yield* failure(other.commit))._tag, "SerializationFailure")
        assert.strictEqual(other.status(), "idle")
      }))

    it.scoped("begin is one round trip, timeouts included", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const fiber = yield* Effect.fork(
          c.begin({ statementTimeout: Duration.seconds(1), lockTimeout: Duration.seconds(1) })
        )
        yield* Fiber.join(fiber)
        const [row] = yield* rows(c, "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        assert.include(row.query, "pg_stat_activity")
        assert.strictEqual(c.status(), "active")
      }))
  })

  describe("status and reset", () => {
    const leaves: ReadonlyArray<readonly [name: string, sql: string, left: string]> = [
      ["a setting", "SET work_mem = '5MB'", "SELECT 1 FROM pg_settings WHERE name = 'work_mem' AND source = 'session'"],
      [
        "a reported setting",
        "SELECT set_config('DateStyle', 'German', false)",
        "SELECT 1 WHERE current_setting('DateStyle') LIKE 'German%'"
      ],
      ["a role", "SET ROLE pg_monitor", "SELECT 1 WHERE current_user = 'pg_monitor'"],
      ["a channel", "LISTEN something", "SELECT 1 FROM pg_listening_channels()"],
      ["a prepared statement", "PREPARE something AS SELECT 1", "SELECT 1 FROM pg_prepared_statements"],
      [
        "a temporary table",
        "CREATE TEMP TABLE something (id int)",
        "SELECT 1 FROM pg_class WHERE relname = 'something'"
      ],
      [
        "a temporary table from a query",
        "CREATE TEMP TABLE something AS SELECT 1",
        "SELECT 1 FROM pg_class WHERE relname = 'something'"
      ],
      ["a table selected into", "SELECT 1 INTO TEMP something", "SELECT 1 FROM pg_class WHERE relname = 'something'"],
      [
        "a cursor",
        "BEGIN; DECLARE something CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT 1 FROM pg_cursors WHERE name = 'something'"
      ],
      [
        "an anonymous block",
        "DO $$BEGIN PERFORM set_config('work_mem', '5MB', false); END$$",
        "SELECT 1 FROM pg_settings WHERE name = 'work_mem' AND source = 'session'"
      ]
    ]
    for (const [name, sql, left] of leaves) {
      it.scoped(`${name} makes it dirty, and reset clears it`, () =>
        Effect.gen(function*() {
          const c = yield* connection(url())
          assert.strictEqual(c.status(), "idle")
          yield* rows(c, sql)
          assert.strictEqual(c.status(), "dirty")
          assert.strictEqual((yield* rows(c, left)).length, 1)
          yield* c.reset
          assert.strictEqual(c.status(), "idle")
          assert.strictEqual((yield* rows(c, left)).length, 0)
        }))
    }

    it.scoped("what leaves nothing leaves it idle", () =>
      Effect.gen(function*() {
        const c = yield* connection(yield* freshDatabase)
        yield* table("plain", c)
        yield* rows(c, "INSERT INTO plain VALUES ($1, $2) RETURNING id", [1, "x"])
        yield* rows(c, "SELECT * FROM plain")
        yield* rows(c, "CREATE TABLE copied AS SELECT * FROM plain")
        yield* rows(c, "SELECT")
        yield* rows(c, "WITH n AS (SELECT 1) SELECT * FROM n")
        yield* Stream.runDrain(c.executeStream("SELECT * FROM generate_series(1, 5000)", [], undefined))
        yield* c.begin({ statementTimeout: Duration.seconds(1) })
        yield* c.commit
        assert.strictEqual(c.status(), "idle")
      }))

    it.scoped("reset ends a transaction, open or failed, and keeps the start-up settings", () =>
      Effect.gen(function*() {
        const c = yield* connection(url(), { settings: { lockTimeout: Duration.seconds(3) } })
        yield* c.begin({})
        yield* rows(c, "SET lock_timeout = 1")
        yield* c.reset
        assert.strictEqual(c.status(), "idle")
        yield* c.begin({})
        yield* Effect.ignore(rows(c, "SELECT 1/0"))
        assert.strictEqual(c.status(), "aborted")
        yield* c.reset
        assert.strictEqual(c.status(), "idle")
        assert.deepStrictEqual(yield* rows(c, "SHOW lock_timeout"), [{ lock_timeout: "3s" }])
      }))

    it.scoped("a connection with a statement in flight is active", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(0.2)"))
        yield* Effect.yieldNow()
        assert.strictEqual(c.status(), "active")
        yield* Fiber.join(fiber)
        assert.strictEqual(c.status(), "idle")
      }))

    it.scoped("ping succeeds also in a failed transaction", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        yield* c.ping
        yield* c.begin({})
        yield* Effect.ignore(rows(c, "SELECT 1/0"))
        yield* c.ping
        assert.strictEqual(c.status(), "aborted")
      }))
  })

  describe("closing", () => {
    it.scoped("close ends the session, does not call onLost, and may be called twice", () =>
      Effect.gen(function*() {
        const { connection: c, losses } = yield* connected(url())
        yield* c.close
        assert.strictEqual(c.status(), "closed")
        yield* c.close
        c.destroy()
        const error = yield* failure(rows(c, "SELECT 1"))
        assert.strictEqual(error._tag, "ConnectionLost")
        assert.strictEqual((yield* failure(c.ping))._tag, "ConnectionLost")
        assert.strictEqual((yield* failure(c.begin({})))._tag, "ConnectionLost")
        assert.strictEqual((yield* failure(c.commit))._tag, "ConnectionLost")
        assert.strictEqual((yield* failure(c.reset))._tag, "ConnectionLost")
        assert.strictEqual(
          (yield* failure(Stream.runDrain(c.executeStream("SELECT 1", [], undefined))))._tag,
          "ConnectionLost"
        )
        yield* c.rollback
        assert.deepStrictEqual(losses, [])
        const left = yield* query(url(), `SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = ${c.id}`)
        assert.deepStrictEqual(left, [{ n: 0 }])
      }))

    it.scoped("destroy fails statements in flight and queued ones at once", () =>
      Effect.gen(function*() {
        const { connection: c, losses } = yield* connected(url())
        const running = yield* Effect.fork(failure(rows(c, "SELECT pg_sleep(10)")))
        const waiting = yield* Effect.fork(failure(rows(c, "SELECT 1")))
        yield* Effect.yieldNow()
        c.destroy()
        assert.strictEqual(c.status(), "closed")
        assert.strictEqual((yield* Fiber.join(running))._tag, "ConnectionLost")
        assert.strictEqual((yield* Fiber.join(waiting))._tag, "ConnectionLost")
        assert.deepStrictEqual(losses, [])
      }))

    it.scoped("destroy during a commit leaves its outcome unknown", () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const c = yield* connection(database)
        yield* c.executeRaw(
          "CREATE TABLE slow (id int); CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS " +
            "$$BEGIN PERFORM pg_sleep(5); RETURN NULL; END$$; CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON slow " +
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pause()",
          []
        )
        yield* c.begin({})
        yield* rows(c, "INSERT INTO slow VALUES (1)")
        const commit = yield* Effect.fork(failure(c.commit))
        yield* Effect.yieldNow()
        c.destroy()
        const error = yield* Fiber.join(commit)
        assert.strictEqual(error._tag, "CommitOutcomeUnknown")
        // The outcome of a COMMIT that was not sent is known.
        const d = yield* connection(database)
        yield* d.begin({})
        yield* Effect.fork(Effect.ignore(rows(d, "SELECT pg_sleep(5)")))
        yield* Effect.yieldNow()
        const unsent = yield* Effect.fork(failure(d.commit))
        yield* Effect.yieldNow()
        d.destroy()
        assert.strictEqual((yield* Fiber.join(unsent))._tag, "ConnectionLost")
      }))
  })

  it.scoped("inspection and JSON show only id and status", () =>
    Effect.gen(function*() {
      const { connection: c } = yield* connected(url(), { target: { serverOptions: "-c search_path=confidential" } })
      const shown = Util.inspect(c, { depth: 20, showHidden: true }) + JSON.stringify(c)
      assert.notInclude(shown, "confidential")
      assert.isBelow(shown.length, 1_000)
    }))

  it.scoped("unique ids", () =>
    Effect.gen(function*() {
      const [a, b] = yield* Effect.all([connection(url()), connection(url())], { concurrency: 2 })
      assert.notStrictEqual(a.id, b.id)
      assert.deepStrictEqual(yield* rows(a, "SELECT pg_backend_pid() AS id"), [{ id: a.id }])
    }))

  describe("streams", () => {
    const numbers = (c: Connection, n: number) =>
      c.executeStream("SELECT n FROM generate_series(1, $1::int) AS n", [n], undefined)

    it.scoped("returns all rows, outside and inside a transaction", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        for (const n of [0, 1, 31, 32, 33, 288, 289, 5000]) {
          const outside = Chunk.toReadonlyArray(yield* Stream.runCollect(numbers(c, n)))
          assert.deepStrictEqual(outside.map((row) => row.n), Array.from({ length: n }, (_, i) => i + 1))
          assert.strictEqual(c.status(), "idle")
        }
        yield* c.begin({})
        const inside = yield* Stream.runCollect(numbers(c, 5000))
        assert.strictEqual(Chunk.size(inside), 5000)
        assert.strictEqual(c.status(), "active")
        assert.deepStrictEqual(yield* rows(c, "SELECT name FROM pg_cursors WHERE name <> ''"), [])
        yield* c.commit
      }))

    it.scoped("other statements run in between inside a transaction, and several streams at once", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        yield* c.begin({})
        const twice = numbers(c, 300).pipe(
          Stream.mapEffect((row) => Effect.map(rows(c, "SELECT $1::int * 2 AS n", [row.n]), (r) => r[0].n as number))
        )
        const both = yield* Effect.all([Stream.runCollect(twice), Stream.runCollect(numbers(c, 2000))], {
          concurrency: 2
        })
        assert.deepStrictEqual(Chunk.toReadonlyArray(both[0]), Array.from({ length: 300 }, (_, i) => (i + 1) * 2))
        assert.strictEqual(Chunk.size(both[1]), 2000)
        yield* c.commit
        assert.strictEqual(c.status(), "idle")
      }))

    it.scoped("reads no further than needed, and closes its portal when it ends early", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        yield* c.begin({})
        yield* rows(c, "CREATE TEMP SEQUENCE seen")
        const taken = yield* c.executeStream(
          "SELECT nextval('seen')::int AS n FROM generate_series(1, 100000)",
          [],
          undefined
        ).pipe(
          Stream.take(5),
          Stream.runCollect
        )
        assert.strictEqual(Chunk.size(taken), 5)
        assert.deepStrictEqual(yield* rows(c, "SELECT name FROM pg_cursors WHERE name <> ''"), [])
        const [{ n }] = yield* rows(c, "SELECT nextval('seen')::int AS n")
        assert.isBelow(n, 1_000)
        yield* c.rollback
      }))

    it.scopedLive("reads one batch ahead outside of a transaction, and none inside of one", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        yield* rows(c, "CREATE TEMP SEQUENCE ahead")
        const numbers = c.executeStream(
          "SELECT nextval('ahead')::int AS n FROM generate_series(1, 100000)",
          [],
          undefined
        )
        const read = (taken: number) =>
          Effect.gen(function*() {
            const [{ before }] = yield* rows(c, "SELECT nextval('ahead')::int AS before")
            assert.strictEqual(Chunk.size(yield* Stream.runCollect(Stream.take(numbers, taken))), taken)
            const [{ after }] = yield* rows(c, "SELECT nextval('ahead')::int AS after")
            return after - before - 1
          })
        assert.strictEqual(yield* read(10), 32)
        // The first three batches, and the fourth if the third did not take too long, as it may on a busy machine.
        let requested = 0
        for (let i = 0; i < 10 && requested !== 32 + 256 + 1_000 + 1_000; i++) {
          requested = yield* read(1_200)
          assert.include([32 + 256 + 1_000, 32 + 256 + 1_000 + 1_000], requested)
        }
        assert.strictEqual(requested, 32 + 256 + 1_000 + 1_000)
        yield* c.begin({})
        assert.strictEqual(yield* read(1_200), 32 + 256 + 1_000)
        yield* c.commit
      }))

    it.scopedLive("a stream that ends early does not wait for a slow batch", () =>
      untilKept(Effect.gen(function*() {
        const c = yield* connection(url())
        const late = c.executeStream(
          "SELECT n, CASE WHEN n > 2000 THEN pg_sleep(600) END AS s FROM generate_series(1, 100000) AS n",
          [],
          undefined
        )
        assert.strictEqual(Chunk.size(yield* promptly(Stream.runCollect(Stream.take(late, 1_200)))), 1_200)
        if (c.status() !== "closed") {
          assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS n"), [{ n: 1 }])
          assert.strictEqual(c.status(), "idle")
        }
        return c
      })))

    it.scopedLive(
      "a statement that fails while its rows are read has its own error, whatever runs in between",
      () =>
        Effect.gen(function*() {
          const c = yield* connection(url())
          yield* c.begin({})
          const failing = c.executeStream(
            "SELECT 10 / (1000 - n) AS q FROM generate_series(1, 2000) AS n",
            [],
            undefined
          )
          const error = yield* Effect.flip(Stream.runForEach(failing, () => rows(c, "SELECT 1")))
          assert.strictEqual(fromSqlError(error).code, "22012")
          yield* c.rollback
        }),
      240_000
    )

    it.scoped("applies the transformation, and takes a statement without parameters", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const transform: any = (list: ReadonlyArray<any>) => list.map((row) => ({ m: -row.n }))
        const read = yield* Stream.runCollect(c.executeStream("SELECT 1 AS n UNION ALL SELECT 2", [], transform))
        assert.deepStrictEqual(Chunk.toReadonlyArray(read), [{ m: -1 }, { m: -2 }])
      }))

    it.scoped("commits when it ends, also before its last row, and rolls back when it fails", () =>
      Effect.gen(function*() {
        const database = yield* freshDatabase
        const c = yield* connection(database)
        yield* table("streamed", c)
        const insert = (from: number, count: number) =>
          c.executeStream(
            "INSERT INTO streamed SELECT n FROM generate_series($1::int, $2::int) AS n RETURNING id",
            [from, from + count - 1],
            undefined
          )
        const count = Effect.map(query(database, "SELECT count(*)::int AS n FROM streamed"), (r) => r[0].n as number)
        yield* Stream.runDrain(insert(1, 100))
        assert.strictEqual(yield* count, 100)
        yield* Stream.runHead(insert(101, 100))
        assert.strictEqual(yield* count, 200)
        assert.strictEqual(c.status(), "idle")
        const failed = yield* Effect.exit(Stream.runForEach(insert(201, 100), () => Effect.fail("enough")))
        assert.isTrue(Exit.isFailure(failed))
        assert.strictEqual(yield* count, 200)
        assert.strictEqual(c.status(), "idle")
        const violated = yield* failure(Stream.runDrain(insert(200, 2)))
        assert.strictEqual(violated._tag, "UniqueViolation")
        assert.strictEqual(c.status(), "idle")
      }))

    it.scoped("a commit that fails makes the stream fail", () =>
      Effect.gen(function*() {
        const c = yield* connection(yield* freshDatabase)
        yield* c.executeRaw("CREATE TABLE once (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)", [])
        const insert = c.executeStream(
          "INSERT INTO once SELECT 1 FROM generate_series(1, 100) RETURNING id",
          [],
          undefined
        )
        assert.strictEqual((yield* failure(Stream.runDrain(insert)))._tag, "UniqueViolation")
        const logged: Array<unknown> = []
        const logger = Logger.make(({ logLevel, message }) => {
          logged.push([logLevel.label, message])
        })
        yield* Effect.provide(Stream.runHead(insert), Logger.replace(Logger.defaultLogger, logger))
        assert.strictEqual(logged.length, 1)
        assert.include(Util.inspect(logged, { depth: null }), "23505")
        assert.deepStrictEqual(yield* rows(c, "SELECT * FROM once"), [])
        assert.strictEqual(c.status(), "idle")
      }))

    it.live("an interrupted stream rolls back promptly and keeps its connection", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        yield* table("interrupted", yield* connection(database))
        yield* untilKept(Effect.gen(function*() {
          const c = yield* connection(database)
          const hasRow = yield* Deferred.make<void>()
          const fiber = yield* c.executeStream("INSERT INTO interrupted VALUES (1) RETURNING id", [], undefined).pipe(
            Stream.concat(c.executeStream("SELECT pg_sleep(600)", [], undefined)),
            Stream.runForEach(() => Deferred.succeed(hasRow, undefined)),
            Effect.fork
          )
          yield* Deferred.await(hasRow)
          yield* executing(database, c)
          yield* promptly(Fiber.interrupt(fiber))
          if (c.status() !== "closed") {
            assert.strictEqual(c.status(), "idle")
            assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS a"), [{ a: 1 }])
          }
          yield* query(database, "TRUNCATE interrupted")
          return c
        }))
      })))

    it.live("interrupted at any moment it leaves no portal open", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 40; i++) {
          yield* untilKept(Effect.gen(function*() {
            const c = yield* connection(url())
            yield* c.begin({})
            const fiber = yield* Effect.fork(Stream.runDrain(numbers(c, 10_000)))
            yield* i % 4 === 0 ? Effect.yieldNow() : Effect.sleep(Duration.millis(i / 4))
            yield* Fiber.interrupt(fiber)
            if (c.status() === "active") {
              assert.deepStrictEqual(yield* rows(c, "SELECT name FROM pg_cursors WHERE name <> ''"), [])
            }
            if (c.status() !== "closed") {
              yield* c.rollback
              assert.strictEqual(c.status(), "idle")
            }
            return c
          }))
        }
      }))

    it.scoped("batches are kept small when rows are wide", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const sizes: Array<number> = []
        yield* c.executeStream("SELECT repeat('x', 100000) AS t FROM generate_series(1, 200)", [], undefined).pipe(
          Stream.runForEachChunk((chunk) => Effect.sync(() => sizes.push(Chunk.size(chunk))))
        )
        assert.strictEqual(sizes.reduce((a, b) => a + b, 0), 200)
        assert.isAtMost(Math.max(...sizes), 32)
        assert.include(sizes, 5)
      }))

    it.scoped("waits for a statement in flight before it decides whether to begin a transaction", () =>
      Effect.gen(function*() {
        const c = yield* connection(url())
        const slow = yield* Effect.fork(rows(c, "SELECT pg_sleep(0.1)"))
        yield* Effect.yieldNow()
        const read = yield* Stream.runCollect(numbers(c, 1000))
        assert.strictEqual(Chunk.size(read), 1000)
        yield* Fiber.join(slow)
      }))
  })
})
