/**
 * What throws while a statement on SQLite is prepared, bound, sent to its thread or answered: the statement fails, and
 * nothing waits for ever, keeps the connection, or ends the process.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import { fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import { file } from "./internal/sqlite/support.js"
import { newSeed, random } from "./support/random.js"

const quiet = Logger.remove(Logger.defaultLogger)
const seed = newSeed()
const secret = "s3cr3t-of-a-value"

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

type Kind = keyof typeof kinds

const open = (kind: Kind, options: Omit<DatabaseConfig.Options, "url"> = {}) =>
  Effect.gen(function*() {
    const database = yield* Database.make({ environment: "test", ...options, ...kinds[kind](yield* file) })
    yield* database.sql`CREATE TABLE t (a)`
    return database
  })

const boom = (): never => {
  throw new Error(secret)
}

/** Throws from the n-th time on. */
const after = <A>(n: number, value: A) => {
  let count = 0
  return (): A => ++count > n ? boom() : value
}

const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

const detached = () => {
  const bytes = new Uint8Array(8)
  structuredClone(bytes, { transfer: [bytes.buffer] })
  return bytes
}

/** Bytes, one of whose properties throws. */
const bytesWith = (property: string, get: () => unknown) =>
  Object.defineProperty(new Uint8Array([1, 2, 3]), property, { get, configurable: true })

/** Parameters that can be bound, and some that cannot. */
const values: Record<string, (n: number) => unknown> = {
  "a number": (n) => n,
  "a text": () => "text",
  "a long text": () => secret.repeat(1_000),
  "null": () => null,
  "undefined": () => undefined,
  "bytes": () => new Uint8Array([1, 2, 3]),
  "a view": () => new Uint8Array(new ArrayBuffer(64), 8, 8),
  "a shared view": () => new Uint8Array(new SharedArrayBuffer(64), 8, 8),
  "not a number": () => Number.NaN,
  "a large integer": () => 2n ** 64n,
  "a symbol": () => Symbol(secret),
  "a function": () => boom,
  "an object": () => ({ secret }),
  "an object without a prototype": () => Object.create(null),
  "a proxy whose properties throw": () => new Proxy({}, { get: boom }),
  "a proxy that throws": () =>
    new Proxy({}, { get: boom, has: boom, ownKeys: boom, getPrototypeOf: boom, getOwnPropertyDescriptor: boom }),
  "a proxy of bytes": () => new Proxy(new Uint8Array(8), {}),
  "a revoked proxy": revoked,
  "a constructor that throws": (n) => Object.defineProperty({}, "constructor", { get: after(n, Object) }),
  "a name that throws": (n) => ({ constructor: Object.defineProperty({}, "name", { get: after(n, "Name") }) }),
  "a name that is a symbol": () => ({ constructor: { name: Symbol(secret) } }),
  "a toString that throws": (n) => ({ toString: after(n, secret), toJSON: after(n, secret), valueOf: boom }),
  "detached bytes": detached,
  "bytes whose length throws": (n) => bytesWith("byteLength", after(n, 3)),
  "bytes whose buffer throws": (n) => bytesWith("buffer", after(n, new ArrayBuffer(3))),
  "bytes whose offset throws": (n) => bytesWith("byteOffset", after(n, 0)),
  "bytes whose constructor throws": (n) => bytesWith("constructor", after(n, Uint8Array))
}

/** Arrays of parameters, whose elements are those given. */
const lists: Record<string, (params: ReadonlyArray<unknown>, n: number) => ReadonlyArray<unknown>> = {
  "an array": (params) => params,
  "a proxy": (params, n) => {
    const read = after(n * 8, undefined)
    return new Proxy(params, { get: (target, key) => (read(), Reflect.get(target, key)) })
  },
  "a getter": (params, n) => {
    const copy = [...params]
    const read = after(n, undefined)
    Object.defineProperty(copy, 0, { get: () => (read(), params[0]), enumerable: true })
    return copy
  }
}

type Statement = (database: Database.Service, params: ReadonlyArray<unknown>) => Effect.Effect<unknown, unknown>

const text = "INSERT INTO t SELECT ?1 FROM (SELECT ?2) RETURNING a"

const statements: Record<string, Statement> = {
  "execute": ({ sql }, params) => sql.unsafe(text, params),
  "a template": ({ sql }, [a, b]) => sql`INSERT INTO t SELECT ${a as string} FROM (SELECT ${b as string}) RETURNING a`,
  "values": ({ sql }, params) => sql.unsafe(text, params).values,
  "raw": ({ sql }, params) => sql.unsafe(text, params).raw,
  "unprepared": ({ sql }, params) => sql.unsafe(text, params).unprepared,
  "a stream": ({ sql }, params) => Stream.runDrain(sql.unsafe(text, params).stream),
  "a stream of a query": ({ sql }, params) => Stream.runDrain(sql.unsafe("SELECT ?1, ?2", params).stream),
  "a reserved connection": ({ sql }, params) =>
    Effect.scoped(Effect.flatMap(sql.reserve, (connection) => connection.execute(text, params, undefined))),
  "an error that quotes it": ({ sql }, params) => sql.unsafe("SELECT json(?1 || ?2)", params)
}

