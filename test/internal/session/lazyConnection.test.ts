/** A session takes its connection with its first statement, and a nested one sets its savepoint with it. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import type * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { databaseErrorOf } from "../../../src/internal/telemetry/errorType.js"
import * as Session from "../../../src/Session.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { Interruptor, modes } from "../../support/interruptor.js"
import { assertIdle, embedded, failure, insert, live, logged, numbers, open, timed } from "./harness.js"

const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

const one = { poolSize: 1, poolMaxOverflow: 0 }

/** Takes the only connection for as long as an effect runs. */
const exhausted = <A, E, R>(db: Database.Service, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const taken = yield* Deferred.make<void>()
    const goOn = yield* Deferred.make<void>()
    const holder = yield* Effect.fork(db.session(
      Effect.zipRight(numbers(db), Effect.zipRight(Deferred.succeed(taken, undefined), Deferred.await(goOn)))
    ))
    yield* Deferred.await(taken)
    return yield* Effect.ensuring(
      effect,
      Effect.zipRight(Deferred.succeed(goOn, undefined), Effect.ignore(Fiber.join(holder)))
    )
  })

forEachDialect((name, _, dialect) =>
  describe(`a session on ${name}`, () => {
    live("that waits before its first statement keeps nobody from the connection", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        let waiting = 0
        const all = yield* Deferred.make<void>()
        // None gets any further before all are there.
        const others = Effect.suspend(() => ++waiting === 4 ? Deferred.succeed(all, undefined) : Deferred.await(all))
        const request = (n: number) => db.session(Effect.zipRight(others, insert(db, n)))
        yield* Effect.forEach([1, 2, 3, 4], request, { concurrency: "unbounded" })
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
        yield* assertIdle(db)
      }))

    live("that runs nothing does not touch the pool, whatever it is and however it ends", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { ...one, poolTimeout: "100 millis" })
        const before = yield* db.poolStats
        const seen: Array<string> = []
        const hooks = Effect.zipRight(
          Session.afterCommit(Effect.sync(() => seen.push("committed"))),
          Session.afterRollback(Effect.sync(() => seen.push("rolled back")))
        )
        const handle = (options?: Session.Options) =>
          Effect.scoped(
            Effect.flatMap(db.acquireSession(options), ({ commit, run }) => Effect.zipRight(run(hooks), commit))
          )
        yield* exhausted(
          db,
          Effect.gen(function*() {
            const { used } = yield* db.poolStats
            const options: ReadonlyArray<Session.Options> = [
              {},
              { readOnly: dialect.dialect === "postgres" },
              { timeout: "1 minute" },
              { retry: true },
              { commit: "verified" },
              { propagation: "join" },
              { propagation: "new" }
            ]
            for (const each of options) {
              assert.strictEqual(yield* db.session(Effect.as(hooks, 1), each), 1)
              if (each.retry === undefined) {
                yield* handle(each)
              }
            }
            yield* db.session(db.session(hooks))
            yield* db.session(handle())
            yield* db.session(handle({ propagation: "join" }))
            yield* db.session(db.session(hooks, { propagation: "new" }))
            const committed = seen.splice(0)
            assert.strictEqual(committed.length, 2 * options.length - 1 + 4)
            assert.deepStrictEqual(committed.filter((what) => what !== "committed"), [])

            const failed = Effect.zipRight(hooks, Effect.fail("mine"))
            assert.strictEqual(yield* Effect.flip(db.session(failed)), "mine")
            assert.strictEqual(yield* Effect.flip(db.session(db.session(failed))), "mine")
            yield* db.session(Effect.zipRight(hooks, Session.rollbackOnly))
            yield* Effect.scoped(Effect.flatMap(db.acquireSession(), ({ run }) => run(hooks)))
            yield* db.session(Effect.scoped(Effect.flatMap(db.acquireSession(), ({ run }) => run(hooks))))
            assert.deepStrictEqual(seen, Array.from({ length: 5 }, () => "rolled back"))

            const after = yield* db.poolStats
            assert.deepStrictEqual([after.used, after.waiting, after.timeouts], [used, 0, before.timeouts])
          })
        )
        yield* assertIdle(db)
      }))

    live("has a connection from its first statement on, and not before", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const used = Effect.map(db.poolStats, ({ used }) => used)
        yield* db.session(Effect.gen(function*() {
          yield* db.session(Effect.map(used, (used) => assert.strictEqual(used, 0)))
          assert.strictEqual(yield* used, 0)
          yield* db.session(Effect.gen(function*() {
            yield* insert(db, 1)
            assert.strictEqual(yield* used, 1)
          }))
          assert.strictEqual(yield* used, 1)
          yield* insert(db, 2)
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
        yield* assertIdle(db)
      }))

    live("begins once, whatever statements it begins with", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* db.session(Effect.gen(function*() {
          const nested = Effect.forEach([10, 11, 12], (n) => db.session(insert(db, n)), { concurrency: "unbounded" })
          const own = Effect.forEach([1, 2, 3], (n) => insert(db, n), { concurrency: "unbounded" })
          yield* Effect.all([own, nested, own.pipe(Effect.ignore, Effect.when(() => false))], {
            concurrency: "unbounded"
          })
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 10, 11, 12])
        yield* assertIdle(db)
      }))

    live("whose first statements get no connection fails all of them at once, and can try again", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { ...one, poolTimeout: "500 millis" })
        const failed = yield* Deferred.make<void>()
        const session = yield* exhausted(
          db,
          Effect.gen(function*() {
            const session = yield* Effect.fork(db.session(Effect.gen(function*() {
              const statements = Effect.forEach(
                Array.from({ length: 100 }, (_, n) =>
                  n + 10),
                (n) => failure(insert(db, n)),
                {
                  concurrency: "unbounded"
                }
              )
              const [errors, millis] = yield* timed(statements)
              assert.deepStrictEqual(
                errors.map(({ _tag }) => _tag),
                errors.map(() => "PoolTimeout")
              )
              // One after the other they would need 50 seconds.
              assert.isBelow(millis, 25_000)
              yield* Deferred.succeed(failed, undefined)
              yield* Effect.sleep("50 millis")
              yield* insert(db, 7)
            })))
            yield* Effect.race(Deferred.await(failed), Fiber.join(session))
            return session
          })
        )
        yield* Fiber.join(session)
        assert.deepStrictEqual(yield* numbers(db), [7])
        yield* assertIdle(db)
      }))

    live("is run again when its first statement got no connection", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { ...one, poolTimeout: "50 millis" })
        yield* exhausted(
          db,
          Effect.gen(function*() {
            let attempts = 0
            const session = db.session(
              Effect.zipRight(
                Effect.sync(() =>
                  ++attempts
                ),
                insert(db, 1)
              ),
              { retry: true }
            )
            const running = yield* Effect.fork(session)
            yield* eventually(Effect.sync(() => attempts > 2))
            return running
          })
        ).pipe(Effect.flatMap(Fiber.join))
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      }))

    for (const nested of [false, true]) {
      const within = nested ? "a nested session" : "it"
      live(`is interrupted, and times out, promptly while the first statement of ${within} waits for the pool`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, one)
          yield* exhausted(
            db,
            Effect.gen(function*() {
              const work: Effect.Effect<unknown, DatabaseError | SqlError> = nested
                ? db.session(insert(db, 1))
                : insert(db, 1)
              const [error, millis] = yield* timed(failure(db.session(work, { timeout: "50 millis" })))
              assert.strictEqual(error._tag, "SessionTimeout")
              assert.isBelow(millis, 20_000)
              const waiting = yield* Effect.fork(db.session(work))
              yield* eventually(Effect.map(db.poolStats, ({ waiting }) =>
                waiting === 1))
              const [exit, interrupted] = yield* timed(Fiber.interrupt(waiting))
              assert.isTrue(Exit.isInterrupted(exit))
              assert.isBelow(interrupted, 20_000)
              assert.strictEqual((yield* db.poolStats).waiting, 0)
            })
          )
          yield* assertIdle(db)
        }))
    }

    for (const mode of modes) {
      live(`keeps no connection at whatever point its statements are interrupted (${mode})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, one)
          let n = 0
          const stride = dialect.name.includes("memory") ? 1 : 7
          for (let at = 1, reached = true; reached; at += stride, n += 10) {
            const interruptor = new Interruptor(mode, at)
            const ended = yield* Effect.exit(db.session(Effect.gen(function*() {
              // They may begin the session together.
              const sibling = yield* Effect.fork(insert(db, n + 3))
              const nested = Effect.zipRight(db.session(insert(db, n + 1)), db.session(Effect.void))
              yield* interruptor.victim(n % 20 === 0 ? nested : Effect.zipRight(insert(db, n), nested))
              yield* Effect.timeout(insert(db, n + 2), "10 seconds")
              yield* Fiber.join(sibling)
            })))
            const found = (yield* numbers(db)).filter((other) =>
              other >= n
            )
            assert.deepStrictEqual(
              found.filter((other) =>
                other >= n + 2
              ),
              Exit.isSuccess(ended) ? [n + 2, n + 3] : [],
              `at ${at}: ${String(ended)}`
            )
            if (Exit.isFailure(ended)) {
              assert.strictEqual(databaseErrorOf(ended)?._tag, "TransactionAborted", `at ${at}`)
              assert.deepStrictEqual(found, [], `at ${at}`)
            }
            yield* assertIdle(db)
            reached = interruptor.points >= at
          }
        }), 240_000)
    }

    live("that ends while another fiber begins it gives its connection back", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        let late: Fiber.RuntimeFiber<DatabaseError> | undefined
        yield* exhausted(
          db,
          Effect.gen(function*() {
            for (const nested of [false, true]) {
              yield* db.session(Effect.gen(function*() {
                const statement: Effect.Effect<unknown, DatabaseError | SqlError> = nested
                  ? db.session(insert(db, 1))
                  : insert(db, 1)
                late = yield* Effect.forkDaemon(failure(statement))
                yield* eventually(Effect.map(db.poolStats, ({ waiting }) =>
                  waiting > 0))
              })).pipe(Effect.ignore)
            }
          })
        )
        assert.strictEqual((yield* Fiber.join(late!))._tag, "SessionClosed")
        yield* eventually(Effect.map(db.poolStats, ({ used, waiting }) => used + waiting === 0))
        assert.deepStrictEqual(yield* numbers(db), [])
      }))

    live(`asks for a connection of its own beside one that has none yet, and not beside one that has`, () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const own = (n: number) =>
          db.session(insert(db, n), { propagation: "new" })
        yield* db.session(Effect.zipRight(own(1), insert(db, 2)))
        const [error, millis] = yield* timed(failure(db.session(Effect.zipRight(insert(db, 3), own(4)))))
        assert.strictEqual(error._tag, "PoolTimeout")
        assert.isBelow(millis, 20_000)
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
        yield* assertIdle(db)
      }))

    live("is shown as idle, then as waiting, and its spans and logs say when it waited", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { ...one, slowStatement: "100 millis" })
        const states = Effect.map(db.activity, ({ sessions }) =>
          sessions.filter(({ name }) =>
            name === "shown"
          ).map(({ state }) => state))
        const spans: Array<Tracer.Span> = []
        const tracer = Tracer.make({
          span: (...args) => {
            const span = native.span(...args)
            spans.push(span)
            return span
          },
          context: (f) =>
            f()
        })
        const logs = yield* logged(
          exhausted(
            db,
            Effect.gen(function*() {
              const goOn = yield* Deferred.make<void>()
              const session = Effect.zipRight(Deferred.await(goOn), insert(db, 1))
              const running = yield* Effect.fork(Effect.withTracer(db.session(session, { name: "shown" }), tracer))
              yield* eventually(Effect.map(states, (states) => states[0] === "idle"))
              yield* Deferred.succeed(goOn, undefined)
              yield* eventually(Effect.map(states, (states) => states[0] === "waiting"))
              yield* Effect.sleep("200 millis")
              return running
            })
          ).pipe(Effect.flatMap(Fiber.join))
        )
        const [session, statement] = spans
        assert.deepStrictEqual([session.name, Option.isNone(session.parent)], ["sql.transaction", true])
        const { endTime, startTime } = statement.status as Tracer.SpanStatus & { readonly endTime: bigint }
        assert.isAbove(Number(endTime - startTime) / 1_000_000, 150)
        // Waiting for a connection does not make a statement slow.
        assert.deepStrictEqual(logs.filter(({ text }) => text.includes("a statement took")), [])
        assert.deepStrictEqual(yield* states, [])
      }))
  })
)

describe("a nested session", () => {
  live(
    "that runs nothing sends nothing, and the others send their savepoint with their first statement",
    () =>
      Effect.gen(function*() {
        const sent: Array<string> = []
        const db = yield* embedded((connection) => ({
          savepoint: (name) => Effect.zipRight(Effect.sync(() => sent.push("savepoint")), connection.savepoint(name)),
          releaseSavepoint: (name) =>
            Effect.zipRight(Effect.sync(() => sent.push("release")), connection.releaseSavepoint(name)),
          rollbackToSavepoint: (name) =>
            Effect.zipRight(Effect.sync(() => sent.push("rollback")), connection.rollbackToSavepoint(name))
        }))
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          yield* db.session(db.session(Effect.void))
          yield* Effect.ignore(db.session(Effect.fail("mine")))
          assert.deepStrictEqual(sent, [])
          yield* db.session(Effect.zipRight(
            db.session(Effect.zipRight(Effect.sync(() => assert.deepStrictEqual(sent, [])), insert(db, 2))),
            Effect.sync(() => assert.deepStrictEqual(sent, ["savepoint", "savepoint", "release"]))
          ))
        }))
        assert.deepStrictEqual(sent, ["savepoint", "savepoint", "release", "release"])
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
      })
  )

  live("that ends while another fiber sets its savepoint takes that back", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const db = yield* embedded((connection) => ({
        savepoint: (name) =>
          Deferred.succeed(asked, undefined).pipe(
            Effect.zipRight(Effect.sleep("50 millis")),
            Effect.zipRight(connection.savepoint(name))
          )
      }))
      const late = yield* db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        const late = yield* db.session(Effect.gen(function*() {
          const late = yield* Effect.forkDaemon(failure(insert(db, 2)))
          yield* Deferred.await(asked)
          return late
        }))
        yield* insert(db, 3)
        return late
      }))
      assert.strictEqual((yield* Fiber.join(late))._tag, "SessionClosed")
      assert.deepStrictEqual(yield* numbers(db), [1, 3])
      yield* assertIdle(db)
    }))
})

describe("a session on postgres", () => {
  live("waits for a connection of the readers with its first statement too", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, one)
      yield* exhausted(db, db.session(Effect.void, { readOnly: true }))
      assert.strictEqual(
        (yield* failure(db.session(insert(db, 1), { readOnly: true })))._tag,
        "ReadOnlyViolation"
      )
      yield* assertIdle(db)
    }))
})
