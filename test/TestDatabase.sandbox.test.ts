import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { createTables } from "./internal/session/harness.js"
import { type Dialect, dialects, make, postgres } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

type Client = Database.Database | SqlClient.SqlClient

const numbers = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => Effect.map(sql<{ n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))
)
const insert = (n: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO items (n) VALUES (${n})`)
const execute = (text: string) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(text).unprepared)
const orphan = execute("INSERT INTO children (id, parent) VALUES (1, 1)")
const parent = execute("INSERT INTO parents (id) VALUES (1)")

const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<DatabaseError, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert(Exit.isFailure(exit) && exit.cause._tag === "Fail", `not a failure: ${String(exit)}`)
    const { error } = exit.cause as unknown as { readonly error: any }
    return isDatabaseError(error) ? error : fromSqlError(error)
  })
const tagOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.map(failure(effect), ({ _tag }) => _tag)

interface Shared {
  readonly database: Database.Service
  /** Runs in a sandbox of its own. */
  readonly inSandbox: <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | DatabaseError, Exclude<R, Client>>
}

const shared = (dialect: Dialect): Effect.Effect<Shared, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const database = yield* make(dialect)
    yield* createTables(database)
    const around = Layer.succeed(Database.Database, database)
    return {
      database,
      inSandbox: (effect) => Effect.provide(effect, Layer.provide(TestDatabase.sandbox, around)) as never
    }
  })

const outside = ({ sql }: Database.Service) =>
  Effect.map(sql<{ n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))

const quiet = Logger.remove(Logger.defaultLogger)

for (const dialect of dialects) {
  const test = (name: string, body: (shared: Shared) => Effect.Effect<void, unknown, Scope.Scope>) =>
    it.scopedLive(name, () => Effect.provide(Effect.flatMap(shared(dialect), body), quiet))

  describe(`TestDatabase.sandbox: ${dialect.name}`, () => {
    test("leaves nothing of sessions, commits and statements outside of sessions", ({ database, inSandbox }) =>
      Effect.gen(function*() {
        yield* inSandbox(Effect.gen(function*() {
          yield* Database.session(insert(1))
          yield* insert(2)
          assert.deepStrictEqual(yield* numbers, [1, 2])
        }))
        assert.deepStrictEqual(yield* outside(database), [])
        yield* inSandbox(Effect.map(numbers, (found) => assert.deepStrictEqual(found, [])))
        yield* inSandbox(Effect.zipRight(insert(1), Effect.fail("no"))).pipe(Effect.ignore)
        assert.deepStrictEqual(yield* outside(database), [])
        assert.strictEqual((yield* database.poolStats).used, 0)
      }))

    test("sessions commit and roll back, and so do nested ones", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* Effect.ignore(Database.session(Effect.zipRight(insert(1), Effect.fail("no"))))
        assert.deepStrictEqual(yield* numbers, [])
        yield* Database.session(Effect.gen(function*() {
          yield* insert(1)
          yield* Database.session(insert(2))
          yield* Effect.ignore(Database.session(Effect.zipRight(insert(3), Effect.fail("no"))))
          yield* Effect.exit(Database.session(Effect.die("no")))
          assert.deepStrictEqual(yield* numbers, [1, 2])
        }))
        yield* Database.session(Effect.zipRight(insert(4), Session.rollbackOnly))
        assert.deepStrictEqual(yield* numbers, [1, 2])
      })))

    test("a statement that fails undoes nothing else", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* insert(1)
        assert.strictEqual(yield* tagOf(insert(1)), "UniqueViolation")
        assert.strictEqual(yield* tagOf(execute("SELECT nothing FROM nowhere")), "InvalidStatement")
        assert.strictEqual(
          yield* tagOf(Database.session(Effect.zipRight(insert(2), insert(1)))),
          "UniqueViolation"
        )
        assert.deepStrictEqual(yield* numbers, [1])
      })))

    test("deferred constraints are checked when a session ends, and no earlier", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* Database.session(Effect.zipRight(orphan, parent))
        yield* execute("DELETE FROM children")
        yield* execute("DELETE FROM parents")
        for (const _ of [1, 2]) {
          assert.strictEqual(yield* tagOf(Database.session(Effect.zipRight(insert(1), orphan))), "ForeignKeyViolation")
          assert.deepStrictEqual(yield* numbers, [])
        }
        assert.strictEqual(yield* tagOf(orphan), "ForeignKeyViolation")
        assert.strictEqual(
          yield* tagOf(execute("INSERT INTO children (id, parent) VALUES (9, 9)")),
          "ForeignKeyViolation"
        )
        yield* Database.session(Effect.zipRight(orphan, parent))
        assert.strictEqual(yield* tagOf(execute("DELETE FROM parents")), "ForeignKeyViolation")
        yield* Database.session(Effect.gen(function*() {
          // What is nested is not checked before the outermost session ends.
          yield* Database.session(execute("DELETE FROM parents"))
          yield* Database.session(parent)
        }))
        yield* Database.session(insert(7))
        assert.deepStrictEqual(yield* numbers, [7])
      })))

    test("what waits for a commit or a rollback runs after it", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        const told: Array<string> = []
        const tell = (what: string) => Effect.map(numbers, (found) => told.push(`${what} ${found.join()}`))
        yield* Database.session(Effect.zipRight(insert(1), Session.afterCommit(tell("committed"))))
        yield* Effect.ignore(Database.session(
          Effect.all([insert(2), Session.afterCommit(tell("wrong")), Session.afterRollback(tell("undone")), orphan])
        ))
        assert.deepStrictEqual(told, ["committed 1", "undone 1"])
      })))

    test("sessions of sibling fibers wait for their turn, and one's failure is its own", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        const work = (n: number) =>
          Effect.gen(function*() {
            yield* insert(n)
            yield* Effect.sleep("2 millis")
            yield* insert(n + 100)
            if (n % 2 === 0) {
              return yield* Effect.fail("no")
            }
          })
        yield* Effect.all(
          Array.from({ length: 8 }, (_, i) => Effect.ignore(Database.session(work(i)))),
          { concurrency: "unbounded" }
        )
        yield* Effect.all([insert(50), insert(51), Effect.ignore(insert(51))], { concurrency: "unbounded" })
        assert.deepStrictEqual(yield* numbers, [1, 3, 5, 7, 50, 51, 101, 103, 105, 107])
      })))

    test("nested siblings, too", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* Database.session(Effect.all(
          Array.from({ length: 6 }, (_, i) =>
            Effect.ignore(Database.session(
              Effect.zipRight(insert(i), i % 2 === 0 ? Effect.fail("no") : Effect.sleep("2 millis"))
            ))),
          { concurrency: "unbounded" }
        ))
        assert.deepStrictEqual(yield* numbers, [1, 3, 5])
      })))

    test("retry runs a session again", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        let attempts = 0
        yield* Database.session(
          Effect.suspend(() => {
            attempts++
            return Effect.zipRight(
              insert(attempts),
              attempts < 3
                ? Effect.fail(TestDatabase.error("SerializationFailure")(dialect.dialect))
                : Effect.void
            )
          }),
          { retry: true }
        )
        assert.deepStrictEqual(yield* numbers, [3])
      })))

    test("a read-only session refuses writes, and the next one takes them", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        assert.strictEqual(yield* tagOf(Database.session(insert(1), { readOnly: true })), "ReadOnlyViolation")
        assert.deepStrictEqual(yield* Database.session(numbers, { readOnly: true }), [])
        yield* Database.session(insert(1))
        yield* insert(2)
        assert.deepStrictEqual(yield* numbers, [1, 2])
      })))

    test("no statement ends the transaction", ({ database, inSandbox }) =>
      Effect.gen(function*() {
        yield* inSandbox(Effect.gen(function*() {
          yield* insert(1)
          for (const text of ["COMMIT", " rollback", "end transaction", "BEGIN", "-- so\n/* it is */;COMMIT"]) {
            assert.strictEqual(yield* tagOf(execute(text)), "InvalidStatement")
            assert.strictEqual(yield* tagOf(Database.session(execute(text))), "InvalidStatement")
          }
          assert.deepStrictEqual(yield* numbers, [1])
        }))
        assert.deepStrictEqual(yield* outside(database), [])
      }))

    test("streams, inside and outside of sessions", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* Effect.forEach([1, 2, 3], insert)
        const all = Stream.runCollect(sql<{ n: number }>`SELECT n FROM items ORDER BY n`.stream)
        assert.deepStrictEqual(Array.from(yield* all, ({ n }) => n), [1, 2, 3])
        assert.deepStrictEqual(Array.from(yield* Database.session(all), ({ n }) => n), [1, 2, 3])
        // Where there is more than one connection, others may be used while rows are read.
        yield* dialect.single
          ? Effect.forEach([11, 12, 13], insert)
          : Stream.runForEach(sql<{ n: number }>`SELECT n FROM items`.stream, ({ n }) => insert(n + 10))
        assert.deepStrictEqual(yield* numbers, [1, 2, 3, 11, 12, 13])
      })))

    test("is healthy, also while a session is open", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        assert.isTrue(yield* Database.health)
        yield* Database.session(Effect.gen(function*() {
          assert.isTrue(yield* Database.health)
          assert.isTrue((yield* Database.report).healthy)
        }))
      })))

    test("an interrupted session is rolled back, and others go on", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        const begun = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(Database.session(
          Effect.all([insert(1), Deferred.succeed(begun, undefined), Effect.never])
        ))
        yield* Deferred.await(begun)
        const waiting = yield* Effect.fork(Database.session(insert(2)))
        const another = yield* Effect.fork(Database.session(insert(3)))
        yield* Effect.sleep("20 millis")
        yield* Fiber.interrupt(another)
        yield* Fiber.interrupt(fiber)
        yield* Fiber.join(waiting)
        assert.deepStrictEqual(yield* numbers, [2])
        assert.strictEqual(yield* tagOf(Database.session(Effect.never, { timeout: "20 millis" })), "SessionTimeout")
        yield* Database.session(insert(4))
        assert.deepStrictEqual(yield* numbers, [2, 4])
      })))

    test("a session whose end is explicit", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        const use = (n: number) =>
          Effect.scoped(Effect.gen(function*() {
            const session = yield* Database.acquireSession()
            yield* session.run(insert(n))
            if (n % 2 === 0) {
              yield* session.commit
            }
          }))
        yield* use(1)
        yield* use(2)
        assert.deepStrictEqual(yield* numbers, [2])
      })))

    test("a sandbox inside of a sandbox", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* insert(1)
        yield* Effect.gen(function*() {
          yield* Database.session(insert(2))
          assert.strictEqual(yield* tagOf(Database.session(orphan)), "ForeignKeyViolation")
          assert.deepStrictEqual(yield* numbers, [1, 2])
        }).pipe(Effect.provide(TestDatabase.sandbox))
        assert.deepStrictEqual(yield* numbers, [1])
      })))

    test("sandboxes at the same time see nothing of each other", ({ database, inSandbox }) =>
      Effect.gen(function*() {
        yield* Effect.all(
          Array.from({ length: 4 }, (_, i) =>
            inSandbox(Effect.gen(function*() {
              yield* Database.session(insert(i))
              yield* Effect.sleep("20 millis")
              yield* insert(i + 100)
              assert.deepStrictEqual(yield* numbers, [i, i + 100])
            }))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(yield* outside(database), [])
      }))
  })
}

describe("TestDatabase.sandbox: what only PostgreSQL has", () => {
  const test = (name: string, body: (shared: Shared) => Effect.Effect<void, unknown, Scope.Scope>) =>
    it.scopedLive(name, () => Effect.provide(Effect.flatMap(shared(postgres), body), quiet))
  const ask = (text: string) => Effect.map(execute(text), (rows) => Object.values(rows[0])[0])

  test("a new session inside of another is part of that", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* Database.session(Effect.gen(function*() {
        yield* insert(1)
        yield* Database.session(insert(2), { propagation: "new" })
        yield* Effect.ignore(
          Database.session(Effect.zipRight(insert(3), Effect.fail("no")), { propagation: "new" })
        )
        yield* Database.session(Database.session(insert(4), { propagation: "new" }))
        assert.deepStrictEqual(yield* numbers, [1, 2, 4])
      }))
      yield* Effect.ignore(Database.session(
        Effect.zipRight(
          Effect.zipRight(insert(6), Database.session(insert(5), { propagation: "new" })),
          Effect.fail("no")
        )
      ))
      assert.deepStrictEqual(yield* numbers, [1, 2, 4])
    })))

  test("new sessions and nested ones of sibling fibers do not mix", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* Database.session(Effect.all(
        Array.from({ length: 8 }, (_, i) =>
          Effect.ignore(Database.session(
            Effect.gen(function*() {
              yield* insert(i)
              yield* Effect.sleep("2 millis")
              yield* insert(i + 100)
              yield* i % 4 < 2 ? Effect.void : Effect.fail("no")
            }),
            { propagation: i % 2 === 0 ? "new" : "nested" }
          ))),
        { concurrency: "unbounded" }
      ))
      assert.deepStrictEqual(yield* numbers, [0, 1, 4, 5, 100, 101, 104, 105])
    })))

  test("a reserved connection inside of a session", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* Database.session(Effect.scoped(Effect.gen(function*() {
        const reserved = yield* sql.reserve
        yield* reserved.execute("INSERT INTO items (n) VALUES ($1)", [1], undefined)
        assert.deepStrictEqual(yield* numbers, [1])
      })))
      assert.deepStrictEqual(yield* numbers, [1])
    })))

  test("settings and constraint modes end with their session", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      const before = yield* ask("SHOW statement_timeout")
      yield* Database.session(
        Effect.gen(function*() {
          assert.strictEqual(yield* ask("SHOW statement_timeout"), "5s")
          assert.strictEqual(yield* ask("SHOW lock_timeout"), "3s")
          yield* execute("SET LOCAL work_mem = '5MB'")
          yield* execute("SET LOCAL app.tenant = 'a'")
          yield* execute("SET CONSTRAINTS ALL IMMEDIATE")
          assert.strictEqual(yield* tagOf(Database.session(orphan)), "ForeignKeyViolation")
          yield* Database.session(
            Effect.map(ask("SHOW statement_timeout"), (found) => assert.strictEqual(found, before)),
            { propagation: "new" }
          )
          assert.strictEqual(yield* ask("SHOW statement_timeout"), "5s")
        }),
        { statementTimeout: "5 seconds", lockTimeout: "3 seconds" }
      )
      assert.strictEqual(yield* ask("SHOW statement_timeout"), before)
      assert.notStrictEqual(yield* ask("SHOW work_mem"), "5MB")
      assert.strictEqual(yield* ask("SELECT current_setting('app.tenant', true)"), "")
      yield* Database.session(Effect.zipRight(orphan, parent))
      yield* execute("CREATE TABLE ties (n INTEGER UNIQUE DEFERRABLE INITIALLY IMMEDIATE)")
      yield* Database.session(execute("INSERT INTO ties VALUES (1)"))
      const again = execute("INSERT INTO ties VALUES (1)")
      assert.strictEqual(
        yield* tagOf(Database.session(Effect.zipRight(
          Effect.ignore(Database.session(again)),
          Effect.fail(
            TestDatabase.error("InvalidData")("postgres")
          )
        ))),
        "InvalidData"
      )
      // It is checked at once, as declared, and no session before has changed that.
      yield* Database.session(
        Effect.map(tagOf(Database.session(again)), (tag) => assert.strictEqual(tag, "UniqueViolation"))
      )
    })))

  test("a trigger of a deferred constraint runs once, and what it does stays", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* execute(`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO parents (id) VALUES (NEW.n); RETURN NULL; END $$`)
      yield* execute(`CREATE CONSTRAINT TRIGGER noted AFTER INSERT ON items
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()`)
      yield* Database.session(insert(1))
      yield* Database.session(insert(2))
      assert.strictEqual(yield* ask("SELECT count(*)::int AS n FROM parents"), 2)
    })))

  test("a swallowed failure aborts its session, and no other", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* insert(1)
      assert.strictEqual(yield* tagOf(Database.session(Effect.ignore(insert(1)))), "TransactionAborted")
      assert.strictEqual(
        yield* tagOf(Database.session(Effect.zipRight(Effect.ignore(insert(1)), insert(2)))),
        "TransactionAborted"
      )
      yield* insert(2)
      assert.deepStrictEqual(yield* numbers, [1, 2])
    })))

  test("a statement that is interrupted or takes too long is stopped, and others go on", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* insert(1)
      const sleep = execute("SELECT pg_sleep(60)")
      yield* Effect.timeoutOption(sleep, "50 millis")
      yield* Effect.timeoutOption(Database.session(Effect.zipRight(insert(2), sleep)), "50 millis")
      assert.strictEqual(
        yield* tagOf(Database.session(sleep, { statementTimeout: "50 millis" })),
        "StatementTimeout"
      )
      yield* insert(3)
      assert.deepStrictEqual(yield* numbers, [1, 3])
    })))

  test("with its connection the sandbox is lost, and says so", ({ database, inSandbox }) =>
    Effect.gen(function*() {
      yield* inSandbox(Effect.gen(function*() {
        yield* insert(1)
        const pid = yield* ask("SELECT pg_backend_pid()")
        yield* database.sql`SELECT pg_terminate_backend(${pid})`
        yield* eventually(Effect.map(Effect.exit(insert(2)), Exit.isFailure))
        assert.strictEqual(yield* tagOf(insert(2)), "ConnectionLost")
        assert.strictEqual(yield* tagOf(Database.session(insert(2))), "ConnectionLost")
        assert.isFalse(yield* Database.health)
      }))
      assert.deepStrictEqual(yield* outside(database), [])
      yield* inSandbox(insert(1))
    }))

  test("a transaction that a statement ends is over, and says so", ({ inSandbox }) =>
    inSandbox(Effect.gen(function*() {
      yield* Effect.ignore(execute("SELECT 1; ROLLBACK"))
      assert.strictEqual(yield* tagOf(insert(2)), "TransactionAborted")
      assert.strictEqual(yield* tagOf(Database.session(insert(2))), "TransactionAborted")
    })))
})

describe("TestDatabase.sandbox: what only SQLite has", () => {
  for (const dialect of dialects.filter(({ dialect }) => dialect === "sqlite")) {
    const test = (name: string, body: (shared: Shared) => Effect.Effect<void, unknown, Scope.Scope>) =>
      it.scopedLive(`${name} (${dialect.name})`, () => Effect.provide(Effect.flatMap(shared(dialect), body), quiet))

    test("what is wrong already is not a session's fault", ({ database, inSandbox }) =>
      Effect.gen(function*() {
        const [{ file }] = yield* database.sql<{ readonly file: string }>`PRAGMA database_list`
        // A database in memory always enforces its foreign keys.
        if (file !== "") {
          const other = new Sqlite(file)
          other.pragma("foreign_keys = OFF")
          other.exec("INSERT INTO children (id, parent) VALUES (5, 5)")
          other.close()
        }
        yield* inSandbox(Effect.gen(function*() {
          yield* Database.session(insert(1))
          assert.strictEqual(yield* tagOf(Database.session(orphan)), "ForeignKeyViolation")
        }))
      }))

    test("deferring every constraint ends with the session", ({ inSandbox }) =>
      inSandbox(Effect.gen(function*() {
        yield* execute("CREATE TABLE strict_children (parent INTEGER NOT NULL REFERENCES parents (id))")
        const early = execute("INSERT INTO strict_children (parent) VALUES (1)")
        const late = Effect.all([execute("PRAGMA defer_foreign_keys = ON"), early, parent])
        yield* Database.session(late)
        yield* execute("DELETE FROM strict_children")
        yield* execute("DELETE FROM parents")
        assert.strictEqual(yield* tagOf(Database.session(early)), "ForeignKeyViolation")
      })))

    test("a transaction that a conflict ends is over, and the database is not", ({ database, inSandbox }) =>
      Effect.gen(function*() {
        yield* database.sql`INSERT INTO items (n) VALUES (9)`
        yield* inSandbox(Effect.gen(function*() {
          yield* insert(1)
          yield* Effect.ignore(execute("INSERT OR ROLLBACK INTO items (n) VALUES (9)"))
          assert.strictEqual(yield* tagOf(insert(2)), "TransactionAborted")
          assert.strictEqual(yield* tagOf(Database.session(insert(2))), "TransactionAborted")
        }))
        assert.deepStrictEqual(yield* outside(database), [9])
        yield* inSandbox(insert(1))
      }))
  }
})
