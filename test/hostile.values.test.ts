/**
 * Application code that throws where sqlayer calls it: values, type parsers, transforms, tracers, loggers. Each statement
 * ends with a typed error, and the pool is as if nothing had happened.
 */
import { assert, describe } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as Util from "node:util"
import Pg from "pg"
import type * as Database from "../src/Database.js"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import { assertHoldsNot } from "./internal/renderings.js"
import { assertIdle, live, open } from "./internal/session/harness.js"
import { postgres } from "./support/dialects.js"
import { newSeed, random } from "./support/random.js"

const crashes: Array<unknown> = []
process.on("uncaughtExceptionMonitor", (error) => crashes.push(error))
process.on("unhandledRejection", (error) => crashes.push(error))

const canary = "c4nary-value-5566"

const small = { poolSize: 2, poolMaxOverflow: 0, poolTimeout: "20 seconds" } as const

/** More than there are connections, so that one that is lost in each would use up the pool. */
const repetitions = 6

const boom = (): never => {
  throw new Error(canary)
}

/** Things that may be thrown. */
const thrown: ReadonlyArray<() => unknown> = [
  () => new Error(canary),
  () => canary,
  () => undefined,
  () => null,
  () => Symbol(canary),
  () => ({ message: canary, _tag: "UniqueViolation" }),
  () => new Proxy({}, { get: boom, getPrototypeOf: boom, has: boom }),
  () => Object.defineProperty(new Error("x"), "name", { get: boom }),
  () => Object.defineProperty(new Error("x"), "message", { get: boom }),
  () => Object.assign(new Error(canary), { code: "23505", severity: "ERROR", detail: canary })
]

/** A function that throws at this call and those after it. */
const throwsAt = (call: number, what: () => unknown, otherwise: () => unknown) => {
  let calls = 0
  return (): unknown => {
    if (++calls >= call) {
      throw what()
    }
    return otherwise()
  }
}

/** Values whose own code throws at the nth call. */
const values = (call: number, what: () => unknown): ReadonlyArray<readonly [name: string, make: () => unknown]> => {
  const f = () => throwsAt(call, what, () => canary)
  const trap = () => f() as any
  return [
    ["toPostgres", () => ({ toPostgres: f() })],
    ["toJSON", () => ({ toJSON: f() })],
    ["toString", () => ({ toString: f() })],
    ["a getter", () => Object.defineProperty({}, "a", { get: f(), enumerable: true })],
    ["a getter of toPostgres", () => Object.defineProperty({}, "toPostgres", { get: f() })],
    ["a getter of toJSON", () => Object.defineProperty({}, "toJSON", { get: f() })],
    [
      "a proxy",
      () =>
        new Proxy({}, {
          get: trap(),
          has: trap(),
          ownKeys: trap(),
          getPrototypeOf: trap(),
          getOwnPropertyDescriptor: trap()
        })
    ],
    ["a proxy of an array", () => new Proxy([1, canary], { get: trap(), has: trap(), ownKeys: trap() })],
    ["a proxy of a date", () => new Proxy(new Date(), { get: trap() })],
    ["an array of such", () => [{ toPostgres: f() }, [{ toJSON: f() }]]],
    ["a date", () => Object.assign(new Date(), { getFullYear: f(), toISOString: f(), getTime: f() })],
    ["a circle", () => {
      const circle: Record<string, unknown> = {}
      circle.circle = circle
      return circle
    }],
    ["a revoked proxy", () => {
      const { proxy, revoke } = Proxy.revocable({}, {})
      revoke()
      return proxy
    }]
  ]
}

/** The error of a statement that has ended, if it failed: typed, and without the value. */
const outcome = <A, E>(effect: Effect.Effect<A, E>, what: string): Effect.Effect<DatabaseError | undefined> =>
  effect.pipe(
    Effect.disconnect,
    Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => new Cause.TimeoutException("it hangs") }),
    Effect.exit,
    Effect.map((exit) => {
      if (Exit.isSuccess(exit)) {
        return undefined
      }
      assert(exit.cause._tag === "Fail", `${what}: ${Util.inspect(exit.cause, { depth: 3 })}`)
      const { error } = exit.cause as { readonly error: any }
      assert.notStrictEqual(error._tag, "TimeoutException", `${what}: it hangs`)
      const typed = isDatabaseError(error) ? error : fromSqlError(error)
      assertHoldsNot(typed, canary)
      assert.notInclude(Util.inspect(error, { depth: 10, showHidden: true }), canary, what)
      return typed
    })
  )