const places: Record<
  string,
  (database: Database.Service, statement: Effect.Effect<unknown, unknown>) => Effect.Effect<unknown, unknown>
> = {
  "outside": (_, statement) => statement,
  "in a session": (database, statement) => database.session(statement),
  "in a nested session": (database, statement) =>
    database.session(Effect.zipRight(database.sql`INSERT INTO t VALUES (0)`, Effect.exit(database.session(statement)))),
  "beside others": (database, statement) =>
    database.session(Effect.all([
      database.sql`SELECT 1`,
      Effect.exit(statement),
      database.sql`SELECT 2`,
      database.sql`SELECT count(*) FROM t`
    ], { concurrency: "unbounded" }))
}

/** It ends, and its errors hold no value. */
const ends = (
  name: string,
  effect: Effect.Effect<unknown, unknown>,
  mayDie = false
): Effect.Effect<Exit.Exit<unknown, unknown>> =>
  Effect.map(Effect.timeoutOption(Effect.exit(effect), "20 seconds"), (ended) => {
    assert(Option.isSome(ended), `it does not end: ${name}`)
    const exit = ended.value
    if (Exit.isFailure(exit) && !(mayDie && Cause.isDie(exit.cause))) {
      assert.lengthOf(Cause.defects(exit.cause), 0, `${name}: ${Cause.pretty(exit.cause)}`)
      const error = Cause.squash(exit.cause)
      const typed = isDatabaseError(error) ? error : fromSqlError(error as never)
      assert.notInclude(`${typed.message} ${JSON.stringify(typed)}`, secret, name)
    }
    return exit
  })

/** The connection is the same, holds nothing of what was run, and can be used. */
const isUsable = (name: string, database: Database.Service) =>
  Effect.gen(function*() {
    const rows = yield* Effect.timeoutOption(database.session(database.sql`SELECT 1 AS n`), "20 seconds")
    assert.deepStrictEqual(rows, Option.some([{ n: 1 }]), `it cannot be used: ${name}`)
    const { created, used } = yield* database.poolStats
    assert.deepStrictEqual({ created, used }, { created: 1, used: 0 }, name)
  })

for (const kind of Object.keys(kinds) as Array<Kind>) {
  const test = <E>(name: string, body: () => Effect.Effect<void, E, Scope.Scope>) =>
    it.scopedLive(name, () => Effect.provide(body(), quiet), 240_000)

  describe(`what throws, ${kind}`, () => {
    test(`parameters (TEST_SEED=${seed})`, () =>
      Effect.gen(function*() {
        const database = yield* open(kind)
        const { below, pick } = random(seed)
        for (let round = 0; round < 400; round++) {
          const [first, second] = [pick(Object.keys(values)), pick(Object.keys(values))]
          const [list, statement, place] = [
            pick(Object.keys(lists)),
            pick(Object.keys(statements)),
            pick(Object.keys(places))
          ]
          const n = below(3)
          const name = `round ${round}: ${first}, ${second}, in ${list}, ${statement}, ${place}, after ${n}`
          const [a, b] = [values[first](n), values[second](n)]
          const run = Effect.suspend(() => {
            try {
              return statements[statement](database, lists[list]([a, b], n))
            } catch {
              // The constructor of a statement copies the parameters.
              return Effect.void
            }
          })
          // In a session it would wait for the session's own connection.
          const isReserved = statement === "a reserved connection"
          // @effect/sql looks for fragments among the values of a template, and dies of what throws there.
          yield* ends(name, places[isReserved ? "outside" : place](database, run), statement === "a template")
          yield* isUsable(name, database)
        }
      }))

    test("a transformation of names fails its statement", () =>
      Effect.gen(function*() {
        const database = yield* open(kind, {
          transformResultNames: (name) => name === "bad" ? boom() : name
        })
        const { sql } = database
        for (const statement of [sql`SELECT 1 AS bad`, Stream.runDrain(sql`SELECT 1 AS bad`.stream)]) {
          for (const [name, place] of Object.entries(places)) {
            const exit = yield* Effect.timeoutOption(Effect.exit(place(database, statement)), "20 seconds")
            assert.isTrue(Option.isSome(exit), name)
            yield* isUsable(name, database)
          }
        }
      }))

    test("a trigger that quotes a long value", () =>
      Effect.gen(function*() {
        const database = yield* open(kind)
        const { sql } = database
        yield* sql`CREATE TABLE v (a)`
        yield* sql`CREATE TRIGGER quoting BEFORE INSERT ON v BEGIN SELECT RAISE(ABORT, 'refused: ' || new.a); END`
        for (const length of [13, 13_000, 1_300_000]) {
          const value = secret.repeat(Math.ceil(length / secret.length))
          const exit = yield* ends(`${length}`, database.session(sql`INSERT INTO v VALUES (${value})`))
          const error = yield* Effect.flip(exit)
          assert.include(String(error), "refused: ***")
          yield* isUsable(`${length}`, database)
        }
      }))
  })
}
