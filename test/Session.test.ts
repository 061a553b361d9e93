import * as SqlClient from "@effect/sql/SqlClient"
import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import { assertIdle, failure, insert, live, numbers, open } from "./internal/session/harness.js"
import { forEachDialect, make } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

forEachDialect((name, layer, dialect) =>
  describe(`on ${name}`, () => {
    describe("the end", () => {
      it.live("is a commit on success", () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          yield* sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
          const result = yield* Database.session(Effect.as(sql`INSERT INTO items VALUES (1)`, "result"))
          assert.strictEqual(result, "result")
          assert.deepStrictEqual(
            yield* sql`SELECT n FROM items`.pipe(Database.session({ readOnly: true })),
            [{ n: 1 }]
          )
        }).pipe(Effect.provide(layer)))

      live("is a rollback on failure, which is kept", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const exit = yield* Effect.exit(db.session(Effect.zipRight(insert(db, 1), Effect.fail("mine" as const))))
          assert.deepStrictEqual(exit, Exit.fail("mine" as const))
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))

      live("is a rollback on a defect, which is kept", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const defect = new Error("mine")
          const exit = yield* Effect.exit(db.session(Effect.zipRight(insert(db, 1), Effect.die(defect))))
          assert(Exit.isFailure(exit))
          assert.deepStrictEqual([...Cause.defects(exit.cause)].map(Cause.originalError), [defect])
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))

      live("is a rollback on interruption, which is kept", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const inside = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(
            db.session(
              Effect.zipRight(insert(db, 1), Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never))
            )
          )
          yield* Deferred.await(inside)
          const exit = yield* Fiber.interrupt(fiber)
          assert(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))

      live("keeps the whole of a cause", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const cause = Cause.parallel(Cause.fail("one"), Cause.sequential(Cause.fail("two"), Cause.die("three")))
          const exit = yield* Effect.exit(db.session(Effect.zipRight(insert(db, 1), Effect.failCause(cause))))
          assert(Exit.isFailure(exit))
          assert.deepStrictEqual([...Cause.failures(exit.cause)], ["one", "two"])
          assert.deepStrictEqual([...Cause.defects(exit.cause)], ["three"])
          assert.deepStrictEqual(yield* numbers(db), [])
        }))

      live("types what a statement failed with", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const error = yield* Effect.flip(db.session(Effect.zipRight(insert(db, 1), insert(db, 1))))
          assert.strictEqual(error._tag, "UniqueViolation")
          assert.deepStrictEqual(yield* numbers(db), [])
        }))

      live("fails with what a deferred constraint says at the commit", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const error = yield* failure(db.session(db.sql`INSERT INTO children VALUES (1, 99)`))
          assert.strictEqual(error._tag, "ForeignKeyViolation")
          assert.deepStrictEqual(yield* db.sql`SELECT id FROM children`, [])
          yield* db.session(insert(db, 1))
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* assertIdle(db)
        }))

      live("leaves what the effect did to fiber refs, with a timeout too", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const ref = FiberRef.unsafeMake(0)
          yield* db.session(FiberRef.set(ref, 1))
          assert.strictEqual(yield* FiberRef.get(ref), 1)
          yield* db.session(FiberRef.set(ref, 2), { timeout: "10 seconds" })
          assert.strictEqual(yield* FiberRef.get(ref), 2)
        }))

      live("is a rollback that keeps the result when it was asked for", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const result = yield* db.session(
            Effect.zipRight(insert(db, 1), Effect.as(Session.rollbackOnly, "result"))
          )
          assert.strictEqual(result, "result")
          assert.deepStrictEqual(yield* numbers(db), [])
        }))
    })

    describe("nested", () => {
      live("rolls back its own work only", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            const error = yield* failure(db.session(Effect.zipRight(insert(db, 2), insert(db, 1))))
            assert.strictEqual(error._tag, "UniqueViolation")
            yield* db.session(insert(db, 3))
            yield* db.session(Effect.zipRight(insert(db, 4), Session.rollbackOnly))
            yield* insert(db, 5)
          }))
          assert.deepStrictEqual(yield* numbers(db), [1, 3, 5])
        }))

      live("goes with the session around it", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const exit = yield* Effect.exit(
            db.session(Effect.zipRight(db.session(db.session(insert(db, 1))), Effect.fail("outer")))
          )
          assert.deepStrictEqual(exit, Exit.fail("outer"))
          assert.deepStrictEqual(yield* numbers(db), [])
        }))

      live("releases its savepoint", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* db.session(Effect.gen(function*() {
            yield* db.session(insert(db, 1))
            yield* Effect.ignore(db.session(Effect.zipRight(insert(db, 2), Effect.fail("undone"))))
            for (const savepoint of ["sqlayer_1", "sqlayer_2"]) {
              const error = yield* failure(db.session(db.sql.unsafe(`RELEASE SAVEPOINT ${savepoint}`)))
              assert.match(error.message, /savepoint/i)
            }
          }))
          assert.deepStrictEqual(yield* numbers(db), [1])
        }))

      live("that asks for a stronger isolation is refused", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* db.session(
            Effect.gen(function*() {
              yield* insert(db, 1)
              const error = yield* failure(db.session(insert(db, 2), { isolation: "serializable" }))
              assert.strictEqual(error._tag, "InvalidStatement")
              assert.include(error.message, "\"repeatable read\" cannot be \"serializable\"")
              yield* db.session(insert(db, 3), { isolation: "read committed" })
            }),
            { isolation: "repeatable read" }
          )
          assert.deepStrictEqual(yield* numbers(db), [1, 3])
        }))

      live("that is read-only within one that writes is refused", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const readOnly = (propagation: "nested" | "join") => [
            db.session(numbers(db), { readOnly: true, propagation }),
            Effect.scoped(Effect.flatMap(
              db.acquireSession({ readOnly: true, propagation }),
              ({ run }) => run(numbers(db))
            ))
          ]
          const all = [...readOnly("nested"), ...readOnly("join")]
          for (const options of [{}, { readOnly: false }]) {
            yield* db.session(
              Effect.gen(function*() {
                for (const session of all) {
                  const error = yield* failure(session)
                  assert.strictEqual(error._tag, "InvalidStatement")
                  assert.strictEqual(error.code, "25001")
                  assert.include(error.message, "cannot be readOnly")
                }
                yield* Effect.ignore(db.session(Effect.zipRight(insert(db, 1), Effect.fail("undone"))))
                // It is the outermost session that counts.
                const inner = yield* db.session(failure(db.session(numbers(db), { readOnly: true })), {
                  readOnly: false
                })
                assert.strictEqual(inner._tag, "InvalidStatement")
              }),
              options
            )
          }
          yield* insert(db, 2)
          const read = yield* db.session(Effect.all(all), { readOnly: true })
          assert.deepStrictEqual(read, [[2], [2], [2], [2]])
          if (dialect.name !== "sqlite :memory:") {
            const apart = { readOnly: true, propagation: "new" } as const
            assert.deepStrictEqual(
              yield* db.session(Effect.zipRight(insert(db, 3), db.session(numbers(db), apart))),
              [2]
            )
          }
        }))

      live("that joins is part of the session around it", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const ids = yield* db.session(Effect.all([Session.id, db.session(Session.id, { propagation: "join" })]))
          assert.strictEqual(ids[0], ids[1])
          yield* db.session(Effect.gen(function*() {
            yield* Effect.ignore(
              db.session(Effect.zipRight(insert(db, 1), Effect.fail("kept")), { propagation: "join" })
            )
          }))
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* db.session(Effect.zipRight(
            insert(db, 2),
            db.session(Session.rollbackOnly, { propagation: "join" })
          ))
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* db.session(insert(db, 3), { propagation: "join" })
          assert.deepStrictEqual(yield* numbers(db), [1, 3])
        }))
    })

    describe("after its end", () => {
      live("a fiber that outlives its session is refused", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const ended = yield* Deferred.make<void>()
          const fiber = yield* db.session(Effect.zipRight(
            insert(db, 1),
            Effect.forkDaemon(Effect.zipRight(
              Deferred.await(ended),
              Effect.all([
                Effect.flip(insert(db, 2)),
                failure(db.session(insert(db, 3))),
                failure(db.session(insert(db, 3), { propagation: "join" })),
                failure(db.sql.withTransaction(insert(db, 4))),
                Effect.exit(db.session(insert(db, 5), { propagation: "new" }))
              ])
            ))
          ))
          yield* Deferred.succeed(ended, undefined)
          // Another's session runs on the same connection meanwhile.
          yield* db.session(Effect.sleep("50 millis"))
          const [statement, nested, joined, transaction, fresh] = yield* Fiber.join(fiber)
          assert.instanceOf(statement, SqlError)
          assert.strictEqual(fromSqlError(statement)._tag, "SessionClosed")
          assert.strictEqual((statement.cause as { readonly _tag: string })._tag, "SessionClosed")
          assert.deepStrictEqual([nested._tag, joined._tag, transaction._tag], Array(3).fill("SessionClosed"))
          assert.isTrue(Exit.isSuccess(fresh))
          assert.deepStrictEqual(yield* numbers(db), [1, 5])
        }))

      live("a fiber that outlives a nested session is refused while the one around it goes on", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* db.session(Effect.gen(function*() {
            const ended = yield* Deferred.make<void>()
            const fiber = yield* db.session(
              Effect.forkDaemon(Effect.zipRight(Deferred.await(ended), failure(insert(db, 2))))
            )
            yield* Deferred.succeed(ended, undefined)
            assert.strictEqual((yield* Fiber.join(fiber))._tag, "SessionClosed")
            yield* insert(db, 1)
          }))
          assert.deepStrictEqual(yield* numbers(db), [1])
        }))
    })

    live("tells @effect/sql how deep it is nested", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        const depth = Effect.map(
          Effect.serviceOption(SqlClient.TransactionConnection),
          Option.map(([, depth]) =>
            depth
          )
        )
        assert.deepStrictEqual(
          yield* db.session(Effect.all([depth, db.session(Effect.all([depth, db.session(depth)]))])),
          [Option.some(0), [Option.some(1), Option.some(2)]]
        )
        assert.deepStrictEqual(yield* depth, Option.none())
      }))

    describe("two databases", () => {
      live("never take each other's statements", () =>
        Effect.gen(function*() {
          const a = yield* open(dialect, { name: "a" })
          const b = yield* open(dialect, { name: "b" })
          const exit = yield* Effect.exit(a.session(Effect.gen(function*() {
            yield* insert(a, 1)
            yield* insert(b, 1)
            yield* b.session(Effect.gen(function*() {
              yield* insert(b, 2)
              yield* insert(a, 2)
              yield* a.session(Effect.zipRight(insert(a, 3), insert(b, 3)))
              assert.deepStrictEqual(yield* numbers(a), [1, 2, 3])
              assert.deepStrictEqual(yield* numbers(b), [1, 2, 3])
            }))
            yield* Effect.ignore(b.session(Effect.gen(function*() {
              yield* insert(b, 4)
              yield* a.session(insert(a, 4))
              return yield* Effect.fail("b only")
            })))
            assert.deepStrictEqual(yield* numbers(a), [1, 2, 3, 4])
            return yield* Effect.fail("a only")
          })))
          assert.deepStrictEqual(exit, Exit.fail("a only"))
          assert.deepStrictEqual(yield* numbers(a), [])
          assert.deepStrictEqual(yield* numbers(b), [1, 2, 3])
          yield* assertIdle(a)
          yield* assertIdle(b)
        }))

      live("the other way round", () =>
        Effect.gen(function*() {
          const a = yield* open(dialect, { name: "a" })
          const b = yield* open(dialect, { name: "b" })
          yield* Effect.ignore(b.session(Effect.zipRight(
            a.session(Effect.zipRight(insert(a, 1), insert(b, 1))),
            Effect.fail("b only")
          )))
          assert.deepStrictEqual(yield* numbers(a), [1])
          assert.deepStrictEqual(yield* numbers(b), [])
        }))
    })

    describe("hooks", () => {
      live("after the commit run when the connection is back", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          const seen: Array<unknown> = []
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            yield* Session.afterRollback(Effect.sync(() => seen.push("rollback")))
            yield* db.session(Session.afterCommit(Effect.gen(function*() {
              const { used } = yield* db.poolStats
              seen.push({ used }, yield* numbers(db))
              yield* db.session(insert(db, 2))
            })))
            yield* Session.afterCommit(Effect.sync(() => seen.push("second")))
            seen.push("inside")
          }))
          assert.deepStrictEqual(seen, ["inside", { used: 0 }, [1], "second"])
          assert.deepStrictEqual(yield* numbers(db), [1, 2])
        }))

      live("after the rollback run instead when it was one", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          const seen: Array<unknown> = []
          const both = (name: string) =>
            Effect.zipRight(
              Session.afterCommit(Effect.sync(() => seen.push(`${name} commit`))),
              Session.afterRollback(Effect.zipRight(
                db.session(Effect.void),
                Effect.sync(() => seen.push(`${name} rollback`))
              ))
            )
          yield* Effect.ignore(db.session(
            Effect.zipRight(both("outer"), Effect.zipRight(db.session(both("inner")), Effect.fail("undone")))
          ))
          assert.deepStrictEqual(seen, ["outer rollback", "inner rollback"])
          seen.length = 0
          yield* db.session(Effect.zipRight(both("only"), Session.rollbackOnly))
          assert.deepStrictEqual(seen, ["only rollback"])
          seen.length = 0
          yield* failure(db.session(Effect.zipRight(both("refused"), db.sql`INSERT INTO children VALUES (1, 99)`)))
          assert.deepStrictEqual(seen, ["refused rollback"])
        }))

      live("of a nested session that was rolled back do not wait for more than the end", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const seen: Array<unknown> = []
          yield* db.session(Effect.gen(function*() {
            yield* Effect.ignore(db.session(Effect.gen(function*() {
              yield* Session.afterCommit(Effect.sync(() => seen.push("inner commit")))
              yield* Session.afterRollback(Effect.sync(() => seen.push("inner rollback")))
              return yield* Effect.fail("undone")
            })))
            yield* Session.afterCommit(Effect.sync(() => seen.push("outer commit")))
            yield* Session.afterRollback(Effect.sync(() => seen.push("outer rollback")))
            assert.deepStrictEqual(seen, [])
          }))
          assert.sameMembers(seen, ["inner rollback", "outer commit"])
        }))

      live("keep the services of the code that registered them", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          let seen = ""
          const hook = Effect.map(Database.Database, (database) => {
            seen = database.dialect
          })
          yield* db.session(Effect.provideService(Session.afterCommit(hook), Database.Database, db))
          assert.strictEqual(seen, dialect.dialect)
        }))
    })

    describe("acquired", () => {
      live("commits when it is told to", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession()
            yield* handle.run(insert(db, 1))
            assert.strictEqual(yield* handle.run(Session.id), handle.id)
            yield* handle.commit
            yield* assertIdle(db)
            assert.strictEqual((yield* failure(handle.run(insert(db, 2))))._tag, "SessionClosed")
            assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
            yield* handle.rollback
          }))
          assert.deepStrictEqual(yield* numbers(db), [1])
        }))

      live("rolls back when it is told to, and when its scope closes", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession()
            yield* handle.run(insert(db, 1))
            yield* handle.rollback
            yield* assertIdle(db)
            assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
          }))
          const late = yield* Effect.scoped(
            Effect.tap(db.acquireSession(), (handle) => handle.run(insert(db, 2)))
          )
          assert.strictEqual((yield* failure(late.run(insert(db, 3))))._tag, "SessionClosed")
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))

      live("fails with what its commit failed with", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession()
            yield* handle.run(db.sql`INSERT INTO children VALUES (1, 99)`)
            assert.strictEqual((yield* failure(handle.commit))._tag, "ForeignKeyViolation")
          }))
          yield* assertIdle(db)
        }))

      live("holds nested sessions and hooks", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const seen: Array<string> = []
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession()
            yield* handle.run(Effect.zipRight(
              Effect.ignore(db.session(Effect.zipRight(insert(db, 1), Effect.fail("undone")))),
              db.session(Effect.zipRight(
                insert(db, 2),
                Session.afterCommit(Effect.zipRight(insert(db, 3), Effect.sync(() => seen.push("commit"))))
              ))
            ))
            assert.deepStrictEqual(seen, [])
            yield* handle.commit
            assert.deepStrictEqual(seen, ["commit"])
          }))
          assert.deepStrictEqual(yield* numbers(db), [2, 3])
        }))

      live("fails with SessionTimeout when its time is over, and leaves others alone", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession({ timeout: "1 second" })
            yield* Effect.sleep("1200 millis")
            assert.strictEqual((yield* failure(handle.run(db.sql`SELECT 1`)))._tag, "SessionTimeout")
            assert.strictEqual((yield* failure(handle.commit))._tag, "SessionTimeout")
            yield* assertIdle(db)
          }))
        }))

      live("that was committed in time has no hold on its connection any more", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession({ timeout: "1 second" })
            yield* handle.run(insert(db, 1))
            yield* handle.commit
            yield* db.session(
              Effect.zipRight(insert(db, 2), Effect.zipRight(Effect.sleep("1200 millis"), insert(db, 3)))
            )
          }))
          assert.deepStrictEqual(yield* numbers(db), [1, 2, 3])
        }))

      live("does not end before its timeout", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession({ timeout: "20 seconds" })
            yield* Effect.sleep("20 millis")
            yield* handle.run(insert(db, 1))
            yield* handle.commit
          }))
          assert.deepStrictEqual(yield* numbers(db), [1])
        }))

      live("waits for its connection no longer than its timeout", () =>
        Effect.gen(function*() {
          const db = yield* make(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          yield* Effect.scoped(Effect.gen(function*() {
            const handle = yield* db.acquireSession()
            yield* handle.run(db.sql`SELECT 1`)
            const other = yield* Effect.fork(Effect.scoped(
              Effect.flatMap(db.acquireSession({ timeout: "100 millis" }), ({ run }) => failure(run(db.sql`SELECT 1`)))
            ))
            const error = yield* Effect.timeout(Fiber.join(other), "20 seconds")
            assert.strictEqual(error._tag, "SessionTimeout")
          }))
          yield* assertIdle(db)
        }))
    })

    describe("of @effect/sql", () => {
      live("withTransaction is a session, and nested in one a savepoint", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const { sql } = db
          yield* sql.withTransaction(Effect.gen(function*() {
            yield* insert(db, 1)
            yield* Effect.ignore(sql.withTransaction(Effect.zipRight(insert(db, 2), Effect.fail("undone"))))
            yield* db.session(insert(db, 3))
          }))
          const exit = yield* Effect.exit(sql.withTransaction(Effect.zipRight(insert(db, 4), Effect.fail("mine"))))
          assert.deepStrictEqual(exit, Exit.fail("mine"))
          yield* db.session(Effect.gen(function*() {
            yield* Effect.ignore(sql.withTransaction(Effect.zipRight(insert(db, 5), insert(db, 1))))
            yield* insert(db, 6)
          }))
          assert.deepStrictEqual(yield* numbers(db), [1, 3, 6])
        }))

      live("a commit that fails is a SqlError of withTransaction", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const result = yield* Effect.either(
            db.sql.withTransaction(db.sql`INSERT INTO children VALUES (1, 99)`)
          )
          assert(Either.isLeft(result))
          assert.instanceOf(result.left, SqlError)
          assert.strictEqual(fromSqlError(result.left)._tag, "ForeignKeyViolation")
          yield* assertIdle(db)
        }))

      live("reserve is a clean connection that comes back clean", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          const kept = yield* Effect.scoped(Effect.gen(function*() {
            const connection = yield* db.sql.reserve
            yield* connection.executeUnprepared("CREATE TEMPORARY TABLE traces (n INTEGER)", [], undefined)
            yield* connection.executeUnprepared("BEGIN", [], undefined)
            yield* connection.executeUnprepared("INSERT INTO items VALUES (1)", [], undefined)
            return connection
          }))
          yield* eventually(Effect.map(db.poolStats, ({ used }) => used === 0))
          assert.strictEqual(
            fromSqlError(yield* Effect.flip(kept.execute("SELECT 1", [], undefined)))._tag,
            "SessionClosed"
          )
          assert.deepStrictEqual(yield* numbers(db), [])
          assert.strictEqual((yield* failure(db.sql`SELECT * FROM traces`))._tag, "InvalidStatement")
        }))
    })
  })
)
