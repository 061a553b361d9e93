/** What throws where it must not: a tracer, and a driver. */
import { SqlErrorTypeId } from "@effect/sql/SqlError"
import { assert, describe } from "@effect/vitest"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { Interceptor } from "../../../src/internal/driver.js"
import * as Session from "../../../src/Session.js"
import { forEachDialect } from "../../support/dialects.js"
import { assertIdle, embedded, insert, live, numbers, open } from "./harness.js"

const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

const broken = (): never => {
  throw new Error("broken")
}

/** A tracer that throws when something of a session is recorded, or else what `breaks` names. */
const breaking = (
  method: "attribute" | "event",
  breaks = (name: string) => name === "sqlayer.session.id" || name.startsWith("db.transaction")
): Tracer.Tracer =>
  Tracer.make({
    span: (...args) => {
      const span = native.span(...args)
      const original = span[method].bind(span) as (name: string, ...rest: ReadonlyArray<unknown>) => void
      return Object.defineProperty(span, method, {
        value: (name: string, ...rest: ReadonlyArray<unknown>) => breaks(name) ? broken() : original(name, ...rest)
      })
    },
    context: (f) => f()
  })

/** A tracer that throws when it is asked for the nth time whether it samples a span. */
const breakingOnSampled = (n: number): Tracer.Tracer => {
  let asked = 0
  return Tracer.make({
    span: (...args) =>
      Object.defineProperty(native.span(...args), "sampled", { get: () => ++asked === n ? broken() : true }),
    context: (f) => f()
  })
}

/** A tracer that throws when the server is recorded that a statement runs on. */
const breakingAt = (host: string): Tracer.Tracer =>
  Tracer.make({
    span: (...args) => {
      const span = native.span(...args)
      const attribute = span.attribute.bind(span)
      return Object.assign(span, {
        attribute: (name: string, value: unknown) => value === host ? broken() : attribute(name, value)
      })
    },
    context: (f) => f()
  })

const throwing = (values: object, ...properties: ReadonlyArray<string>): object =>
  Object.defineProperties(values, Object.fromEntries(properties.map((name) => [name, { get: broken }])))

/** Errors of an application that throw when they are looked at. */
const unreadable: Readonly<Record<string, () => object>> = {
  "a tag": () => throwing({}, "_tag"),
  "the cause of a SqlError": () => throwing({ _tag: "SqlError", [SqlErrorTypeId]: SqlErrorTypeId }, "cause"),
  "the code of a DatabaseError": () => throwing({ _tag: "UniqueViolation", dialect: "sqlite" }, "code", "statement"),
  "the message of a DatabaseError": () =>
    throwing({ _tag: "SerializationFailure", dialect: "sqlite" }, "message", "reason"),
  "every property": () => new Proxy({}, { get: broken, getPrototypeOf: broken, ownKeys: broken })
}

forEachDialect((name, _, dialect) =>
  describe(`an error that throws on ${name}`, () => {
    for (const [what, make] of Object.entries(unreadable)) {
      live(`ends its session, and the nested session that it comes from, as any other: ${what}`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          for (const end of [Effect.fail, Effect.die]) {
            const failing = (n: number, retry: boolean) =>
              db.session(
                Effect.zipRight(
                  insert(db, n),
                  Effect.suspend(() =>
                    end(make())
                  )
                ),
                retry ? { retry } : {}
              )
            for (const retry of [false, true]) {
              assert.isTrue(Exit.isFailure(yield* Effect.exit(failing(1, retry))))
              yield* assertIdle(db)
            }
            yield* db.session(Effect.gen(function*() {
              yield* insert(db, 2)
              assert.isTrue(Exit.isFailure(yield* Effect.exit(failing(3, false))))
              yield* insert(db, 4)
            }))
            assert.deepStrictEqual(yield* numbers(db), [2, 4])
            yield* assertIdle(db)
            yield* db.sql`DELETE FROM items`
          }
        }))
    }
  })
)

