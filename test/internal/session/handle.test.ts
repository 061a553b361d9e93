/** Sessions that are acquired inside of another one. */
import { assert, describe } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { databaseErrorOf } from "../../../src/internal/telemetry/errorType.js"
import * as Session from "../../../src/Session.js"
import { type Dialect, forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { Interruptor, modes } from "../../support/interruptor.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { assertIdle, createTables, embedded, failure, insert, live, numbers, open, timed } from "./harness.js"

const small = { poolSize: 1, poolMaxOverflow: 0 }

type Options = Session.Options | undefined

/** Acquires a session for as long as an effect takes. */
const during = <A, E, R>(
  db: Database.Service,
  use: (handle: Session.Handle) => Effect.Effect<A, E, R>,
  options?: Options
): Effect.Effect<A, E | DatabaseError, Exclude<R, Scope.Scope>> =>
  Effect.scoped(Effect.flatMap(db.acquireSession(options), use))

/** Which hooks have run. */
const watching = () => {
  const seen: Array<string> = []
  const see = (what: string) => Effect.sync(() => seen.push(what))
  const register = (what: string) =>
    Effect.zipRight(Session.afterCommit(see(`${what} committed`)), Session.afterRollback(see(`${what} undone`)))
  return { seen, register }
}

const join = { propagation: "join" } as const

const ends = ["commit", "rollback", "nothing"] as const

const end = (handle: Session.Handle, how: typeof ends[number]) => how === "nothing" ? Effect.void : handle[how]

/** What is interrupted at every point. */
const ways: ReadonlyArray<readonly [how: typeof ends[number], options: Options]> = [
  ["commit", undefined],
  ["nothing", undefined],
  ["commit", { timeout: "30 seconds" }],
  ["commit", join]
]

/** From point to point, of which one that runs at once has all there are: those that wait need not try each again. */
const strideOf = (mode: typeof modes[number], { name }: Dialect): number =>
  (mode === "step" || mode === "storm") && !name.includes("memory") ? 3 : 1

/** What there is of three numbers. */
const from = (db: Database.Service, n: number) =>
  Effect.map(
    db.sql<{ readonly n: number }>`SELECT n FROM items WHERE n BETWEEN ${n} AND ${n + 2} ORDER BY n`,
    (rows) => rows.map(({ n }) => n)
  )

forEachDialect((name, _, dialect) =>
  describe(`a session that is acquired within another one on ${name}`, () => {
    for (const how of ends) {
      for (const fails of [false, true]) {
        live(`is a savepoint: ${how}, and then the one around it ${fails ? "is undone" : "commits"}`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect, small)
            const { register, seen } = watching()
            const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
              yield* insert(db, 1)
              yield* during(db, (handle) =>
                Effect.gen(function*() {
                  yield* handle.run(Effect.zipRight(insert(db, 2), register("inner")))
                  assert.strictEqual(yield* handle.run(Session.id), handle.id)
                  assert.notStrictEqual(yield* Session.id, handle.id)
                  yield* end(handle, how)
                }))
              assert.deepStrictEqual(yield* numbers(db), how === "commit" ? [1, 2] : [1])
              assert.deepStrictEqual(seen, [])
              yield* insert(db, 3)
              return fails ? yield* Effect.fail("mine") : undefined
            })))
            assert.strictEqual(Exit.isFailure(exit), fails, String(exit))
            yield* eventually(Effect.sync(() =>
              seen.length === 1
            ))
            assert.deepStrictEqual(seen, [how === "commit" && !fails ? "inner committed" : "inner undone"])
            assert.deepStrictEqual(yield* numbers(db), fails ? [] : how === "commit" ? [1, 2, 3] : [1, 3])
            yield* assertIdle(db)
          }))
      }
    }

    live("ends once", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          yield* during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(insert(db, 1))
              yield* handle.commit
              assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
              yield* handle.rollback
              assert.strictEqual((yield* failure(handle.run(insert(db, 2))))._tag, "SessionClosed")
              yield* insert(db, 3)
            }))
          yield* during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(insert(db, 4))
              yield* handle.rollback
              yield* handle.rollback
              assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
              yield* insert(db, 5)
            }))
          const exits = yield* during(db, (handle) =>
            Effect.zipRight(
              handle.run(insert(db, 6)),
              Effect.all([Effect.exit(handle.commit), handle.rollback, Effect.exit(handle.commit)], {
                concurrency: "unbounded"
              })
            ))
          assert.isTrue(Exit.isSuccess(exits[0]))
          assert.isTrue(Exit.isFailure(exits[2]))
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 3, 5, 6])
        yield* assertIdle(db)
      }))

    live("that is to be rolled back only, says that it committed and is undone alone", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          yield* during(db, (handle) =>
            Effect.zipRight(handle.run(Effect.zipRight(insert(db, 1), Session.rollbackOnly)), handle.commit))
          yield* insert(db, 2)
        }))
        assert.deepStrictEqual(yield* numbers(db), [2])
      }))

    live("that has failed is undone alone, and cannot be committed", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* insert(db, 1)
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 2)
          yield* during(db, (handle) =>
            Effect.gen(function*() {
              assert.strictEqual((yield* failure(handle.run(insert(db, 1))))._tag, "UniqueViolation")
              assert.strictEqual((yield* failure(handle.commit))._tag, "TransactionAborted")
            }))
          yield* insert(db, 3)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3])
        yield* assertIdle(db)
      }))

    live("holds others, and sessions as any", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* during(db, (outermost) =>
          Effect.gen(function*() {
            yield* outermost.run(during(db, (middle) =>
              Effect.gen(function*() {
                yield* middle.run(db.session(insert(db, 1)))
                yield* middle.run(during(db, ({ run }) => run(insert(db, 2))))
                yield* middle.run(
                  during(db, ({ commit, run }) => Effect.zipRight(run(db.session(insert(db, 3))), commit))
                )
                yield* Effect.ignore(middle.run(db.session(Effect.zipRight(insert(db, 4), Effect.fail("undone")))))
                yield* middle.commit
              })))
            yield* outermost.commit
          }))
        assert.deepStrictEqual(yield* numbers(db), [1, 3])
        yield* assertIdle(db)
      }))

    live("runs out of its time, and is undone alone", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const { register, seen } = watching()
        yield* db.session(Effect.gen(function*() {
          yield* during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(Effect.zipRight(insert(db, 1), register("inner")))
              // The statement of the one around it waits until then.
              yield* Fiber.join(yield* Effect.fork(insert(db, 2)))
              assert.strictEqual((yield* failure(handle.run(insert(db, 3))))._tag, "SessionTimeout")
              assert.strictEqual((yield* failure(handle.commit))._tag, "SessionTimeout")
              yield* insert(db, 4)
            }), { timeout: "1 second" })
          yield* insert(db, 5)
        }))
        assert.deepStrictEqual(yield* numbers(db), [2, 4, 5])
        assert.deepStrictEqual(seen, ["inner undone"])
        yield* assertIdle(db)
      }))

    live("waits for its turn no longer than its time, nor than it may", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          const inside = yield* Deferred.make<void>()
          const sibling = yield* Effect.fork(
            during(db, (handle) =>
              handle.run(
                Effect.zipRight(insert(db, 1), Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never))
              ))
          )
          yield* Deferred.await(inside)
          const error = yield* failure(during(db, () => Effect.void, { timeout: "50 millis" }))
          assert.strictEqual(error._tag, "SessionTimeout")
          const waiting = yield* Effect.fork(during(db, () => Effect.void))
          yield* Effect.sleep("20 millis")
          assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
          yield* Fiber.interrupt(sibling)
          yield* insert(db, 2)
        }))
        assert.deepStrictEqual(yield* numbers(db), [2])
        yield* assertIdle(db)
      }))

    live("is not waited for by the fiber that holds it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const waits: ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown>]> = [
          ["a statement", insert(db, 9)],
          ["a session", db.session(insert(db, 9))],
          ["a session with a timeout", db.session(insert(db, 9), { timeout: "1 minute" })],
          ["a session that joins", db.session(insert(db, 9), { propagation: "join" })],
          ["a transaction", db.sql.withTransaction(insert(db, 9))],
          [
            "another one",
            during(db, () => insert(db, 9))
          ],
          ["another one with a timeout", during(db, () => insert(db, 9), { timeout: "1 minute" })],
          [
            "one that joins",
            during(db, ({ commit, run }) => Effect.tapErrorCause(run(insert(db, 9)), () => commit), join)
          ]
        ]
        yield* db.session(
          Effect.gen(function*() {
            yield* during(db, (handle) =>
              Effect.gen(function*() {
                yield* handle.run(insert(db, 1))
                for (const [what, wait] of waits) {
                  const error = yield* failure(wait)
                  assert.strictEqual(error._tag, "InvalidStatement", what)
                  assert.match(
                    error.reason,
                    /^fiber #\d+ has a session of acquireSession or sessionStream open in the session outer /,
                    what
                  )
                }
                yield* handle.run(insert(db, 2))
                yield* handle.commit
                yield* insert(db, 3)
              }))
            yield* insert(db, 4)
          }),
          { name: "outer" }
        )
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
        yield* assertIdle(db)
      }))

    live("is waited for by other fibers, whose work is not undone with it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.gen(function*() {
          const fibers = yield* during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(insert(db, 1))
              const statement = yield* Effect.fork(insert(db, 2))
              const session = yield* Effect.fork(db.session(insert(db, 3)))
              const other = yield* Effect.fork(
                during(db, ({ commit, run }) => Effect.zipRight(run(insert(db, 4)), commit))
              )
              yield* Effect.sleep("20 millis")
              const fibers = [statement, session, other]
              for (const fiber of fibers) {
                assert.isNull(fiber.unsafePoll())
              }
              return fibers
            }))
          yield* Effect.forEach(fibers, (fiber) => Fiber.join<unknown, unknown>(fiber))
        }))
        assert.deepStrictEqual(yield* numbers(db), [2, 3, 4])
        yield* assertIdle(db)
      }))

    live("undoes only its own work beside its siblings", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        yield* db.session(Effect.forEach(Array.from({ length: 30 }, (_, index) => index), (index) => {
          const one = during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(insert(db, index))
              yield* Effect.yieldNow()
              yield* handle.run(insert(db, 100 + index))
              yield* end(handle, ends[index % ends.length])
            }))
          return Effect.all([one, insert(db, 200 + index)], { concurrency: "unbounded" })
        }, { concurrency: "unbounded", discard: true }))
        const found = yield* numbers(db)
        const committed = Array.from({ length: 10 }, (_, index) => index * ends.length)
        assert.deepStrictEqual(found.filter((n) => n < 200), [...committed, ...committed.map((n) => 100 + n)])
        assert.strictEqual(found.filter((n) => n >= 200).length, 30)
        yield* assertIdle(db)
      }))

    describe("and is still open when the one around it ends", () => {
      const left = (db: Database.Service, scope: Scope.Scope, options?: Options) =>
        Effect.tap(
          Scope.extend(db.acquireSession(options), scope),
          (handle) => handle.run(insert(db, 2))
        )
      const late = (handle: Session.Handle, db: Database.Service) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* failure(handle.run(insert(db, 3))))._tag, "SessionClosed")
          assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
          yield* handle.rollback
        })

      for (const propagation of ["nested", "join"] as const) {
        live(`fails that at once, and keeps no connection (${propagation})`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect, small)
            const { register, seen } = watching()
            const { created } = yield* db.poolStats
            yield* Effect.scoped(Effect.gen(function*() {
              const scope = yield* Effect.scope
              let handle: Session.Handle | undefined
              const error = yield* failure(db.session(Effect.gen(function*() {
                yield* insert(db, 1)
                handle = yield* left(db, scope, { propagation })
                yield* handle.run(register("inner"))
              })))
              assert.strictEqual(error._tag, "TransactionAborted")
              assert.deepStrictEqual(seen, ["inner undone"])
              yield* assertIdle(db)
              yield* late(handle!, db)
            }))
            yield* insert(db, 4)
            assert.deepStrictEqual(yield* numbers(db), [4])
            assert.deepStrictEqual(seen, ["inner undone"])
            // The connection was not destroyed, as it is after a wait for nested sessions.
            assert.strictEqual((yield* db.poolStats).created, created)
          }))

        live(`does not change why that failed (${propagation})`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect, small)
            yield* Effect.scoped(Effect.gen(function*() {
              const scope = yield* Effect.scope
              const error = yield* Effect.flip(
                db.session(Effect.zipRight(left(db, scope, { propagation }), Effect.fail("mine")))
              )
              assert.strictEqual(error, "mine")
              yield* assertIdle(db)
            }))
            assert.deepStrictEqual(yield* numbers(db), [])
          }))

        live(`is undone with that alone, where that is nested or acquired too (${propagation})`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect, small)
            yield* Effect.scoped(Effect.gen(function*() {
              const scope = yield* Effect.scope
              yield* db.session(Effect.gen(function*() {
                yield* insert(db, 5)
                let handle: Session.Handle | undefined
                const error = yield* failure(db.session(Effect.gen(function*() {
                  yield* insert(db, 1)
                  handle = yield* left(db, scope, { propagation })
                })))
                assert.strictEqual(error._tag, "TransactionAborted")
                yield* late(handle!, db)
                yield* insert(db, 6)
                const outer = yield* db.acquireSession()
                yield* outer.run(Effect.zipRight(insert(db, 1), left(db, scope, { propagation })))
                assert.strictEqual((yield* failure(outer.commit))._tag, "TransactionAborted")
                yield* insert(db, 7)
              }))
            }))
            assert.deepStrictEqual(yield* numbers(db), [5, 6, 7])
            yield* assertIdle(db)
          }))
      }

      live("does not keep what is nested in it from ending", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          yield* Effect.scoped(Effect.gen(function*() {
            const scope = yield* Effect.scope
            const inside = yield* Deferred.make<void>()
            let running: Fiber.RuntimeFiber<unknown, DatabaseError> | undefined
            const error = yield* failure(db.session(Effect.gen(function*() {
              const handle = yield* left(db, scope)
              running = yield* Effect.forkDaemon(handle.run(db.session(
                insert(db, 8).pipe(
                  Effect.zipRight(Deferred.succeed(inside, undefined)),
                  Effect.zipRight(Effect.sleep("50 millis")),
                  Effect.zipRight(insert(db, 9))
                )
              )))
              yield* Deferred.await(inside)
            })))
            assert.strictEqual(error._tag, "TransactionAborted")
            assert.strictEqual((yield* failure(Fiber.join(running!)))._tag, "SessionClosed")
          }))
          yield* insert(db, 1)
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* assertIdle(db)
        }))
    })

    for (const mode of modes) {
      live(`takes nothing of the others with it at whatever point it is interrupted (${mode})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          let n = 0
          for (const [how, options] of ways) {
            for (let at = 1, reached = true; reached; at += strideOf(mode, dialect), n += 10) {
              const what = `${how}, ${JSON.stringify(options)}, at ${at}`
              const interruptor = new Interruptor(mode, at)
              const { register, seen } = watching()
              const ended = yield* Effect.exit(db.session(Effect.gen(function*() {
                yield* insert(db, n)
                const exit = yield* interruptor.victim(
                  during(db, (handle) =>
                    handle.run(Effect.zipRight(register("inner"), insert(db, n + 1))).pipe(
                      Effect.zipRight(end(handle, how))
                    ), options)
                )
                yield* Effect.timeout(insert(db, n + 2), "10 seconds")
                return { exit, found: yield* from(db, n) }
              })))
              yield* assertIdle(db)
              const kept = yield* from(db, n)
              assert.isAtMost(seen.length, 1, what)
              if (options === join && Exit.isFailure(ended)) {
                // A statement of the session itself had been sent.
                assert.strictEqual(databaseErrorOf(ended)?._tag, "TransactionAborted", what)
                assert.deepStrictEqual(kept, [], what)
                assert.notInclude(seen, "inner committed", what)
                reached = interruptor.points >= at
                continue
              }
              assert(Exit.isSuccess(ended), `${what}: ${String(ended)}`)
              const { exit, found } = ended.value
              assert.notInclude(seen, kept.includes(n + 1) ? "inner undone" : "inner committed", what)
              // What was interrupted may have been committed before, or never have begun.
              if (Exit.isSuccess(exit)) {
                assert.strictEqual(kept.includes(n + 1), how === "commit", what)
              }
              if (options === join) {
                // Whatever did not commit has undone all.
                assert.isTrue(kept.length === 0 || kept.length === found.length, what)
              } else {
                assert.deepStrictEqual(kept, how === "commit" && found.length === 3 ? found : [n, n + 2], what)
              }
              reached = interruptor.points >= at
            }
          }
        }))

      live(`is all or nothing with what is around it at whatever point that is interrupted (${mode})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          let n = 0
          for (
            const [how, options] of ways.filter(([how]) =>
              how === "commit"
            )
          ) {
            for (let at = 1, reached = true; reached; at += strideOf(mode, dialect), n += 10) {
              const interruptor = new Interruptor(mode, at)
              const work = Effect.gen(function*() {
                yield* insert(db, n)
                const handle = yield* db.acquireSession(options)
                yield* handle.run(insert(db, n + 1))
                yield* end(handle, how)
                yield* insert(db, n + 2)
              })
              const exit = yield* interruptor.victim(
                (n / 10) % 2 === 0 ? db.session(Effect.scoped(work)) : Effect.scoped(db.session(work))
              )
              yield* eventually(Effect.map(db.poolStats, ({ used, waiting }) =>
                used + waiting === 0))
              const kept = (yield* from(db, n)).length
              const what = `${JSON.stringify(options)}, at ${at}: ${String(exit)}`
              assert.include(Exit.isSuccess(exit) ? [3] : [0, 3], kept, what)
              reached = interruptor.points >= at
            }
          }
          yield* assertIdle(db)
        }))
    }

    describe("as a part of it", () => {
      live("runs in it, and its commit does nothing", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          const { register, seen } = watching()
          yield* db.session(Effect.gen(function*() {
            yield* during(db, (handle) =>
              Effect.gen(function*() {
                assert.strictEqual(handle.id, yield* Session.id)
                assert.strictEqual(yield* handle.run(Session.id), handle.id)
                yield* handle.run(Effect.zipRight(insert(db, 1), register("inner")))
                yield* Effect.all([insert(db, 2), db.session(insert(db, 3))])
                yield* handle.commit
                assert.strictEqual((yield* failure(handle.commit))._tag, "SessionClosed")
                assert.strictEqual((yield* failure(handle.run(insert(db, 9))))._tag, "SessionClosed")
                yield* handle.rollback
              }), join)
            yield* insert(db, 4)
          }))
          assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
          assert.deepStrictEqual(seen, ["inner committed"])
          yield* assertIdle(db)
        }))

      for (const how of ["rollback", "nothing"] as const) {
        live(`rolls it back: ${how}`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect, small)
            const { register, seen } = watching()
            const result = yield* db.session(Effect.gen(function*() {
              yield* insert(db, 1)
              yield* during(db, (handle) =>
                Effect.zipRight(handle.run(Effect.zipRight(insert(db, 2), register("inner"))), end(handle, how)), join)
              yield* insert(db, 3)
              return (yield* numbers(db)).length
            }))
            assert.strictEqual(result, 3)
            assert.deepStrictEqual(yield* numbers(db), [])
            assert.deepStrictEqual(seen, ["inner undone"])
            // Of a nested one, that alone.
            yield* db.session(Effect.zipRight(
              insert(db, 4),
              db.session(during(db, (handle) =>
                Effect.zipRight(handle.run(insert(db, 5)), end(handle, how)), join))
            ))
            assert.deepStrictEqual(yield* numbers(db), [4])
            yield* assertIdle(db)
          }))
      }

      live("rolls it back when its time is over", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          yield* db.session(
            during(db, (handle) =>
              Effect.gen(function*() {
                yield* handle.run(insert(db, 1))
                yield* Effect.sleep("1200 millis")
                assert.strictEqual((yield* failure(handle.run(insert(db, 2))))._tag, "SessionTimeout")
                assert.strictEqual((yield* failure(handle.commit))._tag, "SessionTimeout")
              }), { ...join, timeout: "1 second" })
          )
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))

      live("is a session of its own where there is none around it", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, small)
          yield* during(db, ({ commit, run }) =>
            Effect.zipRight(run(insert(db, 1)), commit), join)
          yield* during(db, ({ run }) =>
            run(insert(db, 2)), join)
          assert.deepStrictEqual(yield* numbers(db), [1])
          yield* assertIdle(db)
        }))
    })

    live("that ended cannot begin", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const goOn = yield* Deferred.make<void>()
        const tags = yield* db.session(Effect.forkDaemon(Effect.zipRight(
          Deferred.await(goOn),
          Effect.forEach(["nested", "join"] as const, (propagation) =>
            Effect.map(
              failure(during(db, () =>
                Effect.void, { propagation })),
              ({ _tag }) =>
                _tag
            ))
        )))
        yield* Deferred.succeed(goOn, undefined)
        assert.deepStrictEqual(yield* Fiber.join(tags), ["SessionClosed", "SessionClosed"])
      }))

    live("cannot be run again, nor be isolated better than that", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        const { created } = yield* db.poolStats
        for (const retry of [true, Schedule.recurs(1)]) {
          const asked = during(db, () =>
            Effect.void, { retry })
          for (const each of [asked, db.session(asked)]) {
            const error = yield* failure(each)
            assert.strictEqual(error._tag, "InvalidStatement")
            assert.include(error.reason, "option retry")
          }
        }
        assert.isAtMost((yield* db.poolStats).created, created + 1)
        yield* during(db, ({ commit }) =>
          commit, { retry: false })
        for (const propagation of ["nested", "join"] as const) {
          yield* db.session(
            Effect.gen(function*() {
              const stronger = { propagation, isolation: "serializable" } as const
              let began = false
              const begins = Effect.sync(() => {
                began = true
              })
              for (
                const each of [
                  db.session(begins, stronger),
                  during(db, () => begins, stronger)
                ]
              ) {
                const error = yield* failure(each)
                assert.strictEqual(error._tag, "InvalidStatement", propagation)
                assert.match(error.reason, /"repeatable read" cannot be "serializable"/)
              }
              assert.isFalse(began)
              const weaker = { propagation, isolation: "read committed" } as const
              yield* db.session(insert(db, propagation === "join" ? 1 : 2), weaker)
              yield* during(db, ({ commit }) => commit, weaker)
            }),
            { isolation: "repeatable read" }
          )
        }
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
        yield* assertIdle(db)
      }))

    live("that only reads cannot write whatever it is asked for", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, small)
        for (const propagation of ["nested", "join"] as const) {
          const writes = during(db, ({ run }) => run(insert(db, 1)), { propagation, readOnly: false })
          const error = yield* failure(db.session(writes, { readOnly: true }))
          assert.strictEqual(error._tag, "ReadOnlyViolation", propagation)
        }
        assert.deepStrictEqual(yield* numbers(db), [])
      }))

    if (dialect.single) {
      live("cannot have a connection of its own", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const own = during(db, ({ run }) => run(insert(db, 2)), { propagation: "new" })
          const error = yield* failure(db.session(Effect.zipRight(insert(db, 1), own)))
          assert.strictEqual(error._tag, "PoolTimeout")
          assert.deepStrictEqual(yield* numbers(db), [])
          yield* assertIdle(db)
        }))
    }
  })
)