const assertIntact = (db: Database.Service) =>
  Effect.gen(function*() {
    yield* Effect.all(
      Array.from({ length: 2 * small.poolSize }, (_, n) =>
        Effect.map(
          db.sql<{ readonly n: number }>`SELECT ${n}::int AS n`,
          (rows) => assert.deepStrictEqual(rows, [{ n }])
        )),
      { concurrency: "unbounded" }
    )
    yield* assertIdle(db)
    assert.deepStrictEqual(crashes, [])
  })

describe("a parameter that throws", () => {
  live("when it is encoded or looked at fails its statement, and nothing else", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      const { sql } = db
      const uses: ReadonlyArray<readonly [name: string, use: (value: any) => Effect.Effect<unknown, unknown>]> = [
        ["a statement", (value) => sql.unsafe("SELECT $1::text", [value])],
        ["a statement that fails", (value) => sql.unsafe("SELECT $1::text::integer", [value])],
        ["raw", (value) => sql.unsafe("SELECT $1::text", [value]).raw],
        ["values", (value) => sql.unsafe("SELECT $1::text", [value]).values],
        ["unprepared", (value) => sql.unsafe("SELECT $1::text::integer", [value]).unprepared],
        ["a stream", (value) => Stream.runDrain(sql.unsafe("SELECT $1::text::integer", [value]).stream)],
        ["a session", (value) =>
          db.session(Effect.zipRight(sql`SELECT 1`, sql.unsafe("SELECT $1::text::integer", [value])))],
        ["reserve", (value) =>
          Effect.scoped(Effect.flatMap(sql.reserve, (c) =>
            c.execute("SELECT $1::text::integer", [value], undefined)))],
        ["a list that is one", (value) =>
          Effect.scoped(Effect.flatMap(sql.reserve, (c) =>
            c.execute("SELECT $1::text::integer", value, undefined)))]
      ]
      const seed = newSeed()
      const { pick } = random(seed)
      for (const [use, run] of uses) {
        for (const call of [1, 2, 3]) {
          for (const [name, make] of values(call, pick(thrown))) {
            for (let i = 0; i < 3; i++) {
              yield* outcome(run(make()), `seed ${seed}: ${use}, ${name}, call ${call}`)
            }
          }
        }
        yield* assertIntact(db)
      }
    }))

  live(
    "beside others in a session fails its statement, and the others have their results",
    () =>
      Effect.gen(function*() {
        const db = yield* open(postgres, small)
        for (const [name, make] of values(1, thrown[0])) {
          for (let i = 0; i < repetitions; i++) {
            const results = yield* db.session(Effect.zipRight(
              db.sql`SELECT 0`,
              Effect.all([1, make(), 2].map((value) => Effect.either(db.sql.unsafe("SELECT $1::text AS t", [value]))), {
                concurrency: "unbounded"
              })
            ))
            assert.deepStrictEqual(results[0]._tag === "Right" && results[0].right, [{ t: "1" }], name)
            assert.deepStrictEqual(results[2]._tag === "Right" && results[2].right, [{ t: "2" }], name)
          }
        }
        yield* assertIntact(db)
      })
  )
})

describe("a long parameter", () => {
  live("that the server refuses fails its statement, and is in no error", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      const { sql } = db
      yield* sql`CREATE TYPE mood AS ENUM ('sad', 'glad')`
      yield* sql`CREATE FUNCTION raising(t text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE '% is refused', t; END $$`
      for (const length of [13_000, 200_000]) {
        const value = canary.repeat(length / canary.length)
        for (let i = 0; i < repetitions; i++) {
          for (
            const statement of [
              sql`SELECT 1 WHERE 1 = ${value}`,
              sql`SELECT ${value}::uuid`,
              sql`SELECT ${value}::mood`,
              sql`SELECT raising(${value})`,
              sql`SELECT raising(${value})`.unprepared
            ]
          ) {
            assert.isDefined(yield* outcome(statement, `${length} characters`))
          }
          const stream = Stream.runDrain(sql`SELECT raising(${value})`.stream)
          assert.isDefined(yield* outcome(stream, `a stream of ${length} characters`))
        }
      }
      yield* assertIntact(db)
    }))
})