forEachDialect((name, _, dialect) =>
  describe(`a tracer that throws on ${name}`, () => {
    live("keeps no connection of a statement, whether it has waited for that or not", () =>
      Effect.gen(function*() {
        const server = { host: "elsewhere", port: 1, role: "writer" }
        const db = yield* Effect.provideService(
          open(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "20 seconds" }),
          Interceptor,
          (driver) =>
            Effect.succeed({
              ...driver,
              connect: (onLost, restore) =>
                Effect.map(driver.connect(onLost, restore), (connection) => Object.assign(connection, { server }))
            })
        )
        const traced = Effect.exit(Effect.withTracer(insert(db, 1), breakingAt(server.host)))
        for (const exit of yield* Effect.all([traced, traced, traced], { concurrency: "unbounded" })) {
          assert.isTrue(Exit.isFailure(exit) && exit.cause._tag === "Die", String(exit))
        }
        yield* assertIdle(db)
        yield* insert(db, 2)
        assert.deepStrictEqual(yield* numbers(db), [2])
      }))

    live("keeps no connection when it is asked whether a span is sampled", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0, poolTimeout: "20 seconds" })
        let thrown = 0
        for (let n = 1; n <= 10; n++) {
          const traced = Effect.exit(Effect.withTracer(insert(db, n), breakingOnSampled(n)))
          for (const exit of yield* Effect.all([traced, traced], { concurrency: "unbounded" })) {
            thrown += Exit.isFailure(exit) ? 1 : 0
          }
          yield* assertIdle(db)
          yield* db.sql`DELETE FROM items`
        }
        assert.isAbove(thrown, 0)
      }))

    // A database in memory runs statements on the main thread, where none can be interrupted.
    if (name !== "sqlite :memory:") {
      live("does not hide that a statement was interrupted, without which its session cannot commit", () =>
        Effect.gen(function*() {
          const db = yield* open(dialect)
          const tracer = breaking("attribute", (name) =>
            name === "error.type")
          const endless = db
            .sql`WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) AS n FROM t`
          let n = 0
          // On a busy machine the statement is not sent within the first of these times, and is dropped without effect.
          for (const millis of [100, 1_000, 10_000, 60_000]) {
            n++
            const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
              yield* insert(db, n)
              yield* endless.pipe(
                Effect.withTracer(tracer),
                Effect.timeout(millis),
                Effect.catchAllCause(() => Effect.void)
              )
            })))
            const kept = yield* numbers(db)
            assert.strictEqual(kept.includes(n), Exit.isSuccess(exit))
            if (Exit.isFailure(exit)) {
              assert.include(String(exit), "TransactionAborted")
              return yield* assertIdle(db)
            }
          }
          assert.fail("the session has committed though its statement was interrupted")
        }), 240_000)
    }

    live("leaves no session open, nor the turn of a nested one, whose stream cannot be recorded", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
        const stream = Effect.withTracer(
          Stream.runDrain(db.sessionStream(Stream.fromEffect(insert(db, 1)))),
          breaking("attribute")
        )
        const exits = [
          yield* Effect.exit(stream),
          yield* Effect.exit(Effect.withTracer(db.session(Effect.asVoid(insert(db, 1))), breaking("attribute")))
        ]
        yield* db.session(Effect.gen(function*() {
          exits.push(yield* Effect.exit(stream))
          yield* Effect.timeout(insert(db, 2), "30 seconds")
        }))
        for (const exit of exits) {
          assert.isTrue(Exit.isFailure(exit) && exit.cause._tag === "Die", String(exit))
        }
        yield* assertIdle(db)
        assert.lengthOf((yield* db.activity).sessions, 0)
        assert.deepStrictEqual(yield* numbers(db), [2])
      }))

    for (const method of ["attribute", "event"] as const) {
      live(`keeps no connection and no turn, and no hook from running (${method})`, () =>
        Effect.gen(function*() {
          const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
          const hooks: Array<string> = []
          const session = db.session(Effect.gen(function*() {
            yield* Session.afterCommit(Effect.sync(() =>
              hooks.push("commit")
            ))
            yield* insert(db, 1)
          }))
          const exit = yield* Effect.exit(Effect.withTracer(session, breaking(method)))
          assert.isTrue(Exit.isFailure(exit) && exit.cause._tag === "Die", String(exit))
          yield* assertIdle(db)
          assert.deepStrictEqual(hooks, method === "event" ? ["commit"] : [])
          assert.deepStrictEqual(yield* numbers(db), method === "event" ? [1] : [])
          yield* db.session(Effect.gen(function*() {
            yield* Effect.exit(Effect.withTracer(db.session(Effect.void), breaking(method)))
            yield* insert(db, 2)
          }))
          assert.include(yield* numbers(db), 2)
        }))
    }
  })
)

describe("a driver that throws", () => {
  live("when it is to commit keeps no connection", () =>
    Effect.gen(function*() {
      let isBroken = false
      const db = yield* embedded(({ commit }) => ({
        get commit() {
          return isBroken ? broken() : commit
        }
      }))
      isBroken = true
      const hooks: Array<string> = []
      const exit = yield* Effect.exit(db.session(Effect.zipRight(
        Session.afterCommit(Effect.sync(() => hooks.push("commit"))),
        insert(db, 1)
      )))
      isBroken = false
      assert.isTrue(Exit.isFailure(exit) && exit.cause._tag === "Die", String(exit))
      assert.deepStrictEqual(hooks, [])
      yield* assertIdle(db)
      // It is not known what became of the transaction, so nobody gets its connection.
      assert.strictEqual((yield* db.poolStats).closed.unusable, 1)
    }))

  live("when it is to do rollbackToSavepoint keeps no turn, and nothing of the sessions", () =>
    Effect.gen(function*() {
      const db = yield* embedded(() => ({ rollbackToSavepoint: broken }))
      const exit = yield* Effect.exit(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        assert.strictEqual(yield* Effect.flip(db.session(Effect.zipRight(insert(db, 2), Effect.fail("mine")))), "mine")
        yield* Effect.ignore(Effect.timeout(insert(db, 3), "2 seconds"))
      })))
      assert.isTrue(Exit.isFailure(exit), String(exit))
      yield* assertIdle(db)
    }))

  for (const method of ["savepoint", "releaseSavepoint"] as const) {
    live(`when it is to do ${method} keeps no turn, and nothing of the nested session`, () =>
      Effect.gen(function*() {
        const db = yield* embedded(() => ({ [method]: broken }))
        yield* db.session(Effect.gen(function*() {
          yield* insert(db, 1)
          const exit = yield* Effect.exit(db.session(insert(db, 2)))
          assert.isTrue(Exit.isFailure(exit) && exit.cause._tag === "Die", String(exit))
          yield* Effect.timeout(insert(db, 3), "2 seconds")
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 3])
        yield* assertIdle(db)
      }))
  }
})