describe("a session that is acquired within another one, which ends meanwhile", () => {
  live("does not begin, and keeps no connection", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const db = yield* embedded((connection) => ({
        savepoint: (name) =>
          Deferred.succeed(asked, undefined).pipe(
            Effect.zipRight(Effect.sleep("50 millis")),
            Effect.zipRight(connection.savepoint(name))
          )
      }))
      let late: Fiber.RuntimeFiber<DatabaseError> | undefined
      const error = yield* failure(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        late = yield* Effect.forkDaemon(failure(during(db, (handle) => handle.run(insert(db, 9)))))
        yield* Deferred.await(asked)
      })))
      assert.strictEqual(error._tag, "TransactionAborted")
      assert.strictEqual((yield* Fiber.join(late!))._tag, "SessionClosed")
      yield* insert(db, 2)
      assert.deepStrictEqual(yield* numbers(db), [2])
      yield* assertIdle(db)
    }))
})

describe("a session that is acquired within another one on postgres", () => {
  const pid = (db: Database.Service) => Effect.map(db.sql`SELECT pg_backend_pid() AS pid`, ([row]) => Number(row.pid))

  live("has a connection of its own if that is asked for, and commits by itself", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres)
      const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* during(db, (handle) =>
          Effect.gen(function*() {
            yield* handle.run(insert(db, 2))
            assert.notStrictEqual(yield* handle.run(pid(db)), yield* pid(db))
            yield* handle.commit
          }), { propagation: "new" })
        return yield* Effect.fail("undone")
      })))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* numbers(db), [2])
      yield* assertIdle(db)
    }))

  for (const where of ["inside", "around"] as const) {
    live(`whose connection is lost keeps nothing, which is noticed ${where}`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        const db = yield* Effect.tap(Database.make({ environment: "test", ...small, url }), createTables)
        const { register, seen } = watching()
        const error = yield* failure(db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          yield* during(db, (handle) =>
            Effect.gen(function*() {
              yield* handle.run(Effect.zipRight(insert(db, 2), register("inner")))
              yield* query(url, "SELECT pg_terminate_backend($1)", [yield* handle.run(pid(db))])
              if (where === "inside") {
                assert.strictEqual((yield* failure(handle.run(insert(db, 3))))._tag, "ConnectionLost")
              }
              assert.isTrue(
                Exit.isFailure(yield* Effect.exit(Effect.zipRight(Effect.sleep("50 millis"), handle.commit)))
              )
            }))
        })))
        assert.strictEqual(error._tag, "ConnectionLost")
        yield* insert(db, 4)
        assert.deepStrictEqual(yield* numbers(db), [4])
        assert.deepStrictEqual(seen, ["inner undone"])
        yield* assertIdle(db)
      }))
  }

  live("ends a statement that takes long at its timeout, and is undone alone", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* Effect.tap(Database.make({ environment: "test", ...small, url }), createTables)
      const [, millis] = yield* timed(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* Effect.ignore(during(db, (handle) => handle.run(db.sql`SELECT pg_sleep(60)`), { timeout: "1 second" }))
      })))
      assert.isBelow(millis, 30_000)
      assert.deepStrictEqual(yield* numbers(db), [1])
      yield* assertIdle(db)
    }))
})