describe("code of the application that throws", () => {
  live("in a type parser fails the statement, and the connection stays", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, small)
      const type = Pg.types.builtins.MACADDR
      const before = Pg.types.getTypeParser(type)
      yield* Effect.addFinalizer(() => Effect.sync(() => Pg.types.setTypeParser(type, before)))
      const text = "SELECT '08:00:2b:01:02:03'::macaddr AS b FROM generate_series(1, 40) i"
      const backends = db.sql`SELECT pg_backend_pid() AS pid`
      const pid = yield* backends
      for (const what of thrown) {
        for (let i = 1; i <= repetitions; i++) {
          const parser = throwsAt(i, what, () => "parsed")
          Pg.types.setTypeParser(type, parser as any)
          const runs: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
            db.sql.unsafe(text),
            db.sql.unsafe(text).raw,
            db.sql.unsafe(text).values,
            db.sql.unsafe(text).unprepared,
            Stream.runDrain(db.sql.unsafe(text).stream),
            db.session(db.sql.unsafe(text))
          ]
          for (const run of runs) {
            const error = yield* outcome(run, "a type parser")
            assert.strictEqual(error?._tag, "InvalidData")
          }
        }
      }
      assert.deepStrictEqual(yield* backends, pid)
      Pg.types.setTypeParser(type, "text", "no function" as any)
      assert.strictEqual((yield* outcome(db.sql.unsafe(text), "no function"))?._tag, "InvalidData")
      const nameless = Object.assign(() => "parsed", {
        toString: () => {
          throw new Error(canary)
        }
      })
      Pg.types.setTypeParser(type, "text", nameless as any)
      assert.deepStrictEqual(yield* db.sql.unsafe(`${text} LIMIT 1`), [{ b: "parsed" }])
      yield* assertIntact(db)
    }))

  live("in a transform of names leaves the connection as it is", () =>
    Effect.gen(function*() {
      let fails = false
      const db = yield* open(postgres, {
        ...small,
        transformResultNames: (name) => {
          if (fails && name === "bad") {
            throw new Error(canary)
          }
          return name
        }
      })
      for (let i = 0; i < 3 * repetitions; i++) {
        fails = true
        const error = yield* outcome(db.sql`SELECT 1 AS bad`, "a transform")
        assert.strictEqual(error?._tag, "InvalidData")
        fails = false
        yield* assertIntact(db)
      }
    }))

  live("in a tracer or a logger leaves the pool as it is", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, { ...small, slowStatement: 1 })
      const span = (method: "attribute" | "end" | "event"): Tracer.Span => {
        const fail = (name: string) => (): void => name === method ? boom() : undefined
        return {
          _tag: "Span",
          name: "x",
          spanId: "x",
          traceId: "x",
          parent: { _tag: "None" } as any,
          context: undefined as any,
          status: { _tag: "Started", startTime: 0n },
          attributes: new Map(),
          links: [],
          sampled: true,
          kind: "client",
          attribute: fail("attribute"),
          end: fail("end"),
          event: fail("event"),
          addLinks: () => undefined
        }
      }
      const tracer = (make: () => Tracer.Span) => Layer.setTracer(Tracer.make({ span: make, context: (f) => f() }))
      const loggers = Logger.replace(Logger.defaultLogger, Logger.make(boom))
      for (const layer of [loggers, tracer(boom), tracer(() => span("attribute")), tracer(() => span("end"))]) {
        for (let i = 0; i < repetitions; i++) {
          const work: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
            db.sql`SELECT 1`,
            db.sql`SELECT pg_sleep(0.005)`,
            db.sql`SELECT 1/0`,
            db.session(db.sql`SELECT pg_sleep(0.005)`),
            db.session(db.session(db.sql`SELECT 1/0`)),
            Stream.runDrain(db.sql`SELECT 1 AS n`.stream)
          ]
          for (const effect of work) {
            const exit = yield* effect.pipe(
              Effect.provide(layer),
              Effect.disconnect,
              Effect.timeoutTo({
                duration: "20 seconds",
                onSuccess: () => "ended",
                onTimeout: () => "hangs"
              }),
              Effect.exit
            )
            assert.notDeepEqual(exit, Exit.succeed("hangs"))
          }
        }
        yield* assertIntact(db)
      }
    }))
})
